"""Telling who waits that nobody advances what they wait for."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from flowq.app.lanes import FLEET, is_alive, lane_of
from flowq.core.states import RUN_TERMINAL
from flowq.store.members import living

if TYPE_CHECKING:
    from flowq.store import Store

log = logging.getLogger("flowq")

#: Who waits that long (seconds) is told; shorter than a coroutine's slice of a wait.
_PATIENCE: Final = 0.4
#: It is looked again that often, for the process may end while somebody waits.
_AGAIN: Final = 2.0


class Stranded:
    """Says once for each run, as a warning, that it stands still.

    Nothing is taken over: the run may be meant for another program, or for another time.
    """

    def __init__(self) -> None:
        self._said: set[int] = set()

    def first_look(self) -> float:
        """When to look first, on the monotonic clock, for a wait that begins now."""
        return time.monotonic() + _PATIENCE

    def look(self, store: Store, run_id: int) -> float:
        """Warn if nobody advances a run; gives when to look again."""
        if run_id not in self._said:
            head = store.one(store.sql.run_head, (run_id,))
            why = None if head is None or head[3] in RUN_TERMINAL else _why(store, int(head[2]))
            if why is not None:
                self._said.add(run_id)
                log.warning(why, store.run_by_id(run_id).uid)
        return time.monotonic() + _AGAIN


def _why(store: Store, lane_id: int) -> str | None:
    lane = lane_of(store, lane_id)
    if lane is not None and lane.kind == FLEET:
        if living(store, "coordinator"):
            return None
        return (
            "run %s waits: no coordinator lives at its store; start one with flowq coordinator, "
            "or flowq worker --with-coordinator"
        )
    if lane is not None and is_alive(lane):
        return None
    return (
        "nobody advances the run %s: the process that did has ended; go on with it by flowq "
        "resume, or by its method resume()"
    )
