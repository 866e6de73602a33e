"""What a fleet needs: a name for the store, and what each live process holds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the store's own facts, and columns to the rows of processes."""
    op.create_table(
        "flowq_meta",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    kind = sa.Column("kind", sa.String(length=16), server_default="worker", nullable=False)
    op.add_column("flowq_worker", kind)
    op.add_column("flowq_worker", sa.Column("held", sa.LargeBinary(), nullable=True))
