"""Alembic's entry: runs the migrations on the store that flowq names."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine

from flowq.store.schema import VERSION_TABLE
from flowq.store.tables import metadata

engine = create_engine(context.config.attributes["url"])
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
