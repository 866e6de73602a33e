"""The ETL, checked against the source read directly with csv, and its database with sqlite3."""

from __future__ import annotations

import csv
import lzma
import sqlite3
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

SOURCE = Path(__file__).parents[2] / "workflows" / "data" / "flights-2013-02.csv.xz"

Batch = tuple[str, str]


@pytest.fixture(scope="module")
def source() -> list[dict[str, str]]:
    with lzma.open(SOURCE, "rt", newline="") as lines:
        return list(csv.DictReader(lines))


def batch_of(row: dict[str, str]) -> Batch:
    return f"2013-02-{int(row['day']):02d}", row["origin"]


def fate_of(row: dict[str, str]) -> str:
    """What must become of a row, by what is missing in it."""
    match row["dep_time"] == "NA", row["arr_time"] == "NA", row["arr_delay"] == "NA":
        case True, True, _:
            return "cancelled"
        case False, True, _:
            return "rejected"
        case _, _, True:
            return "diverted"
    return "flown"


def way_of(rows: list[dict[str, str]]) -> str:
    """How a batch must come in: the worst of its rows decides."""
    fates = {fate_of(row) for row in rows}
    if "rejected" in fates:
        return "quarantine"
    at_midnight = any("2400" in (row["dep_time"], row["arr_time"]) for row in rows)
    return "lenient" if fates != {"flown"} or at_midnight else "strict"


def ways(source: list[dict[str, str]]) -> dict[Batch, str]:
    batches: dict[Batch, list[dict[str, str]]] = {}
    for row in source:
        batches.setdefault(batch_of(row), []).append(row)
    return {batch: way_of(rows) for batch, rows in batches.items()}


def query(out: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(out / "flights.db") as database:
        return database.execute(sql).fetchall()


def check(result: dict[str, Any], out: Path, source: list[dict[str, str]]) -> None:
    fates = Counter(map(fate_of, source))
    rejected = fates.pop("rejected")
    assert result["rows"] == len(source) >= 10_000
    assert result["status"] == fates
    assert result["loaded"] == fates.total()
    assert result["rejected"] == {"no arr_time": rejected}
    assert result["batches"] == Counter(ways(source).values())
    cancelled = Counter(batch_of(row)[0] for row in source if fate_of(row) == "cancelled")
    assert result["worst_day"] == cancelled.most_common(1)[0][0]
    check_flights(out, source)
    check_rejected(out, source)
    check_papers(result, out)


def check_flights(out: Path, source: list[dict[str, str]]) -> None:
    flown = {
        (*batch_of(row), row["carrier"], int(row["flight"]), int(row["arr_delay"]))
        for row in source
        if row["arr_delay"] != "NA"
    }
    stored = query(
        out,
        "SELECT day, origin, carrier, flight, arrival_delay FROM flight WHERE status = 'flown'",
    )
    assert len(stored) == len(flown)
    assert set(stored) == flown
    late = query(
        out,
        "SELECT sum((arrival - planned_arrival - arrival_delay) % 1440 <> 0) FROM flight"
        " WHERE status = 'diverted'",
    )
    assert late == [(0,)]
    blank = "departure IS NULL AND departure_delay IS NULL AND arrival IS NULL"
    assert query(
        out, f"SELECT count(*) FROM flight WHERE status = 'cancelled' AND {blank}"
    ) == query(out, "SELECT count(*) FROM flight WHERE status = 'cancelled'")


def check_rejected(out: Path, source: list[dict[str, str]]) -> None:
    lines = sorted(",".join(row.values()) for row in source if fate_of(row) == "rejected")
    assert [line for (line,) in query(out, "SELECT line FROM rejected ORDER BY line")] == lines


def check_papers(result: dict[str, Any], out: Path) -> None:
    assert result["database"] == str(out / "flights.db")
    picture = ElementTree.parse(result["chart"]).getroot()
    bars = picture.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 1 + 2 * 28
    page = Path(result["report"]).read_text()
    assert "24,951 rows read" in page
    assert "| UA | " in page


def load_in_process(etl: Any, out: str, day: str, origin: str) -> None:
    """What the engine does with one batch: try, try again, call the errback."""
    for retries in (0, 1):
        etl.load.push_request(retries=retries)
        try:
            etl.load.run(out, day, origin)
        except etl.Unclean:
            continue
        except etl.Unloadable as failure:
            request = SimpleNamespace(id="node", task=etl.load.name)
            etl.quarantine(request, failure, None, out, day, origin)
        finally:
            etl.load.pop_request()
        return


def test_the_tasks_called_in_process_load_every_row(
    workflow: Any, source: list[dict[str, str]], tmp_path: Path
) -> None:
    etl, out = workflow("etl"), str(tmp_path / "out")
    rows = etl.split(out)
    for day in etl.DAYS:
        for origin in etl.AIRPORTS:
            load_in_process(etl, out, day, origin)
    summary = etl.summarise(rows, out)
    result = etl.report(summary, etl.chart(summary, out), out)
    check(result, tmp_path / "out", source)


def test_a_lost_batch_is_noticed(workflow: Any, tmp_path: Path) -> None:
    etl, out = workflow("etl"), str(tmp_path)
    rows = etl.split(out)
    load_in_process(etl, out, "2013-02-01", "EWR")
    with pytest.raises(ValueError, match="24951 rows were read, but 3"):
        etl.summarise(rows, out)


def test_loading_a_batch_twice_stores_it_once(workflow: Any, tmp_path: Path) -> None:
    etl, out = workflow("etl"), str(tmp_path)
    etl.split(out)
    load_in_process(etl, out, "2013-02-01", "EWR")
    once = query(tmp_path, "SELECT count(*) FROM flight UNION ALL SELECT count(*) FROM rejected")
    load_in_process(etl, out, "2013-02-01", "EWR")
    twice = query(tmp_path, "SELECT count(*) FROM flight UNION ALL SELECT count(*) FROM rejected")
    assert once == twice


def test_the_run_retries_and_quarantines_the_batches_that_are_bad_as_found(
    workflow: Any, run: Any, source: list[dict[str, str]], tmp_path: Path
) -> None:
    etl, out = workflow("etl"), tmp_path / "out"
    finished = run(etl, etl.pipeline(str(out)))
    assert finished.state == "SUCCESS"
    check(finished.result(timeout=10), out, source)
    expected = {
        "strict": ("SUCCESS", 0, "SKIPPED"),
        "lenient": ("SUCCESS", 1, "SKIPPED"),
        "quarantine": ("FAILURE", 1, "SUCCESS"),
    }
    nodes = {node.name: node for node in finished.nodes}
    for (day, origin), way in ways(source).items():
        load = nodes[f"load[{day} {origin}]"]
        caught = nodes[f"quarantine[{day} {origin}]"]
        assert (load.state, load.retries, caught.state) == expected[way], load.name


def test_a_failure_before_the_batches_fails_the_run(
    workflow: Any, run: Any, tmp_path: Path
) -> None:
    etl = workflow("etl")
    (tmp_path / "out").write_text("a file where the folder should be")
    finished = run(etl, etl.pipeline(str(tmp_path / "out")))
    assert finished.state == "FAILURE"
    with pytest.raises(Exception, match=r"File exists|Not a directory"):
        finished.result(timeout=10)
