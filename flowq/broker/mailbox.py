"""Remote control in Celery's form: the mailbox of a worker, and calls into mailboxes.

A command goes to the fanout exchange `celery.pidbox`, from which each worker has a queue; it names
whom it is for. Replies go to a queue of the caller's on the exchange `reply.celery.pidbox` and
carry the ticket of the command.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from flowq.broker.sideline import Access, Clock, Sideline, open_channel
from flowq.errors import BrokerError

log = logging.getLogger("flowq.control")

#: Answers one command: (name, arguments) -> reply.
Handle = Callable[[str, dict[str, Any]], Any]
#: Runs something where commands have to run, and gives what it returned.
Post = Callable[[Callable[[], Any]], Any]

#: Serializers that commands and replies may be in: Celery answers in that of its results.
_FORMS = ("json", "msgpack")
_NAME_TAKEN = 405


class Mailbox:
    """A worker's mailbox: takes commands on a thread and a connection of its own.

    Args:
        hostname: The worker's node name.
        handle: Answers a command; what it raises is logged and answered as an error.
        access: How the broker is reached.
        post: Runs a call in the worker's main loop and returns its value; none: in this thread.
        clock: Carried in replies, and moved on by what comes.
        namespace: First part of the exchanges' names (setting `control_exchange`).
        queue_ttl: Seconds that a command waits for a worker that does not take it.
        queue_expires: Seconds that the queue outlives its worker.
    """

    def __init__(
        self,
        hostname: str,
        handle: Handle,
        access: Access,
        *,
        clock: Clock,
        post: Post | None = None,
        namespace: str = "celery",
        queue_ttl: float = 300.0,
        queue_expires: float = 10.0,
    ) -> None:
        self.hostname = hostname
        self._handle, self._post, self._clock = handle, post, clock
        self._namespace = namespace
        self._ttl, self._expires = queue_ttl, queue_expires
        self._channel: Any = None
        self._side = Sideline(f"remote control of {hostname}", access, self._serve)

    def start(self) -> None:
        """Begin to listen, in the background. Repeating: does nothing."""
        self._side.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Listen no more; waits at most `timeout` seconds for a command that is being answered."""
        self._side.stop(timeout)

    def wait_ready(self, timeout: float) -> bool:
        """Whether it listens, within `timeout` seconds."""
        return self._side.ready.wait(timeout)

    def _serve(self, connection: Any) -> None:
        from kombu import Consumer, Queue

        queue = Queue(
            f"{self.hostname}.{self._namespace}.pidbox",
            _commands(self._namespace),
            exclusive=True,
            auto_delete=True,
            durable=False,
            expires=self._expires,
            message_ttl=self._ttl,
        )
        self._channel = open_channel(connection)
        consumer = Consumer(
            self._channel,
            [queue],
            callbacks=[self._take],
            no_ack=True,
            accept=list(_FORMS),
            on_decode_error=_unreadable,
            auto_declare=False,
        )
        try:
            consumer.declare()
            consumer.consume()
        except connection.channel_errors as exc:
            if getattr(exc, "code", None) == _NAME_TAKEN:
                raise BrokerError(
                    f"another worker is named {self.hostname}, and only one of them can be "
                    "controlled; give each worker a name of its own with -n"
                ) from exc
            raise
        self._side.drain(connection)

    def _take(self, body: Any, message: Any) -> None:
        try:
            self._clock.adjust(int(message.headers.get("clock") or 0))
            if self._is_meant(body):
                self._answer(body)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            log.warning("remote control: a message is no command: %r", exc)

    def _is_meant(self, body: Mapping[str, Any]) -> bool:
        destination = body.get("destination")
        if destination:
            return self.hostname in destination
        pattern, matcher = body.get("pattern"), body.get("matcher")
        if pattern and matcher:
            from kombu.matcher import match

            return bool(match(self.hostname, pattern, matcher))
        return True

    def _answer(self, body: Mapping[str, Any]) -> None:
        method, arguments = str(body["method"]), dict(body.get("arguments") or {})
        post = self._post
        try:
            if post is None:
                reply = self._handle(method, arguments)
            else:
                reply = post(lambda: self._handle(method, arguments))
        except Exception as exc:
            log.exception("remote control: %s failed", method)
            reply = {"error": repr(exc)}
        reply_to = body.get("reply_to")
        if reply_to:
            self._reply(reply, reply_to["exchange"], reply_to["routing_key"], body.get("ticket"))

    def _reply(self, reply: Any, exchange: str, routing_key: str, ticket: str | None) -> None:
        from kombu import Exchange, Producer
        from kombu.exceptions import InconsistencyError

        target = Exchange(exchange, "direct", durable=False, delivery_mode="transient")
        with suppress(InconsistencyError):  # Redis: the caller has gone, and its queue with it
            Producer(self._channel, auto_declare=False).publish(
                {self.hostname: reply},
                exchange=target,
                routing_key=routing_key,
                declare=[target],
                serializer="json",
                headers={"ticket": ticket, "clock": self._clock.forward()},
            )


def broadcast(
    access: Access,
    command: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    destination: Sequence[str] | None = None,
    reply: bool = False,
    timeout: float = 1.0,
    limit: int | None = None,
    pattern: str | None = None,
    matcher: str | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    clock: Clock,
    namespace: str = "celery",
    connection: Any = None,
) -> list[dict[str, Any]] | None:
    """Send a command to workers, Celery's or ours, and collect their replies.

    Args:
        access: How the broker is reached.
        command: Name of the command.
        arguments: Its keyword arguments.
        destination: Node names it is for; none: all.
        reply: Whether to wait for replies.
        timeout: Seconds to wait, in all.
        limit: Stop waiting after so many; none: as many as destinations, or no limit.
        pattern: With `matcher`: only workers whose names match.
        matcher: `glob` or `pcre`.
        callback: Called with each reply as it comes.
        clock: Carried in the command, and moved on by replies.
        namespace: First part of the exchanges' names.
        connection: An open kombu connection to use; none: a new one.

    Returns:
        Replies, each ``{node name: reply}``; None without `reply`.

    Raises:
        BrokerError: The broker cannot be reached, or failed.
    """
    body: dict[str, Any] = {
        "method": command,
        "arguments": dict(arguments or {}),
        "destination": None if destination is None else list(destination),
        "pattern": pattern,
        "matcher": matcher,
    }
    call = _Call(body, clock, namespace, timeout)
    most = limit or (len(set(destination)) if destination else None)
    if connection is not None:
        return call.run(connection, reply, most, callback)
    with access.opened() as opened:
        return call.run(opened, reply, most, callback)


class _Call:
    """One command on its way, and the replies to it."""

    def __init__(self, body: dict[str, Any], clock: Clock, namespace: str, timeout: float) -> None:
        self._body, self._clock, self._namespace = body, clock, namespace
        self._timeout = timeout
        self._ticket = str(uuid.uuid4())
        self._replies: list[dict[str, Any]] = []

    def run(
        self,
        connection: Any,
        reply: bool,
        most: int | None,
        callback: Callable[[dict[str, Any]], None] | None,
    ) -> list[dict[str, Any]] | None:
        from kombu import Consumer, Exchange, Queue

        channel = open_channel(connection)
        if not reply:
            self._publish(channel)
            channel.close()
            return None
        exchange = Exchange(
            f"reply.{self._namespace}.pidbox", "direct", durable=False, delivery_mode="transient"
        )
        key = str(uuid.uuid4())
        queue = Queue(
            f"{key}.{exchange.name}", exchange, key,
            durable=False, exclusive=True, auto_delete=True, expires=10.0,
        )  # fmt: skip
        self._body |= {
            "ticket": self._ticket,
            "reply_to": {"exchange": exchange.name, "routing_key": key},
        }

        def take(body: Any, message: Any) -> None:
            self._clock.adjust(int(message.headers.get("clock") or 0))
            if message.headers.get("ticket", self._ticket) == self._ticket:
                self._replies.append(body)
                if callback is not None:
                    callback(body)

        with Consumer(channel, [queue], callbacks=[take], no_ack=True, accept=list(_FORMS)):
            self._publish(channel)
            self._collect(connection, most)
        if connection.transport.driver_type != "amqp":
            queue(channel).delete()  # Redis would keep its binding for a while
        channel.close()
        return self._replies

    def _publish(self, channel: Any) -> None:
        from kombu import Producer

        exchange = _commands(self._namespace)
        expires = time.time() + self._timeout if self._timeout else 0
        Producer(channel, auto_declare=False).publish(
            self._body,
            exchange=exchange.name,
            routing_key="",
            declare=[exchange],
            serializer="json",
            headers={"clock": self._clock.forward(), "expires": expires},
        )

    def _collect(self, connection: Any, most: int | None) -> None:
        deadline = time.monotonic() + self._timeout
        while most is None or len(self._replies) < most:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            with suppress(TimeoutError):
                connection.drain_events(timeout=min(left, 5.0))
            if connection.supports_heartbeats:
                connection.heartbeat_check()


def _commands(namespace: str) -> Any:
    from kombu import Exchange

    return Exchange(f"{namespace}.pidbox", "fanout", durable=False, delivery_mode="transient")


def _unreadable(_message: Any, exc: Exception) -> None:
    log.warning("remote control: a message cannot be read: %r", exc)
