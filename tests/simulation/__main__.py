"""``python -m tests.simulation --seeds 1000 [--first 0] [--seed N] [--trace]``."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter

from tests.simulation.invariants import ARROWS
from tests.simulation.weather import RATES
from tests.simulation.world import World


def play(first: int, seeds: int) -> tuple[Counter[str], list[str]]:
    """Play seeds; returns what struck, and failures with the command that repeats them."""
    seen: Counter[str] = Counter()
    failures: list[str] = []
    for seed in range(first, first + seeds):
        world = World(seed)
        try:
            world.run()
        except Exception as exc:
            again = f"python -m tests.simulation --seed {seed} --trace"
            failures.append(f"seed {seed}: {type(exc).__name__}: {exc}\n  again: {again}")
        seen.update(world.weather.seen)
        seen["quiet"] += world.weather.quiet
        seen["steps"] += world.steps
        seen["commits checked"] += world.checker.checks
    return seen, failures


def coverage(seen: Counter[str]) -> str:
    """How often each kind of fault struck."""
    lines = [f"  {kind:24}{seen[kind]:8}" for kind in (*RATES, *sorted(seen.keys() - RATES.keys()))]
    return "\n".join([*lines, f"  {'arrows taken':24}{len(ARROWS):8}"])


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--hashes", action="store_true", help="print each seed's trace hash only")
    args = parser.parse_args()
    logging.getLogger("flowq").setLevel(logging.CRITICAL)
    if args.hashes:
        say("\n".join(World(args.first + i).run() for i in range(args.seeds)))
        return 0
    if args.seed is not None:
        world = World(args.seed)
        world.traced = [] if args.trace else None
        try:
            say(world.run())
        finally:
            sys.stderr.write("\n".join((world.traced or [])[-400:]) + "\n")
        return 0
    began = time.monotonic()
    seen, failures = play(args.first, args.seeds)
    say(coverage(seen))
    say("\n".join(failures))
    say(f"{args.seeds} seeds, {len(failures)} failed, {time.monotonic() - began:.0f} s")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
