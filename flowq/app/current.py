"""The one global of flowq: which app is current, and what else a process must know of itself.

Everything here is set through a function of this module. The current app belongs to the process,
not to a thread: a thread that a program starts sees the app the program made.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowq.app.base import Flowq

#: Target of runs from a notebook whose path is not known.
NOTEBOOK = "<notebook>"

_lock = threading.RLock()
_current: Flowq | None = None
_apps: weakref.WeakSet[Flowq] = weakref.WeakSet()
#: App -> module whose import made it.
_homes: weakref.WeakKeyDictionary[Flowq, str] = weakref.WeakKeyDictionary()
_program_file: str | None = None
_engine_factory: Callable[[Flowq], Any] | None = None
_make_default: Callable[[], Flowq] | None = None
#: What `shared_task` left behind: called with each app that comes.
_shared: list[Callable[[Flowq], Any]] = []


# -- apps ---------------------------------------------------------------------------------------


def get_current() -> Flowq:
    """The current app; the first call in a program without an app makes one named `default`."""
    global _current
    with _lock:
        if _current is None:
            if _make_default is None:
                import flowq.app.base  # noqa: F401 - sets _make_default
            assert _make_default is not None
            _current = _make_default()
        return _current


def set_current(app: Flowq | None) -> None:
    """Make an app the current one; None leaves the process without."""
    global _current
    _current = app


def current_or_none() -> Flowq | None:
    """The current app, or None; makes nothing."""
    return _current


def announce(app: Flowq) -> None:
    """Take note of a new app, so that shared tasks and pickled names find it."""
    _apps.add(app)
    _homes[app] = module_of(loading_frame())


def home(app: Flowq) -> str:
    """Module whose import made the current app; empty for another app."""
    return _homes.get(app, "") if app is _current else ""


def apps() -> list[Flowq]:
    """Every app alive in this process."""
    return list(_apps)


def app_named(main: str | None) -> Flowq | None:
    """The app whose main name this is, the current one first; None when there is none.

    The last resort is the current app when it is the only one: a program run by another entry
    point may have another main name.
    """
    if _current is not None and _current.main == main:
        return _current
    return next((a for a in _apps if a.main == main), None)


def set_default_maker(make: Callable[[], Flowq]) -> None:
    """Say how to make an app for a program that has none."""
    global _make_default
    _make_default = make


# -- shared tasks -------------------------------------------------------------------------------


def share(register: Callable[[Flowq], Any]) -> None:
    """Have a task registered in every app there is and in each that comes."""
    for app in apps():  # first: what one of them refuses must not follow each that comes
        register(app)
    _shared.append(register)


def shared() -> list[Callable[[Flowq], Any]]:
    """What a new app has to call to have the shared tasks."""
    return list(_shared)


# -- the process --------------------------------------------------------------------------------


def loading_frame() -> FrameType | None:
    """The innermost frame that executes a module; None where no import led to this call."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame


def module_of(frame: FrameType | None) -> str:
    """Name of the module that a frame executes; `__main__` for none."""
    return str((frame and frame.f_globals.get("__name__")) or "__main__")


def program_file() -> str | None:
    """Path of the file that this process runs as its program, whatever module it was loaded as."""
    return _program_file


def set_program_file(path: str | None) -> None:
    """Say which file is the program: its tasks are named after the app, as those of `__main__`."""
    global _program_file
    _program_file = None if path is None else os.path.abspath(path)


def notebook() -> str | None:
    """The notebook whose kernel this process is: its path where the front end tells it.

    `NOTEBOOK` where it does not; None outside of kernels.
    """
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    if not hasattr(shell, "kernel"):
        return None
    path = shell.user_ns.get("__vsc_ipynb_file__") or os.environ.get("JPY_SESSION_NAME")
    return str(path) if path else NOTEBOOK


def program_modules() -> list[str]:
    """Names under which this process has loaded its program file, `__main__` aside.

    Pool children cannot import these by name: what they define travels by value.
    """
    if _program_file is None:
        return []
    return [
        name
        for name, module in list(sys.modules.items())
        if name != "__main__" and _is_file(getattr(module, "__file__", None), _program_file)
    ]


def _is_file(found: Any, path: str) -> bool:
    return isinstance(found, str) and os.path.abspath(found) == path


def engine_factory() -> Callable[[Flowq], Any] | None:
    """What makes engines in this process when it is not the embedded one."""
    return _engine_factory


def set_engine_factory(make: Callable[[Flowq], Any] | None) -> None:
    """Have apps of this process use another engine, as pool children and tests do."""
    global _engine_factory
    _engine_factory = make


# -- stand-ins ----------------------------------------------------------------------------------


class Proxy:
    """Stands for an object that is looked up anew at each use."""

    __slots__ = ("_Proxy__find", "_Proxy__name")

    def __init__(self, find: Callable[[], Any], name: str) -> None:
        object.__setattr__(self, "_Proxy__find", find)
        object.__setattr__(self, "_Proxy__name", name)

    def _get_current_object(self) -> Any:
        """What this stands for now."""
        return self.__find()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self.__find())

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        return self.__find().__dict__

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.__find().__doc__  # type: ignore[no-any-return]

    @property
    def __wrapped__(self) -> Any:
        return self.__find().__wrapped__

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__find(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__find(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__find(), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__find()(*args, **kwargs)

    def __bool__(self) -> bool:
        return bool(self.__find())

    def __eq__(self, other: object) -> bool:
        return bool(self.__find() == other)

    def __hash__(self) -> int:
        return hash(self.__find())

    def __dir__(self) -> list[str]:
        return dir(self.__find())

    def __repr__(self) -> str:
        try:
            return repr(self.__find())
        except Exception as problem:  # a repr must not raise
            return f"<{self.__name}: {problem}>"

    def __reduce__(self) -> Any:
        return self.__find().__reduce__()


def _find_task() -> Any:
    from flowq.worker import request

    return request.current_task()


#: The current app, whichever that is when it is used.
current_app: Any = Proxy(get_current, "current_app")
#: The task this thread is running, or None.
current_task: Any = Proxy(_find_task, "current_task")
