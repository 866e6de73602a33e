"""What must hold after every committed transaction, read by plain SQL."""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import Any

import msgspec

from flowq.core.graph import Kind, On
from flowq.core.states import RUN_TERMINAL, TERMINAL, TRANSITIONS, Event, State

STATES = {str(state): state for state in State}
EVENTS = {str(event): event for event in Event}
ACTIVE = (State.QUEUED, State.STARTED)
#: Arrows of TRANSITIONS taken in all simulations of this process.
ARROWS: Counter[tuple[State, Event]] = Counter()


class Violation(BaseException):
    """Something that must hold in every committed state does not. Nothing may catch it."""


class Node:
    """One node row, and what its story says of it."""

    __slots__ = (
        "args", "attempt", "cause", "crashes", "eta", "expires", "generation", "hits", "kind",
        "need", "outbox", "path", "retries", "spec", "state", "unmet",
    )  # fmt: skip


class Story:
    """What folding the history gives for one node."""

    __slots__ = ("attempt", "generation", "state", "terminal")

    def __init__(self, state: State) -> None:
        self.state, self.attempt, self.generation, self.terminal = state, 0, 0, 0


class Table:
    """One run as committed."""

    def __init__(self, run_id: int) -> None:
        self.id = run_id
        self.state, self.lane, self.generation, self.open, self.uid = "", 0, 0, 0, ""
        self.nodes: list[Node] = []
        self.ins: list[list[tuple[int, int, int, int]]] = []
        self.outs: list[list[tuple[int, int, int]]] = []
        self.stories: list[Story] = []
        self.seq = 0
        self.ended = False

    def tail(self, index: int) -> int:
        """Node whose outcome a replaced node takes over."""
        return max((e for e in self.ins[index] if e[2] == On.ALWAYS), key=lambda e: e[1])[0]

    def waits_for(self, index: int) -> list[tuple[int, int]]:
        """(parent, on) of the in-edges that count."""
        if self.nodes[index].kind == Kind.PASS:
            return [(self.tail(index), On.ALWAYS)]
        return [(edge[0], edge[2]) for edge in self.ins[index]]

    def count(self, index: int) -> tuple[int, int]:
        """(unmet, hits) by a recount of the edges."""
        unmet = hits = 0
        for parent, on in self.waits_for(index):
            state = self.nodes[parent].state
            if state not in TERMINAL:
                unmet += 1
            elif on == On.ALWAYS or state is (State.SUCCESS, State.FAILURE)[on]:
                hits += 1
        return unmet, hits

    def cause_path(self, index: int) -> str | None:
        cause = self.nodes[index].cause
        return None if cause < 0 else self.nodes[cause].path


class Checker:
    """Reads what was committed and raises `Violation`."""

    def __init__(self, path: str) -> None:
        self._sql = sqlite3.connect(path, isolation_level=None)
        self.tables: dict[int, Table] = {}
        self.news = 0
        self.checks = 0

    def rows(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        return self._sql.execute(query, params).fetchall()

    def execute(self, query: str, *params: Any) -> None:
        self._sql.execute(query, params)

    def close(self) -> None:
        self._sql.close()

    def check(self) -> None:
        """Check every run; `news` tells how many lines of story are new."""
        self.checks += 1
        self.news = 0
        heads = self.rows(
            "SELECT id, state, lane_id, generation, open_count, node_count, uid FROM flowq_run"
        )
        missing = self.tables.keys() - {row[0] for row in heads}
        _must(not missing, "S1", f"runs {missing} are gone")
        outbox = self._outbox()
        timers: dict[int, set[tuple[int, str]]] = {}
        for run_id, index, kind in self.rows("SELECT run_id, idx, kind FROM flowq_timer"):
            timers.setdefault(run_id, set()).add((index, kind))
        inbox: dict[int, set[str]] = {}
        for run_id, kind in self.rows("SELECT run_id, kind FROM flowq_inbox"):
            inbox.setdefault(run_id, set()).add(kind)
        for row in heads:
            self._check_run(row, outbox, timers.get(row[0], set()), inbox.get(row[0], set()))
        _must(not outbox, "S10", f"outbox rows about nodes that are not out: {outbox}")

    def _outbox(self) -> dict[tuple[int, int, int], tuple[int, int]]:
        """(run, idx, attempt) -> (lane, outbox id), for attempts that are still out."""
        found: dict[tuple[int, int, int], tuple[int, int]] = {}
        active = {
            (run_id, index, attempt): key
            for run_id, index, attempt, key in self.rows(
                "SELECT run_id, idx, attempt, outbox_id FROM flowq_node"
                " WHERE state IN ('QUEUED', 'STARTED')"
            )
        }
        for lane, key, items, remaining in self.rows(
            "SELECT lane_id, id, items, remaining FROM flowq_outbox"
        ):
            out = 0
            for run_id, index, attempt in msgspec.msgpack.decode(items):
                if active.get((run_id, index, attempt)) == key:
                    known = found.setdefault((run_id, index, attempt), (lane, key))
                    _must(known == (lane, key), "S10", f"{run_id}/{index} is in two messages")
                    out += 1
            _must(out == remaining, "S10", f"outbox {lane}/{key}: {remaining} left, {out} are out")
        return found

    def _check_run(
        self, row: tuple[Any, ...], outbox: dict[Any, Any], timers: set[Any], inbox: set[str]
    ) -> None:
        table = self.tables.get(row[0])
        if table is None:
            table = self.tables[row[0]] = Table(row[0])
            table.uid = row[6]
        table.state, table.lane, table.generation, table.open = row[1:5]
        self._load(table)
        _must(len(table.nodes) == row[5], "S16", f"run {row[0]}: node_count {row[5]}")
        self._fold(table)
        results = {r[0] for r in self.rows("SELECT idx FROM flowq_result WHERE run_id=?", row[0])}
        alive = 0
        for index, node in enumerate(table.nodes):
            self._check_node(table, index, node, outbox, timers, inbox)
            alive += node.state not in TERMINAL
            if index in results:
                _must(node.state is State.SUCCESS, "S4", f"{_at(table, index)}: a result")
            elif node.state is State.SUCCESS and node.kind == Kind.TASK:
                raise Violation(f"S4: {_at(table, index)} has no result")
        _must(alive == table.open, "S16", f"run {row[0]}: open_count {table.open}, not {alive}")
        ended = table.state in RUN_TERMINAL
        _must(ended == (alive == 0), "S16", f"run {row[0]} is {table.state}, {alive} nodes alive")

    def _load(self, table: Table) -> None:
        rows = self.rows(
            "SELECT state, kind, generation, attempt, retries, crashes, unmet, hits, need, cause,"
            " outbox_id, eta, expires, path, spec_no, args FROM flowq_node WHERE run_id=?"
            " ORDER BY idx",
            table.id,
        )
        grown = len(rows) != len(table.nodes)
        for index, row in enumerate(rows):
            if index == len(table.nodes):
                table.nodes.append(Node())
            node = table.nodes[index]
            node.state = STATES[row[0]]
            (node.kind, node.generation, node.attempt, node.retries, node.crashes, node.unmet,
             node.hits, node.need, node.cause, node.outbox, node.eta, node.expires, node.path,
             node.spec, node.args) = row[1:]  # fmt: skip
        if not grown:
            return
        table.ins = [[] for _ in rows]
        table.outs = [[] for _ in rows]
        for parent, child, slot, on, bind in self.rows(
            "SELECT parent, child, slot, on_end, bind FROM flowq_edge WHERE run_id=?"
            " ORDER BY child, slot",
            table.id,
        ):
            table.ins[child].append((parent, slot, on, bind))
            table.outs[parent].append((child, on, bind))
        for index in range(len(table.stories), len(rows)):
            node = table.nodes[index]
            root = (
                not table.ins[index]
                and node.kind != Kind.JOIN
                and not node.eta
                and not node.expires
            )
            table.stories.append(Story(State.READY if root else State.PENDING))

    def _fold(self, table: Table) -> None:
        """S16, S3, S4: the story, replayed through the table of transitions, gives the rows."""
        for seq, index, generation, attempt, before, after, cause in self.rows(
            "SELECT seq, idx, generation, attempt, before, after, cause FROM flowq_transition"
            " WHERE run_id=? AND seq>? ORDER BY seq",
            table.id, table.seq,
        ):  # fmt: skip
            _must(seq == table.seq + 1, "S16", f"run {table.id}: line {table.seq + 1} is missing")
            table.seq = seq
            self.news += 1
            story = table.stories[index]
            where = f"{_at(table, index)} line {seq} ({cause})"
            if cause.startswith("discarded:"):
                _must(before == after == story.state, "S5", f"{where}: changed by a late report")
                continue
            _must(story.state == before, "S16", f"{where}: from {before}, was {story.state}")
            for name in cause.split(","):
                self._step(story, EVENTS[name], STATES[after], where)
            _must(story.state == after, "S16", f"{where}: folds to {story.state}, not {after}")
            story.generation = generation
            _must(story.attempt == attempt, "S5", f"{where}: attempt {attempt}")
        for index, (story, node) in enumerate(zip(table.stories, table.nodes, strict=True)):
            told = (story.state, story.attempt, story.generation)
            is_so = (node.state, node.attempt, node.generation)
            _must(told == is_so, "S16", f"{_at(table, index)}: story {told}, row {is_so}")

    def _step(self, story: Story, event: Event, last: State, where: str) -> None:
        after = TRANSITIONS.get((story.state, event))
        if event is Event.LOST and last is State.FAILURE:  # one crash too many
            after = State.FAILURE
        if after is None:
            raise Violation(f"S3: {where}: {event} in {story.state}")
        ARROWS[story.state, event] += 1
        if event is Event.DISPATCHED:
            story.attempt += 1
        story.state = after
        if event is Event.REOPENED:
            story.terminal = 0
        if after in TERMINAL:
            story.terminal += 1
            _must(story.terminal == 1, "S4", f"{where}: ends twice")

    def _check_node(
        self, table: Table, index: int, node: Node, outbox: Any, timers: set[Any], inbox: set[str]
    ) -> None:
        state = node.state
        if state in TERMINAL:
            return
        unmet, hits = table.count(index)
        where = _at(table, index)
        if state is State.PENDING:
            _must(
                (unmet, hits) == (node.unmet, node.hits), "S9",
                f"{where}: unmet, hits {node.unmet, node.hits}, recounted {unmet, hits}",
            )  # fmt: skip
            waits = unmet > 0 and not (0 <= node.need <= hits)
            waits = waits or (index, "eta") in timers or bool(inbox & {"submitted", "adopt"})
            _must(waits, "S11", f"{where} waits for nothing")
        elif state is State.RETRY:
            _must((index, "retry") in timers, "S11", f"{where}: no timer")
        elif node.kind != Kind.TASK:
            raise Violation(f"S7: {where} is {state}")
        else:
            fired = hits >= node.need if node.need >= 0 else unmet == 0
            _must(fired, "S7", f"{where} is {state}, {hits} of {node.need} there")
        if state in ACTIVE:
            found = outbox.pop((table.id, index, node.attempt), None)
            moved = found is None and "adopt" in inbox
            _must(
                moved or found == (table.lane, node.outbox), "S10",
                f"{where} is {state}, lane {table.lane}, outbox {node.outbox}: row {found}",
            )  # fmt: skip
        _must(node.crashes <= 5, "S12", f"{where}: {node.crashes} crashes")
        _must(node.attempt < 300, "S12", f"{where}: {node.attempt} attempts")


def _at(table: Table, index: int) -> str:
    return f"run {table.id} node {index} {table.nodes[index].path!r}"


def _must(holds: bool, what: str, text: str) -> None:
    if not holds:
        raise Violation(f"{what}: {text}")
