"""On PostgreSQL, types of our own in place of CHECKs, which every statement would read anew."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_DOMAINS = {
    "flowq_node_state": (
        "varchar(8)",
        "VALUE = 'PENDING' OR VALUE = 'QUEUED' OR VALUE = 'READY' OR VALUE = 'SUCCESS' OR "
        "VALUE = 'FAILURE' OR VALUE = 'RETRY' OR VALUE = 'REVOKED' OR VALUE = 'SKIPPED' OR "
        "VALUE = 'STARTED'",
    ),
    "flowq_run_state": (
        "varchar(16)",
        "VALUE = 'RUNNING' OR VALUE = 'SUCCESS' OR VALUE = 'CANCELLED' OR "
        "VALUE = 'FAILURE' OR VALUE = 'PAUSED'",
    ),
    "flowq_node_kind": ("int2", "VALUE BETWEEN 0 AND 2"),
    "flowq_count": ("int4", "VALUE >= 0"),
}
#: Table -> the CHECKs it had, as PostgreSQL named them, and its columns that get a domain.
_TABLES = {
    "flowq_node": (
        ("flowq_node_kind_check", "flowq_node_state_check", "flowq_node_unmet_check"),
        {"kind": "flowq_node_kind", "state": "flowq_node_state", "unmet": "flowq_count"},
    ),
    "flowq_run": (
        ("flowq_run_check", "flowq_run_open_count_check", "flowq_run_state_check"),
        {"open_count": "flowq_count", "state": "flowq_run_state"},
    ),
}


def upgrade() -> None:
    """Make the domains and have the columns use them; SQLite keeps its CHECKs."""
    if op.get_bind().dialect.name != "postgresql":
        return
    for name, (base, condition) in _DOMAINS.items():
        op.execute(f"CREATE DOMAIN {name} AS {base} CHECK ({condition})")
    for table, (checks, columns) in _TABLES.items():
        steps = [f"DROP CONSTRAINT {check}" for check in checks]
        steps += [f"ALTER COLUMN {column} TYPE {domain}" for column, domain in columns.items()]
        op.execute(f"ALTER TABLE {table} " + ", ".join(steps))
