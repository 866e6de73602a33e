"""Tasks that every app has, under Celery's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.core.canvas import EXPAND, MAP, STARMAP

if TYPE_CHECKING:
    from flowq.app.base import Flowq


def register(app: Flowq) -> None:
    """Give an app the built-in tasks. Repeating: they replace themselves."""
    tasks: list[tuple[str, Callable[..., Any], bool]] = [
        (MAP, _map, True),
        (STARMAP, _starmap, True),
        ("celery.chunks", _chunks, True),
        ("celery.accumulate", _accumulate, False),
        ("celery.ping", _ping, False),
        (EXPAND, _expand, True),
    ]
    for name, fun, bind in tasks:
        app._task_from_fun(fun, name=name, bind=bind)


def _map(self: Any, task: Any, it: Any) -> list[Any]:
    """Call a task for each item, one after another, and return the results."""
    sig = self.app.signature(task)
    call = sig.type if _is_plain(sig) else sig
    return [call(item) for item in it]


def _starmap(self: Any, task: Any, it: Any) -> list[Any]:
    """Call a task for each item, a sequence of arguments, and return the results."""
    sig = self.app.signature(task)
    call = sig.type if _is_plain(sig) else sig
    return [call(*item) for item in it]


def _chunks(self: Any, task: Any, it: Any, n: int) -> Any:
    """Become the group of starmap nodes that chunks stand for."""
    from flowq.app.canvas import chunks

    return self.replace(chunks(self.app.signature(task), it, n, app=self.app).group())


def _accumulate(*args: Any, **kwargs: Any) -> Any:
    """Hand the arguments on, as one value."""
    index = kwargs.get("index")
    return list(args) if index is None else args[index]


def _ping() -> str:
    """Say that a worker is there."""
    return "pong"


def _expand(self: Any, items: Any, body: Any, join: str = "all") -> Any:
    """Become the group of `body` for each item of the list that arrived."""
    from flowq.app.canvas import group

    if isinstance(items, str | bytes | Mapping) or not hasattr(items, "__iter__"):
        raise errors.CanvasError(
            f"expand() fans out over a list, but the task before it returned "
            f"{type(items).__name__}; return a list"
        )
    sig = self.app.signature(body)
    return self.replace(group([sig.clone((item,)) for item in items], join=join, app=self.app))


def _is_plain(sig: Any) -> bool:
    return sig.get("subtask_type") is None and not sig.args and not sig.kwargs
