"""One blocking pop on a Redis socket of its own, that can be put, called back and read."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError, ResponseError

#: Seconds after which Redis answers a pop that found nothing, and how much later is too late.
BLOCK, GRACE = 5.0, 5.0


class Pipe:
    """A connection on which commands are sent whose answers are read some time later."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._waiting: deque[Any] = deque()

    def send(self, *command: Any, note: Any = None) -> None:
        """Send and go on. The note is among the `unanswered` until the answer was read."""
        self._waiting.append(note)
        self._connection.send_command(*command, check_health=False)

    def drain(self, timeout: float = 0) -> None:
        """Read the answers that are there, or all of them when a time is given."""
        while self._waiting and self._connection.can_read(timeout):
            with suppress(ResponseError):
                self._connection.read_response()
            self._waiting.popleft()

    def unanswered(self) -> list[Any]:
        """The notes of commands that may not have arrived."""
        return [note for note in self._waiting if note is not None]

    def close(self) -> None:
        """Close the socket."""
        with suppress(RedisError, OSError):
            self._connection.disconnect()


class Pop:
    """At most one blocking pop from several lists; its answers are (list, element) pairs.

    Args:
        connection: Of redis-py, used for nothing else.
        side: Where a pop is called back.
    """

    def __init__(self, connection: Any, side: Pipe) -> None:
        self._connection, self._side = connection, side
        connection.send_command("CLIENT", "ID")
        self._id = int(connection.read_response())
        self._asked = 0
        self._asked_at = 0.0
        self._recalled = False
        self._many = True

    def fileno(self) -> int:
        """What to poll."""
        return int(self._connection._sock.fileno())

    def ask(self, lists: Callable[[], Sequence[bytes]], room: int) -> None:
        """See that a pop for at most `room` elements is outstanding; for none if that is 0.

        `lists` is called when a new one is put.
        """
        if self._asked:
            if self._asked > room:
                self.recall()
            return
        keys = lists() if room > 0 else ()
        if not keys:
            return
        if self._many:
            self._send("BLMPOP", BLOCK, len(keys), *keys, "RIGHT", "COUNT", room)
            self._asked = room
        else:
            self._send("BRPOP", *keys, BLOCK)
            self._asked = 1
        self._asked_at, self._recalled = time.monotonic(), False

    def _send(self, *command: Any) -> None:
        self._connection.send_command(*command, check_health=False)

    def recall(self) -> None:
        """Make Redis answer the outstanding pop at once."""
        if self._asked and not self._recalled:
            self._recalled = True
            self._side.send("CLIENT", "UNBLOCK", self._id)

    def read(self, timeout: float = 0) -> list[tuple[bytes, bytes]]:
        """What the outstanding pop brought; empty if it brought nothing or has no answer yet.

        Raises:
            ConnectionError: No answer came for so long that the connection must be dead.
        """
        if not self._connection.can_read(timeout if self._asked else 0):
            if not self._asked:
                return []
            if time.monotonic() > self._asked_at + BLOCK + GRACE:
                raise ConnectionError("Redis did not answer in time")
            return []
        self._asked = 0
        try:  # if nothing was asked, this is the end of the connection, and raises
            answer = self._connection.read_response()
        except ResponseError as exc:
            if "unknown command" not in str(exc).lower():
                raise
            self._many = False  # Redis before 7.0
            return []
        if not answer:
            return []
        key, found = answer
        return [(key, element) for element in (found if self._many else [found])]

    def close(self) -> None:
        """Close the socket."""
        with suppress(RedisError, OSError):
            self._connection.disconnect()
