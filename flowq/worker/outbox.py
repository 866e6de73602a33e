"""Bytes that wait to be written to a socket which must never block its owner."""

from __future__ import annotations

import socket
from collections import deque


class Outbox:
    """Writes what the socket takes at once and keeps the rest in order."""

    __slots__ = ("_sock", "_waiting")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._waiting: deque[tuple[memoryview, int | None]] = deque()

    def __bool__(self) -> bool:
        """Whether something waits."""
        return bool(self._waiting)

    def put(self, data: bytes, fd: int | None = None) -> None:
        """Write, now or later; `fd` is duplicated into the receiver and stays the caller's.

        The descriptor has to stay open until the outbox is empty. A receiver that is gone swallows
        everything: its owner hears of the death by other means.
        """
        if not self._waiting and fd is None:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return
            if sent == len(data):
                return
            self._waiting.append((memoryview(data)[sent:], None))
            return
        self._waiting.append((memoryview(data), fd))
        self.flush()

    def flush(self) -> None:
        """Write as much as the socket takes."""
        waiting = self._waiting
        while waiting:
            data, fd = waiting[0]
            try:
                if fd is None:
                    sent = self._sock.send(data)
                else:
                    sent = socket.send_fds(self._sock, [data], [fd])
            except BlockingIOError:
                return
            except OSError:
                waiting.clear()
                return
            if sent == len(data):
                waiting.popleft()
            else:
                waiting[0] = (data[sent:], None)
