"""Bytes that wait to be written to a socket which must never block its owner."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable


class Outbox:
    """Writes what the socket takes at once and keeps the rest in order."""

    __slots__ = ("_sock", "_waiting")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._waiting: deque[tuple[memoryview, list[int]]] = deque()

    def __bool__(self) -> bool:
        """Whether something waits."""
        return bool(self._waiting)

    def put(self, data: bytes, fds: Iterable[int] = ()) -> None:
        """Write, now or later; `fds` are duplicated into the receiver and stay the caller's.

        They have to stay open until the outbox is empty. A receiver that is gone swallows
        everything: its owner hears of the death by other means.
        """
        handed = list(fds)
        if not self._waiting and not handed:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return
            if sent == len(data):
                return
            self._waiting.append((memoryview(data)[sent:], handed))
            return
        self._waiting.append((memoryview(data), handed))
        self.flush()

    def flush(self) -> None:
        """Write as much as the socket takes."""
        waiting = self._waiting
        while waiting:
            data, fds = waiting[0]
            try:
                if fds:
                    sent = socket.send_fds(self._sock, [data], fds)
                else:
                    sent = self._sock.send(data)
            except BlockingIOError:
                return
            except OSError:
                waiting.clear()
                return
            if sent == len(data):
                waiting.popleft()
            else:
                waiting[0] = (data[sent:], [])
