"""Processes that end with the one that started them."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """For `preexec_fn`: ask Linux for SIGTERM when the parent dies, however it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class HostError(Exception):
    """Raised when an engine's process failed, ended, or did not answer in time."""


class Host:
    """One engine in a process of its own: asked by one JSON line, answers by one.

    Its own session, so that both engines get the same share of a busy machine, and end whole.
    """

    def __init__(
        self, engine: str, python: str, options: dict[str, Any], env: dict[str, str]
    ) -> None:
        self.engine = engine
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.host", engine, json.dumps(options)],
            cwd=ROOT,
            env={**os.environ, **env, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self._buffer = b""
        started = time.perf_counter()
        try:
            self.facts = self._answer(120.0)
        except BaseException:
            self.close()
            raise
        self.facts["startup_s"] = time.perf_counter() - started

    def ask(self, timeout: float, /, **command: Any) -> dict[str, Any]:
        """Send a command and wait for its answer (seconds); HostError if that is an error."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise HostError(f"the {self.engine} process has ended") from None
        return self._answer(timeout)

    def _answer(self, timeout: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise HostError(f"{self.engine} did not answer within {timeout:.0f} s")
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise HostError(f"the {self.engine} process ended; see its messages above")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise HostError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process and everything in its session; a second call does nothing."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            print(f"{self.engine} did not end by itself: killed", file=sys.stderr)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
