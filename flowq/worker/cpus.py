"""How many CPUs this process may use: what it is bound to, and what its control group allows."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may use, at least one; part of a CPU counts as one.

    Args:
        root: Folder that holds ``proc`` and ``sys``.
    """
    found = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0)
    found = found or os.cpu_count() or 1
    return max(1, math.ceil(min([found, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """What each control group that holds this process allows, in CPUs."""
    mounted = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, kinds, path = [*line.split(":", 2), "", ""][:3]
        if not kinds:  # version 2: one tree for everything
            for folder in _folders(mounted, path):
                yield from _share(*[*_read(folder / "cpu.max").split(), "", ""][:2])
        elif "cpu" in kinds.split(","):
            for name in (kinds, "cpu"):
                for folder in _folders(mounted / name, path):
                    quota = _read(folder / "cpu.cfs_quota_us")
                    yield from _share(quota, _read(folder / "cpu.cfs_period_us"))


def _folders(mounted: Path, path: str) -> Iterator[Path]:
    """A group's folder and those above it; a container may see its own as the topmost."""
    inside = PurePosixPath(path.strip().lstrip("/"))
    for each in (inside, *inside.parents):
        if ".." not in each.parts:
            yield mounted / each


def _share(quota: str, period: str) -> Iterator[float]:
    """CPUs of a quota per period; "max" and -1 mean any number."""
    try:
        allowed, of = float(quota), float(period)
    except ValueError:
        return
    if allowed > 0 and of > 0:
        yield allowed / of


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, ValueError):
        return ""
