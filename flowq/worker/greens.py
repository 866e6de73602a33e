"""The greenlet pools, gevent and eventlet: one process, whose hands are greenlets.

For many bodies that wait for the network. It is the prefork pool over another first process, so
what is true of processes is true here with less: a limit reaches a body where it waits and not
where it computes, and a body that kills its process takes with it what its neighbours were in.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import signal
from collections.abc import Iterable
from typing import Any, Final

from flowq import errors
from flowq.worker import wire
from flowq.worker.definitions import Definitions
from flowq.worker.greenkit import PATCHES
from flowq.worker.hand import Running
from flowq.worker.nursery import Nursery
from flowq.worker.pool import Doing
from flowq.worker.prefork import Child, PreforkPool

KINDS: Final = tuple(PATCHES)
#: A greenlet that was killed and still names its item after so long (seconds) computes and lets
#: nobody else run: the process is ended.
STUCK: Final = 5.0
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


class GreenPool(PreforkPool):
    """A pool of greenlets in one process; see `Pool` for what it keeps.

    Args:
        kind: "gevent" or "eventlet".
        greenlets: How many, at least one.
        definitions: Which tasks they know; looked at again at each `submit`.
        setup: The other things they need.
        keep: Descriptors that the process holds open too.

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
    ) -> None:
        check_installed(kind)
        make_room(greenlets)
        program = _PROGRAM.format(patch=PATCHES[kind], kind=kind)

        def start(slots: int, count: int) -> Nursery:
            return Nursery(slots, count, program)

        #: Place -> since when its greenlet is being killed, and in which item.
        self._killed: dict[int, tuple[float, int, int]] = {}
        super().__init__(greenlets, definitions, setup, keep=keep, nursery=start)

    def resize(self, hands: int) -> None:
        """Start more greenlets, or have some leave."""
        make_room(hands)
        super().resize(hands)

    def running(self) -> list[Doing]:
        """What the greenlets are in now."""
        return [doing._replace(pid=self._pid) for doing in super().running()]

    def info(self) -> dict[str, Any]:
        """The process, and how many greenlets it has."""
        info = super().info()
        info["greenlets"] = len(info["processes"])
        info["processes"] = [self._pid] if self._pid else []
        return info

    @property
    def _pid(self) -> int:
        return self._nursery.pid if self._nursery is not None else 0

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
            elif now - since > STUCK and self._pid:
                del self._killed[place]
                os.kill(self._pid, signal.SIGKILL)


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
