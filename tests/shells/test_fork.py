"""Programs that fork and start threads, as servers do, after their engine has started."""

from __future__ import annotations

import os
import signal
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


BUSY = """
import os
import sys
import threading

from flowq import Flowq, group

app = Flowq("busy", worker_concurrency=1)
begun, stopped = threading.Event(), threading.Event()


@app.task
def add(x, y):
    return x + y


def submit():
    while not stopped.is_set():
        run = app.submit(group(add.s(i, i) for i in range(100)))
        begun.set()
        run.result(timeout=60)


earlier = app.submit(add.s(20, 1))
print("earlier", earlier.result(timeout=20), flush=True)
threads = [threading.Thread(target=submit) for _ in range(2)]
for each in threads:
    each.start()
assert begun.wait(20)
for _ in range(3):
    child = os.fork()
    if child == 0:
        print("child", app.submit(add.s(2, 2) | add.s(1)).result(timeout=20), flush=True)
        print("sees", earlier.result(timeout=20), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
stopped.set()
for each in threads:
    each.join()
print("after", app.submit(add.s(3, 3) | add.s(1)).result(timeout=20), flush=True)
"""


def test_a_fork_while_other_threads_write_finds_the_store_free(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "busy.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["earlier 21", *["child 5", "sees 21"] * 3, "after 7"]


MANY = """
import os
import threading

from flowq import Flowq

app = Flowq("many", worker_pool="threads", worker_concurrency=1)


@app.task
def add(x, y):
    return x + y


run = app.submit(add.s(1, 1))
run.result(timeout=20)
before = len(os.listdir("/proc/self/fd"))
for _ in range(50):
    thread = threading.Thread(target=lambda: run.state)
    thread.start()
    thread.join()
print(len(os.listdir("/proc/self/fd")) - before < 10)
"""


def test_threads_that_have_read_and_ended_leave_no_connection(tmp_path: Path) -> None:
    (tmp_path / "many.py").write_text(MANY)
    done = subprocess.run(
        [sys.executable, "many.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


OUTLIVED = """
import os
import sys
import threading
import time

from flowq import Flowq
from flowq.errors import WrongState

app = Flowq("outlived", worker_concurrency=1)


@app.task
def nap(seconds):
    time.sleep(seconds)
    return seconds


def submit():
    app.submit(nap.s(0.5))


if __name__ == "__main__":
    if sys.argv[1:] == ["begin"]:
        thread = threading.Thread(target=submit)  # so the kernel does not watch for the pool
        thread.start()
        thread.join()
        while app.run("@last")["nap"].state != "STARTED":
            time.sleep(0.01)
        child = os.fork()
        if child == 0:
            os.close(1)
            os.close(2)
            time.sleep(60)
        print(child, flush=True)
        os._exit(9)
    end = time.monotonic() + 20
    while True:
        try:
            print(app.run("@last").resume().result(timeout=20))
            break
        except WrongState:  # the pool is about to end
            if time.monotonic() > end:
                raise
        time.sleep(0.05)
"""


def test_a_fork_that_outlives_its_parent_does_not_keep_its_runs(tmp_path: Path) -> None:
    (tmp_path / "outlived.py").write_text(OUTLIVED)
    call = [sys.executable, "-W", "ignore::DeprecationWarning", "outlived.py"]
    begun = subprocess.run(
        [*call, "begin"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    child = int(begun.stdout)
    try:
        done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    finally:
        os.kill(child, signal.SIGKILL)
    assert (done.stdout, done.stderr) == ("0.5\n", "")
