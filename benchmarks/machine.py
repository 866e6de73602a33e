"""What the machine was like during a measurement: fsync time, and cores taken by others."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

APPEND = 4096
TICKS = os.sysconf("SC_CLK_TCK")
# The servers that the measured engines talk to: their time belongs to the measurement.
SERVICES = frozenset({"redis-server", "postgres"})


def fsync_ms(directory: Path, count: int = 50) -> float:
    """Median time in ms of one durable 4 KiB append on the file system that holds `directory`."""
    block = b"\0" * APPEND
    took = []
    handle, name = tempfile.mkstemp(prefix="fsync-probe-", dir=directory)
    try:
        for _ in range(count):
            start = time.perf_counter()
            os.write(handle, block)
            os.fdatasync(handle)
            took.append(time.perf_counter() - start)
    finally:
        os.close(handle)
        os.unlink(name)
    return statistics.median(took) * 1e3


def _stat(pid: int) -> tuple[int, str, float] | None:
    """Parent pid, name and CPU seconds (its reaped children's too) of a process; None if gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return int(fields[1]), name, sum(map(int, fields[11:15])) / TICKS


def processes() -> dict[int, tuple[int, str, float]]:
    """Every process of the machine: pid to (parent pid, command name, CPU seconds)."""
    found = {int(entry): _stat(int(entry)) for entry in os.listdir("/proc") if entry.isdigit()}
    return {pid: stat for pid, stat in found.items() if stat is not None}


def descendants(root: int, table: dict[int, tuple[int, str, float]] | None = None) -> set[int]:
    """`root`'s children, their children and so on, without `root` itself."""
    table = processes() if table is None else table
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in table.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    waiting = [root]
    while waiting:
        for pid in children.get(waiting.pop(), ()):
            if pid not in found:
                found.add(pid)
                waiting.append(pid)
    return found


class Load:
    """CPU seconds so far: of the machine, and of this benchmark with the servers it uses."""

    def __init__(self) -> None:
        table = processes()
        mine = descendants(os.getpid(), table) | {os.getpid()}
        self.at = time.perf_counter()
        self.own = sum(
            cpu for pid, (_, name, cpu) in table.items() if pid in mine or name in SERVICES
        )
        first = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        user, nice, system, _, _, irq, softirq, steal = map(int, first[:8])
        self.busy = (user + nice + system + irq + softirq + steal) / TICKS

    def others_since(self, earlier: Load) -> float:
        """Cores that foreign processes used since `earlier`; noise when that is short ago."""
        elapsed = max(self.at - earlier.at, 0.05)
        return max(0.0, (self.busy - earlier.busy) - (self.own - earlier.own)) / elapsed
