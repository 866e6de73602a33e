"""Events in Celery's form: what a worker tells monitors, and how to listen.

They are news, not records: sent from a bounded buffer by a thread of its own, oldest dropped
first, never waited for.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from flowq.broker.sideline import Access, Clock, Sideline, open_channel

log = logging.getLogger("flowq.events")

#: Task events of one message at most.
BATCH = 100
#: Seconds that a task event may wait for others.
_LINGER = 0.05
#: Seconds that a sender which ends before it was ever connected waits for its connection.
_CONNECT = 1.0
#: What worker events say of the software.
SOFTWARE = {"sw_ident": "py-flowq", "sw_sys": platform.system()}


class EventSender:
    """Sends a worker's events; its methods never wait.

    Nothing is connected before `start`. Worker events are sent always, task events only while
    `tasks` is true: forming their fields costs time, so ask `tasks` first.

    Args:
        access: How the broker is reached.
        hostname: The worker's node name.
        clock: Its Lamport clock.
        version: Version of the software, for worker events.
        tasks: Whether to send task events at the start (`-E`).
        every: Seconds between two heartbeats, which monitors are told.
        exchange: Name of the exchange (setting `event_exchange`).
        serializer: How events are written (setting `event_serializer`).
        capacity: Events kept while they cannot be sent.
    """

    def __init__(
        self,
        access: Access,
        hostname: str,
        *,
        clock: Clock,
        version: str = "",
        tasks: bool = False,
        every: float = 2.0,
        exchange: str = "celeryev",
        serializer: str = "json",
        capacity: int = 10_000,
    ) -> None:
        self.hostname, self.tasks, self.every = hostname, tasks, every
        #: How many were dropped because they could not be sent in time.
        self.dropped = 0
        self._clock, self._exchange, self._serializer = clock, exchange, serializer
        self._about = {**SOFTWARE, "sw_ver": version, "freq": every}
        self._buffer: deque[dict[str, Any]] = deque(maxlen=capacity)
        self._bell = threading.Event()
        self._next = 0.0
        #: Whether it was never connected yet.
        self._fresh = True
        self._side = Sideline(f"events of {hostname}", access, self._serve)
        self._pid, self._offset = os.getpid(), utcoffset()
        self._encode = msgspec.json.Encoder(enc_hook=repr).encode

    @classmethod
    def of(cls, conf: Mapping[str, Any], hostname: str, **about: Any) -> EventSender:
        """One as settings say (Celery's names).

        Args:
            conf: The settings.
            hostname: Who sends.
            about: Clock, version, and whether tasks are told of at the start.

        Raises:
            ImproperlyConfigured: No broker is named.
        """
        return cls(
            Access.of(conf),
            hostname,
            every=float(conf["worker_heartbeat_interval"]),
            exchange=str(conf["event_exchange"]),
            serializer=str(conf["event_serializer"]),
            **about,
        )

    # -- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to send what is told, in the background. Repeating: does nothing."""
        self._side.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Send what is there, if that can be done within `timeout` seconds, and end."""
        deadline = time.monotonic() + timeout
        # it may have only begun to connect; a broker that was lost is not waited for
        self._side.ready.wait(min(timeout, _CONNECT) if self._buffer and self._fresh else 0.0)
        while self._buffer and self._side.ready.is_set() and time.monotonic() < deadline:
            self._bell.set()
            self._side.pause(0.01)
        self._side.stop(0.0)
        self._bell.set()
        self._side.stop(max(0.0, deadline - time.monotonic()))

    # -- telling ----------------------------------------------------------------------------

    def send(self, kind: str, /, **fields: Any) -> None:
        """Tell one event; dropped if it is of a task and `tasks` is false.

        Args:
            kind: Its type, as `task-received`.
            fields: What it says besides; what JSON has no form for is told as text.
        """
        if not self.tasks and kind.startswith("task-"):
            return
        event = {
            "hostname": self.hostname,
            "utcoffset": self._offset,
            "pid": self._pid,
            "clock": self._clock.forward(),
            **fields,
            "timestamp": time.time(),
            "type": kind,
        }
        if len(self._buffer) == self._buffer.maxlen:
            self.dropped += 1
        self._buffer.append(event)
        if not self._bell.is_set():
            self._bell.set()

    def timeout(self) -> float:
        """Seconds until the next heartbeat is due."""
        return max(0.0, self._next - time.monotonic())

    def keep_up(self, active: int, processed: int) -> None:
        """Send the heartbeat if it is due; for the worker's main loop.

        Args:
            active: Tasks that run now.
            processed: Tasks that ended since the start.
        """
        if time.monotonic() >= self._next:
            self.worker("heartbeat", active, processed)

    def worker(self, what: str, active: int = 0, processed: int = 0) -> None:
        """Tell that the worker is `online`, `offline`, or its `heartbeat`."""
        self._next, self._offset = time.monotonic() + self.every, utcoffset()
        self.send(
            f"worker-{what}",
            active=active,
            processed=processed,
            loadavg=[round(load, 2) for load in os.getloadavg()],
            **self._about,
        )

    def received(
        self,
        uuid: str,
        name: str,
        args: str = "()",
        kwargs: str = "{}",
        *,
        root_id: str | None = None,
        parent_id: str | None = None,
        retries: int = 0,
        eta: str | None = None,
        expires: str | None = None,
    ) -> None:
        """Tell that a task was taken; arguments as text, times in ISO 8601."""
        self.send(
            "task-received", uuid=uuid, name=name, args=args, kwargs=kwargs,
            root_id=root_id, parent_id=parent_id, retries=retries, eta=eta, expires=expires,
        )  # fmt: skip

    def sent(
        self, uuid: str, name: str, args: str, kwargs: str, *, queue: str, **more: Any
    ) -> None:
        """Tell that a task was sent; `more` are root_id, parent_id, retries, eta, ..."""
        empty = dict.fromkeys(("root_id", "parent_id", "eta", "expires"))
        place = {"retries": 0, "queue": queue, "exchange": "", "routing_key": queue}
        self.send(
            "task-sent", uuid=uuid, name=name, args=args, kwargs=kwargs,
            **{**empty, **place, **more},
        )  # fmt: skip

    def started(self, uuid: str) -> None:
        """Tell that a task began."""
        self.send("task-started", uuid=uuid)

    def succeeded(self, uuid: str, result: str, runtime: float) -> None:
        """Tell that a task succeeded; its result as text, and how many seconds it took."""
        self.send("task-succeeded", uuid=uuid, result=result, runtime=runtime)

    def failed(self, uuid: str, exception: str, traceback: str = "") -> None:
        """Tell that a task failed."""
        self.send("task-failed", uuid=uuid, exception=exception, traceback=traceback)

    def retried(self, uuid: str, exception: str, traceback: str = "") -> None:
        """Tell that a task will be tried again."""
        self.send("task-retried", uuid=uuid, exception=exception, traceback=traceback)

    def revoked(
        self, uuid: str, *, terminated: bool = False, signum: int | None = None, expired: bool
    ) -> None:
        """Tell that a task was revoked, or came too late (`expired`)."""
        self.send("task-revoked", uuid=uuid, terminated=terminated, signum=signum, expired=expired)

    def rejected(self, uuid: str, requeue: bool) -> None:
        """Tell that a task was rejected."""
        self.send("task-rejected", uuid=uuid, requeue=requeue)

    # -- the thread -------------------------------------------------------------------------

    def _serve(self, connection: Any) -> None:
        from kombu import Producer

        exchange = exchange_of(self._side.access, self._exchange)
        channel = connection.default_channel
        producer = Producer(channel, exchange=exchange, auto_declare=False)
        exchange(channel).declare()
        self._side.ready.set()
        self._fresh = False
        while True:
            rung = self._bell.wait(1.0)
            if rung and not self._side.stopping:
                self._side.pause(_LINGER)
            self._bell.clear()
            if connection.supports_heartbeats:
                with suppress(TimeoutError):  # find out that it has gone, before a batch is lost
                    connection.drain_events(timeout=0.001)
            self._side.check(connection)
            while self._buffer:
                self._publish(producer, self._next_batch())
            if self._side.stopping:
                return

    def _next_batch(self) -> list[dict[str, Any]]:
        """The oldest events that travel in one message."""
        batch = [self._buffer.popleft()]
        if batch[0]["type"].startswith("task-"):
            while self._buffer and len(batch) < BATCH:
                if not self._buffer[0]["type"].startswith("task-"):
                    break
                batch.append(self._buffer.popleft())
        return batch

    def _publish(self, producer: Any, batch: list[dict[str, Any]]) -> None:
        multi = batch[0]["type"].startswith("task-")
        body: Any = batch if multi else batch[0]
        how: dict[str, Any] = {"serializer": self._serializer}
        if self._serializer == "json":
            body = self._encode(body)
            how = {"content_type": "application/json", "content_encoding": "utf-8"}
        try:
            producer.publish(
                body,
                routing_key="task.multi" if multi else batch[0]["type"].replace("-", "."),
                headers={"hostname": self.hostname},
                delivery_mode=1,
                **how,
            )
        except Exception:
            self._put_back(batch)
            raise

    def _put_back(self, batch: list[dict[str, Any]]) -> None:
        room = (self._buffer.maxlen or 0) - len(self._buffer)
        self.dropped += max(0, len(batch) - room)
        if room > 0:
            self._buffer.extendleft(reversed(batch[-room:]))


class EventReceiver:
    """Listens to events of workers, Celery's or ours.

    Args:
        access: How the broker is reached.
        clock: Moved on by what comes.
        exchange: Name of the exchange of events.
        prefix: Start of the name of the queue that is made.
        ttl: Seconds that an event waits to be taken.
        expires: Seconds that the queue outlives its listener.
        routing_key: Which events: `task.#`, `worker.#`.
        accept: Serializers that may be read.
    """

    def __init__(
        self,
        access: Access,
        *,
        clock: Clock,
        exchange: str = "celeryev",
        prefix: str = "celeryev",
        ttl: float = 5.0,
        expires: float = 60.0,
        routing_key: str = "#",
        accept: Iterable[str] = ("json",),
    ) -> None:
        self._access, self._clock, self._exchange = access, clock, exchange
        self._prefix, self._ttl, self._expires = prefix, ttl, expires
        self._routing_key, self._accept = routing_key, list(accept)

    def capture(
        self,
        handle: Callable[[dict[str, Any]], Any],
        *,
        limit: int | None = None,
        timeout: float | None = None,
        ready: Callable[[Any], Any] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> int:
        """Give events to `handle` as they come; returns how many there were.

        `local_received` is added to them. Their `timestamp` is left as it is: seconds since the
        epoch are the same in every time zone. A second call listens anew.

        Args:
            handle: Called with each event.
            limit: Return after so many events.
            timeout: Return after so many seconds.
            ready: Called with the connection once events are listened to.
            stop: Asked twice a second whether to return.

        Raises:
            BrokerError: The broker cannot be reached, or the connection was lost.
        """
        count = 0
        deadline = float("inf") if timeout is None else time.monotonic() + timeout

        def take(body: Any, _message: Any) -> None:
            nonlocal count
            for event in body if isinstance(body, list) else [body]:
                if isinstance(event, dict) and "type" in event and (limit is None or count < limit):
                    count += 1
                    handle(_noted(event, self._clock))

        with self._access.opened() as connection, self._consumer(connection, take):
            side = Sideline("events", self._access, lambda _: None)
            with suppress(TimeoutError):  # Redis is subscribed to in the first call
                connection.drain_events(timeout=0.01)
            if ready is not None:
                ready(connection)
            while (limit is None or count < limit) and not stop():
                left = min(0.5, deadline - time.monotonic())
                if left <= 0:
                    break
                with suppress(TimeoutError):
                    connection.drain_events(timeout=left)
                side.check(connection)
        return count

    def _consumer(self, connection: Any, take: Callable[[Any, Any], None]) -> Any:
        from kombu import Consumer, Queue

        queue = Queue(
            f"{self._prefix}.{uuid.uuid4()}",
            exchange_of(self._access, self._exchange),
            self._routing_key,
            auto_delete=True,
            durable=False,
            exclusive=True,
            message_ttl=self._ttl,
            expires=self._expires,
        )
        return Consumer(
            open_channel(connection),
            [queue],
            callbacks=[take],
            no_ack=True,
            accept=self._accept,
            on_decode_error=_unreadable,
        )


def exchange_of(access: Access, name: str = "celeryev") -> Any:
    """The exchange of events: topic, but fanout on Redis, where Celery has it so."""
    from kombu import Exchange

    return Exchange(name, "fanout" if access.is_redis else "topic")


def utcoffset() -> float:
    """Hours that this host's clock is behind UTC, summer time included."""
    now = time.localtime()
    hours = (time.altzone if now.tm_isdst else time.timezone) / 3600
    return int(hours) if hours.is_integer() else hours


def _noted(event: dict[str, Any], clock: Clock) -> dict[str, Any]:
    if isinstance(event.get("clock"), int):
        clock.adjust(event["clock"])
    event["local_received"] = time.time()
    return event


def _unreadable(_message: Any, exc: Exception) -> None:
    log.warning("events: a message cannot be read: %r", exc)
