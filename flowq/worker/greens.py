"""The greenlet pools, gevent and eventlet: one process, whose hands are greenlets.

For many bodies that wait for the network. It is the prefork pool over another first process, so
what is true of processes is true here with less: a limit reaches a body where it waits and not
where it computes, and a body that kills its process takes with it what its neighbours were in.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from flowq import errors
from flowq.broker.codec import Report
from flowq.worker import wire
from flowq.worker.definitions import Definitions
from flowq.worker.greenkit import PATCHES
from flowq.worker.hand import Running, ends
from flowq.worker.nursery import Nursery
from flowq.worker.pool import Doing, News, Part, Target
from flowq.worker.prefork import Child, PreforkPool

KINDS: Final = tuple(PATCHES)
#: A greenlet that was killed and still names its item after so long (seconds) computes and lets
#: nobody else run: the process is ended.
STUCK: Final = 5.0
#: Memory is looked at that often (seconds).
_LOOK: Final = 1.0
#: Descriptors that the program needs besides one per greenlet.
_OTHERS: Final = 256

_PROGRAM: Final = (
    "import sys; n = list(map(int, sys.argv[1:5])); sys.path[:] = sys.argv[5:]; {patch};"
    " from flowq.worker.greenhouse import main; main({kind!r}, n[0], n[1], n[2], bool(n[3]))"
)


def check_installed(kind: str) -> None:
    """Refuse a pool whose library is not there.

    Raises:
        ImproperlyConfigured: It is not installed.
    """
    if importlib.util.find_spec(kind) is None:
        raise errors.ImproperlyConfigured(
            f"the {kind} pool needs {kind}, which is not installed: pip install 'flowq[{kind}]'"
        )


class GreenProcess(PreforkPool):
    """One process of greenlets; the arguments are those of `GreenPool`."""

    def __init__(
        self,
        kind: str,
        greenlets: int,
        definitions: Definitions,
        setup: wire.Setup,
        keep: Iterable[int],
    ) -> None:
        program = _PROGRAM.format(patch=PATCHES[kind], kind=kind)

        def start(slots: int, count: int) -> Nursery:
            return Nursery(slots, count, program)

        #: Place -> since when its greenlet is being killed, and in which item.
        self._killed: dict[int, tuple[float, int, int]] = {}
        super().__init__(greenlets, definitions, setup, keep=keep, nursery=start)

    def running(self) -> list[Doing]:
        """What the greenlets are in now."""
        return [doing._replace(pid=self.pid) for doing in super().running()]

    def info(self) -> dict[str, Any]:
        """The process, and how many greenlets it has."""
        info = super().info()
        info["greenlets"] = len(info["processes"])
        info["processes"] = [self.pid] if self.pid else []
        return info

    @property
    def pid(self) -> int:
        """Of the process; 0 when there is none."""
        return self._nursery.pid if self._nursery is not None else 0

    @property
    def busy(self) -> int:
        """How many greenlets have something to do."""
        return sum(1 for child in self._children if child.parts)

    def _kill(self, child: Child, running: Running, why: str, number: int) -> None:
        super()._kill(child, running, why, number)
        if number != signal.SIGUSR1 and child.pid and child.place not in self._killed:
            begun = running.begun
            self._killed[child.place] = (self._now(), begun.part, begun.place)

    def _tick(self, now: float) -> None:
        super()._tick(now)
        for place, (since, part, index) in list(self._killed.items()):
            child = self._by_place.get(place)
            running = child.running(now) if child is not None else None
            if running is None or (running.begun.part, running.begun.place) != (part, index):
                del self._killed[place]
            elif now - since > STUCK and self.pid:
                del self._killed[place]
                os.kill(self.pid, signal.SIGKILL)


class GreenPool:
    """A pool of greenlets in one process; see `Pool` for what it keeps.

    A process that has run as many tasks, or has come to as much memory, as it may makes way: what
    comes goes to another one, and it ends after what runs in it. Both together run no more than
    there are greenlets. There are never more than two: while the old one lasts, the new one stays.

    Args:
        kind: "gevent" or "eventlet".
        greenlets: How many, at least one.
        definitions: Which tasks they know; looked at again at each `submit`.
        setup: The other things they need; its limits are those of the process.
        keep: Descriptors that the process holds open too.
        monotonic: Seconds on the monotonic clock.

    Raises:
        ImproperlyConfigured: The library is not installed, or there are too few descriptors.
    """

    def __init__(
        self,
        kind: str,
        greenlets: int,
        definitions: Definitions,
        setup: wire.Setup | None = None,
        *,
        keep: Iterable[int] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        check_installed(kind)
        make_room(greenlets)
        self.definitions = definitions
        self._kind, self._setup, self._keep = kind, setup or wire.Setup([], "", b""), list(keep)
        self._now = monotonic
        self._epoll = select.epoll()
        self._hands = greenlets
        self._old: GreenProcess | None = None
        #: Tasks that the process with that pid has run.
        self._ran, self._ran_in = 0, 0
        self._next_look = 0.0
        self._stopped = False
        self._process = self._begin()

    def _begin(self) -> GreenProcess:
        process = GreenProcess(self._kind, self._hands, self.definitions, self._setup, self._keep)
        self._epoll.register(process.handles()[0], select.EPOLLIN)
        return process

    @property
    def _processes(self) -> list[GreenProcess]:
        return [self._process] if self._old is None else [self._old, self._process]

    @property
    def trouble(self) -> str:
        """What is wrong with the pool, for a person to read; "" when nothing is."""
        return self._process.trouble

    # -- the contract -----------------------------------------------------------------------

    def handles(self) -> list[int]:
        """One descriptor that stands for all."""
        return [self._epoll.fileno()]

    def free(self, small: bool) -> int:
        """How many parts it takes now."""
        free = self._process.free(small)
        return free if self._old is None else max(0, free - self._old.busy)

    def submit(self, part: Part) -> None:
        """Send a part to an idle greenlet, or behind a small one."""
        self._process.submit(part)

    def collect(self) -> list[News]:
        """Read everything that is there; renew the process when it is time to."""
        news = self._process.collect()
        if self._stopped:
            return news if self._old is None else news + self._old.collect()
        if self._setup.max_tasks or self._setup.max_memory:
            if self._old is not None:
                news += self._see_off(self._old)
            self._count(news)
            if self._old is None and self._is_spent():
                self._renew()
        return news

    def recall(self, kill: Target | None = None, number: int = signal.SIGKILL) -> None:
        """Have everything that has not begun come back."""
        for process in self._processes:
            process.recall(kill, number)

    def running(self) -> list[Doing]:
        """What the greenlets are in now."""
        return [doing for process in self._processes for doing in process.running()]

    def resize(self, hands: int) -> None:
        """Start more greenlets, or have some leave."""
        make_room(hands)
        self._process.resize(hands)
        self._hands = hands

    def info(self) -> dict[str, Any]:
        """The process, or both, and how many greenlets the new one has."""
        info = self._process.info()
        info["processes"] = [process.pid for process in self._processes if process.pid]
        return info

    def stop(self, grace: float) -> None:
        """End everything."""
        if self._stopped:
            return
        self._stopped = True
        deadline = self._now() + grace
        for process in self._processes:
            self._epoll.unregister(process.handles()[0])
            process.stop(max(0.0, deadline - self._now()))
        self._epoll.close()

    # -- making way -------------------------------------------------------------------------

    def _count(self, news: list[News]) -> None:
        if self._ran_in != self._process.pid:  # it crashed and was replaced
            self._ran, self._ran_in = 0, self._process.pid
        self._ran += sum(1 for each in news if isinstance(each, Report) and ends(each))

    def _is_spent(self) -> bool:
        if not self._ran:  # else one that is too large from the start would be renewed for nothing
            return False
        if self._setup.max_tasks and self._ran >= self._setup.max_tasks:
            return True
        now = self._now()
        if not self._setup.max_memory or now < self._next_look:
            return False
        self._next_look = now + _LOOK
        return resident(self._process.pid) > self._setup.max_memory

    def _renew(self) -> None:
        self._old = self._process
        self._old.recall()
        self._process = self._begin()
        self._ran, self._ran_in = 0, self._process.pid

    def _see_off(self, old: GreenProcess) -> list[News]:
        """Read what an old process says, and end it after its last task."""
        news = old.collect() if old.busy else []
        if not old.busy:
            self._epoll.unregister(old.handles()[0])
            old.stop(0.0)
            self._old = None
        return news


def resident(pid: int) -> int:
    """KiB of memory that a process has now; 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize() // 1024


def make_room(greenlets: int) -> None:
    """Let this process and those it starts have a descriptor for each greenlet.

    Raises:
        ImproperlyConfigured: The system does not allow that many.
    """
    needed = greenlets + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise errors.ImproperlyConfigured(
            f"{greenlets} greenlets need {needed} open files, and this system allows {hard}:"
            " lower the concurrency, or raise ulimit -n"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
