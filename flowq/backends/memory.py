"""Lane and result store inside one process: the embedded default."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice

from flowq.backends import TaskMeta
from flowq.broker.codec import Report

READY_STATES = frozenset(("SUCCESS", "FAILURE", "REVOKED", "IGNORED", "REJECTED"))


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
    """A bounded dict with a condition. Contract: `backends.ResultStore`.

    Args:
        limit: Outcomes kept; the oldest ended ones go first.
        expires: Seconds for which an outcome is kept.
    """

    def __init__(self, limit: int = 100_000, expires: float = 86_400.0) -> None:
        self._metas: OrderedDict[str, TaskMeta] = OrderedDict()
        self._waiters: dict[str, list[threading.Event]] = {}
        self._lock = threading.Lock()
        self._limit, self._expires = limit, expires

    def store(self, task_id: str, meta: TaskMeta) -> None:
        with self._lock:
            known = self._metas.get(task_id)
            if known is not None and known.state == "SUCCESS":
                return
            self._metas[task_id] = meta
            self._trim()
            waiters = self._waiters.pop(task_id, ()) if meta.state in READY_STATES else ()
        for event in waiters:
            event.set()

    def load(self, task_id: str) -> TaskMeta | None:
        with self._lock:
            return self._metas.get(task_id)

    def wait(self, task_id: str, timeout: float | None) -> TaskMeta | None:
        event = threading.Event()
        with self._lock:
            known = self._metas.get(task_id)
            if known is not None and known.state in READY_STATES:
                return known
            self._waiters.setdefault(task_id, []).append(event)
        done = event.wait(timeout)
        with self._lock:
            if not done:
                waiters = self._waiters.get(task_id, [])
                if event in waiters:
                    waiters.remove(event)
                return None
            return self._metas.get(task_id)

    def forget(self, task_id: str) -> None:
        with self._lock:
            self._metas.pop(task_id, None)

    def _trim(self) -> None:
        while len(self._metas) > self._limit:
            self._metas.popitem(last=False)
        oldest = next(iter(self._metas.values()))
        if oldest.date_done and oldest.date_done < time.time() - self._expires:
            self._metas.popitem(last=False)
