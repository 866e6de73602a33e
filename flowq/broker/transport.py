"""Bundles within one process: the queues of the embedded engine.

A bundle is handed over as it is. There is no other process to write bytes for, and nothing to
lose: what waits here is in the store's outbox too (docs/decisions/0016).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from flowq.broker.codec import Bundle


class MemoryTransport:
    """Publishes and takes bundles within this process; safe from any thread."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[Bundle]] = {}

    def publish(self, bundle: Bundle) -> None:
        """Put a bundle on its queue; it is the taker's afterwards."""
        queue = self._queues.get(bundle.queue)
        if queue is None:
            queue = self._queues.setdefault(bundle.queue, deque())
        queue.append(bundle)

    def take(self, limit: int) -> list[Bundle]:
        """At most `limit` bundles, from all queues in turn; empty if there are none."""
        found: list[Bundle] = []
        for queue in list(self._queues.values()):
            while queue and len(found) < limit:
                found.append(queue.popleft())
        return found

    def withdraw(self, unwanted: Callable[[Bundle], bool]) -> list[Bundle]:
        """Take bundles out that nobody is to take; for the thread that takes."""
        found: list[Bundle] = []
        for queue in list(self._queues.values()):
            for _ in range(len(queue)):  # others may publish meanwhile, at the end
                bundle = queue.popleft()
                (found if unwanted(bundle) else queue).append(bundle)
        return found

    @property
    def waiting(self) -> int:
        """Messages published and not yet taken."""
        return sum(map(len, self._queues.values()))

    def close(self) -> None:
        """Drop what waits. A second call does nothing."""
        self._queues.clear()
