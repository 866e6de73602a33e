"""The speeds that flowq promises, and whether a measurement meets them.

A bar applies to flowq on its embedded default (prefork 2, SQLite FULL on disk), at the size it
was set for.
"""

from __future__ import annotations

from typing import Any

Bar = dict[str, Any]
RATES = {
    ("W3", 10_000): ("tasks_per_s", 10_000),
    ("W4", 50): ("tasks_per_s", 5_000),
    ("W5", 1000): ("workflows_per_s", 1_000),
}
RATIOS = {("W2", 1000): 10.0, ("W3", 10_000): 10.0}
LATENCIES = {"W6": 0.8, "W6d": 1.2}
STEP_MS = 0.35
#: Bars of a fleet on PostgreSQL with two children: (field, least) and (field, most).
FLEET_LEAST = {
    ("W3", 10_000): ("tasks_per_s", 8_000),
    ("W5", 1000): ("workflows_per_s", 500),
}
FLEET_STEP_MS = 1.5
GROWTH = 1.3
STARTUP_S = {"run": 0.5, "import": 0.15}


def at_least(what: str, value: float, limit: float) -> Bar:
    return {"what": what, "at_least": limit, "value": round(value, 4), "met": value >= limit}


def at_most(what: str, value: float, limit: float) -> Bar:
    limit = round(limit, 4)
    return {"what": what, "at_most": limit, "value": round(value, 4), "met": value <= limit}


def applies(line: dict[str, Any]) -> bool:
    """Whether the bars were set for this engine and configuration."""
    return (line["engine"], line["pool"], line["concurrency"], line["durability"]) == (
        "flowq",
        "prefork",
        2,
        "sqlite FULL",
    )


def of_measurement(line: dict[str, Any]) -> list[Bar]:
    """The bars that one engine's line has to meet, each with its value; mostly none or one."""
    if is_fleet(line):
        return _of_fleet(line)
    if not applies(line):
        return []
    workload, n = line["workload"], line["n"]
    bars = []
    if (workload, n) == ("W2", 1000):
        limit = STEP_MS + line["fsync_ms"]
        bars.append(at_most("ms_per_task, 0.35 plus fsync_ms", line["ms_per_task"], limit))
    if (workload, n) in RATES:
        field, limit = RATES[workload, n]
        bars.append(at_least(field, line[field], limit))
    if workload in LATENCIES:
        bars.append(at_most("p50_ms", line["p50_ms"], LATENCIES[workload]))
    return bars


def is_fleet(line: dict[str, Any]) -> bool:
    """Whether the bars of a fleet were set for this configuration."""
    kind = str(line["durability"]).startswith("postgresql")
    return (line["engine"], line["pool"], line["concurrency"], kind) == (
        "fleet",
        "prefork",
        2,
        True,
    )


def _of_fleet(line: dict[str, Any]) -> list[Bar]:
    workload, n = line["workload"], line["n"]
    if (workload, n) == ("W2", 1000):
        return [at_most("ms_per_task", line["ms_per_task"], FLEET_STEP_MS)]
    if (workload, n) in FLEET_LEAST:
        field, limit = FLEET_LEAST[workload, n]
        return [at_least(field, line[field], limit)]
    return []


def of_ratio(line: dict[str, Any], ratio: float) -> list[Bar]:
    """The bars that flowq's rate over the peer's has to meet, given flowq's line."""
    if is_fleet(line):
        return [at_least("ratio", ratio, 1.0)] if line["workload"] == "W6" else []
    limit = RATIOS.get((line["workload"], line["n"]))
    return [at_least("ratio", ratio, limit)] if limit and applies(line) else []
