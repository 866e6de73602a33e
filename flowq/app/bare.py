"""A bare task on its short road: one message, no run, no store."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowq.app.binding import AppBinder
from flowq.broker.codec import VERSION, Bundle, Item

if TYPE_CHECKING:
    from flowq.app.embedded import Engine


def bundle_of(
    engine: Engine,
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
) -> tuple[str, Bundle]:
    """The id and the message of one bare task, noted as sent.

    Raises:
        NotRegistered: No task has that name.
        UnserialisableArgument: An argument cannot travel.
    """
    binder = AppBinder(engine.app)
    spec = binder.spec(name, options, args, kwargs)
    task_id = str(options.get("task_id") or uuid.uuid4())
    frame = binder.encode(args, kwargs, spec)
    item = Item(0, 0, 1, 0, int(options.get("retries") or 0), frame, [], id=task_id)
    item.priority = spec.priority
    item.expires_at = engine.outcomes.deadline(options.get("expires") or spec.expires or None)
    engine.outcomes.sent(task_id, name, spec, frame)
    return task_id, Bundle(VERSION, "", 0, 0, 0, spec.queue, {}, [spec], [item])
