"""A worker that runs nothing, but can be inspected and controlled as one that does."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from flowq import Flowq
from flowq.broker.events import EventSender
from flowq.broker.mailbox import Mailbox
from flowq.broker.sideline import Access
from flowq.worker.control import Errands, Held, Stats, dispatch

PATIENCE = 20.0


def make_app(**conf: Any) -> Flowq:
    """An app with two tasks."""
    app = Flowq("shop", set_as_current=False, **conf)

    @app.task(name="shop.add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="shop.mail", rate_limit="10/m")
    def mail(to: str) -> None: ...

    return app


class FakeWorker:
    """Implements `Controlled`; its main loop only makes the calls that commands ask for."""

    def __init__(
        self, hostname: str, access: Access, app: Flowq | None = None, **events: Any
    ) -> None:
        self._hostname, self.access = hostname, access
        self._app = app or make_app()
        self.calls: list[tuple[Any, ...]] = []
        self.queues = {"celery": "celery"}
        self.ids: list[str] = []
        self._bell: queue.Queue[str] = queue.Queue()
        self.errands = Errands(lambda: self._bell.put("errand"))
        self.loop_thread = threading.Thread(target=self._loop, daemon=True)
        self.threads: set[str] = set()
        self.sender = EventSender(
            access, hostname, clock=self._app.clock, version="1", every=1.0, **events
        )
        self.mailbox = Mailbox(
            hostname,
            lambda name, given: dispatch(self, name, given),
            access,
            clock=self._app.clock,
            post=self.errands,
        )

    def __enter__(self) -> FakeWorker:
        self.sender.worker("online")
        self.loop_thread.start()
        self.mailbox.start()
        self.sender.start()
        assert self.mailbox.wait_ready(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._bell.put("end")
        self.loop_thread.join(PATIENCE)  # first: events are told by one thread at a time
        self.sender.worker("offline")
        self.sender.stop()
        self.mailbox.stop()

    def _loop(self) -> None:
        while True:
            try:
                if self._bell.get(timeout=self.sender.timeout()) == "end":
                    return
            except queue.Empty:
                self.sender.keep_up(active=1, processed=7)
            self.threads.add(threading.current_thread().name)
            self.errands.run()

    # -- what commands call

    @property
    def hostname(self) -> str:
        return self._hostname

    @property
    def app(self) -> Any:
        return self._app

    def active(self) -> Iterable[Held]:
        place = {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
        yield Held(
            "id-1", "shop.add", [2, 3], {"z": object}, "(2, '***')", "{}",
            time_start=1700000000.5, worker_pid=4711, acknowledged=True, delivery_info=place,
        )  # fmt: skip

    def reserved(self) -> Iterable[Held]:
        yield Held("id-2", "shop.mail", ["ann"])

    def scheduled(self) -> Iterable[Held]:
        yield Held("id-3", "shop.mail", ["bob"], eta="2030-01-01T00:00:00+00:00")

    def revoked(self) -> Collection[str]:
        return self.ids

    def stats(self) -> Stats:
        return Stats(
            {"shop.add": 7}, 12.3, "prefork", 2, [4711, 4712], prefetch=8,
            broker=self.access.prepared().info(),
        )  # fmt: skip

    def active_queues(self) -> Iterable[Mapping[str, Any]]:
        for name, exchange in self.queues.items():
            kind = {"name": exchange, "type": "direct", "durable": True, "arguments": None}
            yield {
                "name": name, "exchange": kind, "routing_key": name, "durable": True,
                "exclusive": False, "auto_delete": False, "no_ack": False, "alias": None,
                "queue_arguments": None, "binding_arguments": None,
            }  # fmt: skip

    def add_consumer(
        self, queue: str, exchange: str | None, exchange_type: str | None, routing_key: str | None
    ) -> None:
        self.calls.append(("add", queue, exchange, exchange_type, routing_key))
        self.queues[queue] = exchange or queue

    def cancel_consumer(self, queue: str) -> None:
        self.calls.append(("cancel", queue))
        self.queues.pop(queue, None)

    def rate_limit(self, task: str, rate: Any) -> None:
        self.calls.append(("rate", task, rate))

    def time_limit(self, task: str, hard: float | None, soft: float | None) -> None:
        self.calls.append(("time", task, hard, soft))

    def grow(self, n: int) -> None:
        self.calls.append(("grow", n))

    def shrink(self, n: int) -> None:
        if n > 1:
            raise ValueError("the pool keeps at least one slot")
        self.calls.append(("shrink", n))

    def autoscale(self, most: int | None, least: int | None) -> tuple[int, int]:
        raise ValueError("this worker does not scale itself; start it with --autoscale")

    def revoke(self, ids: Collection[str], terminate: bool, signal: Any) -> Iterable[str]:
        self.calls.append(("revoke", list(ids), terminate, signal))
        self.ids += ids
        return ids if terminate and "id-1" in ids else []

    def revoke_stamped(self, stamps: Any, terminate: bool, signal: Any) -> Iterable[str]:
        self.calls.append(("stamps", stamps, terminate))
        return []

    def shutdown(self) -> None:
        self.calls.append(("shutdown",))

    def events(self, on: bool) -> bool:
        changes, self.sender.tasks = on != self.sender.tasks, on
        return changes

    def beat(self) -> None:
        self.sender.worker("heartbeat", 1, 7)


def wait_for(what: Any, text: str, patience: float = PATIENCE) -> Any:
    """What a function gives once it is true."""
    pause, deadline = threading.Event(), time.monotonic() + patience
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, text
        pause.wait(0.05)


@contextmanager
def capturing(
    access: Access, clock: Any, accept: Iterable[str] = ("json",), **how: Any
) -> Iterator[list[dict[str, Any]]]:
    """Events as a list that grows, in a thread, while the block runs."""
    from flowq.broker.events import EventReceiver

    found: list[dict[str, Any]] = []
    ready, over = threading.Event(), threading.Event()

    def listen() -> None:
        EventReceiver(access, clock=clock, accept=accept).capture(
            found.append, ready=lambda _: ready.set(), stop=over.is_set, **how
        )

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield found
    finally:
        over.set()
        thread.join(PATIENCE)
