"""What remote control needs from a worker."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flowq.errors import FlowqError


@dataclass(slots=True)
class Held:
    """One task that a worker has, as `inspect` tells of it."""

    id: str
    name: str
    #: Values, or text if they were not decoded.
    args: Any = ()
    kwargs: Any = field(default_factory=dict)
    #: What is shown in their place when `safe` output is asked for; none: their repr.
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    #: Epoch seconds; None if it has not begun.
    time_start: float | None = None
    worker_pid: int | None = None
    acknowledged: bool = False
    #: exchange, routing_key, priority, redelivered.
    delivery_info: Mapping[str, Any] = field(default_factory=dict)
    #: ISO 8601; of scheduled tasks.
    eta: str | None = None
    priority: int = 6


@dataclass(slots=True)
class Stats:
    """What `inspect stats` tells of a worker, apart from what the process itself knows."""

    #: Tasks taken since the start, by name.
    total: Mapping[str, int]
    #: Seconds since the start.
    uptime: float
    #: Name of the pool: prefork, threads, ...
    pool: str
    concurrency: int
    #: Process ids of the children, or idents of threads.
    processes: Sequence[int]
    #: Messages of bare tasks taken ahead at most.
    prefetch: int = 0
    max_tasks_per_child: int | None = None
    soft_time_limit: float | None = None
    time_limit: float | None = None
    #: (most, least) if the worker scales itself.
    autoscale: tuple[int, int] | None = None
    #: What kombu's `Connection.info()` says of the broker; passwords are left out.
    broker: Mapping[str, Any] = field(default_factory=dict)


class Controlled(Protocol):
    """A worker, as remote control sees it. Every method is called in its main loop.

    Raise `ValueError` or a `FlowqError` with one sentence to refuse a command: the sentence is the
    reply.
    """

    @property
    def hostname(self) -> str:
        """Node name, as in ``celery@host``."""

    @property
    def app(self) -> Any:
        """The app: its `tasks`, `conf` and `clock` are read."""

    def active(self) -> Iterable[Held]:
        """Tasks that run now, nodes and bare ones."""

    def reserved(self) -> Iterable[Held]:
        """Tasks that were taken and have not begun, but for scheduled ones."""

    def scheduled(self) -> Iterable[Held]:
        """Tasks that wait here for their `eta`."""

    def revoked(self) -> Collection[str]:
        """Ids that will not be run here."""

    def stats(self) -> Stats:
        """Figures of this moment."""

    def active_queues(self) -> Iterable[Mapping[str, Any]]:
        """The queues that are consumed from, each as `QueueSpec.described` forms it."""

    def add_consumer(
        self, queue: str, exchange: str | None, exchange_type: str | None, routing_key: str | None
    ) -> None:
        """Consume from a queue too, nodes and bare tasks. Repeating: does nothing."""

    def cancel_consumer(self, queue: str) -> None:
        """Consume from a queue no more. Repeating: does nothing."""

    def rate_limit(self, task: str, rate: str | float | None) -> None:
        """Set the rate limit of a task here; the task is known. 0 and None take it away."""

    def time_limit(self, task: str, hard: float | None, soft: float | None) -> None:
        """Set the time limits of a task here; the task is known."""

    def grow(self, n: int) -> None:
        """Add `n` slots to the pool; refuses if the worker scales itself."""

    def shrink(self, n: int) -> None:
        """Take `n` slots from the pool; refuses if the worker scales itself."""

    def autoscale(self, most: int | None, least: int | None) -> tuple[int, int]:
        """Set the bounds of the pool and return those in force; refuses if it does not scale."""

    def revoke(
        self, ids: Collection[str], terminate: bool, signal: str | int | None
    ) -> Iterable[str]:
        """Do not run these; with `terminate` end those that run, and return their ids."""

    def revoke_stamped(
        self, stamps: Mapping[str, Collection[str]], terminate: bool, signal: str | int | None
    ) -> Iterable[str]:
        """The same for tasks that have one of the stamps."""

    def shutdown(self) -> None:
        """Begin a warm shutdown, and return at once."""

    def events(self, on: bool) -> bool:
        """Send task events, or do not; returns whether that changes anything."""

    def beat(self) -> None:
        """Send a heartbeat event now."""


class Errands:
    """Calls that other threads have a main loop make for them.

    Args:
        ring: Wakes the main loop, which then calls `run`; called in the other threads.
        patience: Seconds after which a caller gives up.
    """

    def __init__(self, ring: Callable[[], Any], patience: float = 10.0) -> None:
        self._ring, self._patience = ring, patience
        self._waiting: deque[_Errand] = deque()

    def __call__(self, fun: Callable[[], Any]) -> Any:
        """Have `fun` called in the main loop; returns its value or raises what it raised.

        Raises:
            FlowqError: The loop has not come to it in time; it will not be called any more.
        """
        errand = _Errand(fun)
        self._waiting.append(errand)
        self._ring()
        if not errand.done.wait(self._patience) and errand.take():
            raise FlowqError("the worker's main loop is busy and has not answered; try again")
        errand.done.wait()
        if errand.problem is not None:
            raise errand.problem
        return errand.value

    def run(self) -> None:
        """Make the calls that wait; for the main loop. What they raise goes to their callers."""
        while self._waiting:
            errand = self._waiting.popleft()
            if errand.take():
                errand.run()


class _Errand:
    def __init__(self, fun: Callable[[], Any]) -> None:
        self._fun, self._lock = fun, threading.Lock()
        self.done = threading.Event()
        self.value: Any = None
        self.problem: BaseException | None = None

    def take(self) -> bool:
        """Whether the one who asks is the first: it is run once, or never."""
        return self._lock.acquire(blocking=False)

    def run(self) -> None:
        try:
            self.value = self._fun()
        except Exception as exc:
            self.problem = exc
        finally:
            self.done.set()
