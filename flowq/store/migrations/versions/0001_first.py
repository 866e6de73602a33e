"""The first schema: runs, their graphs, their story, and what is in flight."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

#: 64-bit where the database tells them apart; SQLite's rowid needs plain INTEGER.
KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make every table; the version table is Alembic's own."""
    _lanes()
    _run()
    _graph()
    _node()
    _story()
    _traffic()
    _others()


def _lanes() -> None:
    """Who writes to what, and through which queues."""
    op.create_table(
        "flowq_lane",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("app", sa.String(length=255), nullable=False),
        sa.Column(
            "kind",
            sa.String(length=16),
            sa.CheckConstraint("kind = 'fleet' OR kind = 'embedded'"),
            nullable=False,
        ),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("epoch", KEY, nullable=False),
        sa.Column("seq", KEY, server_default="0", nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("liveness", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "flowq_queue",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("lane_id", KEY, nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("flowq_queue_lane", "flowq_queue", ["lane_id", "name"], unique=True)
    op.create_table(
        "flowq_worker",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("queues", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _run() -> None:
    """Runs and their tags."""
    op.create_table(
        "flowq_run",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("uid", sa.String(length=36), nullable=False),
        sa.Column("lane_id", KEY, nullable=False),
        sa.Column("app", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "state",
            sa.String(length=16),
            sa.CheckConstraint(
                "state = 'RUNNING' OR state = 'SUCCESS' OR state = 'CANCELLED' OR "
                "state = 'FAILURE' OR state = 'PAUSED'"
            ),
            nullable=False,
        ),
        sa.Column("version", KEY, server_default="0", nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("generation", sa.Integer(), server_default="0", nullable=False),
        sa.Column("node_count", sa.Integer(), nullable=False),
        sa.Column(
            "open_count", sa.Integer(), sa.CheckConstraint("open_count >= 0"), nullable=False
        ),
        sa.Column("result_nodes", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.Column("submitted_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("parent_run", KEY, nullable=True),
        sa.Column("parent_node", sa.Integer(), nullable=True),
        sa.Column("rerun_of", KEY, nullable=True),
        sa.Column("to_backend", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("code_hash", sa.String(length=64), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state = 'SUCCESS' OR "
            "state = 'CANCELLED' OR state = 'FAILURE')"
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("idempotency_key"),
        sa.UniqueConstraint("uid"),
        sqlite_autoincrement=True,
    )
    op.create_index("flowq_run_lane", "flowq_run", ["lane_id", "state"], unique=False)
    op.create_index("flowq_run_name", "flowq_run", ["name"], unique=False)
    op.create_table(
        "flowq_tag",
        sa.Column("run_id", KEY, nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "key"),
        sqlite_with_rowid=False,
    )


def _graph() -> None:
    """What a canvas compiles to."""
    op.create_table(
        "flowq_spec",
        sa.Column("run_id", KEY, nullable=False),
        sa.Column("no", sa.Integer(), nullable=False),
        sa.Column("task", sa.String(length=255), nullable=False),
        sa.Column("queue", sa.String(length=255), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "no"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "flowq_edge",
        sa.Column("run_id", KEY, nullable=False),
        sa.Column("child", sa.Integer(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=False),
        sa.Column("on_end", sa.SmallInteger(), nullable=False),
        sa.Column("bind", sa.SmallInteger(), nullable=False),
        sa.Column("path", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "child", "slot"),
        sqlite_with_rowid=False,
    )


def _node() -> None:
    """Nodes, with indexes on the live ones only."""
    op.create_table(
        "flowq_node",
        sa.Column("run_id", KEY, nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("spec_no", sa.Integer(), nullable=False),
        sa.Column("queue_id", KEY, server_default="0", nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column(
            "kind", sa.SmallInteger(), sa.CheckConstraint("kind BETWEEN 0 AND 2"), nullable=False
        ),
        sa.Column("need", sa.Integer(), nullable=False),
        sa.Column(
            "state",
            sa.String(length=8),
            sa.CheckConstraint(
                "state = 'PENDING' OR state = 'QUEUED' OR state = 'READY' OR "
                "state = 'SUCCESS' OR state = 'FAILURE' OR state = 'RETRY' OR "
                "state = 'REVOKED' OR state = 'SKIPPED' OR state = 'STARTED'"
            ),
            nullable=False,
        ),
        sa.Column("generation", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("retries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("unmet", sa.Integer(), sa.CheckConstraint("unmet >= 0"), nullable=False),
        sa.Column("hits", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cause", sa.Integer(), server_default="-1", nullable=False),
        sa.Column("outbox_id", KEY, server_default="0", nullable=False),
        sa.Column("eta", sa.Double(), server_default="0", nullable=False),
        sa.Column("expires", sa.Double(), server_default="0", nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("args", sa.LargeBinary(), nullable=True),
        sa.Column("meta", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "idx"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "flowq_node_ready",
        "flowq_node",
        ["queue_id", "priority", "run_id", "idx"],
        unique=False,
        sqlite_where=sa.text("state = 'READY'"),
        postgresql_where=sa.text("state = 'READY'"),
    )


def _story() -> None:
    """What became of nodes."""
    op.create_table(
        "flowq_result",
        sa.Column("run_id", KEY, nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("frame", sa.LargeBinary(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "idx"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "flowq_transition",
        sa.Column("run_id", KEY, nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("before", sa.String(length=8), nullable=False),
        sa.Column("after", sa.String(length=8), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("began_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("detail", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "seq"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "flowq_log",
        sa.Column("run_id", KEY, nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("stream", sa.SmallInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "idx", "attempt", "seq"),
        sqlite_with_rowid=False,
    )


def _traffic() -> None:
    """Messages out, times to wait for, and what others ask of a lane's owner."""
    op.create_table(
        "flowq_outbox",
        sa.Column("lane_id", KEY, nullable=False),
        sa.Column("id", KEY, nullable=False),
        sa.Column("queue", sa.String(length=255), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("items", sa.LargeBinary(), nullable=False),
        sa.Column("remaining", sa.Integer(), sa.CheckConstraint("remaining > 0"), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("settled_at", sa.Double(), nullable=True),
        sa.Column("resend_at", sa.Double(), nullable=True),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("lane_id", "id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "flowq_timer",
        sa.Column("run_id", KEY, nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("lane_id", KEY, nullable=False),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "idx", "kind"),
        sqlite_with_rowid=False,
    )
    op.create_index("flowq_timer_due", "flowq_timer", ["lane_id", "due_at"], unique=False)
    op.create_table(
        "flowq_inbox",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("lane_id", KEY, nullable=False),
        sa.Column("run_id", KEY, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("flowq_inbox_lane", "flowq_inbox", ["lane_id", "id"], unique=False)


def _others() -> None:
    """Large values, and ids chosen by callers."""
    op.create_table(
        "flowq_payload",
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("bytes", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_table(
        "flowq_alias",
        sa.Column("id", sa.String(length=255), nullable=False),
        sa.Column("run_id", KEY, nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
