"""The zygote: a clean, single-threaded process that loads the tasks and forks pool children.

It is started by exec, so nothing of the parent's threads, locks and connections is in it, and it is
started first, so it imports while the parent still does. Its death ends its children (the kernel
sees to that), and it ends when its socket does, so neither a killed parent nor a killed zygote
leaves a process behind.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from flowq.worker import uplink, wire
from flowq.worker.child import leave, named, serve
from flowq.worker.definitions import Loaded
from flowq.worker.prctl import die_with_parent
from flowq.worker.slots import Slots

#: Children whose death the signal did not announce are looked for that often (milliseconds).
_SWEEP = 1000


class Zygote:
    """The loop of the process."""

    def __init__(self, control: socket.socket, slots: Slots) -> None:
        self._control = control
        self._slots = slots
        self._inbox = wire.Inbox()
        self._sockets: deque[int] = deque()
        self._setup = wire.Setup([], "", b"")
        self._loaded = Loaded()
        #: Held open by this process and all its children; nobody reads them.
        self._kept: list[int] = []
        self._children: set[int] = set()
        self._bell, self._rope = socket.socketpair()

    def run(self) -> NoReturn:
        """Serve until the parent is gone."""
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._rope.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(_SWEEP)}
            if self._bell.fileno() in ready:
                self._bell.recv(4096)
            self._reap()
            if self._control.fileno() in ready:
                self._read()

    def _read(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, 1 << 20, 16)
        except ConnectionError:
            data, fds = b"", []
        self._take(data, fds)

    def _take(self, data: bytes, fds: list[int]) -> None:
        self._sockets.extend(fds)
        if not data:
            self._end()
        for kind, body in self._inbox.feed(data):
            self._obey(kind, body)

    def _obey(self, kind: int, body: bytes) -> None:
        if kind == wire.Kind.FORK:
            self._fork(int(wire.decode_any(body)))
        elif kind == wire.Kind.DEFINE:
            self._loaded.load(body)
        elif kind == wire.Kind.KILL:
            self._signal(*wire.decode_pair(body))
        elif kind == wire.Kind.SETUP:
            self._prepare(wire.decode_setup(body))

    def _signal(self, pid: int, number: int) -> None:
        if pid in self._children:  # not reaped yet, so the number is still this child's
            os.kill(pid, number)

    def _prepare(self, setup: wire.Setup) -> None:
        self._setup = setup
        self._kept = [self._sockets.popleft() for _ in range(setup.keep)]
        sys.path[:] = setup.sys_path
        os.environ.update(setup.environ)
        try:
            os.chdir(setup.cwd)
        except OSError as exc:
            self._loaded.problems[""] = f"its pool cannot enter the folder {setup.cwd}: {exc}"
        if setup.init:
            named(setup.init)()
        self._loaded.load(setup.definitions)
        sys.stdout.flush()
        os.dup2(2, 1)  # from here on: stdout itself belongs to the program's own output
        gc.collect()
        gc.freeze()  # children share these pages as long as nobody's collector touches them
        problems = [list(pair) for pair in self._loaded.problems.items()]
        problems += self._doubts()
        self._tell(wire.Kind.READY, problems)

    def _doubts(self) -> list[list[str]]:
        if threading.active_count() == 1:
            return []
        names = ", ".join(t.name for t in threading.enumerate()[1:])
        return [["", f"imported modules started threads, which pools lack: {names}"]]

    def _fork(self, place: int) -> None:
        fd = self._sockets.popleft()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            os.close(fd)
            self._children.add(pid)
            self._tell(wire.Kind.FORKED, (place, pid))
            return
        try:
            signal.set_wakeup_fd(-1)
            for sock in (self._control, self._bell, self._rope):
                sock.close()
            die_with_parent()
            if os.getppid() != parent:
                leave(0)
            os.set_inheritable(fd, False)
            serve(socket.socket(fileno=fd), self._slots[place], self._setup, self._loaded)
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            leave(70)

    def _reap(self) -> None:
        for pid in list(self._children):
            try:
                found, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # somebody's code waited for it; how it ended is not known
                found, status = pid, 0
            if found:
                self._children.discard(pid)
                self._tell(wire.Kind.EXITED, (pid, status))

    def _tell(self, kind: wire.Kind, value: object) -> None:
        try:
            self._control.sendall(wire.message(kind, wire.encode(value)))
        except OSError:
            self._end()

    def _end(self) -> NoReturn:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        leave(0)


def main(
    control: int,
    slots: int,
    count: int,
    watch_parent: bool,
    make: Callable[[socket.socket, Slots], Zygote] = Zygote,
) -> NoReturn:
    """Entry point of the process; the numbers are inherited file descriptors."""
    if watch_parent:
        die_with_parent()
    uplink.begin_loading()
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the parent, which ends this process
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)  # what modules print when imported, the parent has printed already
    os.close(nothing)
    for fd in (control, slots):
        os.set_inheritable(fd, False)
    make(socket.socket(fileno=control), Slots(count, slots)).run()
