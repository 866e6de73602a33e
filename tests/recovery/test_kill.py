"""Kill a run of the command line, or a child of its pool, at a seeded moment, and go on.

Five kills every day; `FLOWQ_KILLS` for more, `FLOWQ_KILL_SEED` for others. The campaign with 50 is
`python -m benchmarks.campaigns.kills`; this shares its parts.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.campaigns import kills, ledger
from benchmarks.campaigns.kills import finish, until
from benchmarks.machine import descendants
from tests.recovery import little

KILLS = int(os.environ.get("FLOWQ_KILLS", "5"))
SEED = os.environ.get("FLOWQ_KILL_SEED", "1")
CONCURRENCY = 2
#: Tasks that have begun before the first and the last kill may come.
FIRST, LAST = 1, 52


class Case(kills.Case):
    """One kill of the little pipeline."""

    def run(self) -> subprocess.Popen[str]:
        shutil.copy(little.__file__, self.directory)
        return self.flowq("run", "little.py", "-c", str(self.concurrency))

    def begun(self) -> int:
        return sum(entry.event == "begin" for entry in ledger.read(self.ledger))


@pytest.fixture
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    number = request.param
    seed = f"{SEED}/{number}"
    target = "run" if number % 2 else "child"
    made = Case(number, seed, target, 0, 0.0, tmp_path, CONCURRENCY)
    yield made
    left = made.processes()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"processes outlived their run: {left}"


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize("case", range(1, KILLS + 1), indirect=True)
def test_a_killed_run_ends_as_if_nothing_had_happened(case: Case) -> None:
    chance = random.Random(case.seed)
    part = (LAST - FIRST) / KILLS
    moment = FIRST + int(part * (case.number - 1 + chance.random()))
    process = case.run()
    try:
        until(lambda: case.begun() >= moment or process.poll() is not None, 60, f"task {moment}")
        assert process.poll() is None, log_of(case)
        mark, done = strike(case, process, chance)
        output = finish(case.resume(), "resume")
    except kills.Campaign as exc:
        pytest.fail(f"seed {case.seed}, {case.target} at task {moment}: {exc}\n{log_of(case)}")
    assert str(little.expected()) in output.split(), log_of(case)
    verdict = ledger.judge(case.ledger, mark, done)
    assert verdict.holds(CONCURRENCY), f"seed {case.seed} at task {moment}: {verdict}"
    until(lambda: not case.processes(), 10, "the end of every process")


def strike(
    case: Case, process: subprocess.Popen[str], chance: random.Random
) -> tuple[int, set[int]]:
    """Kill; returns the ledger's length then, and the nodes that were recorded by then."""
    if case.target == "run":
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        until(lambda: not case.processes(), 10, "the end of the killed run's children")
        return ledger.size(case.ledger), ledger.committed(case.store)
    workers = {entry.pid for entry in ledger.read(case.ledger)} & descendants(process.pid)
    assert workers, "no child was found"
    mark, done = ledger.size(case.ledger), ledger.committed(case.store)
    os.kill(chance.choice(sorted(workers)), signal.SIGKILL)
    output = finish(process, "run")
    assert str(little.expected()) in output.split(), log_of(case)
    return mark, done


def log_of(case: Case) -> str:
    path = case.directory / "log.txt"
    return path.read_text()[-2000:] if path.exists() else ""
