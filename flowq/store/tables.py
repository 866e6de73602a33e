"""The tables, as SQLAlchemy Core knows them: for creating, migrating and inspecting.

Integer keys inside, public ids at the edge; payloads are bytes with a content tag; times are
epoch seconds of the store's clock. CHECKs are built from the enums, so they cannot drift. On
PostgreSQL those of `node` and `run` are domains, types of their own (docs/decisions/0017).
Statements are in `queries.py`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.types import TypeEngine, UserDefinedType

from flowq.core.states import RUN_TERMINAL, RunState, State

PREFIX = "flowq_"

metadata = MetaData()

#: 64-bit where the database tells them apart; SQLite's rowid needs plain INTEGER.
Key = BigInteger().with_variant(Integer(), "sqlite")


#: The states a node passes on its usual way come first: a CHECK reads them in this order.
_USUAL = ("READY", "QUEUED", "SUCCESS", "PENDING", "RUNNING")


def _among(column: str, values: type[StrEnum] | frozenset[RunState]) -> str:
    """A CHECK that a column holds one of an enum's values.

    A chain of OR, not IN: SQLite builds a temporary index for an IN list anew for each row, which
    cost more than the rest of the insert.
    """
    names = sorted((str(value) for value in values), key=lambda v: (v not in _USUAL, v))
    return " OR ".join(f"{column} = '{name}'" for name in names)


#: PostgreSQL's domains: what they are made of, and what holds for a value.
DOMAINS = {
    "flowq_node_state": ("varchar(8)", _among("VALUE", State)),
    "flowq_run_state": ("varchar(16)", _among("VALUE", RunState)),
    "flowq_node_kind": ("int2", "VALUE BETWEEN 0 AND 2"),
    "flowq_count": ("int4", "VALUE >= 0"),
}


class Domain(UserDefinedType[Any]):
    """A type of ours on PostgreSQL."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: object) -> str:
        """How it is written in a table's definition."""
        return self.name


def _in_domain(base: TypeEngine[Any], name: str) -> TypeEngine[Any]:
    """A type whose values are looked at on PostgreSQL; see `_check` for SQLite."""
    return base.with_variant(Domain(name), "postgresql")


def _check(condition: str) -> CheckConstraint:
    """A CHECK on SQLite only: PostgreSQL reads each of them anew for every statement it runs."""
    return CheckConstraint(condition).ddl_if(dialect="sqlite")


def _table(
    name: str,
    *items: Column[Any] | CheckConstraint | Index,
    rowid: bool = True,
    once: bool = False,
) -> Table:
    """A table of ours; `once`: a key is never used again, also after its row was deleted."""
    return Table(
        PREFIX + name, metadata, *items, sqlite_with_rowid=rowid, sqlite_autoincrement=once
    )


lane = _table(
    "lane",
    Column("id", Key, primary_key=True, autoincrement=True),
    Column("app", String(255), nullable=False),
    Column(
        "kind", String(16), CheckConstraint("kind = 'fleet' OR kind = 'embedded'"), nullable=False
    ),
    Column("owner", String(64), nullable=False),
    Column("epoch", Key, nullable=False),
    Column("seq", Key, nullable=False, server_default="0"),
    Column("expires_at", Double, nullable=False),
    Column("liveness", Text),
    once=True,
)

queue = _table(
    "queue",
    Column("id", Key, primary_key=True, autoincrement=True),
    Column("lane_id", Key, nullable=False),
    Column("name", String(255), nullable=False),
    Index("flowq_queue_lane", "lane_id", "name", unique=True),
    once=True,
)

run = _table(
    "run",
    Column("id", Key, primary_key=True, autoincrement=True),
    Column("uid", String(36), nullable=False, unique=True),
    Column("lane_id", Key, nullable=False),
    Column("app", String(255), nullable=False),
    Column("name", String(255), nullable=False),
    Column("target", Text),
    Column("title", Text, nullable=False, server_default=""),
    Column("state", _in_domain(String(16), "flowq_run_state"), nullable=False),
    Column("version", Key, nullable=False, server_default="0"),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("generation", Integer, nullable=False, server_default="0"),
    Column("node_count", Integer, nullable=False),
    Column("open_count", _in_domain(Integer(), "flowq_count"), nullable=False),
    Column("result_nodes", Text, nullable=False),
    Column("digest", LargeBinary),
    Column("idempotency_key", String(255), unique=True),
    Column("submitted_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("parent_run", Key),
    Column("parent_node", Integer),
    Column("rerun_of", Key),
    Column("to_backend", SmallInteger, nullable=False, server_default="0"),
    Column("code_hash", String(64)),
    _check(_among("state", RunState)),
    _check("open_count >= 0"),
    _check(f"(finished_at IS NOT NULL) = ({_among('state', RUN_TERMINAL)})"),
    Index("flowq_run_lane", "lane_id", "state"),
    Index("flowq_run_name", "name"),
    once=True,
)

tag = _table(
    "tag",
    Column("run_id", Key, primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("value", Text, nullable=False),
    rowid=False,
)

spec = _table(
    "spec",
    Column("run_id", Key, primary_key=True),
    Column("no", Integer, primary_key=True),
    Column("task", String(255), nullable=False),
    Column("queue", String(255), nullable=False),
    Column("body", LargeBinary, nullable=False),
    rowid=False,
)

node = _table(
    "node",
    Column("run_id", Key, primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("spec_no", Integer, nullable=False),
    Column("queue_id", Key, nullable=False, server_default="0"),
    Column("priority", SmallInteger, nullable=False, server_default="0"),
    Column("kind", _in_domain(SmallInteger(), "flowq_node_kind"), nullable=False),
    Column("need", Integer, nullable=False),
    Column("state", _in_domain(String(8), "flowq_node_state"), nullable=False),
    Column("generation", Integer, nullable=False, server_default="0"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("retries", Integer, nullable=False, server_default="0"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("unmet", _in_domain(Integer(), "flowq_count"), nullable=False),
    Column("hits", Integer, nullable=False, server_default="0"),
    Column("cause", Integer, nullable=False, server_default="-1"),
    Column("outbox_id", Key, nullable=False, server_default="0"),
    Column("eta", Double, nullable=False, server_default="0"),
    Column("expires", Double, nullable=False, server_default="0"),
    Column("name", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("args", LargeBinary),
    Column("meta", Text),
    _check("kind BETWEEN 0 AND 2"),
    _check(_among("state", State)),
    _check("unmet >= 0"),
    rowid=False,
)

Index(
    "flowq_node_ready",
    node.c.queue_id,
    node.c.priority,
    node.c.run_id,
    node.c.idx,
    sqlite_where=text("state = 'READY'"),
    postgresql_where=text("state = 'READY'"),
)
edge = _table(
    "edge",
    Column("run_id", Key, primary_key=True),
    Column("child", Integer, primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("parent", Integer, nullable=False),
    Column("on_end", SmallInteger, nullable=False),
    Column("bind", SmallInteger, nullable=False),
    Column("path", LargeBinary),
    rowid=False,
)

result = _table(
    "result",
    Column("run_id", Key, primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("frame", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),
    rowid=False,
)

transition = _table(
    "transition",
    Column("run_id", Key, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("idx", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("before", String(8), nullable=False),
    Column("after", String(8), nullable=False),
    Column("cause", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("began_at", Double),
    Column("ended_at", Double),
    Column("worker_id", Text),
    Column("detail", LargeBinary),
    rowid=False,
)

outbox = _table(
    "outbox",
    Column("lane_id", Key, primary_key=True),
    Column("id", Key, primary_key=True),
    Column("queue", String(255), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("items", LargeBinary, nullable=False),
    Column("remaining", Integer, CheckConstraint("remaining > 0"), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("settled_at", Double),
    Column("resend_at", Double),
    Column("worker_id", Text),
    rowid=False,
)

timer = _table(
    "timer",
    Column("run_id", Key, primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("kind", String(16), primary_key=True),
    Column("lane_id", Key, nullable=False),
    Column("due_at", Double, nullable=False),
    Index("flowq_timer_due", "lane_id", "due_at"),
    rowid=False,
)

inbox = _table(
    "inbox",
    Column("id", Key, primary_key=True, autoincrement=True),
    Column("lane_id", Key, nullable=False),
    Column("run_id", Key, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("body", LargeBinary),
    Index("flowq_inbox_lane", "lane_id", "id"),
)

payload = _table(
    "payload",
    Column("hash", LargeBinary(32), primary_key=True),
    Column("bytes", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
)

log = _table(
    "log",
    Column("run_id", Key, primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("at", Double, nullable=False),
    Column("stream", SmallInteger, nullable=False),
    Column("text", Text, nullable=False),
    rowid=False,
)

worker = _table(
    "worker",
    Column("id", String(36), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("queues", Text, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("state", String(16), nullable=False),
    #: worker | coordinator
    Column("kind", String(16), nullable=False, server_default="worker"),
    Column("held", LargeBinary),
)

meta = _table(
    "meta",
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

alias = _table(
    "alias",
    Column("id", String(255), primary_key=True),
    Column("run_id", Key, nullable=False),
    Column("idx", Integer, nullable=False),
)

schema_version = _table(
    "schema_version", Column("version_num", String(32), primary_key=True, nullable=False)
)
