"""Tasks of the pool contract, in a module that pool children can import."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flowq import Flowq
from flowq.worker import uplink

app = Flowq("pool", set_as_current=False)


@app.task(name="pool.add")
def add(a: int, b: int) -> int:
    return a + b


@app.task(name="pool.nothing")
def nothing() -> None:
    return None


@app.task(name="pool.pid")
def pid() -> int:
    return os.getpid()


@app.task(name="pool.die")
def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)
    time.sleep(10)


@app.task(name="pool.leave")
def leave(code: int) -> None:
    os._exit(code)


@app.task(name="pool.exit")
def exit_(code: int) -> None:
    sys.exit(code)


@app.task(name="pool.write")
def write(text: str) -> str:
    sys.stdout.write(f"out {text}\n")
    sys.stderr.write(f"err {text}\n")
    logging.getLogger("pool").warning("log %s", text)
    return text


@app.task(name="pool.hold")
def hold(folder: str, name: str = "a") -> str:
    """Say that it runs, then wait for leave to end."""
    Path(folder, f"{name}.begun").touch()
    deadline = time.monotonic() + 20
    while not Path(folder, f"{name}.go").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return name


@app.task(name="pool.nap")
def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@app.task(name="pool.progress", bind=True)
def progress(self: Any) -> str:
    self.update_state(state="HALF", meta={"n": 1})
    return "whole"


@app.task(name="pool.ask")
def ask(text: str) -> str:
    return uplink.ask("shout", text.encode()).decode()


@app.task(name="pool.stdout")
def stdout() -> int:
    """A subprocess writes to the inherited stdout, which must not be the program's."""
    return subprocess.run([sys.executable, "-c", "print('stray')"], check=True).returncode


@app.task(name="pool.signals")
def signals() -> list[bool]:
    return [signal.getsignal(signal.SIGINT) is signal.SIG_IGN, sys.stdin.read() == ""]
