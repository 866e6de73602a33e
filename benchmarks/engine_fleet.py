"""flowq as a fleet: a worker and a coordinator in processes of their own, over a real broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

from benchmarks.engine_flowq import STORE
from benchmarks.engine_flowq import Engine as Embedded
from benchmarks.engine_flowq import app as app
from benchmarks.process import die_with_parent

BROKER = os.environ.get("FLOWQ_BENCH_BROKER", "")
BACKEND = os.environ.get("FLOWQ_BENCH_BACKEND", "")
TOKEN = os.environ.get("FLOWQ_BENCH_TOKEN", "flowq-bench")

app.conf.update(broker_url=BROKER, result_backend=BACKEND, task_default_queue=TOKEN)


class Fleet(Embedded):
    """Submits to a `flowq worker` and a `flowq coordinator` that this process starts."""

    name = "fleet"

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        worker = ["worker", "-A", "benchmarks.engine_fleet", "-c", str(options["concurrency"])]
        self.processes = [
            self._start("coordinator", "-A", "benchmarks.engine_fleet"),
            self._start(*worker, "-P", options["pool"], "-n", f"{TOKEN}@%h"),
        ]
        self._wait()

    def _start(self, *args: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "flowq", *args, "-l", "WARNING"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if "FLOWQ_BENCH_QUIET" in os.environ else None,
            preexec_fn=die_with_parent,
        )

    def _wait(self) -> None:
        """Until the worker runs something."""
        deadline = time.monotonic() + 30
        while True:
            try:
                self.tasks["inc"].delay(1).get(timeout=5)
                break
            except Exception:
                if time.monotonic() > deadline:
                    raise

    @property
    def durability(self) -> str:
        """Where a result is when the caller has it, and over what it went."""
        broker = BROKER.partition(":")[0].removeprefix("py")
        return f"{super().durability} over {broker}"

    def close(self) -> None:
        super().close()
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(20)


def open_engine(options: dict[str, Any]) -> Fleet:
    """Start the fleet; returns once it has run a task."""
    assert STORE
    return Fleet(options)
