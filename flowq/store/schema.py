"""Making, checking and migrating the tables.

A fresh store is made at once from the tables' definition and stamped with the newest version;
an older one is migrated by Alembic; a newer one is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowq.errors import CorruptStore, SchemaMismatch, StoreError
from flowq.store.database import Database, SqliteDatabase, make_folder, sqlite_path

#: Versions in order; the last one is what this code reads and writes.
VERSIONS = ("0001", "0002", "0003")
VERSION_TABLE = "flowq_schema_version"


def version_of(database: Database) -> str | None:
    """Version of the store's tables; None where there are none yet.

    Raises:
        CorruptStore: The file is damaged, or is no database.
        StoreUnavailable: It cannot be reached.
    """
    connection = database.connect()
    try:
        with database.errors("read the store's version"):
            if not _has_table(database, connection):
                return None
            row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
    finally:
        connection.close()
    if row is None:
        raise CorruptStore(
            f"the store's table {VERSION_TABLE} is empty: restore a copy, or start with a new store"
        )
    return str(row[0])


def ensure(database: Database) -> bool:
    """Make or check the tables; True if they were made just now. A second call checks only.

    Raises:
        SchemaMismatch: The store was written by a newer flowq, or needs `flowq db upgrade`.
    """
    if isinstance(database, SqliteDatabase):
        make_folder(database.path)
    version = version_of(database)
    if version == VERSIONS[-1]:
        return False
    if version is None:
        create(database)
        return True
    if version not in VERSIONS:
        raise _newer(version)
    if isinstance(database, SqliteDatabase):
        upgrade(database)
        return False
    raise SchemaMismatch(
        f"the store is of version {version!r}, this flowq needs {VERSIONS[-1]!r}: stop the "
        "coordinators and run: flowq db upgrade"
    )


def _newer(version: str) -> SchemaMismatch:
    return SchemaMismatch(
        f"the store is of version {version!r}, newer than this flowq knows ({VERSIONS[-1]!r}); "
        "install a newer flowq, or name another store with --store URL"
    )


def create(database: Database) -> None:
    """Make all tables and stamp them; does nothing where another process was faster."""
    connection = database.connect(owner=True)
    try:
        with database.errors("make the store's tables"):
            database.begin(connection)
            if database.dialect == "postgresql":
                connection.execute("SELECT pg_advisory_xact_lock(7246011)")
            create_in(database, connection)
            connection.commit()
    finally:
        connection.close()


def create_in(database: Database, connection: Any) -> None:
    """`create`, in the open transaction of a connection, or of a SQLite cursor."""
    from sqlalchemy.schema import CreateIndex, CreateTable

    from flowq.store.tables import DOMAINS, metadata

    if _has_table(database, connection):
        return
    dialect: Any = _dialect(database)
    for name, (base, condition) in DOMAINS.items() if database.dialect == "postgresql" else ():
        connection.execute(f"CREATE DOMAIN {name} AS {base} CHECK ({condition})")
    for table in metadata.sorted_tables:
        connection.execute(str(CreateTable(table).compile(dialect=dialect)))
        for index in sorted(table.indexes, key=lambda i: str(i.name)):
            connection.execute(str(CreateIndex(index).compile(dialect=dialect)))
    connection.execute(f"INSERT INTO {VERSION_TABLE} VALUES ('{VERSIONS[-1]}')")


def ensure_in(database: Database, cursor: Any) -> None:
    """`ensure` for SQLite, in the open transaction of a cursor; migrates nothing.

    Raises:
        SchemaMismatch: The tables are of another version.
    """
    create_in(database, cursor)
    cursor.execute(f"SELECT version_num FROM {VERSION_TABLE}")
    version = str((cursor.fetchone() or ("",))[0])
    if version != VERSIONS[-1]:
        raise SchemaMismatch(
            f"the store is of version {version!r}, this flowq needs {VERSIONS[-1]!r}: run: "
            "flowq db upgrade"
        )


def upgrade(database: Database) -> str:
    """Migrate to the newest version and return it; a second call does nothing."""
    from alembic import command

    version = version_of(database)
    if version is None:
        create(database)
        return VERSIONS[-1]
    if version not in VERSIONS:
        raise _newer(version)
    with database.errors("upgrade the store"):
        command.upgrade(alembic_config(database), "head")
    return VERSIONS[-1]


def alembic_config(database: Database) -> Any:
    """Alembic's configuration for this store, for our own use and the tests'."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["url"] = sqlalchemy_url(database)
    return config


def sqlalchemy_url(database: Database) -> str:
    """The store's URL in the form SQLAlchemy wants."""
    if isinstance(database, SqliteDatabase):
        return f"sqlite:///{sqlite_path(database.url)}"
    scheme, _, rest = database.url.partition("://")
    return f"{'postgresql+psycopg' if '+' not in scheme else scheme}://{rest}"


def check(database: Database) -> list[str]:
    """Look for damage and return what was found, a sentence each; empty if all is well."""
    found: list[str] = []
    try:
        version = version_of(database)
    except StoreError as exc:
        return [str(exc)]
    if version is None:
        return ["the store has no tables yet: the first run makes them"]
    if version != VERSIONS[-1]:
        found.append(f"version {version!r}, newest is {VERSIONS[-1]!r}: run flowq db upgrade")
    if isinstance(database, SqliteDatabase):
        connection = database.connect()
        try:
            with database.errors("check the store"):
                rows = connection.execute("PRAGMA quick_check(10)").fetchall()
        except StoreError as exc:
            return [*found, str(exc)]
        finally:
            connection.close()
        found += [f"damaged: {row[0]}" for row in rows if row[0] != "ok"]
    return found


def _has_table(database: Database, connection: Any) -> bool:
    if database.dialect == "sqlite":
        query = f"SELECT 1 FROM sqlite_master WHERE name = '{VERSION_TABLE}'"
    else:
        query = (
            f"SELECT 1 FROM pg_tables WHERE tablename = '{VERSION_TABLE}' "
            "AND schemaname = ANY (current_schemas(false))"
        )
    if hasattr(connection, "fetchone"):  # a cursor; not all of them give themselves back
        connection.execute(query)
        return connection.fetchone() is not None
    return connection.execute(query).fetchone() is not None


def _dialect(database: Database) -> Any:
    if database.dialect == "sqlite":
        from sqlalchemy.dialects.sqlite.pysqlite import dialect as sqlite_dialect

        return sqlite_dialect()
    from sqlalchemy.dialects.postgresql.psycopg import dialect as postgres_dialect

    made: Any = postgres_dialect()  # type: ignore[no-untyped-call]
    return made
