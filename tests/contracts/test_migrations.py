"""The migrations make exactly the tables that `flowq.store.tables` describes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, NullPool, create_engine, inspect

from flowq.store import Store, schema
from flowq.store.tables import metadata


def engine_of(store: Store) -> Engine:
    return create_engine(schema.sqlalchemy_url(store.database), poolclass=NullPool)


def shape(engine: Engine) -> dict[str, Any]:
    """Everything that a database tells about its tables, in an order of our own."""
    inspector = inspect(engine)
    found: dict[str, Any] = {}
    for name in inspector.get_table_names():
        columns = [
            (c["name"], str(c["type"]), c["nullable"], c["default"])
            for c in inspector.get_columns(name)
        ]
        checks = sorted(c["sqltext"] for c in inspector.get_check_constraints(name))
        uniques = sorted(u["column_names"] for u in inspector.get_unique_constraints(name))
        indexes = sorted(
            (i["name"], i["column_names"], bool(i["unique"]), _where(i.get("dialect_options")))
            for i in inspector.get_indexes(name)
        )
        key = inspector.get_pk_constraint(name)["constrained_columns"]
        options = inspector.get_table_options(name)
        found[name] = (columns, key, checks, uniques, indexes, options)
    return found


def _where(options: Any) -> list[str]:
    """Conditions of a partial index, as texts."""
    return sorted(f"{key}: {value}" for key, value in (options or {}).items())


@pytest.fixture
def migrated(store_url: str) -> Iterator[Store]:
    made = Store(store_url)
    command.upgrade(schema.alembic_config(made.database), "head")
    yield made
    made.close()


def test_migrating_and_creating_give_the_same_tables(
    migrated: Store, request: pytest.FixtureRequest, tmp_path: Any
) -> None:
    if migrated.database.dialect == "sqlite":
        url = f"sqlite:///{tmp_path}/created.db"
    else:
        url = request.getfixturevalue("postgres_server")()
    created = Store(url)
    assert created.ensure()
    ours, theirs = shape(engine_of(created)), shape(engine_of(migrated))
    created.close()
    assert theirs.keys() == ours.keys() == set(metadata.tables)
    for name, table in ours.items():
        assert theirs[name] == table, name


def test_autogenerate_finds_nothing_to_do(migrated: Store) -> None:
    with engine_of(migrated).connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "version_table": schema.VERSION_TABLE,
            },
        )
        left = compare_metadata(context, metadata)
    assert not [step for step in left if schema.VERSION_TABLE not in str(step)]


def test_a_migrated_store_is_up_to_date(migrated: Store) -> None:
    assert schema.version_of(migrated.database) == schema.VERSIONS[-1]
    assert migrated.ensure() is False
    assert schema.check(migrated.database) == []


def test_every_version_has_its_migration(store: Store) -> None:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(schema.alembic_config(store.database))
    versions = [revision.revision for revision in script.walk_revisions()]
    assert tuple(reversed(versions)) == schema.VERSIONS


def test_upgrading_twice_does_nothing(store: Store) -> None:
    assert schema.upgrade(store.database) == schema.VERSIONS[-1]
    assert schema.upgrade(store.database) == schema.VERSIONS[-1]
