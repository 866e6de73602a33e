"""Writing a new run from the rows of another, in one transaction."""

from __future__ import annotations

from typing import Any

import msgspec

from flowq.core.states import State
from flowq.store.store import Store


class Copy(msgspec.Struct):
    """What a new run takes over from an old one."""

    #: How many nodes are copied: the first ones, those of the submission.
    count: int
    #: Nodes that keep SUCCESS and their result.
    kept: set[int]
    #: By node: in-edges not resolved, those resolved as wanted, and how many fire it.
    unmet: list[int]
    hits: list[int]
    needs: list[int]
    #: Results of kept nodes that have no row of their own in the old run.
    values: dict[int, bytes]


def copy_run(
    store: Store, old: int, copy: Copy, uid: str, lane_id: int, code_hash: str | None
) -> int:
    """Write the new run, with the wake-up row for its coordinator; returns its key."""
    try:
        return store.write(  # type: ignore[no-any-return]
            lambda cursor: _copy(store, cursor, old, copy, uid, lane_id, code_hash)
        )
    except Exception:
        store.forget_queues()
        raise


def _copy(
    store: Store,
    cursor: Any,
    old: int,
    copy: Copy,
    uid: str,
    lane_id: int,
    code_hash: str | None,
) -> int:
    sql, count = store.sql, copy.count
    left = count - len(copy.kept)
    cursor.execute(sql.rerun_insert, (uid, lane_id, count, left, store.now(), code_hash, old))
    new = int(cursor.fetchone()[0])
    cursor.execute(sql.copy_tags, (new, old))
    cursor.execute(sql.copy_specs, (new, old, count))
    cursor.execute(sql.copy_nodes, (new, old, count))
    cursor.execute(sql.copy_edges, (new, old, count, count))
    cursor.execute(sql.spec_queues, (new,))
    names = {str(row[0]) for row in cursor.fetchall()}
    for name, key in store.queue_ids(lane_id, names, cursor).items():
        if name in names:
            cursor.execute(sql.node_queue, (key, new, name))
    kept = sorted(copy.kept)
    cursor.executemany(
        sql.node_set,
        [
            (State.SUCCESS if i in copy.kept else State.PENDING, copy.unmet[i], copy.hits[i])
            + (copy.needs[i], new, i)
            for i in range(count)
        ],
    )
    if kept:
        cursor.executemany(sql.copy_result, [(new, old, i) for i in kept])
    values = copy.values.items()
    if values:
        cursor.executemany(sql.result_put, [(new, i, frame, len(frame)) for i, frame in values])
    cursor.execute(sql.inbox_insert, (lane_id, new, "submitted", None))
    return new
