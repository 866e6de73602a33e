"""What people and views read of runs. Nothing here writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from flowq.core.ids import is_node_id, split_node_id
from flowq.errors import UnknownId
from flowq.store.access import Access
from flowq.store.rows import (
    BIND_NAMES,
    KIND_NAMES,
    ON_NAMES,
    EdgeRow,
    LogRow,
    NodeRow,
    RunRow,
    TransitionRow,
)

_SHORTEST_PREFIX = 4


class Reading(Access):
    """Reads of runs, nodes, edges, stories and logs."""

    @property
    def _latest(self) -> str:
        """Orders runs, the latest first; public ids begin with the time.

        Where every process has reserved keys of its own, keys are in no order of time.
        """
        return "uid DESC" if self.database.reserves_ids else "id DESC"

    def find_run(self, ref: str) -> RunRow:
        """Find a run by id, unique prefix, ``@last``, ``@last:NAME`` or name (its latest run).

        Raises:
            UnknownId: No run, or several, answer to it.
        """
        if ref == "@last" or ref.startswith("@last:"):
            name = ref.partition(":")[2] or None
            found = self.list_runs(name=name, limit=1)
            if not found:
                raise UnknownId("there is no run in this store yet: start one with flowq run FILE")
            return found[0]
        if is_node_id(ref):
            ref = str(split_node_id(ref)[0])
        for where, value in (("uid =", ref), ("name =", ref)):
            found = self._runs(f"WHERE {where} :value ORDER BY {self._latest} LIMIT 1", (value,))
            if found:
                return found[0]
        if len(ref) >= _SHORTEST_PREFIX and not set(ref) & set("%_"):
            found = self._runs(
                f"WHERE uid LIKE :value ORDER BY {self._latest} LIMIT 3", (ref.lower() + "%",)
            )
            if len(found) == 1:
                return found[0]
            if found:
                ids = ", ".join(row.uid for row in found)
                raise UnknownId(f"{ref!r} fits several runs ({ids}, ...): give more of the id")
        raise UnknownId(f"there is no run {ref!r} in this store: flowq list shows what there is")

    def run_by_id(self, run_id: int) -> RunRow:
        """One run by its integer key.

        Raises:
            UnknownId: It is not there (any more).
        """
        found = self._runs("WHERE id = :value", (run_id,))
        if not found:
            raise UnknownId(f"run number {run_id} is not in this store (pruned?)")
        return found[0]

    def list_runs(
        self,
        states: Iterable[str] = (),
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        since: float | None = None,
        limit: int = 50,
    ) -> list[RunRow]:
        """Runs, latest first. `name` may hold ``*`` and ``?``; `since` is an epoch time."""
        clauses: list[str] = []
        values: list[Any] = []
        wanted = list(states)
        if wanted:
            clauses.append(f"state IN ({', '.join(':state' for _ in wanted)})")
            values += wanted
        if name is not None:
            pattern = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            clauses.append("name LIKE :name ESCAPE '\\'")
            values.append(pattern.replace("*", "%").replace("?", "_"))
        if since is not None:
            clauses.append("submitted_at >= :since")
            values.append(since)
        for key, value in (tags or {}).items():
            clauses.append(
                "EXISTS (SELECT 1 FROM flowq_tag t WHERE t.run_id = flowq_run.id"
                " AND t.key = :key AND t.value = :value)"
            )
            values += [key, value]
        where = f"WHERE {' AND '.join(clauses)} " if clauses else ""
        return self._runs(f"{where}ORDER BY {self._latest} LIMIT :limit", (*values, limit))

    def _runs(self, tail: str, params: tuple[Any, ...]) -> list[RunRow]:
        statement = self.prepared(f"{self.sql.run_columns} {tail}")
        found = []
        for row in self.rows(statement, params):
            fields = list(row)
            fields[11] = json.loads(fields[11])
            tags = dict(self.rows(self.sql.tags, (row[0],)))
            found.append(RunRow(*[*fields, tags]))
        return found

    def nodes(self, run_id: int) -> list[NodeRow]:
        """All nodes of a run in order, with times and the last error of each."""
        times = {row[0]: row[1:] for row in self.rows(self.sql.times, (run_id,))}
        details = {
            row[0]: row[1] for row in self.rows(self.sql.details, (run_id,)) if row[2] != "READY"
        }
        found = []
        for row in self.rows(self.sql.nodes, (run_id,)):
            fields = list(row)
            fields[3] = KIND_NAMES[row[3]]
            fields[4] = row[4] or ""
            fields[11] = row[11] if row[11] >= 0 else None
            fields[12] = row[12] or ""
            fields[13] = json.loads(row[13]) if row[13] else None
            began, ended = times.get(row[0], (None, None))
            detail = details.get(row[0])
            error = one_line(bytes(detail)) if detail and row[5] in ("FAILURE", "RETRY") else None
            found.append(NodeRow(*[*fields, began, ended, error]))
        return found

    def edges(self, run_id: int) -> list[EdgeRow]:
        """All edges of a run, by child and slot."""
        return [
            EdgeRow(row[0], row[1], row[2], ON_NAMES[row[3]], BIND_NAMES[row[4]])
            for row in self.rows(self.sql.edges, (run_id,))
        ]

    def counts(self, run_id: int) -> dict[str, int]:
        """How many nodes are in each state that occurs."""
        return {str(state): int(n) for state, n in self.rows(self.sql.counts, (run_id,))}

    def transitions(self, run_id: int, after: int = 0, limit: int = 10_000) -> list[TransitionRow]:
        """The run's story in commit order, from the line behind `after`."""
        rows = self.rows(self.sql.transitions, (run_id, after, limit))
        return [TransitionRow(*row) for row in rows]

    def logs(self, run_id: int, idx: int | None = None, attempt: int | None = None) -> list[LogRow]:
        """What tasks wrote, in the order of time."""
        found = [LogRow(*row) for row in self.rows(self.sql.logs, (run_id,))]
        return [
            row
            for row in found
            if (idx is None or row.idx == idx) and (attempt is None or row.attempt == attempt)
        ]

    def find_node(self, run_id: int, ref: str) -> int:
        """Index of a node by name, node id, number or chosen task id.

        Raises:
            UnknownId: The run has no such node.
        """
        row = self.one(self.sql.node_by_name, (run_id, ref))
        if row is None and is_node_id(ref):
            row = (split_node_id(ref)[1],)
        if row is None and ref.isdigit() and self.one(self.sql.node_one, (run_id, int(ref))):
            row = (int(ref),)
        if row is None:
            alias = self.one(self.sql.alias_get, (ref,))
            row = (alias[1],) if alias and alias[0] == run_id else None
        if row is None:
            raise UnknownId(f"the run has no node {ref!r}: flowq show RUN --nodes lists them")
        return int(row[0])

    def locate(self, task_id: str) -> tuple[int, int] | None:
        """(run, node) of a task id, or None if no node has it."""
        if is_node_id(task_id):
            uid, index = split_node_id(task_id)
            row = self.one(self.sql.node_by_uid, (index, str(uid)))
            return None if row is None else (int(row[0]), index)
        row = self.one(self.sql.alias_get, (task_id,))
        return (int(row[0]), int(row[1])) if row else None


def one_line(frame: bytes, limit: int = 200) -> str:
    """``Type: message`` out of an error frame, in one line."""
    try:
        fields = msgspec.msgpack.decode(frame[1:])
        text = f"{fields[0]}: {fields[2]}" if fields[2] else str(fields[0])
    except (msgspec.MsgspecError, IndexError, TypeError):
        return "unreadable error"
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
