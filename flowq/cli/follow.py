"""A run as the displays see it: read once, then followed line by line of its story.

Counts of groups are kept up with each line, so that a look at a run of 10,000 nodes costs what
has changed since the last one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from flowq.core.states import TERMINAL, State
from flowq.render import tree
from flowq.store import Store
from flowq.store.reading import one_line
from flowq.store.rows import LogRow, TransitionRow

#: Lines of the story, and pieces of output, read at a time.
_PAGE = 10_000
_OUTPUT = 500
_WORTH_A_LOOK = frozenset({"STARTED", "RETRY", "FAILURE"})


class Named(NamedTuple):
    """What the tree is grown from."""

    id: str
    name: str
    path: str
    task: str


class Tally:
    """Counts of one group's tasks, and which of them are worth a look."""

    __slots__ = ("active", "counts", "label", "shown", "total")

    def __init__(self, label: str) -> None:
        self.label = label
        self.total = 0
        self.counts: dict[str, int] = {}
        #: State -> indexes of nodes in it, in the order in which they entered it.
        self.active: dict[str, dict[int, None]] = {}
        #: Percent of the last milestone that was told.
        self.shown = 0

    @property
    def done(self) -> int:
        """How many have ended."""
        return sum(n for state, n in self.counts.items() if state in TERMINAL)

    def move(self, idx: int, before: str, after: str) -> None:
        """One task changed its state; "" is before it was known."""
        if before:
            self.counts[before] -= 1
            if before in self.active:
                self.active[before].pop(idx, None)
        else:
            self.total += 1
        self.counts[after] = self.counts.get(after, 0) + 1
        if after in _WORTH_A_LOOK:
            self.active.setdefault(after, {})[idx] = None


class Progress:
    """One run, followed.

    Args:
        store: Where it is.
        run_id: Its key.
        replay: Begin with the story's first line; else with what is the case now.
    """

    def __init__(self, store: Store, run_id: int, *, replay: bool = False) -> None:
        self._store, self.run_id = store, run_id
        self.row = store.run_by_id(run_id)
        self.names: list[str] = []
        self.kinds: list[int] = []
        self.states: list[str] = []
        self.since: dict[int, float] = {}
        #: Seconds that a node's last attempt took, where the story was followed.
        self.took: dict[int, float] = {}
        self._named: list[Named] = []
        self._errors: dict[int, tuple[str, str]] = {}
        self.whole = Tally("")
        #: Tallies of groups by the group's id; of a task: those it belongs to, outermost first.
        self.tallies: dict[str, Tally] = {}
        self.groups_of: dict[int, list[Tally]] = {}
        self.root = tree.Group(id="root", kind="chain")
        self._seq = 0
        self._log_seq = 0
        self._replay = replay
        if not replay:
            last = store.one(store.sql.view_seq, (run_id,))
            self._seq = int(last[0] or 0) if last else 0
            last = store.one(store.sql.logs_last, (run_id,))
            self._log_seq = int(last[0] or 0) if last and last[0] else 0
        self._read_nodes()

    # -- following -----------------------------------------------------------------------

    def poll(self) -> Iterator[TransitionRow]:
        """Lines of the story since the last call; the state here is as of each line."""
        while True:
            rows = self._store.transitions(self.run_id, self._seq, _PAGE)
            if rows and max(row.idx for row in rows) >= len(self.states):
                self._read_nodes()
            for row in rows:
                self._seq = row.seq
                self._move(row.idx, row.after, row.began_at or row.at)
                if row.ended_at and row.began_at:
                    self.took[row.idx] = row.ended_at - row.began_at
                yield row
            if len(rows) < _PAGE:
                break
        self.row = self._store.run_by_id(self.run_id)

    def catch_up(self) -> None:
        """`poll` for those who only want to know the state."""
        for _ in self.poll():
            pass

    def output(self) -> list[LogRow]:
        """What tasks wrote since the last call."""
        rows = self._store.rows(self._store.sql.logs_after, (self.run_id, self._log_seq, _OUTPUT))
        if rows:
            self._log_seq = rows[-1][2]
            if max(row[0] for row in rows) >= len(self.states):
                self._read_nodes()
        return [LogRow(*row) for row in rows]

    def error_of(self, idx: int) -> str:
        """The last error of a node in one line; empty if it has none."""
        state = self.states[idx]
        known = self._errors.get(idx)
        if known is None or known[0] != state:
            row = self._store.one(self._store.sql.error_get, (self.run_id, idx))
            known = self._errors[idx] = (state, one_line(bytes(row[0])) if row else "")
        return known[1]

    @property
    def seconds(self) -> float:
        """How long the run takes, or took."""
        row = self.row
        return max(
            0.0, (row.finished_at or self._store.now()) - (row.started_at or row.submitted_at)
        )

    def left(self) -> float | None:
        """A guess at the seconds left; None while there is nothing to guess from."""
        done, total = self.whole.done, self.whole.total
        if done < 5 or done * 20 < total or done >= total:
            return None
        return self.seconds / done * (total - done)

    # -- inside --------------------------------------------------------------------------

    def _read_nodes(self) -> None:
        """Read the nodes that are not known yet, and grow the tree anew."""
        first = len(self.states)
        rows = self._store.rows(self._store.sql.lean_nodes, (self.run_id, first))
        now_states = []
        for idx, name, path, kind, state, task in rows:
            self.names.append(name)
            self.kinds.append(kind)
            self.states.append("")
            self._named.append(Named(f"n{idx}", name, path, task or ""))
            now_states.append("PENDING" if self._replay else state)
        self._grow()
        for idx, state in enumerate(self.states):
            if state:
                self._count(idx, "", state)
        for offset, state in enumerate(now_states):
            self._move(first + offset, state, 0.0)

    def _grow(self) -> None:
        owners: set[str] = set()
        for node in self._named:
            parts = node.path.split("/")
            owners.update("/".join(parts[:i]) for i, part in enumerate(parts) if part == "r")
        tails = {node.id for node in self._named if node.path in owners} if owners else set()
        self.root = tree.grow(self._named, tails)
        told = {key: tally.shown for key, tally in self.tallies.items()}
        self.whole = Tally("")
        self.tallies, self.groups_of = {}, {}
        self._place(self.root, [])
        for key, shown in told.items():
            if key in self.tallies:
                self.tallies[key].shown = shown

    def _place(self, item: Any, around: list[Tally]) -> None:
        """Note for each task which groups it belongs to."""
        todo: list[tuple[Any, list[Tally]]] = [(item, around)]
        while todo:
            item, around = todo.pop()
            if isinstance(item, str):
                self.groups_of[int(item[1:])] = around
                continue
            if item.kind in ("group", "flow"):
                tally = self.tallies[item.id] = Tally(item.label)
                around = [*around, tally]
            todo += [(member, around) for member in item.members]
            if item.join:
                todo.append((item.join, around))

    def _move(self, idx: int, after: str, at: float) -> None:
        before, self.states[idx] = self.states[idx], after
        if before == after:
            return
        if at:
            self.since[idx] = at
        self._count(idx, before, after)

    def _count(self, idx: int, before: str, after: str) -> None:
        if self.kinds[idx]:
            return
        self.whole.move(idx, before, after)
        for tally in self.groups_of.get(idx, ()):
            tally.move(idx, before, after)

    def running_for(self, idx: int) -> float | None:
        """Seconds since a node entered its state; None if that is not known."""
        at = self.since.get(idx)
        if at is None and self.states[idx] == State.STARTED:
            row = self._store.one(self._store.sql.node_ended, (self.run_id, idx))
            at = self.since[idx] = float(row[0] or 0.0) if row else 0.0
        return max(0.0, time.time() - at) if at else None
