"""PostgreSQL's writing connection: statements go out without waiting for each other's answers.

A commit of the coordinator is eight statements or so. Sent one by one, each waits for a round trip;
in a pipeline (`store.exchange`) they leave together. Two things follow:

- Row counts would be known only after a round trip of their own. So where a number of rows must
  change, the statement itself fails if another one did (`_GUARDED`): the server then refuses all
  that follows, COMMIT included, and `unexpected` finds out from the error what was wrong.
- Many rows of one statement travel as arrays: ``INSERT ... SELECT * FROM unnest(...)`` costs a
  fraction of as many single statements.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flowq.store.exchange import Answer, Exchange
from flowq.store.queries import SQL

#: From so many rows on, they travel as arrays.
MANY = 4
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_]+)")
_TABLE = re.compile(r"(?:INSERT INTO|UPDATE|DELETE FROM) (flowq_\w+)")
#: Parameters that are not called like their column.
_COLUMNS = {
    "before_state": "state",
    "before_attempt": "attempt",
    "before_generation": "generation",
    "at": "created_at",
}
#: Fails unless so many rows changed. The count in the text keeps the planner from working the cast
#: out beforehand; the message of the error tells which expectation it was.
_GUARDED = """WITH changed AS ({})
    SELECT CASE WHEN count(*) = %s THEN 0
        ELSE CAST('flowq expected ' || %s::text || ' not ' || count(*)::text AS int4) END
    FROM changed"""
_REFUSED = re.compile(r"flowq expected (\d+) not (\d+)")
#: Statements whose rows may touch one row twice: arrays would refuse or lose that.
_ROW_BY_ROW = ("timer_set", "alias_insert", "payload_insert")

Row = tuple[Any, ...]


class ArrayForm(NamedTuple):
    """A statement that takes a list for each parameter."""

    text: str
    #: For each parameter, what its values are made: int, float, or None for as they are.
    casts: list[type[int] | type[float] | None]


class PipelinedCursor:
    """What writing functions get: a cursor, as far as they use one.

    Args:
        exchange: The connection's.
        forms: Array form by statement text.
    """

    def __init__(self, exchange: Exchange, forms: ArrayForms) -> None:
        self._exchange, self._forms = exchange, forms
        self._answers: list[Answer] = []
        self._rows: list[Row] | None = None
        self._expected: list[Callable[[int], Exception]] = []

    def execute(self, statement: str, params: Sequence[Any] = ()) -> PipelinedCursor:
        """Send one statement; `fetchone` and `rowcount` wait for its answer."""
        self._answers = [self._exchange.send(statement, params)]
        self._rows = None
        return self

    def executemany(self, statement: str, rows: Sequence[Row]) -> None:
        """Send a statement for many rows."""
        self._rows = None
        form = self._forms.of(statement) if len(rows) >= MANY else None
        if form is not None:
            self._answers = [self._exchange.send(form.text, _columns(form, rows))]
        else:
            self._answers = [self._exchange.send(statement, row) for row in rows]

    def expect(
        self, statement: str, rows: Sequence[Row], wrong: Callable[[int], Exception]
    ) -> None:
        """Send a statement of which every row must change one row.

        Args:
            statement: Of ours.
            rows: Its parameters.
            wrong: Makes the error, of how many rows changed; see `unexpected`.
        """
        form = self._forms.of(statement) if len(rows) >= MANY else None
        if form is not None:
            self._guarded(form.text, _columns(form, rows), len(rows), wrong)
            return
        rest = len(rows) - 1
        for row in rows:
            self._guarded(statement, row, 1, lambda changed: wrong(rest + changed))

    def _guarded(
        self, statement: str, params: Sequence[Any], count: int, wrong: Callable[[int], Exception]
    ) -> None:
        guarded = self._forms.guarded(statement)
        self.execute(guarded, (*params, count, len(self._expected)))
        self._expected.append(wrong)

    def unexpected(self, exc: BaseException) -> Exception | None:
        """What `expect` was told to make of an error; None if the error is another."""
        found = _REFUSED.search(str(exc))
        if found is None or int(found[1]) >= len(self._expected):
            return None
        return self._expected[int(found[1])](int(found[2]))

    def settle(self) -> None:
        """Wait for all answers; an error in one of them is raised, and the next may be sent."""
        self._exchange.sync()

    @property
    def rowcount(self) -> int:
        """Rows that the last statement changed; waits for it."""
        return sum(self._exchange.changed(answer) for answer in self._answers)

    def fetchone(self) -> Any:
        """The next row of the last statement; None after the last."""
        rows = self.fetchall()
        self._rows = rows[1:]
        return rows[0] if rows else None

    def fetchall(self) -> list[Row]:
        """All rows of the last statement that were not fetched yet."""
        if self._rows is None:
            self._rows = self._exchange.rows(self._answers[-1]) if self._answers else []
        rows, self._rows = self._rows, []
        return rows


def _columns(form: ArrayForm, rows: Sequence[Row]) -> list[list[Any]]:
    """Rows turned into columns of one type each: a driver's list has to be of one."""
    columns: list[list[Any]] = []
    for cast, values in zip(form.casts, zip(*rows, strict=True), strict=True):
        if cast is None:
            columns.append(list(values))
        else:
            columns.append([None if value is None else cast(value) for value in values])
    return columns


class ArrayForms:
    """Array forms of the statements that are given many rows; made at their first use.

    Args:
        statements: The prepared statements, by name.
    """

    def __init__(self, statements: Any) -> None:
        self._names = {getattr(statements, name): name for name in SQL if name not in _ROW_BY_ROW}
        self._forms: dict[str, ArrayForm | None] = {}
        self._guarded: dict[str, str] = {}

    def of(self, statement: str) -> ArrayForm | None:
        """The array form of a prepared statement; None if it has none."""
        if statement not in self._forms:
            name = self._names.get(statement)
            self._forms[statement] = None if name is None else array_form(SQL[name])
        return self._forms[statement]

    def guarded(self, statement: str) -> str:
        """A statement that fails unless a number of rows changes; see `_GUARDED`."""
        if statement not in self._guarded:
            rows = statement if statement.startswith("SELECT") else f"{statement} RETURNING 1"
            self._guarded[statement] = " ".join(_GUARDED.format(rows).split())
        return self._guarded[statement]


def array_form(text: str) -> ArrayForm | None:
    """Turn a statement with ``:name`` parameters into one that takes lists of them.

    None for what is neither a plain INSERT, UPDATE nor DELETE of one table.
    """
    text = " ".join(text.split())
    table = _TABLE.match(text)
    names = list(dict.fromkeys(_PARAMETER.findall(text)))
    if table is None or not names or len(names) != len(_PARAMETER.findall(text)):
        return None
    types = [kind for kind in (_type_of(table[1], name) for name in names) if kind]
    if len(types) != len(names):
        return None
    arrays = ", ".join(f"%s::{kind}[]" for kind in types)
    given = ", ".join(f"p_{name}" for name in names)
    source = f"unnest({arrays}) AS given({given})"
    taken = _PARAMETER.sub(r"given.p_\1", text)
    if text.startswith("INSERT"):
        before, values, after = re.split(r"VALUES \((.*?)\)", taken, maxsplit=1)
        made = f"{before}SELECT {values} FROM {source}{after}"
    elif text.startswith("UPDATE"):
        made = taken.replace(" WHERE ", f" FROM {source} WHERE ", 1)
    else:
        made = taken.replace(" WHERE ", f" USING {source} WHERE ", 1)
    casts = [{"int2": int, "int4": int, "int8": int, "float8": float}.get(kind) for kind in types]
    return ArrayForm(made, casts)


def _type_of(table: str, parameter: str) -> str:
    """PostgreSQL's name of the type of a parameter's column; empty if it is of no column."""
    from sqlalchemy import BigInteger, Double, Integer, LargeBinary, SmallInteger

    from flowq.store.tables import metadata

    columns = metadata.tables[table].columns
    column = columns.get(parameter)
    if column is None:
        column = columns.get(_COLUMNS.get(parameter, ""))
    if column is None:
        return ""
    kind = column.type
    for base, name in (
        (SmallInteger, "int2"),
        (BigInteger, "int8"),
        (Integer, "int4"),
        (Double, "float8"),
        (LargeBinary, "bytea"),
    ):
        if isinstance(kind, base):
            return name
    return "text"
