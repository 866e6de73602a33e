"""Does a node cost the same in a run of 10,000 and of 100,000? W3 at both, time and bytes."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import bars
from benchmarks.pairs import Line, Settings, measure, open_host, scratch

SMALL, LARGE = 10_000, 100_000


def measure_sizes(settings: Settings, small: int = SMALL, large: int = LARGE) -> list[Line]:
    """One line for each size, each in a fresh store, and one with their ratios.

    Bytes are the store's file after a checkpoint, its process ended, less the file of a store
    that only served the warm-up.
    """
    settings = replace(settings, versus="", alone="")
    lines = []
    for n in (small, large):
        line = measure("W3", n, settings)[0]
        if "error" not in line and not settings.store:
            line["bytes_per_task"] = round(_file_bytes(n, settings) / line["tasks"], 1)
        lines.append(line)
    if all("wall_s" in line for line in lines):
        lines.append(_growth(lines[0], lines[1]))
    return lines


def _growth(small: Line, large: Line) -> Line:
    time = large["ms_per_task"] / small["ms_per_task"]
    growth: dict[str, Any] = {
        "workload": "size",
        "n": [small["n"], large["n"]],
        "engine": small["engine"],
        "ms_per_task": [small["ms_per_task"], large["ms_per_task"]],
        "time_ratio": round(time, 3),
    }
    checks = [bars.at_most("time_ratio", time, bars.GROWTH)]
    if "bytes_per_task" in small and "bytes_per_task" in large:
        size = large["bytes_per_task"] / small["bytes_per_task"]
        growth["bytes_per_task"] = [small["bytes_per_task"], large["bytes_per_task"]]
        growth["bytes_ratio"] = round(size, 3)
        checks.append(bars.at_most("bytes_ratio", size, bars.GROWTH))
    return {**growth, "bars": checks} if bars.applies(small) else growth


def _file_bytes(n: int, settings: Settings) -> int:
    """The store file of one run of W3, less that of a store with the warm-up alone."""
    with scratch() as directory:
        empty = _store_after(directory / "empty", 0, settings)
        return _store_after(directory / "full", n, settings) - empty


def _store_after(directory: Path, n: int, settings: Settings) -> int:
    directory.mkdir()
    host = open_host("flowq", settings, directory)
    try:
        if n:
            host.ask(settings.timeout, workload="W3", n=n, timeout=settings.timeout)
    finally:
        host.close()
    path = directory / "bench.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return os.stat(path).st_size
