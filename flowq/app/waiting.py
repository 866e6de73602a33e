"""Waiting for results: where it is refused, and how a coroutine does it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flowq import errors
from flowq.app.outcome import Outcome
from flowq.worker import request as calls

#: Seconds of one wait in a thread while a coroutine waits; a cancelled wait ends this late.
_ASYNC_SLICE = 0.5

_local = threading.local()


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Within this block ``get()`` may be called inside a task.

    The task keeps its slot meanwhile. When every slot has a task that waits for another one which
    has none, all of them wait for ever: give `get` a timeout, or compose with a chain or a chord.
    """
    before = getattr(_local, "allowed", False)
    _local.allowed = True
    try:
        yield
    finally:
        _local.allowed = before


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Within this block ``get()`` is refused inside a task again."""
    before = getattr(_local, "allowed", False)
    _local.allowed = False
    try:
        yield
    finally:
        _local.allowed = before


def assert_will_not_block() -> None:
    """Raise RuntimeError in a task that a worker runs, unless `allow_join_result` is in force."""
    context = calls.current()
    if context is None or getattr(_local, "allowed", False):
        return
    if any(not c.called_directly and not c.is_eager for _, c in calls._calls.stack):
        task = context.task or calls.current_task()
        raise RuntimeError(
            f"get() inside the task {task!r} would wait for a worker slot that this task holds "
            "itself; compose with a chain, a chord or replace() instead, or use allow_join_result()"
        )


async def outcome_in_loop(engine: Any, node: str) -> Outcome:
    """Wait in a thread, in slices, so that the loop goes on and a cancelled wait ends soon."""
    import asyncio  # takes longer to import than all of flowq's own modules here

    while True:
        try:
            return await asyncio.to_thread(engine.wait, node, _ASYNC_SLICE)
        except errors.TimeoutError:
            continue
