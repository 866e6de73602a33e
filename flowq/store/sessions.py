"""Submitting in a transaction of the caller's: the run and the caller's rows commit together.

A `CallersTransaction` is what the caller will commit or roll back. Here is the one of a SQLAlchemy
session; Django's is in the app layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flowq.errors import ImproperlyConfigured, StoreUnavailable
from flowq.store.database import Database, SqliteDatabase, sqlite_path

#: Where a session keeps what waits for its commit.
_WAITING = "flowq.waiting"
#: How the store's statements mark parameters, by dialect: cursors of these kinds can run them.
_STYLES = {"sqlite": ("qmark",), "postgresql": ("format", "pyformat")}


class CallersTransaction:
    """A transaction that is not ours to end."""

    def place(self) -> str:
        """Its database in words, comparable with `place_of` a store."""
        raise NotImplementedError

    def driver(self) -> Any:
        """The driver's connection, or what stands for it."""
        raise NotImplementedError

    def cursor(self) -> Any:
        """A new cursor inside the transaction."""
        raise NotImplementedError

    def after_commit(self, call: Callable[[], None]) -> None:
        """Have `call` run once, after the commit; never if this, or a savepoint, is undone."""
        raise NotImplementedError

    # -- what follows from these ---------------------------------------------------------

    def carries(self, database: Database) -> bool:
        """Whether a run of the store can be written in it."""
        return self.place() == place_of(database)

    def check(self, database: Database) -> None:
        """Refuse another database than the store's.

        Raises:
            ImproperlyConfigured: It is another one.
        """
        theirs, ours = self.place(), place_of(database)
        if theirs != ours:
            raise ImproperlyConfigured(
                f"the session is bound to {theirs}, the store is {ours}: a run can only commit "
                "together with rows of its own database; set store= to that database, or call "
                "apply_async_on_commit(), which submits right after the commit"
            )

    def is_open(self) -> bool:
        """On SQLite: whether the driver is in a transaction, and may hold the file's lock."""
        return bool(self.driver().in_transaction)

    def writing_cursor(self, database: Database) -> Any:
        """A cursor for the store's statements, on SQLite with the file's lock held.

        Raises:
            ImproperlyConfigured: There is no transaction that could be rolled back.
        """
        cursor = self.cursor()
        if not isinstance(database, SqliteDatabase):
            if self.driver().autocommit:
                raise ImproperlyConfigured(
                    "the session commits each statement by itself (AUTOCOMMIT), so a run could "
                    "not be undone with it: submit without session=, or use a transaction"
                )
        elif not self.is_open():
            cursor.execute("BEGIN IMMEDIATE")
        return cursor


class SessionTransaction(CallersTransaction):
    """What a SQLAlchemy session will commit.

    Args:
        session: A Session, a scoped session, or an AsyncSession inside its `run_sync`.

    Raises:
        ImproperlyConfigured: It is none of these.
    """

    def __init__(self, session: Any) -> None:
        from sqlalchemy.orm import Session, scoped_session

        if isinstance(session, scoped_session) or type(session).__name__ == "async_scoped_session":
            session = session()  # the name only: its module wants greenlet, which may be missing
        session = getattr(session, "sync_session", session)
        if not isinstance(session, Session):
            raise ImproperlyConfigured(
                f"session= takes a SQLAlchemy Session, not {type(session).__name__}"
            )
        self.session = session

    def place(self) -> str:
        from sqlalchemy.exc import UnboundExecutionError

        try:
            bind: Any = self.session.get_bind()
        except UnboundExecutionError:
            return "no database of its own"
        return _place(bind.engine.url)

    def carries(self, database: Database) -> bool:
        return super().carries(database) and self._has_known_driver()

    def driver(self) -> Any:
        return self._connection().connection.driver_connection

    def cursor(self) -> Any:
        connection = self._connection()
        if not self._has_known_driver():
            dialect = connection.dialect
            raise ImproperlyConfigured(
                f"a run cannot be written with the driver {dialect.driver}: bind the session with "
                "psycopg (or sqlite3, aiosqlite)"
            )
        return connection.connection.cursor()

    def after_commit(self, call: Callable[[], None]) -> None:
        _wait_for_commit(self.session, call)

    def _has_known_driver(self) -> bool:
        dialect = self.session.get_bind().dialect
        return dialect.paramstyle in _STYLES.get(dialect.name, ())

    def _connection(self) -> Any:
        from sqlalchemy.util.concurrency import in_greenlet

        if self.session.get_bind().dialect.is_async and not in_greenlet():
            raise ImproperlyConfigured(
                "an AsyncSession is used inside run_sync: "
                "await session.run_sync(lambda session: app.submit(canvas, session=session))"
            )
        return self.session.connection()


@contextlib.contextmanager
def errors_of(database: Database) -> Iterator[None]:
    """Turn the driver's errors into ours, where it is the caller's transaction that met them.

    Raises:
        StoreUnavailable: On SQLite, the transaction cannot get the lock of the file.
    """
    try:
        with database.errors("write the run in the session's transaction"):
            yield
    except StoreUnavailable as exc:
        if "locked" not in str(exc.__cause__):
            raise
        raise StoreUnavailable(
            "the session's transaction cannot write the run: another one has the lock of the "
            "SQLite file, or wrote to it after this transaction had first read; begin the "
            "transaction with BEGIN IMMEDIATE, or submit before the first read"
        ) from exc.__cause__


def transaction_of(session: Any) -> CallersTransaction:
    """The transaction of whatever was given as `session=`."""
    return session if isinstance(session, CallersTransaction) else SessionTransaction(session)


# -- after the commit of a session --------------------------------------------------------------


class _Waiting:
    """Calls that wait for a session's commit, each with the (nested) transaction it belongs to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Callable[[], None]]] = []
        self.due: list[Callable[[], None]] = []

    def committed(self, session: Any) -> None:
        """A transaction was committed; a savepoint hands its calls to what it is nested in."""
        nested = session.get_nested_transaction()
        if nested is None:
            self.due += [call for _, call in self.calls]
            self.calls = []
        else:
            self.calls = [(t.parent if t is nested else t, call) for t, call in self.calls]

    def ended(self, _session: Any, transaction: Any) -> None:
        """A transaction is over: what it did not commit is dropped, what is due is called."""
        self.calls = [entry for entry in self.calls if not _is_within(entry[0], transaction)]
        if transaction.parent is None and self.due:
            due, self.due = self.due, []
            _call_all(due)


def _wait_for_commit(session: Any, call: Callable[[], None]) -> None:
    from sqlalchemy import event

    waiting = session.info.get(_WAITING)
    if waiting is None:
        waiting = session.info[_WAITING] = _Waiting()
        event.listen(session, "after_commit", waiting.committed)
        event.listen(session, "after_transaction_end", waiting.ended)
    if not session.in_transaction():
        session.begin()
    waiting.calls.append((session.get_nested_transaction() or session.get_transaction(), call))


def _is_within(transaction: Any, outer: Any) -> bool:
    while transaction is not None:
        if transaction is outer:
            return True
        transaction = transaction.parent
    return False


def _call_all(calls: list[Callable[[], None]]) -> None:
    """Make every call; the first error is raised when all were made."""
    first: Exception | None = None
    for call in calls:
        try:
            call()
        except Exception as problem:
            first = first or problem
    if first is not None:
        first.add_note("The session's transaction had been committed before this.")
        raise first


# -- which database -----------------------------------------------------------------------------


def place_of(database: Database) -> str:
    """What tells a store's database from others, without user and driver."""
    if isinstance(database, SqliteDatabase):
        return sqlite_place(sqlite_path(database.url))
    from sqlalchemy import make_url

    return _place(make_url(database.url))


def sqlite_place(path: str) -> str:
    """The same for a SQLite file."""
    return f"sqlite file {Path(path).resolve()}"


def postgres_place(host: str | None, port: int | None, name: str | None) -> str:
    """The same for a PostgreSQL database."""
    return f"postgresql {host or 'localhost'}:{port or 5432}/{name}"


def _place(url: Any) -> str:
    if url.get_backend_name() == "sqlite":
        return sqlite_place(url.database or "")
    if url.get_backend_name() in ("postgresql", "postgres"):
        return postgres_place(url.host, url.port, url.database)
    return f"{url.get_backend_name()} {url.host or 'localhost'}:{url.port or ''}/{url.database}"
