"""What ways of waiting for a result share: a deadline, states handed on once, and polling."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from flowq.backends import OnMessage, TaskMeta

#: States that nothing follows.
READY: Final = frozenset(("SUCCESS", "FAILURE", "REVOKED", "IGNORED", "REJECTED"))


class Deadline:
    """Seconds that are left.

    Args:
        timeout: Seconds from now; None: for ever.
    """

    def __init__(self, timeout: float | None) -> None:
        self._at = None if timeout is None else time.monotonic() + timeout

    def left(self, most: float = 3600.0) -> float:
        """Seconds left, at most `most`; 0.0 when it has passed."""
        if self._at is None:
            return most
        return min(most, max(0.0, self._at - time.monotonic()))

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self._at is not None and time.monotonic() >= self._at


class Told:
    """Hands states on, each once, and says whether the last one is final.

    Args:
        on_message: Who wants to know; None: nobody.
    """

    def __init__(self, on_message: OnMessage | None) -> None:
        self._on_message = on_message
        self._last: TaskMeta | None = None

    def final(self, meta: TaskMeta | None) -> bool:
        """Take a state; True if nothing follows it."""
        if meta is None:
            return False
        if self._on_message is not None and meta != self._last:
            self._last = meta
            self._on_message(meta)
        return meta.state in READY


def poll(
    load: Callable[[], TaskMeta | None],
    timeout: float | None,
    on_message: OnMessage | None,
    *,
    first: float = 0.01,
    longest: float = 0.25,
) -> TaskMeta | None:
    """Look again and again, ever more seldom, until a state is final or the time has passed."""
    deadline, told, pause = Deadline(timeout), Told(on_message), first
    while True:
        meta = load()
        if told.final(meta):
            return meta
        if deadline.passed:
            return None
        time.sleep(deadline.left(pause))
        pause = min(pause * 1.5, longest)
