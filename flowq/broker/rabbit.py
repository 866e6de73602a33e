"""Publishing to RabbitMQ: confirms, returned messages, blocked connections.

Bare tasks go out mandatory and confirmed: a queue that was deleted is declared again and the
message sent again, so nothing is swallowed. Bundles go out mandatory and unconfirmed; one that
comes back because its queue is gone is sent again when the connection is next used.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import amqp
from amqp import spec as methods
from amqp.exceptions import AMQPError, NotFound, PreconditionFailed

from flowq.broker.codec import NODE_CONTENT_TYPE
from flowq.broker.declaring import connection, declare, node_arguments, node_priority
from flowq.broker.delivery import log
from flowq.broker.links import Blocked, Message, Unroutable, sent_properties
from flowq.broker.options import BrokerOptions
from flowq.broker.queues import QueueSpec

#: How long the rest of a frame whose beginning is there may take.
FRAME_TIMEOUT = 0.05


def open_amqp(url: str, options: BrokerOptions, heartbeat: float) -> Any:
    """An open connection of py-amqp, with bounds on every read and write."""
    client = connection(
        url,
        options,
        read_timeout=options.timeout,
        write_timeout=options.timeout,
        heartbeat=heartbeat,
    )
    # this package confirms by itself: kombu's way waits without a bound while RabbitMQ blocks
    client.transport_options.pop("confirm_publish", None)
    found = client.transport.establish_connection()
    found.transport.raise_on_initial_eintr = True
    return found


def pump(conn: Any) -> None:
    """Handle what has arrived; waits for nothing but the rest of a frame."""
    sock = conn.sock
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    pending = getattr(sock, "pending", None)
    while poll.poll(0) or (pending is not None and pending()):
        try:
            conn.drain_events(timeout=FRAME_TIMEOUT)
        except socket.timeout:  # noqa: UP041 - the name py-amqp documents
            return


def abandon(conn: Any) -> None:
    """Close a connection without a word to the other end."""
    with suppress(Exception):
        conn.collect()


def declare_apart(conn: Any, spec: QueueSpec) -> None:
    """Declare on a channel of its own: RabbitMQ closes the channel of a refused declaration."""
    channel = conn.channel()
    try:
        declare(channel, spec)
    except PreconditionFailed as exc:
        log.warning(
            "queue %s is there with other arguments, it is used as it is: %s",
            spec.name,
            exc.reply_text,
        )
    finally:
        channel.close()


class RabbitLink:
    """One publishing connection to RabbitMQ."""

    lost: tuple[type[BaseException], ...] = (AMQPError, OSError, AttributeError)

    def __init__(self, url: str, options: BrokerOptions, *, heartbeat: float = 0.0) -> None:
        self._options = options
        self._conn = open_amqp(url, options, heartbeat)
        self._conn.on_blocked = self._on_blocked
        self._conn.on_unblocked = self._on_unblocked
        self._blocked = ""
        self._plain: Any = None
        self._confirmed: Any = None
        self._sent = 0
        self._verdicts: dict[int, bool] = {}
        self._returned = False
        self._declared: set[str] = set()
        self._back: list[tuple[str, int, bytes]] = []

    # -- tasks

    def declare(self, spec: QueueSpec) -> None:
        """Make queue, exchange and bindings, whether or not this was done before."""
        declare_apart(self._conn, spec)
        self._declared.add(spec.name)

    def publish(
        self,
        message: Message,
        exchange: str,
        routing_key: str,
        spec: QueueSpec | None,
        priority: int | None,
        delivery_mode: int,
        timeout: float,
    ) -> None:
        """Publish and wait for RabbitMQ's confirmation.

        Raises:
            Unroutable: No queue is bound there, also after a new declaration.
            Blocked: RabbitMQ has blocked its publishers, or did not answer in time.
        """
        deadline = time.monotonic() + timeout
        if spec is not None and not spec.broadcast and spec.name not in self._declared:
            self.declare(spec)
        out = _outgoing(message, priority, delivery_mode)
        if self._confirm(out, exchange, routing_key, deadline):
            return
        if spec is not None and spec.exchange_type == "fanout":
            return  # nobody listens
        if spec is not None:
            self.declare(spec)
            if self._confirm(out, exchange, routing_key, deadline):
                return
        raise Unroutable(f"no queue is bound to {exchange!r} with key {routing_key!r}")

    def _confirm(self, out: Any, exchange: str, routing_key: str, deadline: float) -> bool:
        """Whether the message reached a queue; a missing exchange counts as no queue."""
        channel = self._confirming()
        self._sent += 1
        number, self._returned = self._sent, False
        try:
            _send(channel, out, exchange, routing_key)
            while number not in self._verdicts:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Blocked(self._blocked or "it did not confirm a message in time")
                with suppress(socket.timeout):
                    self._conn.drain_events(timeout=left)
        except NotFound:
            self._confirmed = None
            channel.close()
            return False
        if not self._verdicts.pop(number):
            raise Blocked("it refused a message: the queue is full or has no leader")
        return not self._returned

    def _confirming(self) -> Any:
        if self._confirmed is None:
            channel = self._conn.channel()
            channel.confirm_select()
            channel.events["basic_ack"].add(self._on_ack)
            channel.events["basic_nack"].add(self._on_nack)
            channel.events["basic_return"].add(self._on_return)
            self._confirmed, self._sent = channel, 0
            self._verdicts.clear()
        return self._confirmed

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._settled(tag, multiple, True)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._settled(tag, multiple, False)

    def _settled(self, tag: int, multiple: bool, good: bool) -> None:
        # one message is under way at a time, so `multiple` can only mean that one
        self._verdicts.clear()
        self._verdicts[tag] = good

    def _on_return(self, exc: Any, exchange: str, routing_key: str, message: Any) -> None:
        self._returned = True

    def _on_blocked(self, reason: str) -> None:
        self._blocked = "it blocks publishers: it is short of memory or disk"

    def _on_unblocked(self) -> None:
        self._blocked = ""

    # -- bundles

    def publish_nodes(self, messages: Sequence[tuple[str, int, bytes]], timeout: float) -> None:
        """Send bundles without waiting for a confirmation.

        Raises:
            Blocked: RabbitMQ has said that it takes nothing.
        """
        self.tend()
        if self._blocked:
            raise Blocked(self._blocked)
        channel = self._bundling()
        for name, priority, body in messages:
            if name not in self._declared:
                self._declare_nodes(name)
            _send(channel, _bundle(body, priority), "", name)

    def _bundling(self) -> Any:
        if self._plain is None:
            self._plain = self._conn.channel()
            self._plain.events["basic_return"].add(self._on_bundle_return)
        return self._plain

    def _declare_nodes(self, name: str) -> None:
        channel = self._conn.channel()
        try:
            channel.queue_declare(name, durable=True, auto_delete=False, arguments=node_arguments())
        finally:
            channel.close()
        self._declared.add(name)

    def _on_bundle_return(self, exc: Any, exchange: str, routing_key: str, message: Any) -> None:
        priority = message.properties.get("priority") or 0
        self._back.append((routing_key, priority, message.body))

    def _send_back(self) -> None:
        back, self._back = self._back, []
        for name in {name for name, _, _ in back}:
            self._declare_nodes(name)
        for name, priority, body in back:
            _send(self._plain, _bundle(body, priority), "", name)

    # -- the rest

    def depth(self, name: str) -> int | None:
        """Messages that wait in a queue; None if there is no such queue."""
        self.tend()
        channel = self._conn.channel()
        try:
            found = channel.queue_declare(name, passive=True)
        except NotFound:
            return None
        finally:
            channel.close()
            if self._back:
                self._send_back()
        return int(found.message_count)

    def purge(self, name: str, *, node: bool) -> int:
        """Remove what waits in a queue."""
        channel = self._conn.channel()
        try:
            count = channel.queue_purge(name)
        except NotFound:
            return 0
        finally:
            channel.close()
        return int(count or 0)

    def ping(self) -> None:
        """Ask for an answer."""
        self._conn.channel().close()

    def tend(self) -> None:
        """Handle what arrived: returned bundles, alarms; send a heartbeat when it is time."""
        pump(self._conn)
        if self._back:
            self._send_back()
        if self._conn.heartbeat:
            self._conn.heartbeat_tick()

    def close(self, *, gently: bool) -> None:
        """Close; not gently: without asking the broker."""
        if gently and not self._blocked:
            with suppress(*self.lost):
                self._conn.close()
        abandon(self._conn)


def _send(channel: Any, message: Any, exchange: str, routing_key: str) -> None:
    # not basic_publish: it reads the socket first, and spins when half a frame is there
    channel.send_method(
        methods.Basic.Publish, "Bssbb", (0, exchange, routing_key, True, False), message
    )


def _outgoing(message: Message, priority: int | None, delivery_mode: int) -> Any:
    body = message.body
    properties = sent_properties(message, priority, delivery_mode)
    return amqp.Message(
        body,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        application_headers=dict(message.headers),
        **properties,
    )


def _bundle(body: bytes, priority: int) -> Any:
    return amqp.Message(
        body, content_type=NODE_CONTENT_TYPE, delivery_mode=1, priority=node_priority(priority)
    )
