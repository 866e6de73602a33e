"""`memory://` and `filesystem://`: brokers that have to be asked.

Publisher and consumer of one process ring a bell for one another, so that a worker in the process
of its client waits for nothing. What other processes write is found by polling.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from amqp.exceptions import AMQPError
from kombu.exceptions import KombuError

from flowq.broker.bell import ring_all
from flowq.broker.codec import NODE_CONTENT_TYPE, node_queue
from flowq.broker.declaring import connection, declare, node_priority
from flowq.broker.delivery import Delivery, Outgoing, RawMessage, unreadable
from flowq.broker.links import Message, Unroutable
from flowq.broker.options import BrokerOptions
from flowq.broker.queues import QueueSpec
from flowq.broker.redislists import outgoing

#: kombu's transports here know no priorities: a node queue is one queue per step.
STEPS = (9, 6, 3, 0)
#: Seconds between two looks: at first, and after a while without a message.
QUICK, SLOW = 0.01, 0.1


def _open(url: str, options: BrokerOptions) -> Any:
    client = connection(url, options)
    channel = client.transport.establish_connection().create_channel(client.transport)
    channel.Message = RawMessage
    if url.startswith("memory"):
        channel.body_encoding = None  # bytes stay bytes inside one process
    return channel


def _close(channel: Any) -> None:
    client = channel.connection.client
    with suppress(KombuError, OSError):
        channel.close()
    with suppress(KombuError, OSError):
        client.close()


def _step_queue(name: str, priority: int) -> str:
    step = node_priority(priority) // 3 * 3
    return f"{name}.{step}" if step else name


class PolledLink:
    """Publishes within a process or a folder."""

    lost: tuple[type[BaseException], ...] = (KombuError, AMQPError, OSError)

    def __init__(self, url: str, options: BrokerOptions) -> None:
        self._channel = _open(url, options)

    def declare(self, spec: QueueSpec) -> None:
        """Make queue and bindings."""
        declare(self._channel, spec)

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
        """Publish.

        Raises:
            Unroutable: No queue is bound there.
        """
        channel = self._channel
        if spec is not None and not spec.broadcast:
            declare(channel, spec)
        if exchange and exchange not in channel.state.exchanges:
            raise Unroutable(f"there is no exchange {exchange!r}")
        if exchange and channel.typeof(exchange).type != "fanout":
            found = channel.typeof(exchange).lookup(
                channel.get_table(exchange), exchange, routing_key, None
            )
            if not found:
                raise Unroutable(f"no queue is bound to {exchange!r} with key {routing_key!r}")
        channel.basic_publish(
            outgoing(channel, message, priority, delivery_mode), exchange, routing_key
        )
        ring_all()

    def publish_nodes(self, messages: Sequence[tuple[str, int, bytes]], timeout: float) -> None:
        """Put bundles on their queues."""
        channel = self._channel
        for name, priority, body in messages:
            queue = _step_queue(name, priority)
            out = Outgoing(body, content_type=NODE_CONTENT_TYPE, content_encoding="binary")
            channel.basic_publish(outgoing(channel, out, 0, 1), "", queue)
        ring_all()

    def depth(self, name: str) -> int | None:
        """Bundles that wait."""
        return sum(int(self._channel._size(_step_queue(name, step))) for step in STEPS)

    def purge(self, name: str, *, node: bool) -> int:
        """Remove what waits in a queue."""
        names = [_step_queue(name, step) for step in STEPS] if node else [name]
        return sum(self._channel.queue_purge(each) for each in names)

    def ping(self) -> None:
        """There is nothing to reach."""

    def tend(self) -> None:
        """Nothing needs to be done between two calls."""

    def close(self, *, gently: bool) -> None:
        """Close the channel."""
        _close(self._channel)


class PolledSource:
    """Takes messages within a process or from a folder."""

    lost: tuple[type[BaseException], ...] = (KombuError, AMQPError, OSError)

    def __init__(self, url: str, options: BrokerOptions, store_id: str | None) -> None:
        self._url, self._options, self._store_id = url, options, store_id
        self._channel: Any = None
        self._queues: list[QueueSpec] = []
        self._unacked: dict[str, RawMessage] = {}
        self._quiet_since = time.monotonic()
        self._hungry = False
        self._turn = 0

    def open(self, queues: Iterable[QueueSpec]) -> None:
        """Connect and declare."""
        self._channel = _open(self._url, self._options)
        self.follow(queues)

    def follow(self, queues: Iterable[QueueSpec]) -> None:
        """Consume from these from now on."""
        self._queues = list(queues)
        for spec in self._queues:
            declare(self._channel, spec)

    def handles(self) -> list[int]:
        """None: the consumer's bell is rung."""
        return []

    def timeout(self) -> float:
        """Seconds until the next look; long ones when there is no room for a message."""
        if not self._hungry:
            return 1.0
        return QUICK if time.monotonic() - self._quiet_since < 1.0 else SLOW

    def take(self, nodes: int, tasks: int) -> list[Delivery]:
        """At most so many bundles and tasks."""
        found: list[Delivery] = []
        self._hungry = nodes > 0 or tasks > 0
        if self._store_id is not None:
            self._take_nodes(nodes, found)
        self._take_tasks(tasks, found)
        if found:
            self._quiet_since = time.monotonic()
            self._turn += 1
        return found

    def _take_nodes(self, room: int, found: list[Delivery]) -> None:
        for step in STEPS:
            for spec in self._in_turn():
                name = _step_queue(node_queue(spec.name, self._store_id or ""), step)
                while room > 0:
                    message = self._get(name, no_ack=True)
                    if message is None:
                        break
                    room -= 1
                    found.append(Delivery(spec.name, message.body, is_node=True))

    def _take_tasks(self, room: int, found: list[Delivery]) -> None:
        empty: set[str] = set()
        while room > 0 and len(empty) < len(self._queues):
            for spec in self._in_turn():
                message = self._get(spec.name, no_ack=False) if room > 0 else None
                if message is None:
                    empty.add(spec.name)
                    continue
                room -= 1
                self._unacked[message.delivery_tag] = message
                found.append(message.delivery(spec.alias or spec.name, self))

    def _in_turn(self) -> list[QueueSpec]:
        place = self._turn % max(1, len(self._queues))
        return self._queues[place:] + self._queues[:place]

    def _get(self, name: str, *, no_ack: bool) -> RawMessage | None:
        try:
            message: RawMessage | None = self._channel.basic_get(name, no_ack=no_ack)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            unreadable(name, None, exc)
            return None
        return message

    def settle(self, tag: Any, ack: bool, requeue: bool) -> None:
        """Acknowledge or give back."""
        message = self._unacked.pop(tag, None)
        if message is None or self._channel is None:
            return
        if ack:
            self._channel.basic_ack(tag)
        else:
            self._channel.basic_reject(tag, requeue=requeue)
            ring_all()

    def close(self, *, gently: bool) -> None:
        """Give back what is not acknowledged, and close."""
        for tag in list(self._unacked):
            with suppress(*self.lost):
                self.settle(tag, False, True)
        if self._channel is not None:
            _close(self._channel)
        self._channel = None
