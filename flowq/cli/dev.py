"""``flowq dev``: a worker with its coordinator that begins anew whenever a source file changes."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from flowq.cli import options
from flowq.cli import serving_options as with_
from flowq.cli.output import Output
from flowq.worker.prctl import die_with_parent

#: Source files are looked at that often (seconds).
_EVERY = 0.5
#: Seconds that running tasks get when the worker is started anew.
_GRACE = "5s"
#: Folders that hold no source of the project.
_ELSEWHERE = frozenset(("node_modules", "__pycache__", "site-packages"))
#: What ends it; HUP comes when its terminal is closed.
_ENDING = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def dev(
    app: with_.AppName = None,
    loglevel: with_.Level = "INFO",
    queues: with_.Queues = "",
    concurrency: options.Concurrency = None,
    pool: options.Pool = None,
    store: options.StoreUrl = None,
    broker: options.BrokerUrl = None,
    backend: options.BackendUrl = None,
    quiet: options.Quiet = False,
) -> int:
    """Develop: one worker with its coordinator here, started anew when a file changes."""
    given = {
        "-A": app,
        "-l": loglevel,
        "-Q": queues,
        "-c": concurrency,
        "-P": pool,
        "--store": store,
        "--broker": broker,
        "--backend": backend,
    }
    words = [word for key, value in given.items() if value for word in (key, value)]
    command = [sys.executable, "-m", "flowq", "worker", "--with-coordinator", "--grace", _GRACE]
    return _Loop([*command, *words], Output(quiet=quiet)).run()


class _Loop:
    """Starts the worker, watches, starts it anew."""

    def __init__(self, command: list[str], out: Output) -> None:
        self._command, self._out = command, out
        self._read, self._write = os.pipe()
        self._child: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Until a signal, which the worker gets too; the worker's exit code then."""
        os.set_blocking(self._write, False)
        signal.set_wakeup_fd(self._write)
        for number in (*_ENDING, signal.SIGCHLD):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, lambda *_: None)
        seen = dict(_sources())
        self._start()
        while True:
            if self._heard() & _ENDING:
                return self._end()
            if self._child is not None and self._child.poll() is not None:
                self._out.say("the worker ended; it is started again when a file changes")
                if self._child.returncode in (2, 78):  # nothing that a file would cure
                    return self._child.returncode
                self._child = None
            now = dict(_sources())
            changed = [path for path in {*now, *seen} if now.get(path) != seen.get(path)]
            if changed:
                seen = now
                self._out.say(f"{os.path.relpath(changed[0])} changed: starting anew")
                self._end()
                self._start()

    def _heard(self) -> set[int]:
        """Signals since the last look; waits a moment for one."""
        if select.select([self._read], [], [], _EVERY)[0]:
            return set(os.read(self._read, 64))
        return set()

    def _start(self) -> None:
        self._child = subprocess.Popen(
            self._command,
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),  # no threads here
        )

    def _end(self) -> int:
        child, self._child = self._child, None
        if child is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        return child.wait()


def _sources() -> Iterator[tuple[str, int]]:
    """Every Python file in this folder and below, and when it was changed (ns)."""
    for folder, below, files in os.walk(Path.cwd()):
        below[:] = [name for name in below if not name.startswith(".") and name not in _ELSEWHERE]
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):
                    yield path, os.stat(path).st_mtime_ns
