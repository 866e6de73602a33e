"""Results of bare tasks in a database, in the tables that Celery has for them.

Values are bytes in the result serializer's form. The tables may have been made by a Celery that
keeps less, so only columns that are there are written.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from flowq.errors import ImproperlyConfigured, StoreUnavailable

_CONNECT_SECONDS = 3
# Two tables and an index: as many statements as another process can be first with, and one more.
_RACES = 4


class ResultTable:
    """`celery_taskmeta`. Safe from any thread; nothing is connected before the first call.

    Args:
        url: As SQLAlchemy has it; postgresql:// means psycopg.

    Raises:
        ImproperlyConfigured: It cannot be read.
    """

    def __init__(self, url: str) -> None:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            parsed = make_url(url)
        except ArgumentError as exc:
            raise ImproperlyConfigured(
                f"the URL of the result database cannot be read: {exc}"
            ) from exc
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        self._url = parsed
        self.shown = parsed.set(username=None, password=None, query={}).render_as_string()
        self._engine: Any = None
        self._table: Any = None
        self._columns: frozenset[str] = frozenset()
        self._lock, self._pid = threading.Lock(), os.getpid()

    # -- rows ----------------------------------------------------------------------------

    def write(self, task_id: str, values: Mapping[str, Any]) -> None:
        """Insert or replace a task's row, unless it says SUCCESS.

        Args:
            task_id: The task.
            values: By column; columns that are not there are left out.

        Raises:
            StoreUnavailable: The database is away, or refuses.
        """
        from sqlalchemy import insert, update

        with self._transaction("store a result in") as connection:
            table = self._table
            row = {name: value for name, value in values.items() if name in self._columns}
            change = update(table).where(table.c.task_id == task_id, table.c.status != "SUCCESS")
            if connection.execute(change.values(row)).rowcount:
                return
            make = insert(table)
            if connection.dialect.name == "postgresql":
                from sqlalchemy.dialects.postgresql import insert as insert_pg

                make = insert_pg(table).on_conflict_do_nothing()
            elif connection.dialect.name == "sqlite":
                make = make.prefix_with("OR IGNORE")
            if not connection.execute(make.values(task_id=task_id, **row)).rowcount:
                connection.execute(
                    change.values(row)
                )  # somebody else was faster, or it says SUCCESS

    def read(self, task_id: str) -> dict[str, Any] | None:
        """A task's row by column; None where there is none.

        Raises:
            StoreUnavailable: The database is away, or refuses.
        """
        from sqlalchemy import select

        with self._transaction("read a result from") as connection:
            columns = [column for column in self._table.c if column.name in self._columns]
            found = connection.execute(
                select(*columns).where(self._table.c.task_id == task_id)
            ).mappings().first()  # fmt: skip
        return None if found is None else dict(found)

    def delete(self, task_id: str) -> None:
        """Delete a task's row. A second call does nothing."""
        with self._transaction("forget a result in") as connection:
            connection.execute(self._table.delete().where(self._table.c.task_id == task_id))

    def prune(self, before: float) -> None:
        """Delete the rows of tasks that ended before a time in epoch seconds."""
        at = datetime.fromtimestamp(before, UTC).replace(tzinfo=None)
        with self._transaction("remove old results from") as connection:
            connection.execute(self._table.delete().where(self._table.c.date_done < at))

    def close(self) -> None:
        """Close every connection. A second call does nothing; a later call opens anew."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose(close=self._pid == os.getpid())

    # -- opening -------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self, doing: str) -> Iterator[Any]:
        from sqlalchemy.exc import DBAPIError, SQLAlchemyError

        try:
            with self._opened().begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as exc:
            original = exc.orig if isinstance(exc, DBAPIError) else exc
            said = (str(original).strip() or type(original).__name__).splitlines()[0]
            raise StoreUnavailable(f"cannot {doing} the database {self.shown} ({said})") from exc

    def _opened(self) -> Any:
        with self._lock:
            if self._engine is None or self._pid != os.getpid():
                if self._engine is not None:  # a fork must not touch its parent's connections
                    self._engine.dispose(close=False)
                engine = self._make_engine()
                self._table = _tables()[0]
                self._columns = _prepare(engine, self._table)
                self._engine, self._pid = engine, os.getpid()
            return self._engine

    def _make_engine(self) -> Any:
        from sqlalchemy import create_engine

        more: dict[str, Any] = {"pool_pre_ping": True}
        if self._url.drivername == "postgresql+psycopg":
            more["connect_args"] = {"connect_timeout": _CONNECT_SECONDS}
        try:
            return create_engine(self._url, **more)
        except ModuleNotFoundError as exc:
            raise ImproperlyConfigured(
                f"{self.shown} needs a driver that is not installed ({exc.name}); for PostgreSQL: "
                "pip install flowq[postgres]"
            ) from exc


def _prepare(engine: Any, table: Any) -> frozenset[str]:
    """Make the tables where there are none, and say which columns there are."""
    from sqlalchemy import inspect
    from sqlalchemy.exc import DBAPIError

    for left in reversed(range(_RACES)):
        try:
            table.metadata.create_all(engine)
            break
        except DBAPIError:  # another process made this one just now, and may make the next too
            if not left:
                raise
    return frozenset(column["name"] for column in inspect(engine).get_columns(table.name))


def _tables() -> tuple[Any, Any]:
    """Celery's two tables, with the sequences that it draws ids from."""
    from sqlalchemy import (
        Column,
        DateTime,
        Integer,
        LargeBinary,
        MetaData,
        Sequence,
        String,
        Table,
        Text,
    )

    metadata = MetaData()

    def table(name: str, sequence: str, *columns: Column[Any]) -> Table:
        key = Column("id", Integer, Sequence(sequence), primary_key=True, autoincrement=True)
        return Table(name, metadata, key, *columns, sqlite_autoincrement=True)

    task = table(
        "celery_taskmeta",
        "task_id_sequence",
        Column("task_id", String(155), unique=True),
        Column("status", String(50)),
        Column("result", LargeBinary),
        Column("date_done", DateTime, index=True),
        Column("traceback", Text),
        Column("children", LargeBinary),
        Column("name", String(155)),
        Column("args", LargeBinary),
        Column("kwargs", LargeBinary),
        Column("worker", String(155)),
        Column("retries", Integer),
        Column("queue", String(155)),
        Column("stamps", LargeBinary),
    )
    group = table(
        "celery_tasksetmeta",
        "taskset_id_sequence",
        Column("taskset_id", String(155), unique=True),
        Column("result", LargeBinary),
        Column("date_done", DateTime, index=True),
    )
    return task, group
