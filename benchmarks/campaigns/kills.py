"""Kill a running pipeline 50 times and resume it.

Every kill gets a fresh store and a moment of its own, spread evenly over the run. Kills of the
`flowq run` process and of one pool child take turns. Afterwards the result has to equal the
undisturbed one; no node recorded as SUCCESS before the kill may have begun again; at most as many
others as the pool has children may have run twice; nothing may be left running. Exit code 1 when
any of that fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaigns import ledger, steady
from benchmarks.machine import descendants
from benchmarks.pairs import scratch

PIPELINE = Path(steady.__file__)
RESULTS = Path(__file__).parent.parent / "results"
PATIENCE = 120.0
#: The longest body, in seconds: a kill comes anywhere within one.
LONGEST = 0.040


class Campaign(Exception):
    """Raised when a kill could not be carried out or judged."""


@dataclass
class Case:
    """One kill: what is killed, when (bytes in the ledger, then seconds), and where."""

    number: int
    seed: str
    target: str
    progress: int
    delay: float
    directory: Path
    concurrency: int

    @property
    def ledger(self) -> Path:
        return self.directory / "ledger.txt"

    @property
    def store(self) -> Path:
        return self.directory / "kills.db"

    def flowq(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a flowq command in the case's folder; its words go to a log there."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLOWQ_")}
        root = str(Path(__file__).resolve().parents[2])
        environment |= {
            steady.LEDGER: str(self.ledger),
            "FLOWQ_STORE": f"sqlite:///{self.store}",
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        }
        with (self.directory / "log.txt").open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "flowq", *arguments],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def run(self) -> subprocess.Popen[str]:
        shutil.copy(PIPELINE, self.directory)
        return self.flowq("run", PIPELINE.name, "-c", str(self.concurrency))

    def resume(self) -> subprocess.Popen[str]:
        return self.flowq("resume", "@last", "-c", str(self.concurrency))

    def processes(self) -> list[int]:
        """Every process that was started for this case, told by the ledger in its environment."""
        token = f"{steady.LEDGER}={self.ledger}".encode()
        found = []
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and token in Path(f"/proc/{entry}/environ").read_bytes():
                    found.append(int(entry))
            except OSError:
                continue
        return found


def until(condition: Callable[[], Any], seconds: float, what: str) -> float:
    """Poll until true; returns the seconds it took, raises Campaign after `seconds`."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise Campaign(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.002)
    return time.monotonic() - start


def finish(process: subprocess.Popen[str], what: str) -> str:
    """Wait for a command and return its stdout; raises Campaign unless it exits 0 in time."""
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise Campaign(f"flowq {what} was still running after {PATIENCE:.0f} s") from None
    if process.returncode:
        raise Campaign(f"flowq {what} ended with exit code {process.returncode}")
    return output


def undisturbed(case: Case) -> dict[str, Any]:
    """Run the pipeline in peace: tasks run, seconds taken, length of the ledger."""
    output = finish(case.run(), "run")
    check_result(output, "flowq run")
    entries = ledger.read(case.ledger)
    return {
        "tasks": len({entry.node for entry in entries}),
        "length_s": round(entries[-1].at - entries[0].at, 2),
        "ledger_bytes": ledger.size(case.ledger),
    }


def check_result(output: str, what: str) -> None:
    if str(steady.expected()) not in output.split():
        raise Campaign(f"{what} gave {output.strip()[:200]!r}, not {steady.expected()}")


def disturb(case: Case) -> dict[str, Any]:
    """Start, kill, resume, judge: one line of the report."""
    line: dict[str, Any] = {
        "kill": case.number,
        "seed": case.seed,
        "target": case.target,
    }
    try:
        process = case.run()
        line["moment_s"] = wait_for_moment(case, process)
        strike = kill_run if case.target == "run" else kill_child
        mark, done, facts = strike(case, process)
        line |= {"done_before": len(done), **facts}
        verdict = ledger.judge(case.ledger, mark, done)
        until(lambda: not case.processes(), 5, "the end of every process")
        line |= {"again": verdict.again, "twice": verdict.twice, "more": verdict.more}
        line["ok"] = verdict.holds(case.concurrency)
    except Campaign as error:
        log = (case.directory / "log.txt").read_text()[-500:]
        line |= {"error": str(error), "log": log, "ok": False}
    finally:
        for pid in case.processes():
            os.kill(pid, signal.SIGKILL)
    return line


def wait_for_moment(case: Case, process: subprocess.Popen[str]) -> float:
    """Wait until the kill is due; returns the seconds since the first task began."""

    def reached(length: int) -> Callable[[], bool]:
        return lambda: ledger.size(case.ledger) >= length or process.poll() is not None

    until(reached(1), 30, "a first task")
    took = until(reached(case.progress), PATIENCE, "the moment of the kill")
    time.sleep(case.delay)
    if process.poll() is not None:
        raise Campaign("the run had ended before its kill")
    return round(took + case.delay, 3)


def kill_run(case: Case, process: subprocess.Popen[str]) -> tuple[int, set[int], dict[str, Any]]:
    """Kill the run's own process; its children have to go by themselves; then resume."""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    orphans = until(lambda: not case.processes(), 5, "the end of the killed run's children")
    mark, done = ledger.size(case.ledger), ledger.committed(case.store)
    start = time.monotonic()
    output = finish(case.resume(), "resume")
    check_result(output, "flowq resume")
    took = time.monotonic() - start
    return mark, done, {"orphans_s": round(orphans, 3), "resume_s": round(took, 2)}


def kill_child(case: Case, process: subprocess.Popen[str]) -> tuple[int, set[int], dict[str, Any]]:
    """Kill one process of the pool, picked by the seed; the run has to go on by itself.

    The mark is taken before the store is read and the store before the kill, so every node counted
    as recorded was recorded before the kill. A resume of the ended run has to change nothing.
    """
    workers = {entry.pid for entry in ledger.read(case.ledger)} & descendants(process.pid)
    if not workers:
        raise Campaign("no pool child was found")
    victim = random.Random(case.seed).choice(sorted(workers))
    mark, done = ledger.size(case.ledger), ledger.committed(case.store)
    os.kill(victim, signal.SIGKILL)
    start = time.monotonic()
    check_result(finish(process, "run"), "flowq run")
    took = time.monotonic() - start
    length = ledger.size(case.ledger)
    check_result(finish(case.resume(), "resume"), "flowq resume")
    if ledger.size(case.ledger) != length:
        raise Campaign("resuming a finished run ran tasks")
    return mark, done, {"rest_s": round(took, 2)}


def main() -> int:
    """Run the campaign; 1 when a kill broke the promise, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.campaigns.kills")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--concurrency", "-c", type=int, default=2)
    parser.add_argument("--target", choices=["run", "child", "both"], default="both")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/kills.jsonl")
    args = parser.parse_args()
    lines: list[dict[str, Any]] = []

    def tell(line: dict[str, Any]) -> None:
        lines.append(line)
        print(json.dumps(line), flush=True)

    with scratch() as directory:
        calm = undisturbed(make_case(directory, 0, args, "undisturbed", 0))
        tell({"kill": None, "seed": args.seed, **calm})
        for number in range(1, args.kills + 1):
            tell(one_kill(directory, number, args, calm["ledger_bytes"]))
    kills = lines[1:]
    bad = [line["kill"] for line in kills if not line["ok"]]
    most = max((len(line.get("twice", ())) for line in kills), default=0)
    tell({"kills": len(kills), "seed": args.seed, "violations": bad, "most_run_twice": most})
    if args.save:
        RESULTS.mkdir(exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (RESULTS / "kills.jsonl").write_text(text)
    return 1 if bad else 0


def one_kill(directory: Path, number: int, args: argparse.Namespace, length: int) -> dict[str, Any]:
    """One kill in its own stretch of the run, at a moment drawn there.

    Moments are counted in ledger lines, so that they are spread evenly however busy the machine is.
    """
    target = args.target
    if target == "both":
        target = "run" if number % 2 else "child"
    drawn = random.Random(f"{args.seed}/{number}").random()
    progress = int(0.98 * length * (number - 1 + drawn) / args.kills)
    return disturb(make_case(directory, number, args, target, progress))


def make_case(
    directory: Path, number: int, args: argparse.Namespace, target: str, progress: int
) -> Case:
    folder = directory / f"kill-{number}"
    folder.mkdir()
    seed = f"{args.seed}/{number}"
    delay = random.Random(f"{seed}/delay").uniform(0, LONGEST)
    return Case(number, seed, target, progress, delay, folder, args.concurrency)


if __name__ == "__main__":
    sys.exit(main())
