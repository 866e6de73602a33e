"""Values and errors of nodes as frames: from a view where it has them, else from the store.

What a batch has decided and not committed yet is in the view only, so that is asked first. The
same by the store alone is `backends.recorded`.
"""

from __future__ import annotations

from flowq.backends.recorded import Recorded, chord_error
from flowq.coordinator.view import RunView
from flowq.core.graph import Bind, Kind, On
from flowq.core.ids import node_id
from flowq.core.states import State
from flowq.errors import TaskRevokedError, TaskSkipped
from flowq.payload import NONE, decode_error, encode_error, encode_list
from flowq.store import Store


class Values:
    """Reads what nodes gave.

    Args:
        store: Where committed results and errors are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recorded = Recorded(store)

    def value(self, view: RunView, index: int) -> bytes:
        """Value of a node that succeeded: from memory, put together, or from the store."""
        frame = view.frames.get(index)
        if frame is not None:
            return frame
        if view.kind[index] == Kind.JOIN:
            return self._join(view, index)
        if view.kind[index] == Kind.PASS:
            for edge in reversed(view.in_edges(index)):
                if edge.on == On.ALWAYS:
                    return self.value(view, edge.parent)
        return self._recorded.value(view.run_id, index) or NONE

    def _join(self, view: RunView, index: int) -> bytes:
        members = [edge.parent for edge in view.in_edges(index) if edge.bind == Bind.ITEM]
        if view.need[index] != len(members):  # what was there when it fired is kept
            kept = self._store.one(self._store.sql.result_get, (view.run_id, index))
            if kept is not None:
                return self._recorded.whole(bytes(kept[0]))
        always = view.need[index] == -1
        missing = sum(1 for member in members if member not in view.frames)
        if missing > 16:
            self._load(view, index)
        frames = []
        for member in members:
            if view.states[member] is State.SUCCESS:
                frames.append(self.value(view, member))
            elif always:
                frames.append(self.error(view, member))
        return encode_list(frames)

    def _load(self, view: RunView, index: int) -> None:
        """Read all of a join's items in one query."""
        rows = self._store.rows(self._store.sql.result_items, (view.run_id, index))
        for parent, _, frame, _, _ in rows:
            if frame is not None:
                view.frames.setdefault(parent, bytes(frame))

    def error(self, view: RunView, index: int, shown: bool = False) -> bytes:
        """Error of a node that did not succeed, also if that is not committed yet."""
        frame = view.errors.get(index)
        if frame is not None:
            return frame
        state, cause = view.states[index], view.cause[index]
        if state is State.FAILURE and view.kind[index] == Kind.JOIN:
            body = view.body_of(index) if shown else None
            return self._chord_error(view, cause, index if body is None else body)
        if state is State.FAILURE and cause in (index, -1):
            return self._recorded.error(view.run_id, index)
        if cause not in (-1, index):
            return self.error(view, cause)
        name = node_id(view.uid, index)
        if state is State.REVOKED:
            return encode_error(TaskRevokedError("revoked"), node_id=name)
        return encode_error(TaskSkipped("skipped: its task raised Ignore"), node_id=name)

    def _chord_error(self, view: RunView, cause: int, shown: int) -> bytes:
        info = decode_error(self.error(view, cause)) if cause >= 0 else None
        return chord_error(info, node_id(view.uid, shown))
