"""Time limits: what a body gets when its time is up, and how.

The alarm works in the main thread of a process only, because that is where Python runs signal
handlers.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any, Protocol

from flowq import errors


def soft_limit(seconds: float) -> errors.SoftTimeLimitExceeded:
    """What a body gets when its time is up."""
    return errors.SoftTimeLimitExceeded(f"the soft time limit of {seconds:g} s passed")


def told_to_stop(number: int) -> errors.SoftTimeLimitExceeded:
    """What a body gets when somebody asks it to stop, by a signal."""
    name = signal.Signals(number).name
    return errors.SoftTimeLimitExceeded(f"the task was told to stop ({name})")


def hard_limit(task: str, seconds: float) -> errors.TimeLimitExceeded:
    """What a task fails with that was ended when its time was up."""
    return errors.TimeLimitExceeded(
        f"{task} ran over its time limit of {seconds:g} s and was ended"
    )


class Timer(Protocol):
    """Raises SoftTimeLimitExceeded in a body when its time is up."""

    def after(
        self, seconds: float, divert: Callable[[BaseException], None] | None = None
    ) -> AbstractContextManager[Any]:
        """Ring after `seconds` unless the ``with`` block ends before."""


class Alarm:
    """Raises SoftTimeLimitExceeded in the main thread; owns SIGALRM."""

    def __init__(self) -> None:
        self._armed = False
        self._limit = 0.0
        self._divert: Callable[[BaseException], None] | None = None
        signal.signal(signal.SIGALRM, self._ring)

    def _ring(self, number: int, frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            exc = soft_limit(self._limit)
            if self._divert is None:
                raise exc
            self._divert(exc)

    def after(self, seconds: float, divert: Callable[[BaseException], None] | None = None) -> Alarm:
        """Ring after `seconds` unless the ``with`` block ends before.

        `divert` is given the exception instead of having it raised here.
        """
        self._limit, self._divert = seconds, divert
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
