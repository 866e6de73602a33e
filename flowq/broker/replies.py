"""Replies: results of bare tasks as messages to the private queue of the client that sent them.

Transient, on a queue that only that client's connection may use and that goes with it; or, if
results are to survive a restart of the broker, persistent on a durable queue.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import flowq.broker.library  # noqa: F401 - before threads
from flowq.broker.amqp import ANSWER_SECONDS, Reach, drop, errors
from flowq.errors import BrokerError

_HEARTBEAT = 20.0
#: Called with task id, content type and body of each reply.
OnReply = Callable[[str, str, bytes], None]


class ReplySender:
    """The worker's end; for one thread. Nothing is connected before the first reply.

    Args:
        reach: The broker.
        persistent: Replies survive a restart of it.
    """

    def __init__(self, reach: Reach, *, persistent: bool) -> None:
        self._reach, self._mode = reach, 2 if persistent else 1
        self._connection: Any = None
        self._producer: Any = None

    def send(self, queue: str, task_id: str, body: bytes, content_type: str, encoding: str) -> None:
        """Send a reply; returns when the broker has it. One to a client that is gone is dropped.

        A connection that was found broken costs a second attempt.

        Raises:
            BrokerError: It is not known to have been accepted.
        """
        reply = (queue, task_id, body, content_type, encoding)
        if self._connection is not None:
            try:
                self._publish(*reply)
                return
            except BrokerError as exc:
                if isinstance(exc.__cause__, TimeoutError):
                    raise
        self._connection = self._reach.connect(confirm=True)
        self._publish(*reply)

    def _publish(
        self, queue: str, task_id: str, body: bytes, content_type: str, encoding: str
    ) -> None:
        from kombu import Producer

        try:
            with errors(self._connection, "send a result"):
                if self._producer is None:
                    self._producer = Producer(self._connection.channel())
                self._producer.publish(
                    body,
                    exchange="",
                    routing_key=queue,
                    correlation_id=task_id,
                    content_type=content_type,
                    content_encoding=encoding,
                    delivery_mode=self._mode,
                    timeout=ANSWER_SECONDS,
                    confirm_timeout=ANSWER_SECONDS,
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        drop(self._connection)
        self._connection = self._producer = None


class ReplyReader:
    """The client's end, one queue; for one thread.

    Args:
        reach: The broker.
        name: The queue.
        on_reply: Called by `drain`.
        persistent: The queue and what is in it survive a restart of the broker.
        expires: Seconds after which a queue that nobody reads goes; 0.0: never.
    """

    def __init__(
        self, reach: Reach, name: str, on_reply: OnReply, *, persistent: bool, expires: float
    ) -> None:
        self._reach, self.name, self._on_reply = reach, name, on_reply
        self._persistent, self._expires = persistent, expires
        self._connection: Any = None
        self._ticked_at = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._connection is not None

    def connect(self) -> None:
        """Connect, make the queue and begin to read it.

        Raises:
            BrokerError: The broker is away, or still holds the queue for a broken connection.
        """
        from kombu import Consumer

        self._connection = self._reach.connect(heartbeat=_HEARTBEAT)
        self._ticked_at = time.monotonic()
        try:
            with errors(self._connection, "make a reply queue"):
                channel = self._connection.channel()
                queue = self._queue(channel)
                queue.declare()
                consumer = Consumer(
                    channel, [queue], no_ack=True, auto_declare=False, on_message=self._message
                )
                consumer.consume()
        except BaseException:
            self.drop()
            raise

    def _queue(self, channel: Any) -> Any:
        from kombu import Exchange, Queue

        return Queue(
            self.name,
            Exchange(""),
            routing_key=self.name,
            channel=channel,
            durable=self._persistent,
            exclusive=not self._persistent,
            auto_delete=not self._persistent,
            expires=self._expires or None,
        )

    def drain(self, seconds: float) -> None:
        """Take in replies until none has come for so long.

        Raises:
            BrokerError: The connection broke; it is closed now.
        """
        try:
            with errors(self._connection, "wait for results"):
                with contextlib.suppress(TimeoutError):  # nothing has come
                    self._connection.drain_events(timeout=seconds)
                now = time.monotonic()
                if now - self._ticked_at >= 1.0:
                    self._ticked_at = now
                    self._connection.heartbeat_check(rate=2)
        except BrokerError:
            self.drop()
            raise

    def drop(self) -> None:
        """End the connection without asking the server."""
        drop(self._connection)
        self._connection = None

    def close(self) -> None:
        """Delete the queue and end the connection. A second call does nothing."""
        if self._connection is None:
            return
        with contextlib.suppress(BrokerError), errors(self._connection, "delete a queue"):
            self._queue(self._connection.default_channel).delete()
        self.drop()

    def _message(self, message: Any) -> None:
        body = message.body
        data = body.encode() if isinstance(body, str) else bytes(body)
        self._on_reply(
            str(message.properties.get("correlation_id") or ""), str(message.content_type), data
        )
