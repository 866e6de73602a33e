"""Group commit: one writing connection a process, one commit for all who wait.

Whoever has something to write hands in a function of a cursor. The first to get the lock is
the leader: it runs everything that is waiting in one transaction, commits once, and each
caller returns after that commit. So an idle store answers at once, without a change of
thread, and a busy one commits in batches that grow with the load (docs/decisions/0002).

With several functions in one transaction each has a savepoint of its own: one that raises
undoes only itself.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from flowq.errors import FlowqError, StoreUnavailable
from flowq.store.database import Database

T = TypeVar("T")

#: Under load the lock on the file is let go for a moment, so that other processes get in: they look
#: for it every few milliseconds. No need for that where it was free for so much of the span.
BUSY_SPAN, GAP, FREE = 0.050, 0.002, 0.010


class _Job:
    __slots__ = ("done", "error", "function", "result")

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


class Writer:
    """Runs writing functions, grouped; safe to call from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: Any = None
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._busy_since = self._free = 0.0
        self._last_commit = 0.0
        #: Commits so far, for the curious and the tests.
        self.commits = 0

    def __call__(self, function: Callable[[Any], T]) -> T:
        """Run `function(cursor)` in a transaction and return its result after the commit.

        Raises:
            StoreError: The database failed; nothing of `function` is stored, unless the
                failure came from the commit itself, which may then have happened.
        """
        job = _Job(function)
        self._waiting.append(job)
        with self._lock:
            if not job.done:
                self._lead(job)
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection; a later call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def let_go(self, end: float) -> Iterator[None]:
        """As `close`, and nobody writes for a block; does nothing if it is not free by `end`."""
        if not self._lock.acquire(timeout=max(0.0, end - time.monotonic())):
            yield
            return
        try:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
            yield
        finally:
            self._lock.release()

    def forget(self) -> None:
        """Drop what waits, without a word to who waits for it: threads of another process."""
        self._waiting.clear()

    def _lead(self, own: _Job) -> None:
        jobs: list[_Job] = []
        while self._waiting:
            jobs.append(self._waiting.popleft())
        try:
            with self._database.errors("write to the store"):
                self._transaction(jobs)
        except BaseException as exc:
            theirs: BaseException = exc
            if not isinstance(exc, Exception):  # Ctrl-C in this thread is no other thread's
                theirs = StoreUnavailable("cannot write to the store: it was interrupted")
            for job in jobs:
                if not job.done:
                    job.error = job.error or (exc if job is own else theirs)
                    job.done = True
            self._drop_connection()

    def _transaction(self, jobs: list[_Job]) -> None:
        if self._connection is None:
            self._connection = self._database.connect(owner=True)
        connection = self._connection
        if self._database.one_writer:
            self._be_polite()
        self._database.begin(connection)
        if len(jobs) == 1:
            self._run_alone(jobs[0], connection, connection.cursor())
        else:
            for job in jobs:
                self._run_inside(job, connection.cursor())
            connection.commit()
            self.commits += 1
        self._last_commit = time.monotonic()
        for job in jobs:
            job.done = True

    def _run_alone(self, job: _Job, connection: Any, cursor: Any) -> None:
        try:
            job.result = job.function(cursor)
            connection.commit()
        except FlowqError as exc:
            self._undo(connection, cursor)
            job.error = exc
        except Exception as exc:
            self._undo(connection, cursor)
            job.error = self._database.unexpected(cursor, exc)
            if job.error is None:
                raise
        else:
            self.commits += 1

    def _undo(self, connection: Any, cursor: Any) -> None:
        with contextlib.suppress(Exception):  # the first error is what counts
            self._database.settle(cursor)  # or what is sent next would not be looked at
        connection.rollback()

    def _run_inside(self, job: _Job, cursor: Any) -> None:
        cursor.execute("SAVEPOINT flowq_job")
        try:
            with self._database.errors("write to the store"):
                job.result = job.function(cursor)
                self._database.settle(cursor)
        except Exception as exc:
            with contextlib.suppress(Exception):  # the first error is what counts
                self._database.settle(cursor)  # or what is sent next would not be looked at
            cursor.execute("ROLLBACK TO SAVEPOINT flowq_job")
            job.error = self._database.unexpected(cursor, exc) or exc
        cursor.execute("RELEASE SAVEPOINT flowq_job")

    def _be_polite(self) -> None:
        """Leave a gap now and then while commits follow each other without a pause."""
        now = time.monotonic()
        pause = now - self._last_commit
        self._free += pause
        if pause > GAP:
            self._busy_since, self._free = now, 0.0
        elif now - self._busy_since > BUSY_SPAN:
            if self._free < FREE:
                time.sleep(GAP)
            self._busy_since, self._free = time.monotonic(), 0.0

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.rollback()
        except Exception:  # the connection is lost anyway; the first error is what counts
            return
        finally:
            connection.close()
