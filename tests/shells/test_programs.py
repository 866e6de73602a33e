"""Programs with the embedded engine and its processes, each run as a user runs it."""

from __future__ import annotations

import os
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


def begun(result):
    while result.state != "STARTED":
        time.sleep(0.01)
    return result


def end_of(result):
    try:
        return result.get(timeout=20)
    except TaskRevokedError as exc:
        return f"{result.state}: {exc}"


if __name__ == "__main__":
    running = begun(nap.delay(60))
    waiting, two = nap.delay(0, "ran"), ResultSet([nap.delay(0, "ran"), nap.delay(0, "ran")])
    waiting.revoke()
    two.revoke()
    app.control.revoke("chosen")
    print(*[end_of(each) for each in (waiting, *two)], sep="; ")
    running.revoke(terminate=True)
    print(end_of(running))
    print(end_of(nap.apply_async((0, "ran"), task_id="chosen")))
    going_on = begun(nap.delay(0.5))
    going_on.revoke()
    print(end_of(going_on))
    retrying = begun(again.delay(0.5))
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


CLOSED = """
import os

from flowq import Flowq

app = Flowq("closed", worker_concurrency=1)


@app.task
def add(x, y):
    print("adds")
    return x + y


if __name__ == "__main__":
    run = app.submit(add.s(1, 2))
    with open("said", "w") as file:
        file.write(f"{run.result(timeout=20)} {run['add'].logs}")
"""


@pytest.mark.parametrize("closed", ["<&- >&-", "<&- >&- 2>&-", ">&-"])
def test_a_pool_starts_where_standard_streams_are_closed(
    program: Any, tmp_path: Path, closed: str
) -> None:
    (tmp_path / "closed.py").write_text(CLOSED)
    command = f"exec {sys.executable} closed.py {closed}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "said").read_text() == "3 adds\n"


ENDING = """
from flowq import Flowq

app = Flowq("ending", worker_concurrency=1, include=["bad"])


@app.task
def add(x, y):
    return x + y


if __name__ == "__main__":
    app.submit(add.s(1, 2)).result(timeout=20)
"""


def test_a_pool_that_cannot_start_is_told_of_once(program: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        "import os, sys\nif not sys.argv[0].endswith('prog.py'):\n    os._exit(3)\n"
    )
    done = program(ENDING)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert "the pool cannot start: its first process ended with exit code 3" in done.stderr


JOINING = """
import time

from flowq import Flowq, allow_join_result, errors, group

app = Flowq("joining", worker_concurrency=2)


@app.task
def add(x, y):
    return x + y


@app.task
def bad():
    raise ValueError("bad")


@app.task
def nap():
    time.sleep(60)


def said(call, *args, **kwargs):
    try:
        return call(*args, **kwargs)
    except Exception as exc:
        return type(exc).__name__


@app.task
def outer(known):
    other = add.delay(1, 2)
    got = [said(other.get)]  # refused, at once
    with allow_join_result():
        got += [other.get(timeout=20), other.state, app.AsyncResult(known).get()]
        got += [said(bad.delay().get), group(add.s(i, i) for i in range(3)).delay().get()]
        got += [said(app.AsyncResult("nobody").get)]
        run = app.submit(nap.s())
        sleeper = app.AsyncResult(run.result_id)
        got += [str(run.state), said(sleeper.get, timeout=0.1)]
        sleeper.revoke(terminate=True)
        got += [said(sleeper.get), sleeper.run.id == run.id]
    return got


if __name__ == "__main__":
    known = add.delay(5, 5)
    known.get()
    ends = [
        [3, "SUCCESS", 10, "ValueError", [0, 2, 4], "UnknownId", "RUNNING", "TimeoutError"],
        ["TaskRevokedError", True],
    ]
    bare, node = outer.delay(known.id).get(timeout=30), app.submit(outer.s(known.id)).result(30)
    for there in (bare, node):
        assert there == ["RuntimeError", *ends[0], *ends[1]], there
    print("as in threads")
"""


def test_a_task_in_a_pool_child_reads_results(program: Any) -> None:
    done = program(JOINING)
    assert done.stderr == ""
    assert done.stdout == "as in threads\n"


STRANDED = """
import os
import sys
import time

from flowq import Flowq

app = Flowq("stranded", worker_concurrency=1)


@app.task
def nap(seconds):
    time.sleep(seconds)


if __name__ == "__main__":
    if sys.argv[1:] == ["begin"]:
        run = app.submit(nap.s(60))
        while run["nap"].state != "STARTED":
            time.sleep(0.01)
        os._exit(9)
    run = app.run("@last")
    print(run.wait(timeout=3), app.AsyncResult(run.result_id).ready())
"""


def test_who_waits_for_a_run_that_nobody_advances_is_told_once(program: Any) -> None:
    assert program(STRANDED, "begin").returncode == 9
    done = program(STRANDED)
    assert done.stdout == "False False\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("nobody advances the run ")
    assert line.endswith("go on with it by flowq resume, or by its method resume()")


MEMORY = """
from flowq import Flowq

app = Flowq("memory", store="sqlite://", worker_pool="threads", worker_concurrency=1)


@app.task
def add(x, y):
    return x + y


if __name__ == "__main__":
    print(app.submit(add.s(1, 1)).result(timeout=20))
"""


def test_a_store_in_memory_leaves_nothing_behind(program: Any, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = program(MEMORY, env={**os.environ, "TMPDIR": str(temporary)})
    assert (done.stdout, done.stderr) == ("2\n", "")
    assert list(temporary.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"prog.py", "temporary"}
