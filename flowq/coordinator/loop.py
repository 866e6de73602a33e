"""A coordinator's life in a thread or a process: sleep until something is due, make a turn."""

from __future__ import annotations

import contextlib
import os
import select

from flowq.coordinator.service import CoordinatorService


class CoordinatorLoop:
    """Drives a coordinator until it is told to stop.

    Args:
        service: What is driven; closed at the end.
    """

    def __init__(self, service: CoordinatorService) -> None:
        self.service = service
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False

    def ring(self) -> None:
        """Say that the inbox holds something; from any thread, or a signal handler."""
        self.service.rung = True
        self._wake()

    def stop(self) -> None:
        """End after the turn it is in; from any thread, or a signal handler. Repeatable."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended, and its bell is closed
            os.eventfd_write(self._bell, 1)

    def run(self) -> None:
        """Serve until stopped; then the lanes are free for others at once."""
        service = self.service
        poll = select.poll()
        polled: list[int] = []
        try:
            while not self._stopping:
                wanted = [self._bell, *service.handles()]
                if wanted != polled:
                    poll = select.poll()
                    for fd in wanted:
                        poll.register(fd, select.POLLIN)
                    polled = wanted
                poll.poll(service.timeout() * 1000)
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._bell)
                service.turn()
        finally:
            service.close()
            os.close(self._bell)
            self._bell = -1
