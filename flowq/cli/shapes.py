"""Runs and nodes as the objects that ``--json`` gives; their keys are part of the interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowq.cli.output import iso

if TYPE_CHECKING:
    from flowq.store import Store
    from flowq.store.rows import NodeRow, RunRow


def run_object(store: Store, row: RunRow) -> dict[str, Any]:
    """One run."""
    counts = {str(s): int(n) for s, n in store.rows(store.sql.task_counts, (row.id,))}
    before = None
    if row.rerun_of is not None:
        found = store.one(store.sql.run_head, (row.rerun_of,))
        before = found[1] if found else None
    return {
        "id": row.uid,
        "name": row.name,
        "app": row.app,
        "state": row.state,
        "title": row.title,
        "target": row.target,
        "tags": row.tags,
        "priority": row.priority,
        "generation": row.generation,
        "nodes": sum(counts.values()),
        "counts": counts,
        "submitted_at": iso(row.submitted_at),
        "started_at": iso(row.started_at),
        "finished_at": iso(row.finished_at),
        "rerun_of": before,
    }


def node_object(node: NodeRow) -> dict[str, Any]:
    """One node."""
    return {
        "node": node.idx,
        "name": node.name,
        "kind": node.kind,
        "task": node.task,
        "path": node.path,
        "state": node.state,
        "attempt": node.attempt,
        "retries": node.retries,
        "crashes": node.crashes,
        "queue": node.queue,
        "began_at": iso(node.began_at),
        "ended_at": iso(node.ended_at),
        "error": node.error,
        "cause": node.cause,
    }
