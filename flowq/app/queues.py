"""Queues as the command line and `app.control` look at them: which there are, and emptying them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flowq.app.place import url_of

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.store import Store
    from flowq.store.rows import MemberRow


def stored(app: Flowq) -> Store | None:
    """The app's store, opened; None if it was not made yet.

    Raises:
        StoreError: It cannot be reached, is damaged or of another version.
    """
    from flowq.store import Store, schema
    from flowq.store.database import sqlite_path

    url = url_of(app.conf)
    if url.startswith("sqlite:") and not Path(sqlite_path(url)).exists():
        return None
    store = Store(url)
    if schema.version_of(store.database) is None:
        store.close()
        return None
    store.ensure()
    return store


def purge(
    app: Flowq, queues: Iterable[str] | None = None, store_id: str | None = None
) -> dict[str, int]:
    """Remove what waits on queues; returns how many messages, by queue.

    Args:
        app: Whose broker and queues.
        queues: Which; none: those the app's workers would consume from.
        store_id: Remove the bundles of nodes of that store in place of bare tasks.

    Raises:
        BrokerError: The broker cannot be reached.
    """
    from flowq.broker.connection import Broker

    access = app.control.access()
    broker = Broker(access.urls, access.options)
    try:
        return {name: broker.purge(name, store_id) for name in queues or queue_names(app)}
    finally:
        broker.close()


def queue_names(app: Flowq) -> list[str]:
    """Queues that the app's workers consume from if nobody says which.

    Of a broadcast each worker has a copy of its own, which is not known here.
    """
    return [spec.name for spec in app.router.selection() if not spec.broadcast]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits on one queue."""

    name: str
    #: Messages of bare tasks; None if the broker has no such queue.
    tasks: int | None
    #: Bundles of nodes of the app's store; None without such a store.
    nodes: int | None
    #: Consumers that the broker counts; None where it does not.
    consumers: int | None


def waiting(app: Flowq, names: Iterable[str]) -> list[Waiting]:
    """What waits on queues now.

    Raises:
        BrokerError: The broker cannot be reached.
    """
    from flowq.broker.codec import node_queue
    from flowq.broker.depths import depths

    names = list(names)
    store = _store_id(app)
    inner = [node_queue(name, store) for name in names] if store else []
    found = depths(app.control.access(), [*names, *inner])
    rows = []
    for place, name in enumerate(names):
        nodes = (found[len(names) + place].messages or 0) if store else None
        rows.append(Waiting(name, found[place].messages, nodes, found[place].consumers))
    return rows


def live_coordinators(app: Flowq) -> list[MemberRow]:
    """Coordinators of the app's store that announced themselves in time; none without a store."""
    from flowq.store.members import members

    store = stored(app)
    if store is None:
        return []
    try:
        now = store.lease_now()
        rows = members(store)
        return [row for row in rows if row.kind == "coordinator" and row.expires_at >= now]
    finally:
        store.close()


def _store_id(app: Flowq) -> str:
    """What the node queues of the app's store carry; empty if there are none."""
    store = stored(app)
    if store is None:
        return ""
    try:
        row = store.one(store.sql.meta_get, ("id",))
        return str(row[0]) if row else ""
    finally:
        store.close()
