"""Measure engines by turns (A, B, A, B) on one workload, and set their medians side by side."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import bars
from benchmarks.machine import Load, fsync_ms
from benchmarks.process import Host, HostError
from benchmarks.workloads import WORKLOADS

Line = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a measurement is made with; `store` empty means a fresh SQLite file on this disk."""

    versus: str = ""
    pool: str = "prefork"
    concurrency: int = 2
    store: str = ""
    synchronous: str = "FULL"
    repeat: int = 3
    timeout: float = 300.0
    python: str = sys.executable
    celery_python: str = ""
    redis: str = "redis://127.0.0.1:6379"
    alone: str = ""
    #: With a broker, a fleet is measured in place of the embedded engine.
    broker: str = ""
    backend: str = ""

    @property
    def engines(self) -> list[str]:
        """Who is measured, in the order of the turns; `alone` leaves flowq out."""
        return [self.alone] if self.alone else [self.ours, *filter(None, [self.versus])]

    @property
    def ours(self) -> str:
        """Which engine of flowq's."""
        return "fleet" if self.broker else "flowq"

    def options(self) -> dict[str, Any]:
        """What an engine's process is told."""
        return {
            "pool": self.pool,
            "concurrency": self.concurrency,
            "synchronous": self.synchronous,
        }


@dataclass
class Series:
    """One engine's answers, one for each repeat, with the machine's state around each."""

    answers: list[dict[str, Any]] = field(default_factory=list)
    fsyncs: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    error: str = ""


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory on the disk where a store lives by default; removed at the end."""
    base = Path.cwd() / ".flowq"
    base.mkdir(exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="bench-", dir=base))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if not any(base.iterdir()):
            base.rmdir()


def open_host(engine: str, settings: Settings, directory: Path) -> Host:
    """Start an engine's process and wait until it has run its first tasks."""
    store = settings.store or f"sqlite:///{directory / 'bench.db'}"
    env = {
        "FLOWQ_BENCH_STORE": store,
        "FLOWQ_BENCH_REDIS": settings.redis,
        "FLOWQ_BENCH_TOKEN": f"flowq-bench-{os.getpid()}",
        "FLOWQ_BENCH_BROKER": settings.broker,
        "FLOWQ_BENCH_BACKEND": settings.backend or settings.broker,
    }
    python = settings.celery_python if engine == "celery" else settings.python
    return Host(engine, python or settings.python, settings.options(), env)


def measure(workload: str, n: int, settings: Settings) -> list[Line]:
    """Run a workload `repeat` times on each engine by turns; a line each, one for the ratio."""
    with ExitStack() as stack:
        directory = stack.enter_context(scratch())
        hosts = []
        for engine in settings.engines:
            hosts.append(open_host(engine, settings, directory))
            stack.callback(hosts[-1].close)
        series = {host.engine: Series() for host in hosts}
        for _ in range(settings.repeat):
            for host in hosts:
                _once(host, series[host.engine], workload, n, settings, directory)
        lines = [_line(host, series[host.engine], workload, n, settings) for host in hosts]
    if settings.versus and all("wall_s" in line for line in lines):
        lines.append(_ratio(*lines))
    return lines


def _once(
    host: Host, series: Series, workload: str, n: int, settings: Settings, directory: Path
) -> None:
    """One repeat on one engine, unless an earlier one failed."""
    if series.error:
        return
    probe = fsync_ms(directory)
    before = Load()
    try:
        command = {"workload": workload, "n": n, "timeout": settings.timeout}
        answer = host.ask(settings.timeout + 60, **command)
    except HostError as error:
        series.error = str(error)
        return
    series.others.append(Load().others_since(before))
    series.fsyncs.append(probe)
    series.answers.append(answer)


def _line(host: Host, series: Series, workload: str, n: int, settings: Settings) -> Line:
    facts = host.facts
    line: Line = {
        "workload": workload,
        "n": n,
        "engine": host.engine,
        "version": facts["version"],
        "pool": settings.pool,
        "concurrency": settings.concurrency,
        "durability": facts["durability"],
        "python": facts["python"],
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "startup_s": round(facts["startup_s"], 3),
    }
    if series.error:
        return {**line, "error": series.error}
    if "skipped" in series.answers[0]:
        return {**line, "skipped": series.answers[0]["skipped"]}
    line.update(_medians(series, workload, n))
    checks = bars.of_measurement(line)
    return {**line, "bars": checks} if checks else line


def _medians(series: Series, workload: str, n: int) -> Line:
    def values(name: str) -> list[float]:
        return [answer[name] for answer in series.answers]

    tasks = WORKLOADS[workload].tasks(n)
    wall = statistics.median(values("wall_s"))
    middle: Line = {
        "tasks": tasks,
        "wall_s": round(wall, 5),
        "tasks_per_s": round(tasks / wall, 1),
        "ms_per_task": round(wall / tasks * 1e3, 4),
    }
    for name in series.answers[0]:
        if name not in ("wall_s", "store_bytes"):
            middle[name] = round(statistics.median(values(name)), 4)
    if "store_bytes" in series.answers[0]:
        middle["bytes_per_task"] = round(statistics.median(values("store_bytes")) / tasks, 1)
    return {
        **middle,
        "fsync_ms": round(statistics.median(series.fsyncs), 4),
        "runs": [round(value, 5) for value in values("wall_s")],
        "fsync_runs": [round(value, 4) for value in series.fsyncs],
        "others_cores": [round(value, 2) for value in series.others],
    }


def _ratio(ours: Line, peer: Line) -> Line:
    """How many times the peer's rate ours is: by the medians, and for each pair of runs."""
    ratio = peer["wall_s"] / ours["wall_s"]
    line: Line = {
        "workload": ours["workload"],
        "n": ours["n"],
        "engine": f"{ours['engine']}/{peer['engine']}",
        "ratio": round(ratio, 2),
        "ratio_runs": [round(b / a, 2) for a, b in zip(ours["runs"], peer["runs"], strict=True)],
        "durability": [ours["durability"], peer["durability"]],
        "fsync_ms": ours["fsync_ms"],
    }
    if "p50_ms" in ours:
        line["ratio_p50"] = round(peer["p50_ms"] / ours["p50_ms"], 2)
    checks = bars.of_ratio(ours, ratio)
    return {**line, "bars": checks} if checks else line
