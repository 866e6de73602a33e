"""Opening a database: connections, pragmas, the store's clock, and errors in our own words.

SQLite is opened through the standard library and PostgreSQL through SQLAlchemy's pool; both
give plain driver connections, on which the prepared statements run. SQLAlchemy is imported
only where tables are made, migrated or inspected, because importing it costs half of what
`flowq run` may take from the shell (docs/decisions/0003).
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from flowq.errors import (
    CorruptStore,
    ImproperlyConfigured,
    StoreError,
    StoreUnavailable,
)
from flowq.store.exchange import Exchange
from flowq.store.pipelined import ArrayForms, PipelinedCursor
from flowq.store.queries import Statements

#: How long a writer waits for another process to finish its commit, in seconds.
LOCK_TIMEOUT = 30.0

#: The server's clock is read that often (seconds); in between a local one carries it on.
_CLOCK_SECONDS = 10.0

#: What libpq is told where the URL does not: a server that went without a word (a cable pulled, a
#: host gone) is noticed in seconds, as whoever waits for it does nothing else meanwhile.
_PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

#: A standby, or a primary that is being replaced, refuses to write; and a transaction that stood
#: idle too long was ended. Writes are possible again later.
_LATER = ("25006", "25P03")

#: A clock that nobody sets and that goes on while the host sleeps.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def open_database(url: str, *, synchronous: str = "FULL") -> Database:
    """Open the database behind a store URL; nothing is created here.

    Raises:
        ImproperlyConfigured: The URL is of no known kind.
        StoreUnavailable: It cannot be reached or opened.
    """
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme == "sqlite":
        return SqliteDatabase(url, synchronous)
    if scheme in ("postgresql", "postgres"):
        return PostgresDatabase(url)
    raise ImproperlyConfigured(
        f"store URL {url.partition('@')[2] or url!r} is of no known kind: use "
        "sqlite:///path/to/file.db or postgresql+psycopg://user@host/database"
    )


class Database:
    """Connections to one database, and what differs between dialects."""

    dialect = ""
    #: Whether one connection at a time may write, whatever it writes to.
    one_writer = False
    #: Whether an answer costs a wait, so that ids of runs are better fetched many at a time.
    reserves_ids = False
    sql: Statements
    url: str

    def connect(self, *, owner: bool = False) -> Any:
        """A new driver connection. The owner is the one that checkpoints."""
        raise NotImplementedError

    def begin(self, connection: Any) -> None:
        """Open a writing transaction, waiting for the lock if need be."""
        raise NotImplementedError

    def expect(
        self,
        cursor: Any,
        statement: str,
        rows: Sequence[tuple[Any, ...]],
        wrong: Callable[[int], Exception],
    ) -> None:
        """Run a statement for rows each of which must change one row of its table.

        Raises:
            Exception: What `wrong` makes of the number of rows that changed. Where answers come
                later, some later call fails, the commit at the latest; `unexpected` tells why.
        """
        cursor.executemany(statement, rows)
        if cursor.rowcount != len(rows):
            raise wrong(cursor.rowcount)

    def fence(self, cursor: Any, fence: tuple[int, str, int], lost: Exception) -> None:
        """Let the transaction go on only if a lane (id) is the owner's (owner, epoch), to its end.

        Raises:
            Exception: `lost`, now or as `expect` does.
        """
        raise NotImplementedError

    def unexpected(self, cursor: Any, exc: BaseException) -> Exception | None:
        """The error that `expect` was given for what just failed; None if it was something else.

        Nothing of the transaction is stored then.
        """
        return None

    def settle(self, cursor: Any) -> None:
        """Wait for what a cursor was told to do, where it does not wait by itself."""

    def lock(self, cursor: Any, name: str) -> None:
        """Let one transaction at a time go on from here; held until it ends.

        SQLite has one writer at a time anyway.
        """

    def now(self) -> float:
        """Epoch seconds of the store's clock."""
        return time.time()

    def lease_now(self) -> float:
        """Seconds of the clock that leases are written in: one for all processes of the store.

        No clock of a user's: leases must not lapse, or last for ever, because somebody set it.
        """
        return self.now()

    def changed(self, connection: Any) -> int:
        """A number that changes when another connection commits; 0 where there is none."""
        return 0

    def close(self) -> None:
        """Give everything back; a second call does nothing."""

    @contextlib.contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn the driver's errors into ours, naming what was attempted."""
        raise NotImplementedError


class SqliteDatabase(Database):
    """One file, WAL, one writer at a time."""

    dialect = "sqlite"
    one_writer = True

    def __init__(self, url: str, synchronous: str = "FULL") -> None:
        self.url = url
        self.sql = Statements("?")
        self.path = sqlite_path(url)
        if synchronous not in ("FULL", "NORMAL"):
            raise ImproperlyConfigured(
                f"sqlite_synchronous={synchronous!r}: use FULL, or NORMAL if losing the last "
                "moments at a power cut is acceptable"
            )
        self._synchronous = synchronous
        #: The host's clock is read once: whoever sets it back or forth while we run moves no timer.
        self._epoch = time.time() - time.clock_gettime(_STEADY)
        self._memory = self.path == ":memory:"
        self._name = f"file:flowq{id(self)}?mode=memory&cache=shared" if self._memory else ""
        #: A memory database lives as long as one connection to it does.
        self._anchor = self.connect() if self._memory else None

    def connect(self, *, owner: bool = False) -> sqlite3.Connection:
        with self.errors("open the store"):
            if self._memory:
                made = sqlite3.connect(
                    self._name, uri=True, isolation_level=None, check_same_thread=False
                )
                made.execute("PRAGMA read_uncommitted = 1")
                return made
            made = sqlite3.connect(
                self.path, isolation_level=None, check_same_thread=False, timeout=0
            )
            self._retry_busy(made, "PRAGMA journal_mode = WAL")
            made.execute(f"PRAGMA synchronous = {self._synchronous}")
            made.execute(f"PRAGMA wal_autocheckpoint = {2000 if owner else 0}")
            made.execute("PRAGMA cache_size = -32768")
            made.execute("PRAGMA temp_store = MEMORY")
            return made

    def now(self) -> float:
        return self._epoch + time.clock_gettime(_STEADY)

    def lease_now(self) -> float:
        return time.clock_gettime(_STEADY)

    def begin(self, connection: Any) -> None:
        self._retry_busy(connection, "BEGIN IMMEDIATE")

    def fence(self, cursor: Any, fence: tuple[int, str, int], lost: Exception) -> None:
        """Looking is enough: nobody else writes while this transaction is open."""
        if cursor.execute(self.sql.lane_held, fence).fetchone() is None:
            raise lost

    def _retry_busy(self, connection: sqlite3.Connection, statement: str) -> None:
        """Poll for the lock: SQLite's own waiting starves behind a busy owner."""
        deadline = time.monotonic() + LOCK_TIMEOUT
        pause = 0.0002
        while True:
            try:
                connection.execute(statement)
                return
            except sqlite3.OperationalError as exc:
                busy = "locked" in str(exc) or "busy" in str(exc)
                if not busy or time.monotonic() > deadline:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(pause * 1.5, 0.005)

    def changed(self, connection: Any) -> int:
        return int(connection.execute("PRAGMA data_version").fetchone()[0])

    @contextlib.contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as exc:
            raise self._translate(doing, exc) from exc

    def _translate(self, doing: str, exc: sqlite3.DatabaseError) -> StoreError:
        text = str(exc)
        if "malformed" in text or "not a database" in text:
            return CorruptStore(
                f"cannot {doing}: {self.path} is damaged or not a flowq store ({text}); restore "
                "a copy, or move the file away to start with a new one"
            )
        if "full" in text:
            return StoreUnavailable(
                f"cannot {doing}: the disk that holds {self.path} is full; free some space, "
                "then go on with: flowq resume @last"
            )
        if "unable to open" in text or "readonly" in text or "read-only" in text:
            return StoreUnavailable(
                f"cannot {doing}: {self.path} cannot be opened for writing ({text}); check the "
                "folder's rights, or name another file with --store sqlite:///path/file.db"
            )
        if "locked" in text or "busy" in text:
            return StoreUnavailable(
                f"cannot {doing}: {self.path} stayed locked by another process for "
                f"{LOCK_TIMEOUT:.0f} s; end that process and try again"
            )
        if "disk I/O" in text:
            return StoreUnavailable(
                f"cannot {doing}: the disk that holds {self.path} fails ({text}); look at the "
                "system's log"
            )
        return StoreError(f"cannot {doing}: {text}")


class PostgresDatabase(Database):
    """A PostgreSQL database through psycopg."""

    dialect = "postgresql"
    reserves_ids = True

    def __init__(self, url: str) -> None:
        self.url = url
        self.sql = Statements("%s")
        self._forms = ArrayForms(self.sql)
        self._engine: Any = None
        self._lock = threading.Lock()
        self._offset: tuple[float, float] | None = None

    def engine(self) -> Any:
        """The SQLAlchemy engine, made at first use."""
        with self._lock:
            if self._engine is None:
                from sqlalchemy import create_engine, event, make_url

                parsed = make_url(self.url)
                if parsed.drivername in ("postgresql", "postgres"):
                    parsed = parsed.set(drivername="postgresql+psycopg")
                try:
                    self._engine = create_engine(
                        parsed,
                        pool_size=20,
                        max_overflow=20,
                        pool_pre_ping=True,
                        connect_args={
                            key: value
                            for key, value in _PATIENCE.items()
                            if key not in parsed.query
                        },
                    )
                except ModuleNotFoundError as exc:
                    raise ImproperlyConfigured(
                        "PostgreSQL needs its driver: pip install flowq[postgres]"
                    ) from exc
                event.listen(self._engine, "connect", _compile_nothing)
            return self._engine

    def connect(self, *, owner: bool = False) -> Any:
        engine = self.engine()
        with self.errors("reach the store"):
            return _Writing(engine, self._forms) if owner else _Reading(engine)

    def expect(
        self,
        cursor: Any,
        statement: str,
        rows: Sequence[tuple[Any, ...]],
        wrong: Callable[[int], Exception],
    ) -> None:
        cursor.expect(statement, rows, wrong)

    def fence(self, cursor: Any, fence: tuple[int, str, int], lost: Exception) -> None:
        """The row is locked against a change of owner; writing it would only leave dead rows."""
        cursor.expect(f"{self.sql.lane_held} FOR SHARE", [fence], lambda changed: lost)

    def unexpected(self, cursor: Any, exc: BaseException) -> Exception | None:
        return cursor.unexpected(exc)  # type: ignore[no-any-return]

    def settle(self, cursor: Any) -> None:
        cursor.settle()

    def begin(self, connection: Any) -> None:
        """psycopg opens a transaction at the first statement."""

    def lock(self, cursor: Any, name: str) -> None:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (f"flowq {name}",))

    def now(self) -> float:
        """The server's clock, read at times and carried on by the local monotonic clock.

        Once it was read, a server that is away does not matter: it is carried on for longer.
        """
        base = self._offset
        if base is None:
            base = self._offset = self._read_clock()
        elif time.monotonic() - base[1] > _CLOCK_SECONDS:
            try:
                base = self._offset = self._read_clock()
            except StoreUnavailable:
                here = time.monotonic()
                base = self._offset = (base[0] + here - base[1], here)
        return base[0] + time.monotonic() - base[1]

    def _read_clock(self) -> tuple[float, float]:
        """The server's time, and the local one at that moment."""
        raw = self.connect()
        try:
            with self.errors("read the store's clock"):
                cursor = raw.execute("SELECT EXTRACT(EPOCH FROM clock_timestamp())")
                return float(cursor.fetchone()[0]), time.monotonic()
        finally:
            raw.close()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.dispose()

    @contextlib.contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        import psycopg
        from sqlalchemy.exc import DBAPIError

        try:
            yield
        except (psycopg.Error, DBAPIError) as exc:
            original = getattr(exc, "orig", exc)
            said = (str(original).strip() or type(original).__name__).splitlines()[0]
            away = psycopg.OperationalError | psycopg.InterfaceError
            if isinstance(original, away) or getattr(original, "sqlstate", "") in _LATER:
                raise StoreUnavailable(
                    f"cannot {doing}: PostgreSQL says: {said}; check the server and the URL given "
                    "with --store"
                ) from exc
            raise StoreError(f"cannot {doing}: PostgreSQL says: {said}") from exc


def _compile_nothing(driver: Any, _record: Any) -> None:
    """Turn the server's JIT compiler off for a new connection.

    Our statements touch a few rows each. Where tables were never analyzed the planner expects
    many, and compiling, 15 ms a statement, then takes a hundred times as long as the work.
    """
    driver.autocommit = True
    driver.execute("SET jit = off")
    driver.autocommit = False


class _Raw:
    """A driver connection out of SQLAlchemy's pool, given back by `close`."""

    def __init__(self, engine: Any) -> None:
        self._fairy = engine.raw_connection()
        self._driver = driver = self._fairy.driver_connection
        self.commit, self.rollback = driver.commit, driver.rollback

    def cursor(self) -> Any:
        return self._driver.cursor()

    def execute(self, statement: str, params: Any = None) -> Any:
        cursor = self.cursor()
        cursor.execute(statement, params)
        return cursor

    def close(self) -> None:
        if self._driver.closed:  # the server ended it: not one for the pool
            self._fairy.invalidate()
        self._fairy.close()


class _Reading(_Raw):
    """A connection whose statements each see what is committed by then, and leave nothing open."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self._driver.autocommit = True

    def close(self) -> None:
        if not self._driver.closed:
            self._driver.autocommit = False  # as the pool gave it
        super().close()


class _Writing:
    """A connection of the writer's own, in a pipeline; see `store.exchange`."""

    def __init__(self, engine: Any, forms: ArrayForms) -> None:
        self._fairy = engine.raw_connection()
        self._exchange = exchange = Exchange(self._fairy.driver_connection)
        self.commit, self.rollback = exchange.commit, exchange.rollback
        self._forms = forms

    def cursor(self) -> PipelinedCursor:
        return PipelinedCursor(self._exchange, self._forms)

    def execute(self, statement: str, params: Any = ()) -> PipelinedCursor:
        return self.cursor().execute(statement, params)

    def close(self) -> None:
        self._fairy.invalidate()  # not one for the pool: it is prepared for this use
        self._fairy.close()


def sqlite_path(url: str) -> str:
    """File path of a sqlite URL; ``:memory:`` where it names none.

    Raises:
        ImproperlyConfigured: The URL names a host.
    """
    rest = url.partition(":")[2]
    if rest in ("", "//"):
        return ":memory:"
    if not rest.startswith("///"):
        raise ImproperlyConfigured(
            f"store URL {url!r}: write three slashes before a relative path and four before an "
            "absolute one, as in sqlite:///flowq.db"
        )
    path = unquote(rest[3:].partition("?")[0])
    return path if path and path != ":memory:" else ":memory:"


def make_folder(path: str) -> None:
    """Make the folder of a store file, with a .gitignore of its own where it is `.flowq`.

    Raises:
        StoreUnavailable: The folder cannot be made.
    """
    if path == ":memory:":
        return
    folder = Path(path).parent
    if folder.is_dir():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.name == ".flowq":
            (folder / ".gitignore").write_text("*\n")
    except OSError as exc:
        raise StoreUnavailable(
            f"cannot make the store's folder {folder}: {os.strerror(exc.errno or 0)}; name "
            "another place with --store sqlite:///path/file.db"
        ) from exc
