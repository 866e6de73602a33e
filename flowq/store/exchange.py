"""Statements to PostgreSQL without an answer awaited for each: libpq's pipeline, used directly.

psycopg's cursors have a pipeline mode too, but each statement costs them a look at the socket and
a packet of its own; a commit of ours is ten statements. Here statements are handed to libpq, which
puts them into one packet, and the answers are read when somebody asks for one, at the commit at
the latest. Only documented parts of psycopg are used: its `pq` module and its `Transformer`.
"""

from __future__ import annotations

import itertools
import select
from collections import deque
from collections.abc import Sequence
from typing import Any

#: Statements kept prepared; what comes after them is sent with its text.
_PREPARED = 500
#: The server begins with that many statements while the others are still being written.
_AT_ONCE = 3
_READ, _BOTH = select.POLLIN, select.POLLIN | select.POLLOUT
_names = itertools.count(1)


class Answer:
    """What the server says to one statement; filled when it is read."""

    __slots__ = ("result",)

    def __init__(self) -> None:
        self.result: Any = None


class Exchange:
    """A connection's statements and their answers. Statements open a transaction by themselves.

    Args:
        driver: psycopg's connection, which nobody else uses meanwhile.
    """

    def __init__(self, driver: Any) -> None:
        from psycopg import pq
        from psycopg.adapt import Transformer

        self._driver, self._pq = driver, pq
        self._pg = driver.pgconn
        self._pg.nonblocking = 1
        self._pg.enter_pipeline_mode()
        self._transformer = Transformer(driver)
        self._poll = select.poll()
        self._open = False
        #: Statements that libpq has kept back since the last flush.
        self._kept = 0
        #: What was sent and not answered; None stands for a sync.
        self._sent: deque[Answer | None] = deque()
        self._known: dict[str, tuple[bytes, bytes]] = {}
        #: Statements that are prepared only if nothing fails until the next sync.
        self._fresh: list[str] = []

    # -- sending -------------------------------------------------------------------------

    def send(self, statement: str, params: Sequence[Any] = ()) -> Answer:
        """Hand one statement with ``%s`` marks to libpq."""
        if not self._open:
            self._open = True
            self._plain(b"BEGIN")
        name, text = self._known.get(statement) or self._prepare(statement)
        values, formats = dump(params)
        if name:
            self._pg.send_query_prepared(name, values, formats)
        else:
            self._pg.send_query_params(text, values, None, formats)
        return self._awaited()

    def _plain(self, text: bytes) -> Answer:
        self._pg.send_query_params(text, None)
        return self._awaited()

    def _awaited(self) -> Answer:
        answer = Answer()
        self._sent.append(answer)
        self._kept += 1
        if self._kept >= _AT_ONCE:
            self._kept = 0
            self._pg.flush()
        return answer

    def _prepare(self, statement: str) -> tuple[bytes, bytes]:
        text = numbered(statement)
        if len(self._known) >= _PREPARED:
            return b"", text
        name = b"flowq_%d" % next(_names)
        self._pg.send_prepare(name, text)
        self._awaited()
        self._fresh.append(statement)
        self._known[statement] = name, text
        return name, text

    # -- receiving -----------------------------------------------------------------------

    def sync(self) -> None:
        """Read all answers.

        Raises:
            psycopg.Error: The first error among them; what followed it was not done.
        """
        self._pg.pipeline_sync()
        self._sent.append(None)
        failed = None
        status = self._pq.ExecStatus
        for result in self._results():
            if result.status == status.FATAL_ERROR and failed is None:
                failed = result
        fresh, self._fresh = self._fresh, []
        if failed is not None:
            for statement in fresh:  # perhaps refused, perhaps not: prepared anew if it comes again
                self._known.pop(statement, None)
            raise self._error(failed)

    def _results(self) -> list[Any]:
        """Send what is left, and read until everything sent is answered."""
        pg, sync = self._pg, self._pq.ExecStatus.PIPELINE_SYNC
        found: list[Any] = []
        left = pg.flush()
        self._poll.register(pg.socket, _BOTH if left else _READ)
        while self._sent:
            events = self._poll.poll()
            if left:
                left = pg.flush()
                self._poll.register(pg.socket, _BOTH if left else _READ)
            if events[0][1] & ~select.POLLOUT:
                pg.consume_input()
            between = True  # nothing stands behind each answer; twice in a row: no more is there
            while self._sent and not pg.is_busy():
                result = pg.get_result()
                if result is None:
                    if between:
                        break
                    between = True
                    continue
                between = False
                answer = self._sent.popleft()
                if answer is None and result.status != sync:
                    raise self._error(result)
                if answer is not None:
                    answer.result = result
                    found.append(result)
        return found

    def _error(self, result: Any) -> Exception:
        from psycopg import OperationalError, errors

        state = result.error_field(self._pq.DiagnosticField.SQLSTATE)
        text = result.error_message.decode("utf-8", "replace").strip()
        try:
            kind = errors.lookup(state.decode()) if state else OperationalError
        except KeyError:
            kind = OperationalError
        return kind(text)

    def rows(self, answer: Answer) -> list[tuple[Any, ...]]:
        """The rows of an answer; waits for it."""
        if answer.result is None:
            self.sync()
        self._transformer.set_pgresult(answer.result)
        return self._transformer.load_rows(0, answer.result.ntuples, tuple)

    def changed(self, answer: Answer) -> int:
        """How many rows a statement changed; waits for it."""
        if answer.result is None:
            self.sync()
        return int(answer.result.command_tuples or 0)

    # -- ending --------------------------------------------------------------------------

    def commit(self) -> None:
        """Commit; the first error of the transaction is raised, and then nothing is stored."""
        if not self._open:
            return
        done = self._plain(b"COMMIT")
        self.sync()
        self._open = False
        if done.result.command_status != b"COMMIT":
            from psycopg import InternalError

            raise InternalError("a transaction with an error in it was to be committed")

    def rollback(self) -> None:
        """Undo what is open."""
        if not self._open:
            return
        from psycopg import Error

        try:
            self.sync()
        except Error:
            if self._driver.closed:
                raise
        self._open = False
        self._plain(b"ROLLBACK")
        self.sync()


def numbered(statement: str) -> bytes:
    """A statement with ``%s`` marks in libpq's form: ``$1``, ``$2``."""
    first, *rest = statement.split("%s")
    text = first + "".join(f"${no}{part}" for no, part in enumerate(rest, 1))
    return text.replace("%%", "%").encode()


def dump(params: Sequence[Any]) -> tuple[list[bytes | None], list[int]]:
    """Values as PostgreSQL takes them, and which of them are binary; the server knows the types."""
    values: list[bytes | None] = []
    formats: list[int] = []
    for value in params:
        formats.append(1 if isinstance(value, bytes) else 0)
        if value is None or isinstance(value, bytes):
            values.append(value)
        elif isinstance(value, list):
            values.append(("{%s}" % ",".join(map(_element, value))).encode())  # noqa: UP031
        else:
            values.append(_text(value).encode())
    return values, formats


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, int):
        return str(int(value))
    return repr(float(value))


def _element(value: Any) -> str:
    """One member of an array."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return '"\\\\x' + value.hex() + '"'
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return _text(value)
