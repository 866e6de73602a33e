"""Publishing to Redis: bare tasks as kombu writes them, bundles on lists of our own.

A bundle is the element of a plain list, without kombu's envelope and base64. There is one list per
priority step: the node queue's name for step 0, the name with kombu's separator and the step for
the others; a larger priority is taken first. Elements are pushed on the left and taken from the
right, the way kombu does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from flowq.broker.declaring import connection, declare, node_priority
from flowq.broker.links import Message, Unroutable, sent_properties
from flowq.broker.options import BrokerOptions
from flowq.broker.queues import QueueSpec

#: Node priorities share a list in steps, so that one pop has few keys.
STEPS = (9, 6, 3, 0)
SEPARATOR = "\x06\x16"


def node_key(name: str, priority: int) -> str:
    """The list of a node queue that holds bundles of a priority."""
    step = node_priority(priority) // 3 * 3
    return f"{name}{SEPARATOR}{step}" if step else name


def node_keys(name: str) -> list[str]:
    """All lists of a node queue, the most urgent first."""
    return [node_key(name, step) for step in STEPS]


def open_channel(url: str, options: BrokerOptions, message_class: Any = None) -> Any:
    """A channel of kombu's Redis transport, with bounds on every read and write."""
    client = connection(
        url,
        options,
        socket_timeout=options.timeout,
        socket_connect_timeout=options.connect_timeout,
        socket_keepalive=True,
    )
    channel = client.transport.establish_connection().create_channel(client.transport)
    if message_class is not None:
        channel.Message = message_class
    return channel


def raw_connection(channel: Any) -> Any:
    """A connection of redis-py to the same server, outside the channel's pool."""
    pool = channel.pool
    found = pool.connection_class(**{**pool.connection_kwargs, "protocol": 2})
    found.connect()
    return found


def redeclare(channel: Any, spec: QueueSpec) -> None:
    """Write a queue's bindings again: kombu believes that they are there once it wrote them."""
    channel.connection.state.queue_bindings_delete(spec.name)
    declare(channel, spec)


class RedisLink:
    """One publishing connection to Redis."""

    lost: tuple[type[BaseException], ...] = (RedisError, OSError)

    def __init__(self, url: str, options: BrokerOptions) -> None:
        self._channel = open_channel(url, options)
        self._raw = raw_connection(self._channel)
        self._prefix: str = self._channel.global_keyprefix
        self._declared: set[str] = set()

    def declare(self, spec: QueueSpec) -> None:
        """Write the bindings of a queue, whether or not this was done before."""
        redeclare(self._channel, spec)
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
        """Publish; Redis's reply confirms it.

        Raises:
            Unroutable: No queue is bound there, also after the bindings were written again.
        """
        if spec is not None and not spec.broadcast and spec.name not in self._declared:
            self.declare(spec)
        channel = self._channel
        kind = spec.exchange_type if spec is not None else "direct"
        if exchange and exchange not in channel.state.exchanges:
            channel.exchange_declare(exchange, kind, durable=True)
        # kombu drops a message without a word when the set of bindings is gone
        if exchange and kind != "fanout" and channel.typeof(exchange).type != "fanout":
            self._routable(exchange, routing_key, spec)
        channel.basic_publish(
            outgoing(channel, message, priority, delivery_mode), exchange, routing_key
        )

    def _routable(self, exchange: str, routing_key: str, spec: QueueSpec | None) -> None:
        lookup = self._channel.typeof(exchange).lookup
        for attempt in range(2):
            table = self._channel.get_table(exchange)
            if table and lookup(table, exchange, routing_key, None):
                return
            if spec is None or attempt:
                break
            self.declare(spec)
        raise Unroutable(f"no queue is bound to {exchange!r} with key {routing_key!r}")

    def publish_nodes(self, messages: Sequence[tuple[str, int, bytes]], timeout: float) -> None:
        """Push bundles, all in one round trip."""
        raw = self._raw
        raw.send_packed_command(
            raw.pack_commands(
                [("LPUSH", self._prefix + node_key(n, p), body) for n, p, body in messages]
            ),
            check_health=False,
        )
        wrong: RedisError | None = None
        for _ in messages:
            try:
                raw.read_response()
            except RedisError as exc:
                if not raw.is_connected:
                    raise
                wrong = exc
        if wrong is not None:
            raise wrong

    def depth(self, name: str) -> int | None:
        """Bundles that wait; None if there are none, as Redis keeps no empty queues."""
        return self._llen(name)

    def _llen(self, name: str) -> int:
        raw = self._raw
        keys = node_keys(self._prefix + name)
        raw.send_packed_command(
            raw.pack_commands([("LLEN", key) for key in keys]), check_health=False
        )
        return sum(int(raw.read_response()) for _ in keys)

    def purge(self, name: str, *, node: bool) -> int:
        """Remove what waits in a queue."""
        if not node:
            return int(self._channel.queue_purge(name))
        count = self._llen(name)
        raw = self._raw
        raw.send_command("DEL", *node_keys(self._prefix + name))
        raw.read_response()
        return count

    def ping(self) -> None:
        """Ask for an answer."""
        self._raw.send_command("PING")
        self._raw.read_response()

    def tend(self) -> None:
        """Nothing needs to be done between two calls."""

    def close(self, *, gently: bool) -> None:
        """Close the sockets."""
        with suppress(*self.lost):
            self._raw.disconnect()
        close_channel(self._channel)


def close_channel(channel: Any) -> None:
    """Close a channel of a virtual transport and what belongs to it; give back what is unacked."""
    client = channel.connection.client
    with suppress(RedisError, OSError):
        channel.close()
    with suppress(RedisError, OSError):
        client.close()


def outgoing(
    channel: Any, message: Message, priority: int | None, delivery_mode: int
) -> dict[str, Any]:
    """The payload of kombu's virtual transports, as kombu's own producer makes it."""
    properties = sent_properties(message, priority, delivery_mode)
    prepared: dict[str, Any] = channel.prepare_message(
        message.body,
        properties["priority"],
        message.content_type,
        message.content_encoding,
        dict(message.headers),
        properties,
    )
    return prepared
