"""Targets: from `file.py`, `file.py:name` or `pkg.mod:name` to a canvas and its app.

A program file is loaded once, under its stem as module name, so that what stands under
``if __name__ == "__main__"`` does not run; its tasks are named after the app however the file
is loaded. A file's canvas is its variable `pipeline` or `flow`, else the only canvas in it;
a function in its place builds the canvas, and its parameters are the target's arguments.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from hashlib import blake2b
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from flowq.app import current
from flowq.core.canvas import Signature
from flowq.core.flow import Flow
from flowq.errors import FlowqError, TargetError

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.app.client import Client
    from flowq.app.run import Run

#: Variables that name a file's canvas.
NAMES = ("pipeline", "flow")
_OURS = str(Path(__file__).parents[1]) + os.sep


class Program:
    """A file or module that was loaded: enough to go on with a run of it.

    Args:
        module: The module.
        target: What `load_program` takes to find it again.
    """

    def __init__(self, module: ModuleType, target: str) -> None:
        self.module, self.target = module, target
        self.file = os.path.abspath(module.__file__ or "")

    @property
    def code_hash(self) -> str:
        """Fingerprint of the file as it is now."""
        return hash_of(self.file)

    def app(self, canvas: Signature | Flow | None = None, main: str | None = None) -> Flowq:
        """The app that the tasks belong to.

        Args:
            canvas: If there is one, its app.
            main: Else the app of that main name, else the current one.
        """
        sig = canvas.nodes[0].signature if isinstance(canvas, Flow) and canvas.nodes else canvas
        found = getattr(sig, "app", None)
        if found is None and main:
            found = current.app_named(main)
        return found if found is not None else current.get_current()


class Loaded(Program):
    """A target that was loaded; nothing of it has been submitted.

    Args:
        module: The module that holds it.
        name: Name of the canvas, or of what builds it, in the module.
        source: The canvas, the function that builds it, or a task.
        target: What `load` takes to find it again: an absolute path or module, and the name.
    """

    def __init__(self, module: ModuleType, name: str, source: Any, target: str) -> None:
        super().__init__(module, target)
        self.name, self.source = name, source

    @property
    def shown(self) -> str:
        """What to call it in a message."""
        return f"{self.name} of {os.path.basename(self.file)}"

    def build(self, arguments: Iterable[str] = ()) -> Signature | Flow:
        """The canvas, built with ``KEY=VALUE`` arguments if it is a function.

        Raises:
            TargetError: An argument is missing, unknown or of the wrong type, the function
                raised, or what it returned is no canvas.
        """
        from flowq.app.arguments import bind, split
        from flowq.app.task import Task

        pairs = split(arguments)
        source = self.source
        if isinstance(source, Signature | Flow):
            if pairs:
                raise TargetError(
                    f"{self.shown} is a canvas, not a function, so it takes no -a "
                    f"{pairs[0][0]}; write a function {self.name}({pairs[0][0]}) that returns it"
                )
            return source
        if isinstance(source, Task):
            args, kwargs = bind(source.run, pairs, self.shown)
            return source.s(*args, **kwargs)  # type: ignore[no-any-return]
        args, kwargs = bind(source, pairs, self.shown)
        with _users_code(f"{self.shown} fails", plain=(FlowqError, ValueError, OSError)):
            canvas = source(*args, **kwargs)
        if not isinstance(canvas, Signature | Flow):
            hint = "; does it lack a return?" if canvas is None else ""
            raise TargetError(
                f"{self.shown} returned {type(canvas).__name__}, which is no signature, canvas "
                f"or Flow{hint or '; return the canvas itself, not its result'}"
            )
        return canvas

    def submit(self, app: Flowq, canvas: Signature | Flow, **about: Any) -> Run:
        """Submit its canvas so that `flowq resume` finds the way back; see `Flowq.submit`."""
        return engine_of(app).submit(canvas, target=self.target, code_hash=self.code_hash, **about)


def engine_of(app: Flowq) -> Client:
    """The embedded engine of an app, made at the first call; nothing is started."""
    return app._engine()  # type: ignore[no-any-return]


def load(target: str) -> Loaded:
    """Load what a target names and find its canvas; nothing is built or submitted.

    A second call for the same file takes the module that is there.

    Raises:
        TargetError: There is no such file, module or name, loading it failed, or it is not
            clear which canvas is meant; `details` holds the user's part of the traceback.
    """
    place, name = _split(target)
    if is_file(place) or os.path.isdir(place):
        module = _load_file(place)
        found, source = _find(module, name, place)
        return Loaded(module, found, source, f"{os.path.abspath(place)}:{found}")
    module = _load_module(place)
    found, source = _find(module, name, place)
    return Loaded(module, found, source, f"{place}:{found}")


def load_program(target: str) -> Program:
    """Load the file or module of a target, whatever its canvas; as `load`."""
    place, _ = _split(target)
    if is_file(place):
        return Program(_load_file(place), os.path.abspath(place))
    return Program(_load_module(place), place)


def is_file(place: str) -> bool:
    """Whether a target, or its first part, names a file rather than a module or a run."""
    return place.endswith(".py") or os.sep in place


def looks_like_target(text: str) -> bool:
    """Whether a text that may be a target or a run is a target."""
    place, name = _split(text)
    return is_file(place) or bool(name)


def inside(target: str, folder: Path) -> bool:
    """Whether a recorded target lies in a folder or below; found out without loading it."""
    place, _ = _split(target)
    if is_file(place):
        path = Path(place)
    else:
        top = place.partition(".")[0]
        spec = importlib.machinery.PathFinder.find_spec(top, [str(folder)])
        where = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
        if not where:
            return False
        path = Path(where)
    return path.resolve().is_relative_to(folder.resolve())


def hash_of(file: str) -> str:
    """Fingerprint of a file; empty if it cannot be read."""
    try:
        return blake2b(Path(file).read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return ""


# -- loading ------------------------------------------------------------------------------------


def _split(target: str) -> tuple[str, str]:
    place, colon, name = target.rpartition(":")
    return (place, name) if colon and os.sep not in name else (target, "")


def _load_file(place: str) -> ModuleType:
    path = os.path.abspath(place)
    if os.path.isdir(path):
        raise TargetError(f"{place} is a folder; name a file in it, as in {place}/pipeline.py")
    if not os.path.isfile(path):
        folder = Path(path).parent
        names = [p.name for p in folder.glob("*.py")] if folder.is_dir() else []
        near = difflib.get_close_matches(os.path.basename(path), names, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else "check the path"
        raise TargetError(f"there is no file {place}; {hint}")
    stem = Path(path).stem
    other = f"flowq_program_{stem}"  # where a module of that name is another one
    for known in (sys.modules.get(stem), sys.modules.get(other)):
        if known is not None and getattr(known, "__file__", None) == path:
            current.set_program_file(path)
            return known
    name = stem if stem not in sys.modules and stem.isidentifier() else other
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{place} is no Python file; name a file that ends in .py")
    _put_first(os.path.dirname(path))
    if os.getcwd() not in sys.path:  # behind: a project's packages are found from its root
        sys.path.append(os.getcwd())
    current.set_program_file(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _users_code(f"{place} cannot be loaded"), _no_submission(place):
            spec.loader.exec_module(module)
    except TargetError:
        del sys.modules[name]
        raise
    return module


def _load_module(place: str) -> ModuleType:
    _put_first(os.getcwd())
    try:
        if not place or importlib.util.find_spec(place.partition(".")[0]) is None:
            raise ModuleNotFoundError(name=place)
        with _users_code(f"{place} cannot be loaded", missing=place), _no_submission(place):
            return importlib.import_module(place)
    except (ModuleNotFoundError, ValueError):
        hint = f"{place.replace('.', '/')}.py"
        known = f"did you mean {hint}?" if os.path.isfile(hint) else "name a file or a module"
        raise TargetError(f"there is no module {place!r} to be found from here; {known}") from None


@contextmanager
def _no_submission(place: str) -> Iterator[None]:
    """Refuse what a program submits while it is loaded: it would be a second run."""

    def refuse(_app: Any) -> Any:
        raise TargetError(
            f"{place} submits or reads runs while it is loaded; put that under "
            'if __name__ == "__main__":'
        )

    before = current.engine_factory()
    current.set_engine_factory(refuse)
    try:
        yield
    finally:
        current.set_engine_factory(before)


def _put_first(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


# -- finding ------------------------------------------------------------------------------------


def _find(module: ModuleType, name: str, shown: str) -> tuple[str, Any]:
    """The canvas of a module, or what builds it, and its name there."""
    if name:
        return name, _named(module, name, shown)
    space = vars(module)
    chosen = [n for n in NAMES if n in space and _may_run(space[n])]
    if not chosen:
        chosen = _canvases(space)
    if not chosen:
        raise TargetError(
            f"there is no canvas in {shown}; call one pipeline, as in "
            f"pipeline = chain(...), or write a function pipeline() that returns one"
        )
    if len({id(space[n]) for n in chosen}) > 1:
        few = ", ".join(chosen[:4]) + (", ..." if len(chosen) > 4 else "")
        raise TargetError(
            f"there are {len(chosen)} canvases in {shown} ({few}); say which: "
            f"{shown}:{chosen[0]}, or call one of them pipeline"
        )
    return chosen[0], space[chosen[0]]


def _canvases(space: dict[str, Any]) -> list[str]:
    return [
        name
        for name, value in space.items()
        if isinstance(value, Signature | Flow) and not name.startswith("_")
    ]


def _may_run(value: Any) -> bool:
    return isinstance(value, Signature | Flow) or (callable(value) and not isinstance(value, type))


def _named(module: ModuleType, name: str, shown: str) -> Any:
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            names = [n for n, v in vars(module).items() if _may_run(v) and not n.startswith("_")]
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "check its spelling"
            raise TargetError(f"there is no {name!r} in {shown}; {hint}")
        value = getattr(value, part)
    if not _may_run(value):
        raise TargetError(
            f"{name} of {shown} is {type(value).__name__}, not callable and no canvas; "
            "name a signature, a canvas, a Flow, a task, or a function that builds one"
        )
    return value


# -- users' errors ------------------------------------------------------------------------------


@contextmanager
def _users_code(
    what: str, *, plain: tuple[type[Exception], ...] = (), missing: str = ""
) -> Iterator[None]:
    """Turn what a user's code raises into one sentence, and its own frames as details.

    `plain` exceptions are sentences themselves: no frames. A module called `missing` (or a
    package around it) that is not there is passed on.
    """
    try:
        with redirect_stdout(sys.stderr or sys.stdout):  # stdout is for the command's own data
            yield
    except TargetError:
        raise
    except SyntaxError as exc:
        raise _with_details(_syntax(exc), _caret(exc)) from exc
    except ModuleNotFoundError as exc:
        if missing and exc.name and (missing == exc.name or missing.startswith(exc.name + ".")):
            raise
        name = exc.name or "a module"
        made = f"{what}: it imports {name!r}, which is not installed; pip install it, or correct it"
        raise _with_details(made, frames_of(exc)) from exc
    except plain as exc:
        text = f"{what}: {_sentence(exc)}"
        hint = "" if "; " in text else "; correct that, or the arguments given with -a"
        raise TargetError(text + hint) from exc
    except (Exception, SystemExit) as exc:
        made = f"{what}: {type(exc).__name__}: {exc}; correct that, and run it again"
        raise _with_details(made, frames_of(exc)) from exc


def _sentence(exc: BaseException) -> str:
    return str(exc) if isinstance(exc, FlowqError) and str(exc) else f"{type(exc).__name__}: {exc}"


def _with_details(text: str, details: str) -> TargetError:
    made = TargetError(text)
    made.details = details
    return made


def _syntax(exc: SyntaxError) -> str:
    place = os.path.relpath(exc.filename) if exc.filename else "the file"
    return f"{place}:{exc.lineno} is not Python: {exc.msg}; correct that line"


def _caret(exc: SyntaxError) -> str:
    return "".join(traceback.format_exception_only(type(exc), exc)[:-1]).rstrip()


def frames_of(exc: BaseException) -> str:
    """The traceback of an exception, cut to the frames of the user's own files."""
    frames = traceback.extract_tb(_behind_ours(exc.__traceback__))
    libraries = tuple(p + os.sep for p in {sys.prefix, sys.base_prefix})
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith(("<frozen", _OURS))
        and not ("site-packages" in frame.filename or frame.filename.startswith(libraries))
    ]
    return "".join(traceback.format_list(own or frames)).rstrip()


def _behind_ours(found: TracebackType | None) -> TracebackType | None:
    whole = found
    while found is not None:
        name = found.tb_frame.f_code.co_filename
        if not name.startswith(("<frozen", _OURS)):
            return found
        found = found.tb_next
    return whole
