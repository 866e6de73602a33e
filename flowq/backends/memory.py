"""Lane and result store inside one process: the embedded default."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from queue import Empty, SimpleQueue

from flowq.backends import OnMessage, ResultRequest, TaskMeta
from flowq.backends.waiting import Deadline, Told
from flowq.broker.codec import Report
from flowq.errors import BackendUnavailable


class MemoryLane:
    """A deque. Contract: `backends.UpdateLane`."""

    def __init__(self, ring: Callable[[], None] = lambda: None) -> None:
        self._reports: deque[Report] = deque()
        self._taken = 0
        self._ring = ring

    def put(self, reports: list[Report]) -> None:
        self._reports.extend(reports)
        self._ring()

    def take(self, limit: int) -> list[Report]:
        found = list(islice(self._reports, self._taken, self._taken + limit))
        self._taken += len(found)
        return found

    def ack(self, count: int) -> None:
        for _ in range(count):
            self._reports.popleft()
        self._taken -= count

    def rewind(self) -> None:
        self._taken = 0

    def __len__(self) -> int:
        return len(self._reports)


class MemoryResults:
    """A bounded dict whose waiters are handed each state. Contract: `backends.ResultStore`.

    Args:
        limit: Outcomes kept; the oldest ended ones go first.
        expires: Seconds for which an outcome is kept.
    """

    reply_to: str | None = None

    def __init__(self, limit: int = 100_000, expires: float = 86_400.0) -> None:
        self._metas: OrderedDict[str, TaskMeta] = OrderedDict()
        self._waiters: dict[str, list[SimpleQueue[TaskMeta | None]]] = {}
        self._lock = threading.Lock()
        self._limit, self._expires = limit, expires

    def store(self, task_id: str, meta: TaskMeta, request: ResultRequest | None = None) -> None:
        """As `ResultStore.store`."""
        with self._lock:
            known = self._metas.get(task_id)
            if known is not None and known.state == "SUCCESS":
                return
            self._metas[task_id] = meta
            self._trim()
            waiters = list(self._waiters.get(task_id, ()))
        for waiter in waiters:
            waiter.put(meta)

    def load(self, task_id: str) -> TaskMeta | None:
        """As `ResultStore.load`."""
        with self._lock:
            return self._metas.get(task_id)

    def wait(
        self, task_id: str, timeout: float | None, on_message: OnMessage | None = None
    ) -> TaskMeta | None:
        """As `ResultStore.wait`."""
        deadline, told = Deadline(timeout), Told(on_message)
        waiter: SimpleQueue[TaskMeta | None] = SimpleQueue()
        with self._lock:
            self._waiters.setdefault(task_id, []).append(waiter)
            meta = self._metas.get(task_id)
        try:
            while not told.final(meta):
                try:
                    meta = waiter.get(timeout=deadline.left())
                except Empty:
                    if deadline.passed:
                        return None
                else:
                    if meta is None:
                        raise BackendUnavailable("the results of this process were closed")
            return meta
        finally:
            with self._lock:
                waiters = self._waiters.get(task_id, [])
                waiters.remove(waiter)
                if not waiters:
                    self._waiters.pop(task_id, None)

    def expect(self, task_id: str) -> None:
        """As `ResultStore.expect`."""

    def forget(self, task_id: str) -> None:
        """As `ResultStore.forget`."""
        with self._lock:
            self._metas.pop(task_id, None)

    def close(self) -> None:
        """As `ResultStore.close`."""
        with self._lock:
            waiters = [waiter for each in self._waiters.values() for waiter in each]
        for waiter in waiters:
            waiter.put(None)

    def _trim(self) -> None:
        while len(self._metas) > self._limit:
            self._metas.popitem(last=False)
        oldest = next(iter(self._metas.values()))
        if oldest.date_done and oldest.date_done < time.time() - self._expires:
            self._metas.popitem(last=False)
