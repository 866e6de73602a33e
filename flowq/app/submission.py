"""From a canvas to what the store is given: compile, describe, fingerprint."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.app.binding import AppBinder
from flowq.core.canvas import Signature
from flowq.core.compiler import compile_canvas
from flowq.core.flow import Flow
from flowq.core.graph import Graph
from flowq.core.ids import run_uid
from flowq.store import NewRun

if TYPE_CHECKING:
    from flowq.app.base import Flowq

_TITLE = 300
#: Seeded by the system, apart from the user's `random`; a forked process throws its own.
_dice = random.Random()
os.register_at_fork(after_in_child=_dice.seed)


class Compiled:
    """A canvas that was compiled before it can be submitted; later changes to it do not count.

    Args:
        app: Whose tasks and settings it was compiled with.
        canvas: What to compile.

    Raises:
        CanvasError: It cannot be compiled.
    """

    def __init__(self, app: Flowq, canvas: Any) -> None:
        self.graph = compile_for(app, canvas)
        self.name = default_name(app, canvas, self.graph)
        self.title = title_of(canvas)

    def __repr__(self) -> str:
        return self.title


def compile_for(
    app: Flowq, canvas: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
) -> Graph:
    """Compile a canvas with an app's tasks and settings; nothing is stored.

    Raises:
        CanvasError: As `core.compiler.compile_canvas`.
    """
    if isinstance(canvas, Compiled):
        return canvas.graph
    if isinstance(canvas, Mapping) and not isinstance(canvas, Signature):
        canvas = app.signature(canvas)
    if args or kwargs:
        if isinstance(canvas, Flow):
            raise errors.CanvasError("a Flow takes no arguments: put them into its signatures")
        canvas = canvas.clone(args, kwargs)
    conf = app.conf
    graph = compile_canvas(
        canvas,
        AppBinder(app),
        max_nodes=int(conf.max_nodes),
        max_nesting=int(conf.max_nesting),
    )
    if app.celery_app is not None:
        app.check_errbacks(graph)
    return graph


def new_run(
    app: Flowq,
    lane_id: int,
    canvas: Any,
    graph: Graph,
    *,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    target: str | None = None,
    **more: Any,
) -> NewRun:
    """Describe a run that is to be stored."""
    from flowq.app.current import notebook, program_file

    return NewRun(
        uid=new_uid(),
        lane_id=lane_id,
        app=str(app.main or ""),
        name=_checked(name, "name") or default_name(app, canvas, graph),
        title=title_of(canvas),
        target=target or program_file() or notebook(),
        tags=_tags(tags),
        idempotency_key=_checked(idempotency_key, "idempotency_key"),
        digest=blake2b(graph.encode(), digest_size=32).digest() if idempotency_key else None,
        **more,
    )


def new_uid() -> str:
    """A fresh run uid."""
    return str(run_uid(time.time_ns() // 1_000_000, _dice.getrandbits(44)))


def default_name(app: Flowq, canvas: Any, graph: Graph) -> str:
    """A name for a run that was given none: the flow's, the app's, or the first task's."""
    if isinstance(canvas, Flow | Compiled):
        return canvas.name
    if app.main:
        return str(app.main)
    return graph.specs[0].task if graph.specs else "run"


def title_of(canvas: Any) -> str:
    """The canvas in one short line."""
    try:
        text = repr(canvas)
    except Exception as exc:  # a repr of user data must not stop a submission
        text = f"<{type(canvas).__name__}: {type(exc).__name__}>"
    return text if len(text) <= _TITLE else text[: _TITLE - 3] + "..."


def _tags(given: Any) -> dict[str, str]:
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"tags is a mapping, as in {{'team': 'blue'}}, not {given!r}")
    return {str(key): str(value) for key, value in (given or {}).items()}


def _checked(text: str | None, what: str) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise TypeError(f"{what} is a text, not {text!r}")
    if not 1 <= len(text) <= 255 or any(ord(c) < 32 for c in text):
        raise errors.CanvasError(f"{what} needs 1 to 255 printable characters, not {text[:40]!r}")
    return text
