"""Programs with the embedded engine and its processes, each run as a user runs it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def program(tmp_path: Path) -> Any:
    """Writes a program, runs it in its own folder and gives what became of it."""

    def run(text: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        (tmp_path / "prog.py").write_text(textwrap.dedent(text))
        return subprocess.run(
            [sys.executable, "prog.py", *args],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            **options,
        )

    return run


REVOKING = """
import time

from flowq import Flowq, ResultSet
from flowq.errors import TaskRevokedError

app = Flowq("revoking", worker_concurrency=1)


@app.task
def nap(seconds, path=None):
    if path:
        open(path, "w").close()
    time.sleep(seconds)
    return seconds


@app.task(bind=True)
def again(self, seconds):
    time.sleep(seconds)
    raise self.retry(countdown=0, max_retries=1)


def end_of(result):
    try:
        return result.get(timeout=20)
    except TaskRevokedError as exc:
        return f"{result.state}: {exc}"


if __name__ == "__main__":
    running = nap.delay(60)
    while running.state != "STARTED":
        time.sleep(0.01)
    waiting, two = nap.delay(0, "ran"), ResultSet([nap.delay(0, "ran"), nap.delay(0, "ran")])
    waiting.revoke()
    two.revoke()
    app.control.revoke("chosen")
    print(*[end_of(each) for each in (waiting, *two)], sep="; ")
    running.revoke(terminate=True)
    print(end_of(running))
    print(end_of(nap.apply_async((0, "ran"), task_id="chosen")))
    going_on = nap.delay(0.5)
    while going_on.state != "STARTED":
        time.sleep(0.01)
    going_on.revoke()
    print(end_of(going_on))
    retrying = again.delay(0.5)
    while retrying.state != "STARTED":
        time.sleep(0.01)
    retrying.revoke()
    print(end_of(retrying))
"""


def test_bare_tasks_are_revoked_and_terminated(program: Any, tmp_path: Path) -> None:
    done = program(REVOKING)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "; ".join(["REVOKED: revoked"] * 3),
        "REVOKED: terminated",
        "REVOKED: revoked",
        "0.5",
        "REVOKED: revoked",
    ]
    assert not (tmp_path / "ran").exists()
