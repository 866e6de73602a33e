"""How long tasks take here, as far as is known: small ones travel together."""

from __future__ import annotations

from typing import Final

from flowq.broker.codec import Bundle, Item
from flowq.core.graph import Spec
from flowq.worker.hand import LONG

#: What takes no longer than this (seconds) is one part, counting so many for each item's way: a
#: second part would cost more than it saves.
PART_LEAST: Final = 0.0002
ON_ITS_WAY: Final = 0.00002
#: Who waits for what takes no longer than this (seconds) need not go to sleep for it.
TINY: Final = 0.00005
#: A task that takes longer than this on average (seconds) travels alone.
SMALL: Final = 0.005


class Estimates:
    """Seconds that tasks took; one that is not known counts as long."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def expected(self, bundle: Bundle, item: Item) -> float:
        """Seconds that an item will take."""
        return self._seconds.get(bundle.specs[item.spec].task, LONG)

    def is_small(self, bundle: Bundle, item: Item) -> bool:
        """Whether it may share a part with others; never one that may have killed a process."""
        spec: Spec = bundle.specs[item.spec]
        if spec.max_crashes == 0 or item.crashes:
            return False
        return self._seconds.get(spec.task, LONG) <= SMALL

    def note(self, task: str, took: float) -> None:
        """Learn from one that has ended."""
        known = self._seconds.get(task)
        if known is None:
            self._seconds[task] = took
        else:  # faster down than up: a first call pays for imports
            self._seconds[task] = known + (took - known) * (0.5 if took < known else 0.2)
