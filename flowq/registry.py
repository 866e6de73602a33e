"""The registry: task name -> task, and what to say when a name is taken or unknown.

A name belongs to the first definition that claims it. The same definition made again (a module
reloaded, a notebook cell run again) takes the place of the old one; a different one is refused, and
the message names both places.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import linecache
import os
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from flowq import errors

#: Code typed at a prompt or into a cell has no file that lasts; all of it counts as one file.
INTERACTIVE = "<interactive>"
#: Cells have a file all the same, in a folder named after the kernel.
_KERNELS = ("ipykernel", "xpython", "marimo")


class Origin(NamedTuple):
    """Where a task was defined; `file` is empty for what was not written in Python."""

    file: str
    line: int
    qualname: str

    def __str__(self) -> str:
        if not self.file:
            return self.qualname
        return f"{self.file}:{self.line}" if self.file != INTERACTIVE else "an earlier cell"


class Registrable(Protocol):
    """What the registry needs to know of a task."""

    name: Any

    @property
    def origin(self) -> Origin:
        """Where it was defined."""

    def difference_from(self, other: Any) -> str:
        """What tells it apart from another of its place; empty when they are the same."""


class Registry(dict[str, Any]):
    """Tasks by name. Looking up an unknown name raises errors.NotRegistered with near names."""

    def register(self, task: Registrable) -> Any:
        """Add a task under its name and return it; a second, different definition is refused.

        Repeating: the same definition again replaces the task.

        Raises:
            errors.AlreadyRegistered: Another definition has the name; both places are named.
        """
        name = task.name
        if not name or not isinstance(name, str):
            raise errors.ImproperlyConfigured(
                f"a task needs a name; give {task.origin} one with name='...'"
            )
        held = self.get(name)
        if held is not None and held is not task:
            self._refuse_another(held, task)
        self[name] = task
        return task

    @staticmethod
    def _refuse_another(held: Registrable, task: Registrable) -> None:
        if not same_origin(held.origin, task.origin):
            difference = ""
        else:
            difference = task.difference_from(held)
            if not difference:
                return
            difference = f"; they differ in {difference}"
        raise errors.AlreadyRegistered(
            f"two different tasks claim the name {task.name!r}: one is defined at {held.origin}, "
            f"the other at {task.origin}{difference}; rename one, or give it name='...'"
        )

    def unregister(self, name: Any) -> None:
        """Forget a task, given by name or as itself; raises errors.NotRegistered if unknown."""
        key = getattr(name, "name", name)
        if key not in self:
            raise self.unknown(key)
        del self[key]

    def regular(self) -> dict[str, Any]:
        """The tasks users defined: all but the built-in ones."""
        return {n: t for n, t in self.items() if not n.startswith(("celery.", "flowq."))}

    def __missing__(self, name: str) -> Any:
        raise self.unknown(name)

    def unknown(self, name: Any) -> errors.NotRegistered:
        """The error for a name that is not here, with what to try."""
        near = near_names(str(name), self.regular())
        if near:
            advice = f"did you mean {' or '.join(near)}?"
        else:
            advice = "import the module that defines it, or name that module in include=[...]"
        return errors.NotRegistered(f"no task is registered as {str(name)!r}; {advice}")


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """At most three known names like the one that was not found, the likeliest first."""
    known = list(known)
    short = name.rpartition(".")[2]
    same_end = [k for k in known if k.rpartition(".")[2] == short]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.7)
    return list(dict.fromkeys([*same_end, *close]))[:3]


def origin_of(defined: Any) -> Origin:
    """Where a function, class or callable object was written.

    Partials, wrappers and methods are followed to the function inside; a callable object counts as
    its class. What C code defines has its module's name and no file.
    """
    target = defined
    while isinstance(target, functools.partial):
        target = target.func
    target = inspect.unwrap(target) if callable(target) else target
    target = getattr(target, "__func__", target)
    code = getattr(target, "__code__", None)
    if code is not None:
        return Origin(file_of(code.co_filename), code.co_firstlineno, target.__qualname__)
    if inspect.isbuiltin(target):
        return Origin("", 0, f"{target.__module__}.{target.__qualname__}")
    cls = target if isinstance(target, type) else type(target)
    return _origin_of_class(cls)


def _origin_of_class(cls: type) -> Origin:
    module = sys.modules.get(cls.__module__)
    file = getattr(module, "__file__", None) or INTERACTIVE
    own = [f for f in vars(cls).values() if hasattr(f, "__code__")]
    line = min((f.__code__.co_firstlineno for f in own), default=0)
    if own:
        file = own[0].__code__.co_filename
    return Origin(file_of(file), line, cls.__qualname__)


def file_of(name: str) -> str:
    """File of some code by the name that the code has for it; `INTERACTIVE` for all cells."""
    if name.startswith("<") or any(f"{os.sep}{kernel}_" in name for kernel in _KERNELS):
        return INTERACTIVE
    return os.path.abspath(name)


def same_origin(old: Origin, new: Origin) -> bool:
    """Whether two origins are one definition made twice."""
    if (old.file, old.qualname) != (new.file, new.qualname):
        return False
    if old.line == new.line or old.file == INTERACTIVE or not old.file:
        return True
    # The file may have been edited and loaded again, or may define the name twice: ask the file.
    linecache.checkcache(old.file)
    places = _definitions("".join(linecache.getlines(old.file)), new.qualname)
    return not {old.line, new.line} <= places


def _definitions(source: str, qualname: str) -> set[int]:
    """First lines (decorators included) at which a file defines a qualified name."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return set()
    found: set[int] = set()
    stack: list[tuple[ast.AST, str]] = [(tree, "")]
    while stack:
        node, prefix = stack.pop()
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                full = prefix + child.name
                if full == qualname:
                    found.add(min([child.lineno, *(d.lineno for d in child.decorator_list)]))
                inner = f"{full}." if isinstance(child, ast.ClassDef) else f"{full}.<locals>."
            elif isinstance(child, ast.Lambda) and prefix + "<lambda>" == qualname:
                found.add(child.lineno)
            stack.append((child, inner))
    return found
