"""How many CPUs there are, by files as the kernel writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowq.worker.cpus import cpus


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(autouse=True)
def _eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


V2 = {"proc/self/cgroup": "0::/app/worker\n"}
V1 = {"proc/self/cgroup": "12:cpuset:/other\n4:cpu,cpuacct:/app\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, 8),
        (V2, 8),
        (V2 | {"sys/fs/cgroup/app/worker/cpu.max": "max 100000\n"}, 8),
        (V2 | {"sys/fs/cgroup/app/worker/cpu.max": "200000 100000\n"}, 2),
        (V2 | {"sys/fs/cgroup/app/worker/cpu.max": "150000 100000\n"}, 2),
        (V2 | {"sys/fs/cgroup/app/worker/cpu.max": "10000 100000\n"}, 1),
        (V2 | {"sys/fs/cgroup/app/worker/cpu.max": "9900000 100000\n"}, 8),
        (V2 | {"sys/fs/cgroup/app/worker/cpu.max": "nonsense\n"}, 8),
        # a group above allows less
        (
            V2
            | {
                "sys/fs/cgroup/app/worker/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/app/cpu.max": "300000 100000\n",
            },
            3,
        ),
        # a container that names a group it does not see sees its own as the topmost
        (V2 | {"sys/fs/cgroup/cpu.max": "500000 100000\n"}, 5),
        ({"proc/self/cgroup": "0::/../..\n", "sys/fs/cgroup/cpu.max": "500000 100000\n"}, 5),
        (V1 | {"sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us": "-1\n"}, 8),
        (
            V1
            | {
                "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/app/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            V1
            | {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
            },
            1,
        ),
    ],
)
def test_the_least_of_all_limits_counts(tmp_path: Path, files: dict[str, str], wanted: int) -> None:
    assert cpus(write(tmp_path, files)) == wanted


def test_affinity_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    files = V2 | {"sys/fs/cgroup/app/worker/cpu.max": "200000 100000\n"}
    assert cpus(write(tmp_path, files)) == 1


def test_this_machine_has_some() -> None:
    assert 1 <= cpus() <= 8
