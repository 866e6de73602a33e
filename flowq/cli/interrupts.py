"""Ctrl-C and SIGTERM: the first asks to stop, the second ends at once."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any, Self

_SHOW_CURSOR = b"\x1b[?25h"


class Interrupts:
    """Takes both signals over while a run is in this process's hands."""

    def __init__(self) -> None:
        #: The signal that asked to stop; 0 if none did.
        self.signal = 0
        #: The run that this is about, once it is known.
        self.run = "@last"
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(ValueError):  # not the main thread: somebody else's signals
                self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if self.signal:
            self._end_at_once(number)
        self.signal = number

    def _end_at_once(self, number: int) -> None:
        """Leave without a word to anybody: the pool's processes end with this one, and what is
        committed is committed."""
        with contextlib.suppress(OSError):
            if sys.stderr.isatty():
                os.write(2, _SHOW_CURSOR)
            os.write(2, f"\nended at once; go on with: flowq resume {self.run}\n".encode())
        os._exit(128 + number)

    @property
    def exit_code(self) -> int:
        """130 or 143, as shells have it."""
        return 128 + self.signal
