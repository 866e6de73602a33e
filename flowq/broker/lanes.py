"""Update lanes as durable AMQP queues, one a lane.

Records are persistent and confirmed; the reader acknowledges after its commit. Each lane has a
channel of its own: closing it gives back what was not acknowledged. The newest consumer of a queue
has the highest priority, so that an owner that was taken over, and does not know it yet, gets
nothing new.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from flowq.broker.amqp import ANSWER_SECONDS, Reach, drop, errors
from flowq.errors import BrokerError

#: A lane's queue goes when nobody used it for so long.
_EXPIRES_SECONDS = 7 * 86_400
#: Records out to one lane's reader at most.
_PREFETCH = 100
_HEARTBEAT = 20.0
#: Priorities of consumers count seconds from here.
_EPOCH = 1_700_000_000


def lane_queue(store_id: str, lane_id: int) -> str:
    """Name of a lane's queue."""
    return f"flowq.{store_id}.upd.{lane_id}"


def _declare(channel: Any, name: str) -> None:
    channel.queue_declare(
        name, durable=True, auto_delete=False, arguments={"x-expires": _EXPIRES_SECONDS * 1000}
    )


class LanePublisher:
    """Hands records in; for one thread. Nothing is connected before the first.

    Args:
        reach: The broker.
        store_id: Name of the store.
    """

    def __init__(self, reach: Reach, store_id: str) -> None:
        self._reach, self._store_id = reach, store_id
        self._connection: Any = None
        self._channel: Any = None
        self._declared: set[str] = set()

    def put(self, lane_id: int, body: bytes) -> None:
        """Publish a record; returns when the broker has it on disk.

        A connection that was found broken, or a queue that is gone, costs a second attempt.

        Raises:
            BrokerError: It is not known to be accepted; the text says why.
        """
        if self._connection is not None:
            try:
                self._publish(lane_id, body)
                return
            except BrokerError as exc:
                if isinstance(exc.__cause__, TimeoutError):
                    raise
        self._connection = self._reach.connect(confirm=True)
        self._publish(lane_id, body)

    def _publish(self, lane_id: int, body: bytes) -> None:
        name = lane_queue(self._store_id, lane_id)
        try:
            with errors(self._connection, "hand reports in"):
                if self._channel is None:
                    self._channel = self._connection.channel()
                if name not in self._declared:
                    _declare(self._channel, name)
                    self._declared.add(name)
                message = self._channel.prepare_message(
                    body,
                    content_type="application/x-flowq-reports",
                    content_encoding="binary",
                    properties={"delivery_mode": 2},
                )
                self._channel.basic_publish(
                    message, "", name, mandatory=True, timeout=ANSWER_SECONDS,
                    confirm_timeout=ANSWER_SECONDS,
                )  # fmt: skip
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        drop(self._connection)
        self._connection = self._channel = None
        self._declared.clear()


class LaneConsumer:
    """Takes records of many lanes in over one connection; for one thread, and never waits long.

    Every method raises BrokerError when the connection broke, which is closed then: what was not
    acknowledged comes again after `connect`.

    Args:
        reach: The broker.
        store_id: Name of the store.
        on_record: Called by `pump` with lane, key and bytes of each record.
    """

    def __init__(
        self, reach: Reach, store_id: str, on_record: Callable[[int, int, bytes], None]
    ) -> None:
        self._reach, self._store_id, self._on_record = reach, store_id, on_record
        self._connection: Any = None
        self._channels: dict[int, Any] = {}
        self._ticked_at = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    def connect(self) -> None:
        """Connect; lanes have to be opened anew."""
        self._connection = self._reach.connect(heartbeat=_HEARTBEAT)
        self._ticked_at = time.monotonic()

    def open(self, lane_id: int) -> None:
        """Begin to read a lane."""
        name = lane_queue(self._store_id, lane_id)
        with self._checked("read a lane"):
            channel = self._channels[lane_id] = self._connection.channel()
            _declare(channel, name)
            channel.basic_qos(0, _PREFETCH, False)
            channel.basic_consume(
                name,
                callback=partial(self._record, lane_id),
                arguments={"x-priority": int(time.time()) - _EPOCH},
            )

    def leave(self, lane_id: int) -> None:
        """Stop reading a lane; what was not acknowledged goes back to its queue."""
        channel = self._channels.pop(lane_id, None)
        if channel is not None:
            with self._checked("leave a lane"):
                channel.close()

    def ack(self, lane_id: int, key: int) -> None:
        """Have a record deleted."""
        channel = self._channels.get(lane_id)
        if channel is not None:
            with self._checked("acknowledge reports"):
                channel.basic_ack(key)

    def fileno(self) -> int:
        """Descriptor that becomes readable when something comes in."""
        return int(self._connection.connection.sock.fileno())

    def pump(self) -> None:
        """Take in what has come, and keep the connection alive."""
        with self._checked("read workers' reports"):
            with contextlib.suppress(TimeoutError):  # nothing more has come
                while True:
                    self._connection.connection.drain_events(timeout=0)
            now = time.monotonic()
            if now - self._ticked_at >= 1.0:
                self._ticked_at = now
                self._connection.heartbeat_check(rate=2)

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        drop(self._connection)
        self._connection = None
        self._channels.clear()

    def _record(self, lane_id: int, message: Any) -> None:
        body = message.body
        data = body if isinstance(body, bytes) else str(body).encode()
        self._on_record(lane_id, message.delivery_tag, data)

    @contextlib.contextmanager
    def _checked(self, doing: str) -> Iterator[None]:
        """Errors as BrokerError, and the end of the connection with them."""
        try:
            with errors(self._connection, doing):
                yield
        except BrokerError:
            self.close()
            raise
