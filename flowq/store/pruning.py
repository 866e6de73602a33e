"""Retention: removing runs that ended long ago, in pages, so that nobody waits for it."""

from __future__ import annotations

from typing import Any

from flowq.store.queries import RUN_TABLES
from flowq.store.reading import Reading

#: Nodes whose rows one transaction removes at most.
PAGE = 2000
#: Payloads younger than this (seconds) are left: what refers to them may be about to commit.
_YOUNG = 60.0
#: Tables that hold a row or more for each node, and the column that pages go by.
_BY_NODE = ("log", "result", "timer", "edge", "node")


class Pruning(Reading):
    """Removes runs and what belonged to them."""

    def prune_due(self, before: float) -> bool:
        """Whether a run may be old enough to remove; costs two look-ups."""
        return self.one(self.sql.prune_due, (before,)) is not None

    def prunable(self, before: float, limit: int = 1_000_000) -> list[int]:
        """Keys of runs that had ended by an epoch time, oldest first."""
        return [int(row[0]) for row in self.rows(self.sql.prune_pick, (before, limit))]

    def prune(self, before: float, limit: int = 1_000_000) -> int:
        """Remove at most `limit` runs that had ended by an epoch time; returns how many.

        With the last of them go payloads that nothing refers to any more, and queues whose lane
        is gone. A run with many nodes takes several transactions; it is listed until the last
        one. A second call finds what is left.
        """
        picked = self.prunable(before, limit)
        for run_id in picked:
            self._remove(run_id)
        if len(picked) == limit:
            return limit
        sql = self.sql
        orphans = (min(before, self.now() - _YOUNG), b"r", b"r")
        self.write(lambda cursor: cursor.execute(sql.orphans, orphans))
        self.write(lambda cursor: cursor.execute(sql.queue_orphans))
        return len(picked)

    def _remove(self, run_id: int) -> None:
        head = self.one(self.sql.run_head, (run_id,))
        if head is None:
            return
        for low in range(0, int(head[5]), PAGE) if head[5] > PAGE else ():
            self._remove_page(run_id, low)
        sql = self.sql
        statements = [getattr(sql, f"prune_{name}") for name in (*RUN_TABLES, "tag")]

        def rest(cursor: Any) -> None:
            for statement in statements:
                cursor.execute(statement, (run_id,))
            cursor.execute(sql.prune_run, (run_id,))

        self.write(rest)

    def _remove_page(self, run_id: int, low: int) -> None:
        """Rows of `PAGE` nodes, and as many lines of the story again."""
        sql = self.sql

        def page(cursor: Any) -> None:
            for name in _BY_NODE:
                cursor.execute(getattr(sql, f"page_{name}"), (run_id, low, low + PAGE - 1))
            span = 2 * PAGE
            first = low * 2
            cursor.execute(sql.page_transition, (run_id, first, first + span - 1))

        self.write(page)
