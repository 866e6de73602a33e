"""A program that forks, as servers and multiprocessing do, after its engine has started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os
import sys

from flowq import Flowq

app = Flowq("forks")


@app.task
def add(x, y):
    return x + y


print("before", app.submit(add.s(1, 1) | add.s(1)).result(timeout=20), flush=True)
child = os.fork()
if child == 0:
    print("child", app.submit(add.s(2, 2) | add.s(1)).result(timeout=20), flush=True)
    sys.exit(0)
print("child ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
idle = os.fork()
if idle == 0:
    sys.exit(0)
os.waitpid(idle, 0)
print("after", app.submit(add.s(3, 3) | add.s(1)).result(timeout=20), flush=True)
"""


@pytest.mark.slow
def test_a_fork_gets_an_engine_of_its_own_and_leaves_the_parents_alone(tmp_path: Path) -> None:
    (tmp_path / "forks.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "forks.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.splitlines() == ["before 3", "child 5", "child ended with 0", "after 7"]
    assert done.stderr == ""
    assert done.returncode == 0
