"""The one command: format, lint, types, layers, tests. Stops at nothing, fails if anything did.

    python tests/check.py [--fast | --services] [pytest arguments]

`--fast` leaves the tests out; `--services` adds those that start servers and fleets, and need
Redis, RabbitMQ, PostgreSQL and memcached. CI runs this with CI=true, which means `--services`, an
absent server as a failure, and larger numbers of seeds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def steps(rest: list[str], fast: bool, services: bool) -> list[list[str]]:
    """Commands to run, in order."""
    python = sys.executable
    found = [
        [python, "-m", "ruff", "format", "--check", "."],
        [python, "-m", "ruff", "check", "."],
        [python, "-m", "mypy"],
        [str(Path(python).with_name("lint-imports"))],
    ]
    if not fast:
        # Half of a test's time is waiting for processes to start, so two a core. Those with
        # servers measure leases and time-outs, and get a calmer course.
        cores = len(os.sched_getaffinity(0))
        found.append(_pytest("not services", min(8, 2 * cores), rest))
        if services:
            found.append(_pytest("services", min(8, cores + 1), rest))
    return found


def _pytest(which: str, count: int, rest: list[str]) -> list[str]:
    parallel = [] if "-n" in rest else ["-n", str(count), "--dist", "worksteal"]
    return [sys.executable, "-m", "pytest", "-m", which, *parallel, *rest]


def main() -> int:
    """Run everything; returns 1 if a step failed."""
    rest = [arg for arg in sys.argv[1:] if arg not in ("--fast", "--services")]
    services = "--services" in sys.argv or os.environ.get("CI") == "true"
    failed = []
    for command in steps(rest, "--fast" in sys.argv, services):
        shown = " ".join([Path(command[0]).name, *command[1:]])
        print(f"== {shown}", flush=True)
        began = time.monotonic()
        code = subprocess.call(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"})
        print(f"== exit {code} after {time.monotonic() - began:.1f} s", flush=True)
        if code:
            failed.append(shown)
    if failed:
        print("FAILED: " + "; ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
