"""A fleet for tests: real servers, real ``flowq worker`` and ``flowq coordinator`` processes."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flowq

ROOT = str(Path(flowq.__file__).parents[1])
PATIENCE = 60.0

PROJECT = """
    import os, signal, threading
    from flowq import Flowq, chain, chord, group
    app = Flowq("proj")
    app.conf.task_routes = {"proj.elsewhere": {"queue": "other"}}

    @app.task
    def add(x, y): return x + y
    @app.task
    def total(xs): return sum(xs)
    @app.task
    def elsewhere(x): return x + 100
    @app.task
    def fail(text="bad"): raise ValueError(text)
    @app.task(max_retries=3)
    def errback(request, exc, traceback):
        with open("errbacks.txt", "a") as out: out.write(f"{exc}\\n")
    @app.task(bind=True, max_retries=3)
    def flaky(self, times):
        if self.request.retries < times:
            raise self.retry(countdown=0.05)
        return self.request.retries
    @app.task(bind=True, max_retries=None)
    def stubborn(self, times):
        threading.Event().wait(0.4)
        if self.request.retries < times:
            raise self.retry(countdown=0)
        return self.request.retries
    @app.task
    def nap(seconds, mark=""):
        with open("ledger.txt", "a") as ledger: ledger.write(f"{mark} began\\n")
        threading.Event().wait(seconds)
        with open("ledger.txt", "a") as ledger: ledger.write(f"{mark} ended\\n")
        return mark
    @app.task(bind=True)
    def progress(self, hold=0.4):
        for i in range(3):
            self.update_state(state="PROGRESS", meta={"done": i})
            threading.Event().wait(hold)
        return "done"
    @app.task
    def big(n): return "x" * n
    @app.task
    def size(x): return len(x)
"""


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait for something to become true, and give it."""
    deadline = time.monotonic() + patience
    pause = threading.Event()
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what}"
        pause.wait(0.02)


class Rig:
    """A folder with a project, and the processes that serve it.

    Args:
        folder: Where the project and the logs are.
        broker: Broker URL.
        backend: Result backend URL; none for none.
        store: Store URL; none: the default file, and the coordinator in the client.
        project: Source of `proj.py`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        broker: str | None,
        backend: str | None = None,
        store: str | None = None,
        project: str = PROJECT,
    ) -> None:
        self.folder = folder
        (folder / "proj.py").write_text(textwrap.dedent(project).lstrip())
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("FLOWQ_")}
        self.env["PYTHONPATH"] = os.pathsep.join([str(folder), ROOT])
        for name, value in (("BROKER", broker), ("BACKEND", backend), ("STORE", store)):
            if value:
                self.env[f"FLOWQ_{name}"] = value
        self.env["FLOWQ_WORKER_HEARTBEAT_INTERVAL"] = "0.5"
        #: What comes before each command, as to run it on another host.
        self.prefix: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.logs: dict[int, Path] = {}

    # -- processes -----------------------------------------------------------------------

    def worker(self, *args: str, wait: bool = True, **env: str) -> subprocess.Popen[bytes]:
        """Start a worker; returns once it is ready."""
        name = f"w{secrets.token_hex(3)}@test"
        args = args if "-n" in args else (*args, "-n", name)
        return self._start(["worker", "-A", "proj", "-l", "INFO", *args], "ready", wait, env)

    def coordinator(self, *args: str, wait: bool = True, **env: str) -> subprocess.Popen[bytes]:
        """Start a coordinator; returns once it has lanes."""
        return self._start(["coordinator", "-l", "INFO", *args], "ready", wait, env)

    def _start(
        self, args: list[str], sign: str, wait: bool, env: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        log = self.folder / f"{args[0]}-{len(self.processes)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "flowq", *args],
                cwd=self.folder,
                env={**self.env, **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        self.logs[process.pid] = log
        if wait:
            until(
                lambda: f"{sign}." in log.read_text() or process.poll() is not None,
                f"{args[0]} says {sign!r}; it says: {log.read_text()[-2000:]}",
            )
            assert process.poll() is None, log.read_text()
        return process

    def log_of(self, process: subprocess.Popen[bytes]) -> str:
        """What a process has said so far."""
        return self.logs[process.pid].read_text()

    def stop(self, process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
        """Ask a process to end, and wait; gives its exit code."""
        process.send_signal(number)
        return process.wait(PATIENCE)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End a process and all its children at once."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)

    # -- clients -------------------------------------------------------------------------

    def call(self, source: str, patience: float = PATIENCE, **env: str) -> Any:
        """Run a program with everything of `proj` at hand; gives what it passed to `answer`."""
        text = "from proj import *\nimport json\nfrom tests.rig import until\n"
        text += "answer = lambda v: print('=' + json.dumps(v))\n"
        path = self.folder / ".clients" / f"client{secrets.token_hex(4)}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + textwrap.dedent(source))
        done = subprocess.run(
            [*self.prefix, sys.executable, str(path)],
            cwd=self.folder,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience,
        )
        found = [line[1:] for line in done.stdout.splitlines() if line.startswith("=")]
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.words()}"
        assert found, f"{done.stdout}\n{done.stderr}"
        return json.loads(found[-1])

    def flowq(self, *args: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a flowq command to its end."""
        done = subprocess.run(
            [*self.prefix, sys.executable, "-m", "flowq", *args],
            cwd=self.folder,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{self.words()}"
        return done

    def words(self) -> str:
        """The end of every process's log."""
        return "\n".join(f"-- {log.name}\n{log.read_text()[-3000:]}" for log in self.logs.values())

    def close(self) -> None:
        """End every process."""
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill(process)
