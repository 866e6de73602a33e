"""Finding the app that ``-A`` names: ``proj``, ``proj.celery:app``, ``path/file.py``."""

from __future__ import annotations

import difflib
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

from flowq.app.base import Flowq
from flowq.app.current import Proxy
from flowq.app.target import is_file, load_program
from flowq.errors import TargetError

#: Variables that name a module's app, and modules of a package in which it may be.
NAMES = ("app", "celery")
MODULES = ("flowq", "celery", "app")


def find_app(spec: str | None) -> Flowq:
    """The app that a text names; its module is imported.

    ``proj:name`` is that variable. ``proj`` is its variable `app` or `celery`, else the only app in
    it, else that of its module `proj.flowq`, `proj.celery` or `proj.app`. ``proj.name`` is taken
    for ``proj:name`` if there is no such module. A second call for the same gives the same app.

    Args:
        spec: A module or a file, and perhaps a variable behind a colon.

    Raises:
        TargetError: Nothing is named, there is no such module, file, variable or app, or it cannot
            be told which.
    """
    if not spec:
        raise TargetError("no app is named; say which with -A, as in -A proj or -A tasks.py")
    place, colon, name = spec.rpartition(":")
    if not colon or is_file(name):
        place, name = spec, ""
    if not is_file(place) and not name and not _exists(place):
        parent, dot, last = place.rpartition(".")
        if dot and _exists(parent):
            place, name = parent, last
    module = load_program(place).module
    if name:
        return _named(module, name, place)
    return _only(module, place)


def _named(module: ModuleType, name: str, place: str) -> Flowq:
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            near = difflib.get_close_matches(name, [*_apps(module), *vars(module)], n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else "check its spelling"
            raise TargetError(f"there is no {name!r} in {place}; {hint}")
        value = getattr(value, part)
    if isinstance(value, ModuleType):
        return _only(value, value.__name__)
    return _checked(value, f"{name} of {place}")


def _only(module: ModuleType, place: str) -> Flowq:
    space = vars(module)
    for name in NAMES:
        if name in space and not isinstance(space[name], ModuleType):
            return _checked(space[name], f"{name} of {place}")
    found = _apps(module)
    apps = {id(app): app for app in found.values()}
    if len(apps) == 1:
        return next(iter(apps.values()))
    if apps:
        few = ", ".join(list(found)[:4])
        raise TargetError(
            f"there are {len(apps)} apps in {place} ({few}); say which: {place}:{next(iter(found))}"
        )
    for inner in MODULES if hasattr(module, "__path__") else ():
        name = f"{module.__name__}.{inner}"
        if _exists(name):
            return _only(load_program(name).module, name)
    raise TargetError(
        f'there is no app in {place}; name the module that holds app = Flowq("..."), '
        "as in -A proj.tasks or -A proj.tasks:app"
    )


def _apps(module: ModuleType) -> dict[str, Flowq]:
    """Its apps by variable; stand-ins such as an imported `current_app` are no apps of its own."""
    return {
        name: value
        for name, value in vars(module).items()
        if type(value) is not Proxy and isinstance(value, Flowq)
    }


def _checked(value: Any, shown: str) -> Flowq:
    value = _behind(value)
    if isinstance(value, Flowq):
        return value
    if type(value).__module__.partition(".")[0] == "celery":
        raise TargetError(
            f"{shown} is a Celery app; give its broker with --broker, "
            "or make a flowq app of it with Flowq.from_celery(...)"
        )
    raise TargetError(
        f"{shown} is {type(value).__name__}, not an app; name a Flowq object, as in -A proj:app"
    )


def _behind(value: Any) -> Any:
    """What a stand-in such as `current_app` stands for."""
    return value._get_current_object() if type(value) is Proxy else value


def _exists(module: str) -> bool:
    """Whether there is such a module, as far as can be told without loading it."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError as exc:
        return exc.name is not None and not f"{module}.".startswith(f"{exc.name}.")
    except ValueError:
        return False
    except Exception:  # its package is there and fails: loading it says how
        return True
