"""Turns made by a thread that waits for what they bring.

To be woken by the engine's thread, which was woken by a pool's child, costs two changes of thread
under one interpreter lock, more than a tiny task takes. So who waits listens to the pool itself
for a moment, while the engine's thread stands by.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Final

from flowq.app.collecting import collection_paused
from flowq.app.undisturbed import Undisturbed
from flowq.errors import StoreUnavailable
from flowq.worker.wait import wait

if TYPE_CHECKING:
    from flowq.app.embedded import Engine

#: What takes longer than this (seconds) is left to the engine's thread.
DRIVE_SECONDS: Final = 0.020
#: So long after somebody made turns in its place (seconds) the engine's thread stands by: who asks
#: for one thing after the other is back by then.
STAND_BY_SECONDS: Final = 0.002


class Driver:
    """One thread at a time that waits, and makes an engine's turns meanwhile.

    Args:
        engine: Whose turns; its pool runs.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._thread = 0
        self._until = 0.0
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        for handle in [self._bell, *engine.worker.handles()]:
            self._poll.register(handle, select.POLLIN)

    @property
    def at_work(self) -> bool:
        """Whether the engine's thread is to stand by.

        Not while something runs and nobody drives: then it has to listen to the pool.
        """
        listens = self._thread or not self._engine.worker.busy
        return bool(listens) and time.monotonic() < self._until

    def close(self) -> None:
        """Close the bell; the engine has ended."""
        with self._lock:
            os.close(self._bell)
            self._bell = -1

    def nudge(self) -> None:
        """What somebody waits for has ended, by a turn of the calling thread's."""
        if self._thread not in (0, threading.get_ident()):
            with contextlib.suppress(OSError):
                os.eventfd_write(self._bell, 1)

    def drive(self, ended: threading.Event, timeout: float | None = None) -> None:
        """Make turns until something has ended, for a moment at most.

        Returns at once, with nothing done, where another thread drives, where nothing runs, and
        inside a turn.

        Args:
            ended: Set by `Engine.wake_waiters` when what the caller waits for has ended.
            timeout: Seconds that the caller would wait at most; None: for ever.

        Raises:
            KeyboardInterrupt: Ctrl-C, between two turns.
        """
        engine = self._engine
        if not engine.worker.busy or not self._lock.acquire(blocking=False):
            return
        self._thread = threading.get_ident()
        limit = DRIVE_SECONDS if timeout is None else min(timeout, DRIVE_SECONDS)
        until = self._until = time.monotonic() + limit
        try:
            while not ended.is_set() and self._turn(until):
                engine.wake_waiters()
        finally:
            self._thread = 0
            if ended.is_set():
                self._until = time.monotonic() + STAND_BY_SECONDS
                engine.wake_for_timers()
            else:
                self._until = 0.0
                engine.ring()
            self._lock.release()

    def _turn(self, until: float) -> bool:
        """Wait for the pool and make one turn; False if it is time to leave it to others."""
        engine = self._engine
        left = until - time.monotonic()
        if left <= 0.0 or self._bell < 0 or engine.turner_is_here:
            return False
        for fd, _ in wait(self._poll, min(left, engine.rest()), engine.worker):
            if fd == self._bell:
                os.eventfd_read(self._bell)
                return True
        with engine.turning, collection_paused(), Undisturbed():
            if engine.thread is None or engine.failure is not None:
                return False
            try:
                engine.turn()
            except StoreUnavailable:  # the engine's thread meets it too, says so and tries again
                return False
            except Exception as exc:
                engine.fail(exc)
                return False
        return True
