"""Making tasks: of callables and of classes, with names and checks of arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.app import current
from flowq.app.alike import load_of
from flowq.app.options import checked, checked_name, checked_of_class
from flowq.app.task import Task, is_from_setting
from flowq.registry import origin_of

if TYPE_CHECKING:
    from flowq.app.base import Flowq

#: Attributes that a setting gives a default to: None leaves it to the setting.
_FROM_SETTINGS = frozenset(name for name, value in vars(Task).items() if is_from_setting(value))


def make_task(
    app: Flowq,
    fun: Callable[..., Any],
    /,
    *,
    name: str | None,
    base: type[Task] | None,
    bind: bool,
    registered_in: str | None = None,
    **options: Any,
) -> Task:
    """Make a task of a callable; it is not registered yet."""
    task: Task
    if isinstance(fun, type) and issubclass(fun, Task):
        task = adopt(app, fun, name=name, bind=bind, **options)
        task.registered_in = registered_in or task.registered_in
        return task
    _refuse_wrapped(fun)
    options = check_definition(fun, {"name": name, "base": base, **options})
    name, base = options.pop("name"), options.pop("base")
    definition = {**options, "name": name, "base": base, "bind": bind}
    cls = base or app.Task
    attributes: dict[str, Any] = {
        "run": fun if bind else staticmethod(fun),
        "__doc__": getattr(fun, "__doc__", None),
        "__module__": getattr(fun, "__module__", None) or type(fun).__module__,
        **_set_options(options),
    }
    made = type(getattr(fun, "__name__", type(fun).__name__), (cls,), attributes)
    task = made()
    task.app = app
    task.name = name or _name_of(app, fun)
    definition["name"] = task.name
    task._definition = (fun, definition)
    frame = current.loading_frame()
    task.registered_in = registered_in or current.module_of(frame)
    task.loaded_by = load_of(frame)
    task.__name__ = task.name.rpartition(".")[2]  # type: ignore[attr-defined]
    task.__wrapped__ = fun  # type: ignore[attr-defined]
    return task


def adopt(app: Flowq, task: Any, /, **options: Any) -> Task:
    """Make a class-based task, given as class or object, a task of this app."""
    as_object = not isinstance(task, type)
    if isinstance(task, type):
        if not issubclass(task, Task):
            raise errors.ImproperlyConfigured(
                f"register_task() takes a Task class or object, not {task!r}; use @app.task for it"
            )
        task = task()
    if not isinstance(task, Task):
        raise errors.ImproperlyConfigured(
            f"register_task() takes a Task class or object, not {task!r}; use @app.task for it"
        )
    where = f"the task class at {task.origin}"
    name = checked_name(options.pop("name", None), where)
    options.pop("bind", None)
    checked_of_class(where, type(task), Task)
    options = checked(where, options)
    task.__dict__.setdefault("_made_with", dict(vars(task)))
    task._given = (as_object, options)
    task.__dict__.update(_set_options(options))
    task.app = app
    frame = current.loading_frame()
    task.registered_in, task.loaded_by = current.module_of(frame), load_of(frame)
    cls = type(task)
    task.name = (
        name or task.name or app.gen_task_name(cls.__name__, cls.__module__, task.origin.file)
    )
    return task


def check_definition(fun: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of ``@app.task``, looked at; `name` and `base` may be among them.

    Raises:
        errors.ImproperlyConfigured: `fun` is not callable.
        TypeError, ValueError: An option is wrong.
    """
    if not callable(fun):
        raise errors.ImproperlyConfigured(
            f"a task is made of a callable, not of {fun!r}; give options by keyword"
        )
    where = f"the task at {origin_of(fun)}"
    checked_name(options.get("name"), where)
    base = options.get("base")
    if base is not None:
        if not isinstance(base, type) or not issubclass(base, Task):
            raise TypeError(f"base={base!r} of {where} is no subclass of flowq.Task")
        checked_of_class(f"the task class at {origin_of(base)}", base, Task)
    return checked(where, options)


def importing_module() -> str:
    """Module whose import led to this call; `__main__` when none did."""
    return current.module_of(current.loading_frame())


def declared_task(app: Flowq, name: str) -> Task:
    """A stand-in that says that its task is not defined."""
    task = _Declared()
    task.app = app
    task.name = name
    return task


class _Declared(Task):
    typing = False

    def run(self, *args: Any, **kwargs: Any) -> Any:
        raise self.app.tasks.unknown(self.name)


def _set_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as attributes; None leaves to a setting what a setting decides."""
    return {k: v for k, v in options.items() if v is not None or k not in _FROM_SETTINGS}


def _name_of(app: Flowq, fun: Any) -> str:
    if isinstance(fun, functools.partial):
        raise errors.ImproperlyConfigured(
            f"a functools.partial has no name of its own: app.task({fun!r}, name='...')"
        )
    name = getattr(fun, "__name__", None) or type(fun).__name__
    if name == "<lambda>":
        raise errors.ImproperlyConfigured(
            f"the lambda at {origin_of(fun)} has no name: app.task(lambda ..., name='...')"
        )
    module = getattr(fun, "__module__", None) or type(fun).__module__
    return app.gen_task_name(name, module, origin_of(fun).file)


def _refuse_wrapped(fun: Any) -> None:
    inner, seen = fun, 0
    while inner is not None and seen < 100:
        if isinstance(inner, Task):
            if inner is fun:
                raise errors.CanvasError(
                    f"{inner!r} is a task already; apply @app.task once, above all other decorators"
                )
            raise errors.CanvasError(
                f"another decorator was applied to {inner!r}; put @app.task on top of it, so that "
                "the decorated function becomes the task"
            )
        inner, seen = getattr(inner, "__wrapped__", None), seen + 1


def head_of(run: Callable[..., Any], name: str) -> Callable[..., None] | None:
    """A function with the parameters of `run` and no body; None where they are not known."""
    try:
        parameters = list(inspect.signature(run).parameters.values())
    except (ValueError, TypeError):
        return None
    parts: list[str] = []
    star = False
    for i, p in enumerate(parameters):
        if not p.name.isidentifier():
            return None
        if p.kind is p.VAR_POSITIONAL:
            star = True
            parts.append(f"*{p.name}")
        elif p.kind is p.VAR_KEYWORD:
            parts.append(f"**{p.name}")
        else:
            if p.kind is p.KEYWORD_ONLY and not star:
                star = True
                parts.append("*")
            parts.append(p.name if p.default is p.empty else f"{p.name}=None")
        if p.kind is p.POSITIONAL_ONLY:
            following = parameters[i + 1] if i + 1 < len(parameters) else None
            if following is None or following.kind is not p.POSITIONAL_ONLY:
                parts.append("/")
    label = name if name.isidentifier() else "task"
    space: dict[str, Any] = {}
    exec(f"def {label}({', '.join(parts)}): pass", space)
    return space[label]  # type: ignore[no-any-return]


def annotate(task: Any, annotations: Any) -> None:
    """Set attributes of a task as `task_annotations` says: by its name, or by `*` for all."""
    entries = annotations if isinstance(annotations, list | tuple) else [annotations]
    for entry in entries:
        for key in ("*", task.name):
            for attribute, value in dict(entry.get(key) or {}).items():
                setattr(task, attribute, value)
