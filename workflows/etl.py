"""Load 24,951 flights from a CSV file into SQLite, with a report and a chart.

The file holds every flight that left New York in February 2013, as the Bureau of
Transportation Statistics published it. It was not made for this example, so it has gaps:
flights that never left, flights that were diverted, clocks that show 24:00. A `Flow` of 172
nodes sorts them out::

    split ─► load[2013-02-01 EWR] ─────┬───────────────────► summarise ─► chart ─► report
         │     └─ if it fails: quarantine[2013-02-01 EWR] ─┘     └───────────────────▲
         └─► load[2013-02-01 JFK] ... (84 batches: 28 days, 3 airports)

- The first attempt of `load` is strict: one row with a gap, and the batch raises `Unclean`.
- `autoretry_for` tries again, leniently: what a gap means is worked out where it can be (no
  departure: cancelled; 24:00: midnight; no delay on arrival: clock against timetable).
- If a row still makes no sense, the batch fails with `Unloadable`, having stored nothing. Its
  errback `quarantine` stores the good rows and files the others under `rejected`, each with
  the reason. A failure that an errback has taken care of does not fail the run.
- `summarise` waits until every batch and errback has ended (``join="always"``) and adds up:
  each row of the file must have arrived in one table or the other.

Each task first deletes what an earlier run of it has stored, so running it twice is harmless.

Run it, then look at the chart (a snowstorm came by), the report, and the two tables::

    flowq run workflows/etl.py -a out=etl-out
    flowq show @last "load[2013-02-08 EWR]"
    sqlite3 etl-out/flights.db "SELECT day, origin, carrier, flight, reason FROM rejected"
"""

from __future__ import annotations

import csv
import logging
import lzma
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import date, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from flowq import Flow, Flowq

app = Flowq("etl")
log = logging.getLogger("etl")

SOURCE = Path(__file__).with_name("data") / "flights-2013-02.csv.xz"
AIRPORTS = ("EWR", "JFK", "LGA")
DAYS = tuple(str(date(2013, 2, 1) + timedelta(days)) for days in range(28))

Row = dict[str, str]
Record = dict[str, Any]

SCHEMA = """
DROP TABLE IF EXISTS flight;
DROP TABLE IF EXISTS rejected;
DROP TABLE IF EXISTS batch;
CREATE TABLE flight (
    day TEXT NOT NULL, origin TEXT NOT NULL, carrier TEXT NOT NULL, flight INTEGER NOT NULL,
    dest TEXT NOT NULL, distance INTEGER NOT NULL, status TEXT NOT NULL,
    planned_departure INTEGER NOT NULL, departure INTEGER, departure_delay INTEGER,
    planned_arrival INTEGER NOT NULL, arrival INTEGER, arrival_delay INTEGER,
    PRIMARY KEY (day, origin, carrier, flight)
) WITHOUT ROWID;
CREATE TABLE rejected (
    day TEXT NOT NULL, origin TEXT NOT NULL, carrier TEXT NOT NULL, flight TEXT NOT NULL,
    reason TEXT NOT NULL, line TEXT NOT NULL
);
CREATE TABLE batch (
    day TEXT NOT NULL, origin TEXT NOT NULL, way TEXT NOT NULL, rows INTEGER NOT NULL,
    PRIMARY KEY (day, origin)
);
"""

INSERT_FLIGHT = """
INSERT INTO flight VALUES (:day, :origin, :carrier, :flight, :dest, :distance, :status,
    :planned_departure, :departure, :departure_delay, :planned_arrival, :arrival, :arrival_delay)
"""


class Unclean(Exception):
    """A batch has rows with gaps: worth a second, lenient attempt."""


class Unloadable(Exception):
    """A batch has rows that make no sense: a matter for its errback."""


# --- Tasks ---------------------------------------------------------------------------------


@app.task
def split(out: str) -> int:
    """Cut the source into one file per day and airport, and create the database.

    Returns:
        The number of rows in the source.
    """
    folder = Path(out) / "batches"
    folder.mkdir(parents=True, exist_ok=True)
    with closing(connect(out)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(SCHEMA)
    with lzma.open(SOURCE, "rt", encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        fields = list(reader.fieldnames or ())
        rows = sorted(reader, key=batch_name)
    for name, batch in groupby(rows, key=batch_name):
        with open(folder / name, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fields)
            writer.writeheader()
            writer.writerows(batch)
    return len(rows)


@app.task(bind=True, autoretry_for=(Unclean,), max_retries=1, default_retry_delay=0)
def load(self: Any, out: str, day: str, origin: str) -> int:
    """Store one batch whole, or nothing of it: strictly at first, leniently at the retry.

    Returns:
        The number of rows stored.
    """
    first = self.request.retries == 0
    rows = read_batch(out, day, origin)
    good, bad = sort_rows(rows, strict if first else lenient)
    if bad:
        row, reason = bad[0]
        problem = Unclean if first else Unloadable
        raise problem(
            f"{len(bad)} of {len(rows)} rows of {day} {origin} cannot be loaded: flight "
            f"{row['carrier']} {row['flight']} has {reason}"
        )
    store(out, day, origin, "strict" if first else "lenient", good)
    return len(good)


@app.task
def quarantine(
    request: Any, exc: Exception, _traceback: str | None, out: str, day: str, origin: str
) -> int:
    """Take over a batch that failed: store its good rows, file the others with the reason.

    As an errback it gets the failed task's request, its exception and its traceback first.

    Returns:
        The number of rows rejected.
    """
    log.warning("%s [%s]: %s", request.task, request.id, exc)  # `flowq logs RUN NODE` shows it
    good, bad = sort_rows(read_batch(out, day, origin), lenient)
    store(out, day, origin, "quarantine", good, bad)
    return len(bad)


@app.task
def summarise(rows: int | Exception, out: str) -> dict[str, Any]:
    """Add up what has been stored, and refuse if a row of the source went missing.

    Its join rule lets failures through, as values; that of `split` ends the matter here.
    """
    if isinstance(rows, Exception):
        raise rows
    with closing(connect(out)) as database:
        database.row_factory = sqlite3.Row
        status = dict(counts(database, "SELECT status, count(*) FROM flight GROUP BY 1"))
        ways = dict(counts(database, "SELECT way, count(*) FROM batch GROUP BY 1"))
        rejected = dict(counts(database, "SELECT reason, count(*) FROM rejected GROUP BY 1"))
        days = [dict(row) for row in database.execute(BY_DAY)]
        carriers = [dict(row) for row in database.execute(BY_CARRIER)]
    loaded, refused = sum(status.values()), sum(rejected.values())
    if loaded + refused != rows:
        raise ValueError(f"{rows} rows were read, but {loaded} loaded and {refused} rejected")
    return {
        "rows": rows,
        "loaded": loaded,
        "status": status,
        "rejected": rejected,
        "batches": ways,
        "days": days,
        "carriers": carriers,
    }


@app.task
def chart(summary: dict[str, Any], out: str) -> str:
    """Draw the flights of each day as an SVG file, the cancelled ones on top in red."""
    path = Path(out) / "flights.svg"
    path.write_text(draw(summary["days"]), encoding="utf-8")
    return str(path)


@app.task
def report(summary: dict[str, Any], picture: str, out: str) -> dict[str, Any]:
    """Write the report next to the database; the result says where to look."""
    path = Path(out) / "report.md"
    path.write_text(page(summary, Path(picture).name), encoding="utf-8")
    return {
        "rows": summary["rows"],
        "loaded": summary["loaded"],
        "status": summary["status"],
        "rejected": summary["rejected"],
        "batches": summary["batches"],
        "worst_day": worst_day(summary)["day"],
        "database": str(Path(out) / "flights.db"),
        "chart": picture,
        "report": str(path),
    }


# --- The flow ------------------------------------------------------------------------------


def pipeline(out: str = "etl-out") -> Flow:
    """Build the flow; `out` is the folder for the database, the report and the chart."""
    out = str(Path(out).resolve())
    flow = Flow("etl")
    rows = flow.add(split.s(out))
    ends = []
    for day in DAYS:
        for origin in AIRPORTS:
            batch = f"[{day} {origin}]"
            loaded = flow.add(load.s(out, day, origin), after=[rows], name=f"load{batch}")
            caught = flow.add(
                quarantine.s(out, day, origin), on_failure=[loaded], name=f"quarantine{batch}"
            )
            ends += [loaded, caught]
    summary = flow.add(summarise.s(rows, out), after=ends, join="always")
    picture = flow.add(chart.s(summary, out))
    flow.add(report.s(summary, picture, out))
    return flow


# --- Reading rows --------------------------------------------------------------------------


def strict(row: Row) -> Record:
    """Read a row as the file's description has it: nothing missing, clocks below 24:00.

    Raises:
        ValueError: A field is missing or is no number or time; the text names it.
    """
    return {
        **timetable(row),
        "status": "flown",
        "departure": clock(row, "dep_time"),
        "departure_delay": number(row, "dep_delay"),
        "arrival": clock(row, "arr_time"),
        "arrival_delay": number(row, "arr_delay"),
    }


def lenient(row: Row) -> Record:
    """Read a row, working out what its gaps mean.

    Raises:
        ValueError: A gap that has no innocent explanation.
    """
    if row["dep_time"] == "NA" and row["arr_time"] == "NA":
        nothing = dict.fromkeys(("departure", "departure_delay", "arrival", "arrival_delay"))
        return {**timetable(row), **nothing, "status": "cancelled"}
    midnight = {key: "0" for key in ("dep_time", "arr_time") if row[key] == "2400"}
    row = {**row, **midnight}
    if row["arr_delay"] == "NA" and row["arr_time"] != "NA":
        late = clock(row, "arr_time") - clock(row, "sched_arr_time")
        half_a_day = 12 * 60  # a flight due at 23:57 that arrives at 03:30 is late, not early
        row["arr_delay"] = str((late + half_a_day) % (2 * half_a_day) - half_a_day)
        return {**strict(row), "status": "diverted"}
    return strict(row)


def timetable(row: Row) -> Record:
    """Read the part of a row that was known before the day."""
    return {
        "day": f"{row['year']}-{row['month']:0>2}-{row['day']:0>2}",
        "origin": row["origin"],
        "carrier": row["carrier"],
        "flight": number(row, "flight"),
        "dest": row["dest"],
        "distance": number(row, "distance"),
        "planned_departure": clock(row, "sched_dep_time"),
        "planned_arrival": clock(row, "sched_arr_time"),
    }


def number(row: Row, field: str) -> int:
    """Read a whole number."""
    if row[field] in ("", "NA"):
        raise ValueError(f"no {field}")
    return int(row[field])


def clock(row: Row, field: str) -> int:
    """Read a time of day as minutes since midnight; the file writes 05:17 as 517."""
    hour, minute = divmod(number(row, field), 100)
    if not (0 <= hour < 24 and 0 <= minute < 60):
        raise ValueError(f"{hour}:{minute:02d} as {field}")
    return 60 * hour + minute


def sort_rows(
    rows: list[Row], read: Callable[[Row], Record]
) -> tuple[list[Record], list[tuple[Row, str]]]:
    """Sort rows into the records that could be read and the rows that could not, with why."""
    good, bad = [], []
    for row in rows:
        try:
            good.append(read(row))
        except ValueError as problem:
            bad.append((row, str(problem)))
    return good, bad


def batch_name(row: Row) -> str:
    """Name the file of the batch that a row belongs to."""
    return f"{row['year']}-{row['month']:0>2}-{row['day']:0>2}-{row['origin']}.csv"


def read_batch(out: str, day: str, origin: str) -> list[Row]:
    """Read the rows of one batch."""
    with open(Path(out) / "batches" / f"{day}-{origin}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- The database --------------------------------------------------------------------------

BY_DAY = """
SELECT day, sum(status <> 'cancelled') AS flown, sum(status = 'cancelled') AS cancelled
FROM flight GROUP BY day ORDER BY day
"""

BY_CARRIER = """
SELECT carrier, count(*) AS flights, sum(status = 'cancelled') AS cancelled,
       sum(arrival_delay > 15) AS late, round(avg(departure_delay), 1) AS mean_delay
FROM flight GROUP BY carrier ORDER BY flights DESC, carrier
"""


def connect(out: str) -> sqlite3.Connection:
    """Open the database; other tasks write to it too, so wait for them."""
    return sqlite3.connect(Path(out) / "flights.db", timeout=60)


def counts(database: sqlite3.Connection, query: str) -> Iterator[tuple[str, int]]:
    """Run a query that gives names with numbers."""
    return ((name, count) for name, count in database.execute(query))


@contextmanager
def replacing(out: str, day: str, origin: str) -> Iterator[sqlite3.Connection]:
    """Open a transaction that replaces all that is stored of one batch."""
    with closing(connect(out)) as database, database:
        for table in ("flight", "rejected", "batch"):
            database.execute(f"DELETE FROM {table} WHERE day = ? AND origin = ?", (day, origin))
        yield database


def store(
    out: str,
    day: str,
    origin: str,
    way: str,
    good: list[Record],
    bad: list[tuple[Row, str]] | None = None,
) -> None:
    """Store one batch in one transaction and note in which way it came in."""
    rejected = [
        (day, origin, row["carrier"], row["flight"], reason, ",".join(row.values()))
        for row, reason in bad or ()
    ]
    with replacing(out, day, origin) as database:
        database.executemany(INSERT_FLIGHT, good)
        database.executemany("INSERT INTO rejected VALUES (?, ?, ?, ?, ?, ?)", rejected)
        size = len(good) + len(rejected)
        database.execute("INSERT INTO batch VALUES (?, ?, ?, ?)", (day, origin, way, size))


# --- Report and chart ----------------------------------------------------------------------


def worst_day(summary: dict[str, Any]) -> dict[str, Any]:
    """Find the day with the most cancelled flights."""
    return max(summary["days"], key=lambda day: day["cancelled"])


def page(summary: dict[str, Any], picture: str) -> str:
    """Write the report as Markdown."""
    worst = worst_day(summary)
    rejected = sum(summary["rejected"].values())
    lines = [
        "# Flights out of New York, February 2013",
        "",
        f"{summary['rows']:,} rows read, {summary['loaded']:,} loaded, {rejected} rejected.",
        f"The worst day was {worst['day']}: {worst['cancelled']} flights were cancelled and only",
        f"{worst['flown']} flown.",
        "",
        f"![Flights of each day]({picture})",
        "",
        "| carrier | flights | cancelled | over 15 min late | mean delay at departure |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in summary["carriers"]:
        cells = map(str, row.values())  # in the order of BY_CARRIER's columns
        lines.append(f"| {' | '.join(cells)} min |")
    return "\n".join([*lines, ""])


def draw(days: list[dict[str, Any]]) -> str:
    """Draw a bar for each day, cancelled on top of flown, as SVG text."""
    scale, floor, step = 0.22, 270, 24
    width = 60 + step * len(days)
    marks = [text(16, 24, "Flights a day: flown (blue) and cancelled (red)", size=15)]
    for level in range(0, 1001, 250):
        y = floor - level * scale
        marks.append(f'<line x1="48" x2="{width - 8}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        marks.append(text(42, y + 4, str(level), anchor="end"))
    for place, day in enumerate(days):
        x = 52 + step * place
        flown, cancelled = day["flown"] * scale, day["cancelled"] * scale
        marks.append(bar(x, floor - flown, flown, "#4878a8"))
        marks.append(bar(x, floor - flown - cancelled, cancelled, "#d04a3a"))
        marks.append(text(x + 9, floor + 16, str(int(day["day"][-2:])), anchor="middle"))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="300">',
            f'<rect width="{width}" height="300" fill="white"/>',
            *marks,
            "</svg>\n",
        ]
    )


def bar(x: float, y: float, height: float, colour: str) -> str:
    """One bar, 18 wide."""
    return f'<rect x="{x}" y="{y:.1f}" width="18" height="{height:.1f}" fill="{colour}"/>'


def text(x: float, y: float, words: str, *, size: int = 11, anchor: str = "start") -> str:
    """One line of text."""
    style = f'font-family="sans-serif" font-size="{size}" text-anchor="{anchor}"'
    return f'<text x="{x}" y="{y:.0f}" {style}>{words}</text>'
