"""Taking messages from RabbitMQ.

Bundles and bare tasks have a channel each. A bundle is acknowledged when it is taken, and RabbitMQ
pushes at most as many as there are free slots: before an acknowledgement would open the window
wider than the room that is left, the consumers are cancelled; they consume again, with the window
that fits, as soon as there is room. None of these commands waits for its answer.

A bare task is acknowledged by who runs it; the window is what it holds plus what it has room for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from amqp import spec as methods
from amqp.exceptions import AMQPError

from flowq.broker.codec import node_queue
from flowq.broker.declaring import node_arguments
from flowq.broker.delivery import Delivery
from flowq.broker.options import BrokerOptions
from flowq.broker.queues import QueueSpec
from flowq.broker.rabbit import abandon, declare_apart, open_amqp, pump

#: Longest heartbeat interval of a consumer: a dead connection is found after twice as long.
HEARTBEAT = 10.0
#: Seconds without room after which tasks that were pushed already are given back.
FULL_FOR = 0.2
#: How many cancelled consumers are remembered, for messages that were on their way to them.
OLD_TAGS = 100


class RabbitSource:
    """One consuming connection to RabbitMQ."""

    lost: tuple[type[BaseException], ...] = (AMQPError, OSError, AttributeError)

    def __init__(self, url: str, options: BrokerOptions, store_id: str | None) -> None:
        self._url, self._options, self._store_id = url, options, store_id
        self._conn: Any = None
        self._nodes: Lane | None = None
        self._tasks: Lane | None = None
        self._queues: list[QueueSpec] = []
        self._tick_at = 0.0

    def open(self, queues: Iterable[QueueSpec]) -> None:
        """Connect and declare."""
        heartbeat = min(self._options.heartbeat, HEARTBEAT)
        self._conn = open_amqp(self._url, self._options, heartbeat)
        self.follow(queues)

    def follow(self, queues: Iterable[QueueSpec]) -> None:
        """Consume from these from now on."""
        self._queues = list(queues)
        shared = _shared_windows(self._conn)
        for spec in self._queues:
            declare_apart(self._conn, spec)
        if self._tasks is None:
            self._tasks = Lane(self._conn, "tasks")
        quorum = any(spec.quorum for spec in self._queues)
        self._tasks.follow({spec.name: spec for spec in self._queues}, shared and not quorum)
        if self._store_id is None:
            return
        if self._nodes is None:
            self._nodes = Lane(self._conn, "nodes")
        once = [spec for spec in self._queues if not spec.broadcast]  # no node goes to all workers
        names = {node_queue(spec.name, self._store_id): spec for spec in once}
        for name in names:
            self._nodes.channel.queue_declare(
                name, durable=True, auto_delete=False, arguments=node_arguments()
            )
        self._nodes.follow(names, shared)

    def handles(self) -> list[int]:
        """The socket."""
        return [self._conn.sock.fileno()]

    def timeout(self) -> float:
        """Seconds until the next heartbeat is looked at."""
        waiting = bool(self._tasks and self._tasks.waiting)
        return 0.05 if waiting else 1.0

    def take(self, nodes: int, tasks: int) -> list[Delivery]:
        """At most so many bundles and tasks."""
        pump(self._conn)
        now = time.monotonic()
        if now >= self._tick_at and self._conn.heartbeat:
            self._tick_at = now + 1.0
            self._conn.heartbeat_tick()
        for lane in (self._tasks, self._nodes):
            if lane is not None and lane.cancelled:
                self.follow(self._queues)  # a queue was deleted under our hands
                break
        found: list[Delivery] = []
        if self._nodes is not None:
            found += self._take_nodes(self._nodes, nodes)
        if self._tasks is not None:
            found += self._take_tasks(self._tasks, tasks)
        return found

    def _take_nodes(self, lane: Lane, room: int) -> list[Delivery]:
        found: list[Delivery] = []
        tags = []
        while lane.waiting and len(found) < room:
            spec, message = lane.waiting.popleft()
            tags.append(message.delivery_tag)
            found.append(Delivery(spec.name, _bytes(message.body), is_node=True))
        left = room - len(found)
        if lane.window is not None and left < lane.window:
            lane.stop()
        lane.give_back()  # room was lost meanwhile
        for tag in tags:
            lane.channel.basic_ack(tag)
        if left > 0 and lane.window is None:
            lane.start(left)
        return found

    def _take_tasks(self, lane: Lane, room: int) -> list[Delivery]:
        found: list[Delivery] = []
        while lane.waiting and len(found) < room:
            spec, message = lane.waiting.popleft()
            lane.held.add(message.delivery_tag)
            found.append(_delivery(spec, message, self))
        room -= len(found)
        lane.open_to(len(lane.held) + room, room)
        return found

    def settle(self, tag: Any, ack: bool, requeue: bool) -> None:
        """Acknowledge or give back; when the connection is gone, RabbitMQ has it already."""
        lane = self._tasks
        if self._conn is None or lane is None or tag not in lane.held:
            return
        lane.held.discard(tag)
        with suppress(*self.lost):  # the next take finds out
            if ack:
                lane.channel.basic_ack(tag)
            else:
                lane.channel.basic_reject(tag, requeue=requeue)

    def close(self, *, gently: bool) -> None:
        """Close; RabbitMQ gives what was not acknowledged to others."""
        conn, self._conn = self._conn, None
        if conn is None:
            return
        if gently:
            with suppress(*self.lost):
                conn.close()
        abandon(conn)


class Lane:
    """A channel, its consumers and what they brought."""

    def __init__(self, conn: Any, name: str) -> None:
        self.channel = conn.channel()
        self._name = name
        self._queues: dict[str, QueueSpec] = {}
        self._shared = True
        self._tags: list[str] = []
        self._old_tags: deque[str] = deque()
        self._numbers = self._turn = 0
        self._full_since: float | None = None
        #: Arrived, not yet taken.
        self.waiting: deque[tuple[QueueSpec, Any]] = deque()
        #: Taken, not yet acknowledged.
        self.held: set[int] = set()
        #: Most unacknowledged messages that RabbitMQ may have pushed; None: it pushes none.
        self.window: int | None = None
        #: A queue that was consumed from is gone.
        self.cancelled = False

    def follow(self, queues: dict[str, QueueSpec], shared: bool) -> None:
        """Consume from these from the next start on.

        Args:
            queues: The name on the broker to the task queue.
            shared: Whether one window may hold for all consumers of the channel.
        """
        self.stop()
        self.give_back()
        self._queues, self._shared, self.cancelled = queues, shared, False

    def start(self, window: int) -> None:
        """Consume, with room for so many messages."""
        self._qos(window)
        names = list(self._queues)
        if len(names) > 1:  # each in turn goes first, so that none starves another
            self._turn = (self._turn + 1) % len(names)
            names = names[self._turn :] + names[: self._turn]
        for name in names:
            spec = self._queues[name]
            # a new tag each time: a quorum queue confuses two consumers of one tag
            self._numbers += 1
            self._tags.append(f"flowq.{self._name}.{self._numbers}")
            self.channel.basic_consume(
                name,
                consumer_tag=self._tags[-1],
                callback=lambda message, spec=spec: self.waiting.append((spec, message)),
                on_cancel=self._on_cancel,
                nowait=True,
            )

    def _qos(self, window: int) -> None:
        self.window = window
        self.channel.send_method(methods.Basic.Qos, "lBb", (0, window, self._shared))

    def stop(self) -> None:
        """Consume no more. What is on its way still arrives."""
        self.window = None
        for tag in self._tags:
            # not basic_cancel: it forgets the callback before the last messages are here
            self.channel.send_method(methods.Basic.Cancel, "sb", (tag, True))
        self._old_tags.extend(self._tags)
        self._tags.clear()
        while len(self._old_tags) > OLD_TAGS:
            tag = self._old_tags.popleft()
            self.channel.callbacks.pop(tag, None)
            self.channel.cancel_callbacks.pop(tag, None)

    def give_back(self) -> None:
        """Let others have what arrived and was not taken."""
        while self.waiting:
            self.channel.basic_reject(self.waiting.popleft()[1].delivery_tag, requeue=True)

    def open_to(self, window: int, room: int) -> None:
        """Change the window to what fits.

        Args:
            window: Messages that are held or have room.
            room: Those that have room.
        """
        if room > 0:
            self._full_since = None
            if self.window is None:
                self.start(window)
            elif self._shared and window != self.window:
                self._qos(window)
            elif window > self.window:  # a window of one consumer is fixed when it starts
                self.stop()
                self.start(window)
            return
        if self.window is not None and (self._shared or self._full()):
            if self._shared and window > 0:
                if window != self.window:
                    self._qos(window)
            else:
                self.stop()
        if self.waiting and self._full():
            self.give_back()

    def _full(self) -> bool:
        """Whether there has been no room for so long that others shall have what waits here."""
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now
        return now - self._full_since >= FULL_FOR

    def _on_cancel(self, tag: str) -> None:
        self.cancelled = True


def _shared_windows(conn: Any) -> bool:
    """Whether RabbitMQ knows a window for all consumers of a channel: not from 4.0 on."""
    version = str(conn.server_properties.get("version", "3"))
    major = version.split(".")[0]
    return not major.isdigit() or int(major) < 4


def _bytes(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else bytes(body)


def _delivery(spec: QueueSpec, message: Any, source: RabbitSource) -> Delivery:
    properties = dict(message.properties)
    headers = properties.pop("application_headers", None) or {}
    info = {k: v for k, v in message.delivery_info.items() if k != "delivery_tag"}
    info["priority"] = properties.get("priority")
    return Delivery(
        spec.alias or spec.name,
        _bytes(message.body),
        is_node=False,
        headers=dict(headers),
        properties=properties,
        content_type=properties.get("content_type"),
        content_encoding=properties.get("content_encoding"),
        delivery_info=info,
        settler=source,
        tag=message.delivery_tag,
    )
