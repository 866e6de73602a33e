"""What this process knows of its runs without a look at the store.

Whoever submits and waits would else ask the store five times for what has just passed through his
own hands. What is kept never changes: where the result node of a run is, and the value of one that
succeeded.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from flowq.core.graph import Graph, Kind
from flowq.core.ids import node_id_of
from flowq.core.states import State

if TYPE_CHECKING:
    from flowq.coordinator.view import RunView

#: Runs and values remembered; a value is small, or it is not kept.
_RUNS, _VALUES, _BYTES = 100_000, 10_000, 1024

Place = tuple[int, int]


class Known:
    """Runs submitted by this process and advanced in it. Safe from any thread."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, Place] = OrderedDict()
        self._values: OrderedDict[Place, bytes] = OrderedDict()
        self._over: OrderedDict[int, None] = OrderedDict()

    def admitted(self, run_id: int, uid: str, graph: Graph) -> None:
        """Note a run that was stored, and that this process advances."""
        index = graph.results[0]
        self._places[node_id_of(uid, index)] = (run_id, index)
        if len(self._places) > _RUNS:
            self._places.popitem(last=False)

    def ended(self, view: RunView) -> None:
        """Note the end of a run, after its commit."""
        index = view.results[0]
        self._over[view.run_id] = None
        if len(self._over) > _RUNS:
            self._over.popitem(last=False)
        frame = view.frames.get(index)
        if frame is None or len(frame) > _BYTES or frame[:1] in (b"r", b"l"):
            return
        if view.states[index] is State.SUCCESS and view.kind[index] == Kind.TASK:
            self._values[view.run_id, index] = frame
            if len(self._values) > _VALUES:
                self._values.popitem(last=False)

    def place(self, task_id: str) -> Place | None:
        """Run and index of a result node; None if the store has to be asked."""
        return self._places.get(task_id)

    def value(self, place: Place) -> bytes | None:
        """Frame of a result node that succeeded; None if the store has to be asked."""
        return self._values.get(place)

    def is_under_way(self, place: Place) -> bool:
        """Whether a result node's run, of `place`, has not come to its first end yet."""
        return place[0] not in self._over
