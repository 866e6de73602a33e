"""Update records as rows of the inbox, for fleets whose servers have no better place for them.

Ids commit out of order on a server, so nobody reads from an id on: a reader reads what is there,
deletes it when it is folded, and reads again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flowq.store.store import Store


def put_update(store: Store, lane_id: int, body: bytes) -> None:
    """Write a record, in a transaction of its own.

    Raises:
        StoreError: It was not written.
    """
    row = (lane_id, 0, "update", body)
    store.write(lambda cursor: cursor.execute(store.sql.inbox_insert, row))


def read_updates(
    store: Store, lanes: Iterable[int], limit: int, held: Sequence[int] = ()
) -> list[tuple[int, int, bytes]]:
    """(id, lane, record) of at most `limit` rows of these lanes, the oldest first.

    Args:
        store: The store.
        lanes: Whose.
        limit: Rows at most.
        held: Ids that are passed over.
    """
    among = ", ".join(str(int(lane)) for lane in lanes)
    if not among:
        return []
    without = f" AND id NOT IN ({', '.join(str(int(key)) for key in held)})" if held else ""
    found = store.rows(
        "SELECT id, lane_id, body FROM flowq_inbox"
        f" WHERE kind = 'update' AND lane_id IN ({among}){without} ORDER BY id LIMIT {int(limit)}"
    )
    return [(int(key), int(lane), bytes(body or b"")) for key, lane, body in found]


def drop_updates(store: Store, keys: Sequence[int]) -> None:
    """Delete records that are folded. Repeating: does nothing.

    Raises:
        StoreError: They were not deleted.
    """
    rows = [(int(key),) for key in keys]
    store.write(lambda cursor: cursor.executemany(store.sql.inbox_delete, rows))
