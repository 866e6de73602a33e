"""Calling flowq as a person does: a folder with pipelines, commands, what they write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any, NamedTuple

import flowq
from tests.descriptors import readable

ROOT = str(Path(flowq.__file__).parents[1])
PATIENCE = 60.0

PIPELINES = {
    "two.py": """
        from flowq import Flowq
        app = Flowq("two")
        @app.task
        def start(x): return x + 1
        @app.task
        def finish(x): return x * 2
        pipeline = start.s(20) | finish.s()
    """,
    "broken.py": """
        import os
        from flowq import Flowq, group
        app = Flowq("broken")
        @app.task
        def source(): return [1, 2]
        @app.task
        def check(x):
            print("checking", x)
            if x == 2 and not os.path.exists("mended"):
                raise ValueError(f"bad row {x}")
            return x
        @app.task
        def total(xs): return sum(xs)
        pipeline = source.si() | group(check.si(1), check.si(2)) | total.s()
    """,
    "slow.py": """
        import threading, os
        from flowq import Flowq, chain
        app = Flowq("slow")
        @app.task
        def nap(seconds, mark):
            with open("ledger.txt", "a") as ledger:
                ledger.write(f"{mark} began\\n")
            threading.Event().wait(seconds)
            with open("ledger.txt", "a") as ledger:
                ledger.write(f"{mark} ended\\n")
            return mark
        def pipeline(seconds: float = 0.5, steps: int = 3):
            return chain(*[nap.si(seconds, i) for i in range(steps)])
    """,
}


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout as one JSON value."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """stdout as one JSON value a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    def says(self, *words: str) -> bool:
        """Whether stderr is an error: one sentence with these words, and what to try."""
        last = [line for line in self.err.splitlines() if line]
        assert "Traceback" not in self.err, self.err
        assert last[-1].startswith("try: "), self.err
        sentence = next(line for line in last if line.startswith("error: "))
        return all(word in sentence for word in words)


class Shell:
    """Runs flowq in one folder."""

    def __init__(self, folder: Path, pipelines: dict[str, str] | None = None) -> None:
        self.folder = folder
        for name, text in {**PIPELINES, **(pipelines or {})}.items():
            self.write(name, text)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("FLOWQ_")}
        for name in ("CI", "NO_COLOR", "FORCE_COLOR"):
            self.env.pop(name, None)
        self.env["PYTHONPATH"] = ROOT

    def write(self, name: str, text: str) -> Path:
        """Put a file into the folder; the indentation of the text is taken off."""
        import textwrap

        path = self.folder / name
        path.write_text(textwrap.dedent(text).lstrip())
        return path

    def __call__(self, *args: str, code: int | None = 0, **env: str) -> Done:
        """Run a command to its end; `code` is what it has to exit with, None for any."""
        done = subprocess.run(
            [sys.executable, "-m", "flowq", *args],
            cwd=self.folder,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        found = Done(done.returncode, done.stdout, done.stderr)
        assert code is None or found.code == code, f"exit {found.code}\n{found.out}\n{found.err}"
        return found

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        """Start a command; its output is piped."""
        return subprocess.Popen(
            [sys.executable, "-m", "flowq", *args],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def stored(self) -> bool:
        """Whether there is a store here."""
        return (self.folder / ".flowq").exists()


def read_until(stream: IO[bytes] | None, words: str, seconds: float = PATIENCE) -> str:
    """Read a pipe until some words have come; gives all that was read."""
    assert stream is not None
    deadline = time.monotonic() + seconds
    found = b""
    while words.encode() not in found:
        left = deadline - time.monotonic()
        ready = readable([stream], max(left, 0.0))
        chunk = os.read(stream.fileno(), 65536) if ready else b""
        assert chunk, f"{words!r} did not come: {found.decode(errors='replace')}"
        found += chunk
    return found.decode(errors="replace")


def finish(process: subprocess.Popen[bytes]) -> Done:
    """Wait for a started command."""
    out, err = process.communicate(timeout=PATIENCE)
    return Done(process.returncode, out.decode(), err.decode())
