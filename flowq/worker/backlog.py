"""Items that wait for a hand, the most urgent first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from flowq.worker.hand import Entry


class Backlog:
    """Queues by priority, larger ones first; in a priority first come, first served."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[Entry]] = {}
        self._priorities: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        for priority in self._priorities:
            yield from self._queues[priority]

    def add(self, entry: Entry) -> None:
        """Put an item behind those of its priority."""
        self._queue(entry[1].priority).append(entry)
        self._count += 1

    def put_back(self, entry: Entry) -> None:
        """Put an item in front of those of its priority: it was taken before them."""
        self._queue(entry[1].priority).appendleft(entry)
        self._count += 1

    def first(self) -> Entry | None:
        """The item that is next, if there is one."""
        for priority in self._priorities:
            if self._queues[priority]:
                return self._queues[priority][0]
        return None

    def pop(self) -> Entry:
        """Take the item that is next; raises LookupError where nothing waits."""
        for priority in self._priorities:
            if self._queues[priority]:
                self._count -= 1
                return self._queues[priority].popleft()
        raise LookupError("nothing waits")

    def pop_while(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """Take items of the first one's priority off the front, for as long as they are wanted."""
        queue = next((self._queues[p] for p in self._priorities if self._queues[p]), None)
        part: list[Entry] = []
        while queue and wanted(queue[0]):
            part.append(queue.popleft())
        self._count -= len(part)
        return part

    def take(self, wanted: Callable[[Entry], bool] = lambda entry: True) -> list[Entry]:
        """Take all items that are wanted, wherever they stand; in order."""
        found: list[Entry] = []
        for priority in self._priorities:
            entries = self._queues[priority]
            out = [entry for entry in entries if wanted(entry)]
            if out:
                found += out
                self._queues[priority] = deque(entry for entry in entries if not wanted(entry))
        self._count -= len(found)
        return found

    def _queue(self, priority: int) -> deque[Entry]:
        queue = self._queues.get(priority)
        if queue is None:
            queue = self._queues[priority] = deque()
            self._priorities = sorted(self._queues, reverse=True)
        return queue
