"""Opening a store, and the two roads to it: `write` and `rows`."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flowq.errors import StoreUnavailable
from flowq.store import forking, schema
from flowq.store.database import Database, SqliteDatabase, make_folder, open_database
from flowq.store.queries import prepare
from flowq.store.writer import Writer


class _Reading:
    """A thread's connection for reading; it is closed when the thread has ended."""

    __slots__ = ("__weakref__", "busy", "connection")

    def __init__(self) -> None:
        self.connection: Any = None
        #: Held while the connection is used, and by who forks.
        self.busy = threading.Lock()

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


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
        self._readers: weakref.WeakSet[_Reading] = weakref.WeakSet()
        self._joining = threading.Lock()
        #: How often readers were closed for a fork.
        self._forks = 0
        if isinstance(self.database, SqliteDatabase) and self.folder is not None:
            forking.let_go_before_forks(self)

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
        with self._joining:
            readers = list(self._readers)
        for reading in readers:
            reading.close()
        self._local = threading.local()
        self.database.close()

    @property
    def folder(self) -> Path | None:
        """Folder of a file store, for lock files beside it; None for a server or memory."""
        if isinstance(self.database, SqliteDatabase) and self.database.path != ":memory:":
            return Path(self.database.path).resolve().parent
        return None

    # -- forks ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def let_go(self, patience: float) -> Iterator[None]:
        """Keep everybody from the database for a block, and have no connection to it.

        Who does not come to an end within `patience` seconds keeps what they have.
        """
        end = time.monotonic() + patience
        with contextlib.ExitStack() as held:
            held.enter_context(self._writer.let_go(end))
            held.enter_context(self._joining)
            for reading in list(self._readers):
                if reading.busy.acquire(timeout=max(0.0, end - time.monotonic())):
                    held.callback(reading.busy.release)
                    reading.close()
            self._forks += 1
            yield

    def forked(self) -> None:
        """In the child: what other threads were about to write, the parent writes."""
        self._writer.forget()

    # -- reading -------------------------------------------------------------------------

    def _reading(self) -> _Reading:
        """This thread's connection for reading, open or not."""
        reading: _Reading | None = getattr(self._local, "reading", None)
        if reading is None:
            reading = self._local.reading = _Reading()
            with self._joining:
                self._readers.add(reading)
        return reading

    def rows(self, statement: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """All rows of a prepared statement, from this thread's reading connection."""
        reading = self._reading()
        known = reading.connection is not None
        try:
            return self._read(reading, statement, params)
        except StoreUnavailable:
            if not known:
                raise
            # a server may have ended an old connection
            return self._read(reading, statement, params)

    def _read(
        self, reading: _Reading, statement: str, params: tuple[Any, ...]
    ) -> list[tuple[Any, ...]]:
        with reading.busy:
            connection = reading.connection
            if connection is None:
                connection = reading.connection = self.database.connect()
            try:
                with self.database.errors("read the store"):
                    found: list[tuple[Any, ...]] = connection.execute(statement, params).fetchall()
            except BaseException:
                with contextlib.suppress(Exception):  # the first error is what counts
                    reading.close()  # the next read opens another one: this one may be dead
                raise
            return found

    def one(self, statement: str, params: tuple[Any, ...] = ()) -> tuple[Any, ...] | None:
        """The first row of a prepared statement, or None."""
        found = self.rows(statement, params)
        return found[0] if found else None

    def changed(self) -> int:
        """A number that changes when another process writes; constant on servers."""
        reading = self._reading()
        with reading.busy:
            if reading.connection is None:
                reading.connection = self.database.connect()
            return self._forks << 32 | self.database.changed(reading.connection)

    def prepared(self, text: str) -> str:
        """A statement put together for one call, in the driver's form."""
        return prepare(text, "?" if self.database.dialect == "sqlite" else "%s")
