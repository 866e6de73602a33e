"""The one command: format, lint, types, layers, tests. Stops at nothing, fails if anything did.

    python tests/check.py [--fast] [pytest arguments]

`--fast` leaves the tests out. What CI runs is this, with CI=true and larger numbers of seeds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def steps(rest: list[str], fast: bool) -> list[list[str]]:
    """Commands to run, in order."""
    python = sys.executable
    found = [
        [python, "-m", "ruff", "format", "--check", "."],
        [python, "-m", "ruff", "check", "."],
        [python, "-m", "mypy"],
        [str(Path(python).with_name("lint-imports"))],
    ]
    if not fast:
        # Half of a test's time is waiting for processes to start and leases to end, so two a core;
        # CI, where nobody waits, has the calmer course.
        cores = len(os.sched_getaffinity(0))
        count = cores if os.environ.get("CI") == "true" else min(8, 2 * cores)
        parallel = [] if "-n" in rest else ["-n", str(count)]
        found.append([python, "-m", "pytest", *parallel, *rest])
    return found


def main() -> int:
    """Run everything; returns 1 if a step failed."""
    rest = [arg for arg in sys.argv[1:] if arg != "--fast"]
    failed = []
    for command in steps(rest, "--fast" in sys.argv):
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
