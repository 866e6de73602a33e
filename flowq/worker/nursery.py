"""The parent's side of the zygote: start it, have it fork, hear of deaths.

Starting takes no time here: the process is spawned and goes on by itself, and what is sent to it
waits in its socket until it is ready.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from flowq import errors
from flowq.worker import standard, wire
from flowq.worker.outbox import Outbox
from flowq.worker.slots import ROOM, Slots

_PROGRAM = (
    "import sys; n = list(map(int, sys.argv[1:5])); sys.path[:] = sys.argv[5:];"
    " from flowq.worker.zygote import main; main(n[0], n[1], n[2], bool(n[3]))"
)


#: Ends of sockets by which a zygote and its children know that their parent lives.
_ours: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _after_fork() -> None:
    """In a fork of the parent's, which is not their parent and may outlive it."""
    for sock in list(_ours):
        sock.close()


os.register_at_fork(after_in_child=_after_fork)


class Nursery:
    """A running zygote.

    Args:
        slots: File descriptor of the pool's shared memory.
        count: Number of slots in it.
        program: What it runs, if not a zygote that forks; sees the same arguments.
    """

    def __init__(self, slots: int, count: int, program: str = _PROGRAM) -> None:
        ours, theirs = socket.socketpair()
        self._sock = ours
        _ours.add(ours)
        self._inbox = wire.Inbox()
        self._outbox = Outbox(ours)
        self._sending: list[socket.socket] = []
        self.is_ready = False
        inherited = [theirs.fileno(), slots]
        # The kernel's watch is on the thread that spawns: only the main one lasts.
        watch = threading.current_thread() is threading.main_thread()
        numbers = [theirs.fileno(), slots, count, int(watch)]
        self.pid = _spawn(program, [*map(str, numbers), *sys.path], inherited)
        theirs.close()

    def fileno(self) -> int:
        """Readable when `receive` has something."""
        return self._sock.fileno()

    @property
    def has_output(self) -> bool:
        """Whether something waits to be written; then call `flush` when that is possible."""
        return bool(self._outbox)

    def flush(self) -> None:
        """Write what waits, as far as possible."""
        self._outbox.flush()
        if not self._outbox:
            for sock in self._sending:
                sock.close()
            self._sending.clear()

    def setup(self, setup: wire.Setup, keep: Iterable[int] = ()) -> None:
        """Say what to load; once, before the first `fork`.

        `keep` = descriptors that the zygote and all its children hold open too, such as a lock
        file whose holder counts as alive.
        """
        held = list(keep)
        setup.keep = len(held)
        self._outbox.put(wire.message(wire.Kind.SETUP, wire.encode(setup)), held)

    def define(self, blob: bytes) -> None:
        """Have later children know other definitions."""
        self._outbox.put(wire.message(wire.Kind.DEFINE, blob))

    def fork(self, place: int) -> socket.socket:
        """Have a child made for a slot; returns the parent's end of its socket, usable at once."""
        ours, theirs = socket.socketpair()
        _ours.add(ours)
        self._sending.append(theirs)
        body = wire.message(wire.Kind.FORK, wire.encode(place))
        self._outbox.put(body, [theirs.fileno()])
        self.flush()
        return ours

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Send a child a signal; the zygote does it, who knows whether it still is its child."""
        self._outbox.put(wire.message(wire.Kind.KILL, wire.encode((pid, int(number)))))

    def receive(self) -> Iterator[tuple[int, bytes]]:
        """What the zygote says, as (kind, body).

        Raises:
            EOFError: It is gone, and its children with it.
        """
        while True:
            try:
                data = wire.receive(self._sock)
            except BlockingIOError:
                return
            if not data:
                raise EOFError("the zygote is gone")
            yield from self._inbox.feed(data)

    def end(self) -> int:
        """End the zygote and its children and wait until they are gone; returns its wait status.

        Repeating: raises; it is gone.
        """
        self._sock.close()
        for sock in self._sending:
            sock.close()
        return self._wait()

    def _wait(self) -> int:
        for attempt in range(200):
            try:
                found, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else waited for it
                return 0
            if found:
                return status
            if attempt == 100:  # stuck in a module's import, perhaps
                os.kill(self.pid, signal.SIGKILL)
            threading.Event().wait(0.001 if attempt < 50 else 0.02)
        return 0


class Launched(NamedTuple):
    """A zygote that imports already, and the memory it shares."""

    slots: Slots
    nursery: Nursery


def launch(processes: int) -> Launched:
    """Start the first process of a pool early, to have it ready sooner.

    Nothing is known of the program yet: give it to the pool once there is something.
    Until then its owner can be killed, and it ends; to drop it, call `nursery.end()`.
    """
    standard.occupy()
    slots = Slots(max(processes, ROOM))
    return Launched(slots, Nursery(slots.fd, slots.count))


def _spawn(program: str, args: list[str], inherited: list[int]) -> int:
    """Start the zygote by exec; the descriptors keep their numbers."""
    executable = sys.executable or "python3"
    was = {fd: os.get_inheritable(fd) for fd in inherited}
    try:
        for fd in inherited:
            os.set_inheritable(fd, True)
        # a notebook's kernel begins its own end by killing its process group, again and again
        options: dict[str, Any] = {"setpgroup": 0} if "ipykernel" in sys.modules else {}
        return os.posix_spawn(
            executable,
            [executable, *_interpreter_flags(), "-c", program, *args],
            os.environ,
            setsigmask=(signal.SIGINT,),  # until it can ignore it: a terminal's Ctrl-C is for all
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGCHLD),
            **options,
        )
    except OSError as exc:
        raise errors.WorkerLostError(f"the pool cannot start {executable}: {exc}") from exc
    finally:
        for fd, value in was.items():
            os.set_inheritable(fd, value)


def _interpreter_flags() -> list[str]:
    """Options of this interpreter that change what code means."""
    flags = ["-" + "O" * sys.flags.optimize] if sys.flags.optimize else []
    flags += [f"-W{option}" for option in sys.warnoptions]
    if sys.flags.dev_mode:
        flags += ["-X", "dev"]
    return flags
