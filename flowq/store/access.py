"""Opening a store, and the two roads to it: `write` and `rows`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowq.errors import StoreUnavailable
from flowq.store import schema
from flowq.store.database import Database, SqliteDatabase, make_folder, open_database
from flowq.store.queries import prepare
from flowq.store.writer import Writer


class Access:
    """One open store. Safe to use from any thread.

    Args:
        url: sqlite:///... or postgresql+psycopg://...
        synchronous: SQLite's durability: FULL or NORMAL.
    """

    def __init__(self, url: str, *, synchronous: str = "FULL") -> None:
        self.database: Database = open_database(url, synchronous=synchronous)
        self.url = url
        self.sql = self.database.sql
        self._writer = Writer(self.database)
        self.write: Callable[[Callable[[Any], Any]], Any] = self._writer
        #: Larger frames are payload rows, stored once and referred to by hash.
        self.inline_bytes = 64 * 1024
        self._local = threading.local()
        self._readers: list[Any] = []

    def ensure(self) -> bool:
        """Make or check the tables; True if they were made just now."""
        return schema.ensure(self.database)

    def make_folder(self) -> None:
        """Make the folder of a file store, so that lock files can be put there."""
        if isinstance(self.database, SqliteDatabase):
            make_folder(self.database.path)

    def now(self) -> float:
        """Epoch seconds of the store's clock."""
        return self.database.now()

    def lease_now(self) -> float:
        """Seconds of the clock that leases are written in; see `Database.lease_now`."""
        return self.database.lease_now()

    def close(self) -> None:
        """Close every connection. A second call does nothing."""
        self._writer.close()
        readers, self._readers = self._readers, []
        for connection in readers:
            connection.close()
        self._local = threading.local()
        self.database.close()

    @property
    def folder(self) -> Path | None:
        """Folder of a file store, for lock files beside it; None for a server or memory."""
        if isinstance(self.database, SqliteDatabase) and self.database.path != ":memory:":
            return Path(self.database.path).resolve().parent
        return None

    # -- reading -------------------------------------------------------------------------

    def reader(self) -> Any:
        """This thread's reading connection."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self.database.connect()
            self._readers.append(connection)
        return connection

    def rows(self, statement: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of a prepared statement, from this thread's reading connection."""
        known = getattr(self._local, "connection", None)
        try:
            return self._read(statement, params)
        except StoreUnavailable:
            if known is None:
                raise
            return self._read(statement, params)  # a server may have ended an old connection

    def _read(self, statement: str, params: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        connection = self.reader()
        try:
            with self.database.errors("read the store"):
                found: list[tuple[Any, ...]] = connection.execute(statement, params).fetchall()
        except BaseException:
            self._drop_reader(connection)
            raise
        return found

    def _drop_reader(self, connection: Any) -> None:
        """After an error the next read opens a connection of its own: this one may be dead."""
        self._local.connection = None
        with contextlib.suppress(ValueError):
            self._readers.remove(connection)
        with contextlib.suppress(Exception):  # the first error is what counts
            connection.close()

    def one(self, statement: str, params: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """The first row of a prepared statement, or None."""
        found = self.rows(statement, params)
        return found[0] if found else None

    def changed(self) -> int:
        """A number that changes when another process writes; constant on servers."""
        return self.database.changed(self.reader())

    def prepared(self, text: str) -> str:
        """A statement put together for one call, in the driver's form."""
        return prepare(text, "?" if self.database.dialect == "sqlite" else "%s")
