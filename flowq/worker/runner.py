"""Work through one part of a bundle: how a pool child and a pool thread spend their time.

A part is never a unit of failure. Each item is named in the slot before it begins; results that
wait are sent before another item makes them wait longer; after 50 ms, or when the parent recalls
the part, what has not begun is handed back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from flowq.broker.codec import Report, ReportKind
from flowq.worker.capture import LIMIT, Capture, Chunk

if TYPE_CHECKING:
    from flowq.broker.codec import Bundle, Item
    from flowq.worker.execution import Executor
    from flowq.worker.slots import Slot

#: A part is worked at for that long (seconds), then the rest is handed back.
TURN: Final = 0.050
#: Results that took longer than this together (seconds) are sent before another item begins.
PATIENCE: Final = 0.005


class Sink(Protocol):
    """Where a runner's news go; both calls may come from threads that a task started."""

    def send(self, reports: list[Report]) -> None:
        """Pass reports on, in order; the list is the receiver's afterwards."""

    def hand_back(self, part: int, index: int) -> None:
        """Say that items from `index` on of a part were not begun and will not be."""


class Runner:
    """Runs parts, one after the other."""

    def __init__(
        self,
        executor: Executor,
        slot: Slot,
        sink: Sink,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        spent: Callable[[], bool] | None = None,
        live: bool = False,
        kept: int = LIMIT,
    ) -> None:
        """`spent` is asked after each item whether it was the last one; what follows goes back.

        With `live`, what bare tasks write goes to the log at once and not into their reports. Of
        what others write, `kept` characters are kept; with 0 it goes where it would have gone.
        """
        self._executor = executor
        self._spent, self._live, self._kept = spent, live, kept
        self._slot = slot
        self._sink = sink
        self._now = monotonic
        self._item: Item | None = None
        #: What the item that runs writes.
        self.capture = Capture(self._send_log, kept)
        self.capture.passing = not kept

    def run(self, part: int, bundles: list[Bundle]) -> None:
        """Run a part: everything is reported or handed back when this returns."""
        slot, capture, now = self._slot, self.capture, self._now
        execute, spent = self._executor.run, self._spent
        begun = oldest = now()
        deadline = begun + TURN
        reports: list[Report] = []
        index = 0
        for bundle in bundles:
            specs = bundle.specs
            if self._live:
                capture.passing = not (bundle.runs and self._kept)
            for item in bundle.items:
                if reports and begun - oldest > PATIENCE:
                    self._sink.send(reports)
                    reports = []
                slot.begin(part, index, begun)
                # Reading after writing: the parent may take an item back only when it sees, some
                # time after it asked for it, that this slot still names an earlier one.
                if slot.recalled() >= part or (index and begun > deadline):
                    self._leave(part, index, reports)
                    return
                spec = specs[item.spec]
                if spec.track_started or spec.max_crashes == 0:
                    reports.append(_started(item))
                    self._sink.send(reports)
                    reports = []
                self._item = item
                capture.begin(begun)
                report = execute(bundle, item, spec)
                if capture.passing:
                    capture.end_line()
                elif capture.chunks:
                    report.log = capture.take()
                if not reports:
                    oldest = begun
                begun = now()
                reports.append(report)
                index += 1
                if spent is not None and spent():
                    self._leave(part, index, reports)
                    return
        if reports:
            self._sink.send(reports)
        slot.idle()  # last: a child that dies here has reported what the slot names

    def _leave(self, part: int, index: int, reports: list[Report]) -> None:
        if reports:
            self._sink.send(reports)
        self._slot.idle()
        self._sink.hand_back(part, index)

    def _send_log(self, chunks: list[Chunk]) -> None:
        item = self._item
        if item is not None:
            report = Report(item.run, item.idx, item.attempt, ReportKind.LOG, 0.0, 0.0, id=item.id)
            report.log = chunks
            self._sink.send([report])


def _started(item: Item) -> Report:
    at = time.time()
    return Report(item.run, item.idx, item.attempt, ReportKind.STARTED, at, 0.0, id=item.id)
