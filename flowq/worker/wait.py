"""Sleeping until a descriptor is ready, but not for what is over sooner than one is awake again."""

from __future__ import annotations

import time
from typing import Any, Final

from flowq.worker.worker import Worker

#: A tiny task's report is watched for that long (seconds), its way there and back included. To be
#: woken up costs about a third of that.
WATCH: Final = 0.00015


def wait(poll: Any, seconds: float, worker: Worker | None) -> list[tuple[int, int]]:
    """Wait for one of a poll object's descriptors for at most so many seconds.

    Args:
        poll: A `select.poll`.
        seconds: May be negative: then it does not wait at all.
        worker: Whose pool's descriptors are among them; None: nobody's.

    Returns:
        As `select.poll.poll`.
    """
    if seconds > 0.0 and worker is not None and worker.ends_at_once:
        until = time.monotonic() + min(seconds, WATCH)
        while time.monotonic() < until:
            if found := poll.poll(0):
                return found  # type: ignore[no-any-return]
    return poll.poll(max(0.0, seconds) * 1000)  # type: ignore[no-any-return]
