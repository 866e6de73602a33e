"""An engine's own process: commands on stdin, answers on stdout, one JSON line each.

Ends when stdin ends. Whatever the engine prints goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any

from benchmarks.workloads import WORKLOADS

WARM_UP = 10


def _warm(engine: Any) -> None:
    """Start everything the engine starts lazily; the first call waits for its worker."""
    for i in range(WARM_UP):
        assert engine.tasks["inc"].delay(i).get(timeout=60) == i + 1
    for name, n in (("W2", 3), ("W3", WARM_UP), ("W6d", 2)):
        WORKLOADS[name].run(engine, n, 60)


def _run(engine: Any, command: dict[str, Any]) -> dict[str, Any]:
    before = engine.store_bytes()
    measured = WORKLOADS[command["workload"]].run(engine, command["n"], command["timeout"])
    after = engine.store_bytes()
    if before is not None and after is not None:
        measured["store_bytes"] = after - before
    return measured


def main() -> None:
    """Serve until stdin ends, then close the engine."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    module = importlib.import_module(f"benchmarks.engine_{sys.argv[1]}")
    engine = module.open_engine(json.loads(sys.argv[2]))
    try:
        _warm(engine)
        python = ".".join(map(str, sys.version_info[:3]))
        answer({"version": engine.version, "durability": engine.durability, "python": python})
        for line in sys.stdin:
            try:
                answer(_run(engine, json.loads(line)))
            except Exception as error:
                traceback.print_exc()
                answer({"error": f"{type(error).__name__}: {error}"[:500]})
    finally:
        engine.close()


if __name__ == "__main__":
    main()
