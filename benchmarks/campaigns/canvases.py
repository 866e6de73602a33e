"""Thousands of random canvases against the oracle: `python -m benchmarks.campaigns.canvases`.

The test itself is `tests/core/test_outcomes.py`; this runs it with a large number and a seed that
is printed, and reports what it went through. Exit code 1 when a canvas ended otherwise than the
oracle says, or a shape was never generated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.canvases import SHAPES

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
TEST = "tests/core/test_outcomes.py"
ARROWS = re.compile(r"^.*arrows of TRANSITIONS.*$", re.MULTILINE)
SHAPE = re.compile(r"^  (\S+) +(\d+)$", re.MULTILINE)


def explore(count: int, seed: int) -> dict[str, Any]:
    """Run the test over `count` canvases and half as many flows; returns the report."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", TEST],
        cwd=ROOT,
        env={**os.environ, "FLOWQ_CANVASES": str(count), "FLOWQ_SEED": str(seed)},
        capture_output=True,
        text=True,
    )
    shapes = dict.fromkeys(sorted(SHAPES), 0)
    shapes |= {name: int(number) for name, number in SHAPE.findall(done.stdout)}
    arrows = ARROWS.search(done.stdout)
    report: dict[str, Any] = {
        "seed": seed,
        "canvases": shapes.pop("canvases", 0),
        "flows": shapes.pop("flows", 0),
        "seconds": round(time.monotonic() - start, 1),
        "shapes": shapes,
        "never_generated": sorted(name for name, number in shapes.items() if not number),
        "arrows": arrows.group() if arrows else "",
        "ok": done.returncode == 0,
    }
    if done.returncode:
        sys.stderr.write(done.stdout[-20_000:] + done.stderr[-2_000:])
    return report


def main() -> int:
    """Print the report as one JSON line; 1 when something differed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.campaigns.canvases")
    parser.add_argument("--canvases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--save", action="store_true", help="write results/canvases.jsonl")
    args = parser.parse_args()
    report = explore(args.canvases, args.seed)
    line = json.dumps(report)
    print(line)
    if args.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "canvases.jsonl").write_text(line + "\n")
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
