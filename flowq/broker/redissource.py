"""Taking messages from Redis.

Bundles and bare tasks have a socket each, with one blocking pop outstanding while there is room,
for at most as many elements as there is room for. So an element leaves Redis only for a worker that
can run it; when room is lost meanwhile, the pop is called back. Redis ends each pop after a few
seconds; when no end comes, the connection is dead.

Bundles are gone from Redis once popped: the store sends them again when a worker dies. Bare tasks
go through kombu's bookkeeping of unacknowledged messages, so that stock Celery workers on the same
queue restore what this one leaves behind, and the other way round.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from flowq.broker.codec import node_queue
from flowq.broker.delivery import Delivery, RawMessage, unreadable
from flowq.broker.options import BrokerOptions
from flowq.broker.queues import QueueSpec
from flowq.broker.redislists import (
    close_channel,
    node_keys,
    open_channel,
    raw_connection,
    redeclare,
)
from flowq.broker.redispop import Pipe, Pop
from flowq.broker.redisunacked import Unacked

#: Seconds between two looks for messages of dead workers, and between two declarations.
RESTORE_EVERY, DECLARE_EVERY = 10.0, 60.0


class RedisSource:
    """One consuming connection to Redis."""

    lost: tuple[type[BaseException], ...] = (RedisError, OSError)

    def __init__(
        self, url: str, options: BrokerOptions, store_id: str | None, unacked: Unacked
    ) -> None:
        self._url, self._options, self._store_id = url, options, store_id
        self._channel: Any = None
        self._side: Any = None
        #: Blocking pops, of bundles and of bare tasks.
        self._node_pop: Any = None
        self._task_pop: Any = None
        self._queues: list[QueueSpec] = []
        #: Redis list -> task queue, of bundles and of bare tasks.
        self._node_lists: dict[bytes, str] = {}
        self._task_lists: dict[bytes, str] = {}
        self._topics: Topics | None = None
        self._turn = 0
        #: Whether the next call of `take`, which is due at once, is to put the pop of bundles.
        self._is_to_ask = False
        self._unacked = unacked
        #: Popped, but not handed out, as there was no room.
        self._nodes: deque[tuple[bytes, bytes]] = deque()
        self._tasks: deque[tuple[bytes, bytes]] = deque()
        self._upkeep: Any = None

    # -- connection

    def open(self, queues: Iterable[QueueSpec]) -> None:
        """Connect and declare."""
        self._channel = open_channel(self._url, self._options, RawMessage)
        self._side = Pipe(raw_connection(self._channel))
        self._unacked.connect(self._channel, self._side)
        self._task_pop = Pop(raw_connection(self._channel), self._side)
        if self._store_id is not None:
            self._node_pop = Pop(raw_connection(self._channel), self._side)
        self._upkeep = Upkeep(self._channel)
        self.follow(queues)

    def follow(self, queues: Iterable[QueueSpec]) -> None:
        """Consume from these from now on."""
        self._queues = list(queues)
        prefix, separator = self._channel.global_keyprefix, self._channel.sep
        self._task_lists, self._node_lists = {}, {}
        for spec in self._queues:
            if spec.exchange_type == "fanout":
                continue
            for step in self._channel.priority_steps:
                name = f"{spec.name}{separator}{step}" if step else spec.name
                self._task_lists[(prefix + name).encode()] = spec.name
            for key in node_keys(prefix + node_queue(spec.name, self._store_id or "")):
                self._node_lists[key.encode()] = spec.name
        for spec in self._queues:
            redeclare(self._channel, spec)
        self._upkeep.follow(self._queues)
        broadcast = [spec for spec in self._queues if spec.exchange_type == "fanout"]
        if self._topics is not None:
            self._topics.close()
        self._topics = Topics(self._channel, broadcast) if broadcast else None
        for pop in self._pops():
            pop.recall()

    def _pops(self) -> list[Pop]:
        return [pop for pop in (self._node_pop, self._task_pop) if pop is not None]

    def handles(self) -> list[int]:
        """The sockets on which an answer may come."""
        sockets = [pop.fileno() for pop in self._pops()]
        return sockets if self._topics is None else [*sockets, self._topics.fileno()]

    def timeout(self) -> float:
        """Seconds until something is due besides messages."""
        return 0.0 if self._is_to_ask else 1.0

    # -- taking

    def take(self, nodes: int, tasks: int) -> list[Delivery]:
        """At most so many bundles and tasks."""
        if self._upkeep is not None and self._upkeep.trouble is not None:
            raise ConnectionError(str(self._upkeep.trouble))
        self._side.drain()
        found: list[Delivery] = []
        if self._node_pop is not None:
            self._take_nodes(nodes, found)
        self._take_tasks(tasks, found)
        if self._topics is not None:
            found += self._topics.take()
        return found

    def _take_nodes(self, room: int, found: list[Delivery]) -> None:
        self._keep(self._node_pop.read(), self._node_lists, self._nodes)
        while self._nodes and room > 0:
            key, body = self._nodes.popleft()
            found.append(Delivery(self._node_lists[key], body, is_node=True))
            room -= 1
        while self._nodes:  # room was lost meanwhile: others may have it
            self._give_back(*self._nodes.pop())
        if found and not self._is_to_ask:  # what came in is worked on first
            self._is_to_ask = True
            return
        self._is_to_ask = False
        self._node_pop.ask(lambda: self._in_turn(self._node_lists), room)

    def _keep(
        self, popped: list[tuple[bytes, bytes]], lists: dict[bytes, str], kept: deque[Any]
    ) -> None:
        for key, element in popped:
            if key in lists:
                kept.append((key, element))
            else:  # of a queue that was cancelled meanwhile
                self._give_back(key, element)

    def _give_back(self, key: bytes, element: bytes) -> None:
        self._side.send("RPUSH", key, element)

    def _in_turn(self, lists: dict[bytes, str]) -> list[bytes]:
        """The lists to pop from; each queue in turn goes first, so that none starves another."""
        names = len(self._queues)
        if names < 2:
            return list(lists)
        self._turn += 1
        size = len(lists) // names
        place = self._turn % names * size
        keys = list(lists)
        return keys[place:] + keys[:place]

    def _take_tasks(self, room: int, found: list[Delivery]) -> None:
        self._keep(self._task_pop.read(), self._task_lists, self._tasks)
        while self._tasks and room > 0:
            key, payload = self._tasks.popleft()
            delivery = self._task(self._task_lists[key], payload)
            if delivery is not None:
                found.append(delivery)
                room -= 1
        while self._tasks:
            self._give_back(*self._tasks.pop())
        self._task_pop.ask(lambda: self._in_turn(self._task_lists), room)

    def _task(self, queue: str, payload: bytes) -> Delivery | None:
        """Enter a message into the list of unacknowledged ones."""
        try:
            message = RawMessage(json.loads(payload), channel=self._channel)
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            unreadable(queue, payload, exc)
            return None
        self._unacked.add(message, payload)
        return message.delivery(queue, self._unacked)

    def close(self, *, gently: bool) -> None:
        """Give back what was taken and not acknowledged, and close."""
        if self._channel is None:
            return
        with suppress(*self.lost):
            if gently:
                self._hand_back()
                self._unacked.restore_all()
        self._unacked.disconnect()
        for each in (*self._pops(), self._side, self._topics):
            if each is not None:
                each.close()
        if self._upkeep is None:
            close_channel(self._channel)
        else:
            self._upkeep.close(wait=gently)
        self._channel = None

    def _hand_back(self) -> None:
        for pop in self._pops():
            pop.recall()
            for key, element in reversed(pop.read(timeout=1.0)):
                self._give_back(key, element)
        self._side.drain(timeout=1.0)


class Upkeep:
    """What has to be asked of Redis from time to time, on a thread, as it waits for answers.

    Gives back the tasks that any consumer has held for longer than the visibility timeout, and
    writes the bindings of the queues again, in case Redis has lost them.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._queues: list[QueueSpec] = []
        self._stop = threading.Event()
        #: Why the connection is of no more use.
        self.trouble: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="flowq-upkeep", daemon=True)

    def follow(self, queues: list[QueueSpec]) -> None:
        """Look after these from now on."""
        self._queues = queues
        if not self._thread.is_alive():
            self._thread.start()

    def close(self, *, wait: bool) -> None:
        """End, and close the channel: between two questions, as kombu keeps a lock during one."""
        self._stop.set()
        if not self._thread.is_alive():
            close_channel(self._channel)
        elif wait:
            self._thread.join(2.0)

    def _run(self) -> None:
        self._ask()
        self._stop.wait()
        close_channel(self._channel)

    def _ask(self) -> None:
        channel = self._channel
        declare_at = time.monotonic() + DECLARE_EVERY
        while not self._stop.is_set():
            try:
                channel.qos.restore_visible(num=channel.unacked_restore_limit, interval=1)
                if time.monotonic() >= declare_at:
                    declare_at = time.monotonic() + DECLARE_EVERY
                    for spec in self._queues:
                        redeclare(channel, spec)
            except Exception as exc:  # also of a channel that was closed meanwhile
                self.trouble = exc
                return
            self._stop.wait(min(RESTORE_EVERY, DECLARE_EVERY, channel.visibility_timeout))


class Topics:
    """The subscriptions of queues on fanout exchanges, which Redis delivers at most once."""

    def __init__(self, channel: Any, queues: list[QueueSpec]) -> None:
        self._channel = channel
        self._queues: dict[bytes, QueueSpec] = {}
        for spec in queues:
            topic = channel.global_keyprefix + channel.keyprefix_fanout + spec.exchange
            key = spec.routing_key.replace("#", "*")
            if channel.fanout_patterns and key:
                topic += "/" + key
            self._queues[topic.encode()] = spec
        self._connection = raw_connection(channel)
        self._connection.send_command("PSUBSCRIBE", *self._queues)

    def fileno(self) -> int:
        """What to poll."""
        return int(self._connection._sock.fileno())

    def take(self) -> list[Delivery]:
        """All that has arrived; a broadcast does not wait for room."""
        found = []
        while self._connection.can_read(0):
            answer = self._connection.read_response()
            if answer[0] != b"pmessage":
                continue
            spec = self._queues[answer[1]]
            try:
                message = RawMessage(json.loads(answer[3]), channel=self._channel)
            except (ValueError, KeyError, TypeError, AttributeError) as exc:
                unreadable(spec.name, answer[3], exc)
                continue
            found.append(message.delivery(spec.alias or spec.name, None))
        return found

    def close(self) -> None:
        """End the subscriptions."""
        with suppress(RedisError, OSError):
            self._connection.disconnect()
