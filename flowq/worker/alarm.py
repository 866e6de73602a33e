"""The soft time limit: an exception raised inside the body when its time is up.

Works in the main thread of a process only, because that is where Python runs signal handlers.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

from flowq import errors


class Alarm:
    """Raises SoftTimeLimitExceeded in the main thread; owns SIGALRM."""

    def __init__(self) -> None:
        self._armed = False
        self._limit = 0.0
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise errors.SoftTimeLimitExceeded(f"the soft time limit of {self._limit:g} s passed")

    def after(self, seconds: float) -> Alarm:
        """Ring after `seconds` unless the ``with`` block ends before."""
        self._limit = seconds
        return self

    def __enter__(self) -> None:
        self._armed = True
        signal.setitimer(signal.ITIMER_REAL, self._limit)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0.0)
