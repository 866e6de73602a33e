"""What a person waits for: `flowq run` of two tasks, `import flowq`, `flowq --help`."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import bars
from benchmarks.machine import fsync_ms
from benchmarks.pairs import Line, Settings, scratch

PIPELINE = Path(__file__).with_name("two_tasks.py")
ANSWER = "42"


def measure_startup(settings: Settings, times: int = 5) -> list[Line]:
    """Time each command `times` times (best and median of them); the run's result is checked."""
    with scratch() as directory:
        shutil.copy(PIPELINE, directory)
        beside = Path(settings.python).with_name("flowq")
        flowq = [str(beside)] if beside.exists() else [settings.python, "-m", "flowq"]
        commands = {
            "python": [settings.python, "-c", "pass"],
            "import": [settings.python, "-c", "import flowq"],
            "help": [*flowq, "--help"],
            "run": [*flowq, "run", PIPELINE.name, "-c", str(settings.concurrency)],
        }
        lines = [_line(name, command, directory, times) for name, command in commands.items()]
    bare = lines[0]
    for line in lines:
        if line["command"] == "import" and "error" not in line:
            own = line["wall_s"] - bare["wall_s"]
            line["less_python_s"] = round(own, 4)
            line["bars"] = [bars.at_most("less_python_s", own, bars.STARTUP_S["import"])]
        elif line["command"] == "run" and "error" not in line:
            line["bars"] = [bars.at_most("wall_s", line["wall_s"], bars.STARTUP_S["run"])]
    return lines


def _line(name: str, command: list[str], directory: Path, times: int) -> Line:
    line: Line = {
        "workload": "startup",
        "command": name,
        "engine": "flowq",
        "python": ".".join(map(str, sys.version_info[:3])),
        "fsync_ms": round(fsync_ms(directory), 4),
    }
    took = []
    for _ in range(times):
        start = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=directory,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        took.append(time.perf_counter() - start)
        if done.returncode:
            return {**line, "error": f"exit {done.returncode}: {done.stderr[-300:]}"}
        if name == "run" and ANSWER not in done.stdout:
            return {**line, "error": f"the result {ANSWER} is missing in {done.stdout[-300:]!r}"}
    return {
        **line,
        "wall_s": round(min(took), 4),
        "median_s": round(statistics.median(took), 4),
        "first_s": round(took[0], 4),
        "runs": [round(value, 4) for value in took],
    }


def _environment() -> dict[str, str]:
    """This process's environment without settings of flowq's, which would move the store."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLOWQ_")}
    root = str(Path(__file__).resolve().parent.parent)
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, [root, kept.get("PYTHONPATH")]))}
