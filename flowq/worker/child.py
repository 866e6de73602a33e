"""A pool child: reads parts from its socket, runs them, writes what came of them.

It is forked from the zygote and lives until its socket ends. It ignores SIGINT, because a
terminal sends Ctrl-C to everybody and the parent decides what that means.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

from flowq import errors
from flowq.broker.codec import Report
from flowq.worker import capture, livelog, uplink, wire
from flowq.worker.alarm import Alarm
from flowq.worker.definitions import Loaded
from flowq.worker.execution import Executor
from flowq.worker.runner import Runner
from flowq.worker.slots import Slot


class ParentLine:
    """The child's end of its socket."""

    def __init__(self, sock: socket.socket, gone: Callable[[], NoReturn] | None = None) -> None:
        """`gone` is called when the parent is gone; by default the process ends then."""
        sock.setblocking(True)
        self._sock = sock
        self._gone = gone or (lambda: leave(0))
        self._inbox = wire.Inbox()
        self._arrived: deque[tuple[int, bytes]] = deque()
        self._writing = threading.Lock()
        self._asking = threading.Lock()
        self._question = 0

    def send(self, reports: list[Report]) -> None:
        """Pass reports on, in order."""
        self._write(wire.message(wire.Kind.REPORTS, wire.encode(reports)))

    def hand_back(self, part: int, index: int) -> None:
        """Say that items from `index` on of a part were not begun and will not be."""
        self._write(wire.message(wire.Kind.RETURNED, wire.encode((part, index))))

    def ask(self, name: str, body: bytes) -> bytes:
        """Put a question to the parent and wait; what else arrives meanwhile is kept."""
        with self._asking:
            self._question += 1
            asked = wire.encode((self._question, name, body))
            self._write(wire.message(wire.Kind.ASK, asked))
            kept: list[tuple[int, bytes]] = []
            try:
                while True:
                    kind, data = self.next()
                    if kind != wire.Kind.REPLY:
                        kept.append((kind, data))
                        continue
                    number, ok, answer = wire.decode_reply(data)
                    if number == self._question:
                        break
            finally:
                self._arrived.extendleft(reversed(kept))
        if not ok:
            raise errors.FlowqError(answer.decode("utf-8", "replace"))
        return answer

    def next(self) -> tuple[int, bytes]:
        """The next message; ends the process when the parent is gone."""
        while not self._arrived:
            data = wire.receive(self._sock)
            if not data:
                self._gone()
            self._arrived.extend(self._inbox.feed(data))
        return self._arrived.popleft()

    def _write(self, data: bytes) -> None:
        with self._writing:
            try:
                self._sock.sendall(data)
            except OSError:
                self._gone()


def leave(code: int) -> NoReturn:
    """End this process without the exit handlers that belong to the zygote."""
    for stream in (sys.stdout, sys.stderr, sys.__stderr__):
        with contextlib.suppress(Exception):
            if stream is not None:
                stream.flush()
    with contextlib.suppress(Exception):
        logging.shutdown()
    os._exit(code)


def serve(sock: socket.socket, slot: Slot, setup: wire.Setup, loaded: Loaded) -> NoReturn:
    """Be a pool child from here on."""
    _settle_signals()
    _reseed()
    line = ParentLine(sock)
    executor = Executor(
        loaded.tasks,
        hostname=setup.hostname,
        compile_fragment=named(setup.compile_fragment) if setup.compile_fragment else None,
        accept=setup.accept,
        emit=lambda report: line.send([report]),
        alarm=Alarm(),
        max_bytes=setup.max_bytes,
        explain=loaded.explain,
    )
    life = _Life(setup.max_tasks, setup.max_memory) if setup.max_tasks or setup.max_memory else None
    live = setup.logs is not None
    runner = Runner(executor, slot, line, spent=life, live=live, kept=setup.log_size)
    signal.signal(signal.SIGUSR1, executor.interrupt)
    if setup.logs is not None:
        livelog.set_up(setup.logs, of_child=True)
        capture.redirect(setup.logs.redirect)
    capture.install(setup.log_level)
    uplink.end_loading(line.ask)
    while True:
        kind, data = line.next()
        if kind == wire.Kind.PART:
            number, bundles = wire.decode_part(data)
            capture.use_in_process(runner.capture)
            runner.run(number, bundles)
            capture.use_in_process(None)
            if life is not None and life.is_over:
                leave(0)
        elif kind == wire.Kind.DEFINE:
            _redefine(loaded, data, line)
            executor.tasks = loaded.tasks


class _Life:
    """How much a child may do before it makes way for a fresh one; called after each task.

    Args:
        tasks: So many tasks; 0 for any number.
        memory: Most KiB that it may ever have had resident; 0 for no limit.
    """

    def __init__(self, tasks: int, memory: int) -> None:
        self._tasks, self._memory = tasks, memory
        self._served = 0
        self.is_over = False

    def __call__(self) -> bool:
        self._served += 1
        if self._tasks and self._served >= self._tasks:
            self.is_over = True
        elif self._memory:
            self.is_over = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > self._memory
        return self.is_over


def _redefine(loaded: Loaded, blob: bytes, line: ParentLine) -> None:
    uplink.begin_loading()
    try:
        loaded.load(blob)
    finally:
        uplink.end_loading(line.ask)


def _settle_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def _reseed() -> None:
    """Give numpy's global dice other numbers in each child; Python's own see to themselves."""
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "random"):
        with contextlib.suppress(Exception):
            numpy.random.seed(int.from_bytes(os.urandom(4), "little"))


def named(name: str) -> Any:
    """The object that ``module:attribute`` names."""
    module, _, attribute = name.partition(":")
    found: Any = importlib.import_module(module)
    for step in attribute.split("."):
        found = getattr(found, step)
    return found
