"""Tasks of the pool contract, in a module that pool children can import."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flowq import Flowq
from flowq.errors import SoftTimeLimitExceeded
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


@app.task(name="pool.loop")
async def loop(seconds: float = 0.0) -> int:
    """Which event loop it ran in; leaves something behind."""
    running = asyncio.get_running_loop()
    others = len(asyncio.all_tasks()) - 1
    assert others == 0, f"{others} tasks are left of others"
    running.left = asyncio.ensure_future(asyncio.sleep(60))  # type: ignore[attr-defined]
    await asyncio.sleep(seconds)
    return id(running)


@app.task(name="pool.request", bind=True)
async def request(self: Any) -> list[Any]:
    await asyncio.sleep(0)
    sys.stdout.write("in a coroutine")
    return [self.request.id, await asyncio.to_thread(lambda: 5)]


@app.task(name="pool.soft")
async def soft(how: str) -> str:
    """Be interrupted while it waits, while a child of it does, or while it computes."""
    try:
        if how == "sleep":
            await asyncio.sleep(30)
        elif how == "group":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(30))
        else:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                pass
    except SoftTimeLimitExceeded as exc:
        await asyncio.sleep(0.001)  # it may go on
        return f"stopped: {exc}"
    except BaseExceptionGroup as exc:
        return f"group: {exc}"
    return "never"


@app.task(name="pool.stubborn", autoretry_for=(Exception,))
async def stubborn(folder: str) -> str:
    """Wait, and go on after whatever is an Exception."""
    Path(folder, "a.begun").touch()
    while True:
        with contextlib.suppress(Exception):
            await asyncio.sleep(30)


@app.task(name="pool.raises")
async def raises(kind: str) -> None:
    await asyncio.sleep(0)
    raise {"exit": SystemExit(3), "cancel": asyncio.CancelledError()}.get(kind, ValueError(kind))


@app.task(name="pool.patient")
def patient(folder: str) -> str:
    """Run until it is told to stop."""
    try:
        return hold(folder)
    except SoftTimeLimitExceeded as exc:
        return f"stopped: {exc}"


@app.task(name="pool.deaf")
def deaf(folder: str) -> str:
    """Take no notice of SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: Path(folder, "told").touch())
    return str(hold(folder))


@app.task(name="pool.patched")
def patched() -> bool:
    return not hasattr(__import__("select"), "epoll")


_kept: list[bytearray] = []


@app.task(name="pool.grow")
def grow(mib: int) -> int:
    """Keep that much memory, and touch it."""
    _kept.append(bytearray(b"x" * (mib << 20)))
    return len(_kept)


@app.task(name="pool.spin")
def spin() -> None:
    while True:
        pass


@app.task(name="pool.chatter")
def chatter(text: str) -> None:
    for _ in range(10):
        sys.stdout.write(text)
        time.sleep(0.002)
