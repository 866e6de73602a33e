"""Live processes of a fleet: each announces itself in a row, and goes on doing so.

Times are on the store's lease clock. A row whose time has passed belongs to a process that died
or was cut off; what it held is for its lanes' coordinators to see to.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import msgspec

from flowq.store.rows import MemberRow
from flowq.store.store import Store

#: Rows of processes that lapsed that long ago (seconds) are removed.
_REMEMBERED = 600.0


def announce(store: Store, member: MemberRow) -> None:
    """Write a process's row, or bring it up to date. Repeating: does no harm."""
    fields = msgspec.structs.asdict(member)
    fields["queues"] = json.dumps(fields["queues"])
    row = tuple(fields.values())
    store.write(lambda cursor: cursor.execute(store.sql.member_put, row))


def leave(store: Store, member_id: str) -> None:
    """Remove a process's row. A second call does nothing."""
    store.write(lambda cursor: cursor.execute(store.sql.member_delete, (member_id,)))


def members(store: Store) -> list[MemberRow]:
    """All rows, lapsed ones too."""
    return [_member(row) for row in store.rows(store.sql.member_list)]


def living(store: Store, kind: str) -> list[MemberRow]:
    """Rows of live processes of a kind: worker or coordinator."""
    now = store.lease_now()
    return [row for row in members(store) if row.kind == kind and row.expires_at >= now]


def forget_lapsed(store: Store) -> None:
    """Remove rows of processes that have been gone for long. Repeating: finds nothing more."""
    before = store.lease_now() - _REMEMBERED
    store.write(lambda cursor: cursor.execute(store.sql.member_prune, (before,)))


def store_id(store: Store) -> str:
    """The store's own name, eight characters, made at the first call and the same ever after.

    Queues and streams of a store carry it, so that two stores may share a broker.
    """
    row = store.one(store.sql.meta_get, ("id",))
    if row is None:
        made = uuid.uuid4().hex[:8]
        store.write(lambda cursor: cursor.execute(store.sql.meta_put, ("id", made)))
        row = store.one(store.sql.meta_get, ("id",))
    assert row is not None
    return str(row[0])


def _member(row: tuple[Any, ...]) -> MemberRow:
    fields = list(row)
    fields[4] = json.loads(row[4])
    fields[9] = bytes(row[9] or b"")
    return MemberRow(*fields)
