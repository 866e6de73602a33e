"""The web framework around an app, if there is one that flowq knows.

The layers below do not import `flowq.contrib`; it is loaded by its name when its framework's
environment variable is set.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

#: Variable that says that a framework is there -> module with its `Project`.
_KNOWN = {"DJANGO_SETTINGS_MODULE": "flowq.contrib.django.project"}


class Framework(Protocol):
    """What an app asks of the framework around it."""

    #: Import name of the base class of tasks.
    task_cls: str
    #: "module:function" that prepares the zygote of a pool.
    child_init: str

    @property
    def environ(self) -> dict[str, str]:
        """Variables that pool children need."""

    def set_up(self) -> None:
        """Make ready for the import of tasks. Repeatable."""

    def packages(self) -> list[str]:
        """Packages in which tasks may be."""


def framework() -> Framework | None:
    """The framework of this process, or None."""
    for variable, module in _KNOWN.items():
        if os.environ.get(variable):
            found: Framework = import_module(module).Project()
            return found
    return None


def import_related(around: Framework | None, packages: Any, related_name: str) -> None:
    """Import `<package>.<related_name>` of each package that has it.

    Args:
        around: Names the packages where there are none.
        packages: Import names, or a function that gives them.
        related_name: Module to import; empty: the package itself.
    """
    if not packages and around is not None:
        packages = around.packages
    for package in packages() if callable(packages) else packages:
        name = f"{package}.{related_name}" if related_name else package
        try:
            found = find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is not None:
            import_module(name)
