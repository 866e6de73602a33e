"""One hand of a pool, a child process or a thread, as the pool's owner sees it.

A hand works through its parts in order, so reports need no address: each that ends an item belongs
to the next one of the first part. Everything here is bookkeeping; nothing reads or writes a socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from flowq.broker.codec import ON_THE_WAY, Report, ReportKind
from flowq.worker.slots import Begun, Slot

if TYPE_CHECKING:
    from flowq.broker.codec import Bundle, Item
    from flowq.core.graph import Spec

#: An item that runs longer than this (seconds) is reported as started, and what waits behind it
#: is taken elsewhere.
LONG: Final = 0.100
#: After that time (seconds) a hand that still names the same item has seen that it was recalled.
SETTLED: Final = 0.020

Entry = tuple["Bundle", "Item"]


def ends(report: Report) -> bool:
    """Whether a report is the last one of its item."""
    return report.kind not in ON_THE_WAY


class Part:
    """Items that travel to one hand together, in order."""

    __slots__ = ("cut", "done", "entries", "number", "small")

    def __init__(self, entries: list[Entry], *, small: bool = False) -> None:
        #: Not empty.
        self.entries = entries
        #: Whether all of it is expected to take so little time that another may wait behind it.
        self.small = small
        #: Number given by the hand that has it, from 1.
        self.number = 0
        #: Items reported so far.
        self.done = 0
        #: Items from here on were taken back; the hand will not begin them.
        self.cut = len(entries)

    def bundles(self) -> list[Bundle]:
        """The part as bundles, each with the items that are its own."""
        made: list[Bundle] = []
        source: Bundle | None = None
        items: list[Item] = []
        for bundle, item in self.entries:
            if bundle is source:
                items.append(item)
                continue
            if source is not None:
                made.append(_with_items(source, items))
            source, items = bundle, [item]
        assert source is not None
        made.append(_with_items(source, items))
        return made


def _with_items(bundle: Bundle, items: list[Item]) -> Bundle:
    if len(items) == len(bundle.items):
        return bundle
    needed = {item.run for item in items}
    runs = {run: uid for run, uid in bundle.runs.items() if run in needed}
    return msgspec.structs.replace(bundle, runs=runs, items=items)


class Running(NamedTuple):
    """The item that a hand is in."""

    bundle: Bundle
    item: Item
    spec: Spec
    #: For how long already, in seconds.
    seconds: float
    begun: Begun


class Hand:
    """What one hand has and what became of it."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.parts: deque[Part] = deque()
        #: Ends once it has nothing left, and takes nothing more.
        self.leaving = False
        self._count = 0
        self._said: tuple[int, int] | None = None
        self._recalled_at = 0.0
        self._recalled: tuple[int, int] | None = None

    def restart(self) -> None:
        """Forget everything: a new process takes the place."""
        self.parts.clear()
        self.slot.clear()
        self._count = 0
        self._said = self._recalled = None

    def has_room(self, small: bool) -> bool:
        """Whether it takes another part now: an idle one any, a busy one a small behind a small."""
        parts = self.parts
        if not parts:
            return not self.leaving
        if not small or len(parts) != 1 or not parts[0].small:
            return False
        return self._recalled is None and not self.leaving

    @property
    def is_spent(self) -> bool:
        """Whether it was told to leave, and can."""
        return self.leaving and not self.parts

    def give(self, part: Part) -> int:
        """Take note of a part that is on its way; returns its number."""
        self._count += 1
        part.number = self._count
        self.parts.append(part)
        return self._count

    def take(self, reports: list[Report]) -> None:
        """Count reports as they come from the hand."""
        for report in reports:
            if report.kind not in ON_THE_WAY and self.parts:
                part = self.parts[0]
                part.done += 1
                if part.done == len(part.entries):
                    self._ended()

    def handed_back(self, number: int, index: int) -> list[Entry]:
        """Items that the hand gives back and that were not taken back already, in order."""
        while self.parts and self.parts[0].number < number:
            self._ended()
        if not self.parts or self.parts[0].number != number:
            return []
        part = self.parts[0]
        self._ended()
        return part.entries[index : part.cut]

    def _ended(self) -> None:
        self.parts.popleft()
        if self._recalled is not None and (
            not self.parts or self.parts[0].number > self.slot.recalled()
        ):
            self._recalled = None

    def running(self, now: float) -> Running | None:
        """The item it is in, at the monotonic time `now`; None between items."""
        begun = self.slot.begun()
        if begun is None or not self.parts:
            return None
        part = self.parts[0]
        if begun.part != part.number or not part.done <= begun.place < len(part.entries):
            return None
        bundle, item = part.entries[begun.place]
        return Running(bundle, item, bundle.specs[item.spec], now - begun.at, begun)

    def started(self, running: Running, now: float, clock: Callable[[], float]) -> Report | None:
        """A STARTED report, once, for an item that runs long and has not said so itself."""
        key = running.begun.part, running.begun.place
        if running.seconds < LONG or key == self._said:
            return None
        self._said = key
        if running.spec.track_started or running.spec.max_crashes == 0:
            return None
        item = running.item
        at = clock() - (now - running.begun.at)
        return Report(item.run, item.idx, item.attempt, ReportKind.STARTED, at, id=item.id)

    def recall(self, now: float) -> None:
        """Ask for everything back that has not begun. Repeating: does nothing more."""
        if not self.parts:
            return
        self.slot.recall(self.parts[-1].number)
        begun = self.slot.begun()
        key = (begun.part, begun.place) if begun is not None else (0, 0)
        if key != self._recalled:
            self._recalled, self._recalled_at = key, now

    @property
    def is_recalled(self) -> bool:
        """Whether it was asked for what it has and has not answered yet."""
        return self._recalled is not None

    def has_waiting(self, running: Running) -> bool:
        """Whether items wait behind the one that runs and nobody took them yet."""
        head = self.parts[0]
        if running.begun.place + 1 < head.cut:
            return True
        return any(part.cut > 0 for part in list(self.parts)[1:])

    def take_back(self, running: Running, now: float) -> list[Entry]:
        """Take items behind the one that runs, once the hand is sure not to begin them.

        The hand writes the item it begins and then reads the recall. If it names the same item
        still some time after the recall, it will read the recall before it begins another.
        """
        key = running.begun.part, running.begun.place
        if self._recalled != key or now - self._recalled_at < SETTLED:
            return []
        taken: list[Entry] = []
        limit = self.slot.recalled()
        for place, part in enumerate(self.parts):
            if part.number > limit:
                break
            first = running.begun.place + 1 if place == 0 else 0
            taken += part.entries[first : part.cut]
            part.cut = min(part.cut, first)
        return taken

    def lost(self) -> tuple[Entry | None, Begun | None, list[Entry]]:
        """Sort what a dead hand had: the item it died in, and what is to be run elsewhere."""
        begun = self.slot.begun()
        culprit: Entry | None = None
        rest: list[Entry] = []
        for place, part in enumerate(self.parts):
            named = place == 0 and begun is not None and begun.part == part.number
            if named and begun is not None and part.done <= begun.place < len(part.entries):
                culprit = part.entries[begun.place]
            rest += [entry for entry in part.entries[part.done : part.cut] if entry is not culprit]
        return culprit, begun if culprit is not None else None, rest
