"""The pool contract: hands that run parts, driven by one thread that must never wait.

`PreforkPool` (processes) and `ThreadPool` (threads; solo is one thread) keep it; the same tests
run over all of them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from flowq.broker.codec import Bundle, Item, Report
from flowq.errors import WrongState
from flowq.worker.hand import Entry, Part

__all__ = [
    "Doing",
    "Entry",
    "News",
    "Part",
    "Pool",
    "Question",
    "Returned",
    "Target",
    "check_size",
    "is_target",
]


class Returned(NamedTuple):
    """Items that were not begun and are to be run again, in order; nothing is counted."""

    entries: list[Entry]


class Question(NamedTuple):
    """A child asks for something that only the parent may do; it waits for the reply."""

    name: str
    body: bytes
    #: Takes (ok, bytes); call it once, from the engine's thread, now or later.
    reply: Callable[[bool, bytes], None]


#: Takes (name, body, reply) of a question.
Answer = Callable[[str, bytes, Callable[[bool, bytes], None]], None]


def refuse(name: str, _body: bytes, reply: Callable[[bool, bytes], None]) -> None:
    """Answer that nobody here does such a thing."""
    reply(False, f"this worker does not take {name} from its tasks".encode())


class Doing(NamedTuple):
    """An item that a hand is in."""

    bundle: Bundle
    item: Item
    #: Epoch seconds.
    began: float
    #: Process, or ident of the thread.
    pid: int


#: Names an item: (run, node), or the id of a bare task.
Target = tuple[int, int] | str


def is_target(item: Item, target: Target) -> bool:
    """Whether an item is the one that is named."""
    return item.id == target if isinstance(target, str) else (item.run, item.idx) == target


def check_size(hands: int, most: int) -> None:
    """Refuse a number of hands that no pool can have.

    Raises:
        WrongState: It is less than one, or more than there is room for.
    """
    if hands < 1:
        raise WrongState("a pool keeps at least one slot; shut the worker down to have none")
    if hands > most:
        raise WrongState(f"a pool has room for {most} slots, not for {hands}")


def signal_number(named: str | int | None) -> int:
    """The number of a signal that is given as 15, "15", "SIGTERM" or "term"; none: SIGKILL.

    Raises:
        WrongState: There is no such signal.
    """
    if named is None or named == "":
        return signal.SIGKILL
    text = str(named).upper()
    try:
        if text.isdecimal():
            return signal.Signals(int(text))
        return signal.Signals["SIG" + text.removeprefix("SIG")]
    except (ValueError, KeyError):
        raise WrongState(f"there is no signal {named!r}; name one as SIGTERM or 15") from None


#: What `Pool.collect` gives.
News = Report | Returned | Question


class Pool(Protocol):
    """Runs parts. One thread calls everything; only `stop` waits."""

    def handles(self) -> list[int]:
        """File descriptors that become readable when `collect` has something to do.

        The list does not change. Limits and starts are noticed by time: while something runs,
        call `collect` every 50 ms or so besides.
        """

    def free(self, small: bool) -> int:
        """How many parts `submit` takes now: for small ones also a place behind a small one."""

    def submit(self, part: Part) -> None:
        """Hand a part to a free hand; its items run in order, at least once each.

        Raises:
            errors.WorkerLostError: The pool cannot be started; the text says why.
        """

    def collect(self) -> list[News]:
        """What came about since the last call.

        Each item ends in exactly one report that is not STARTED, PROGRESS or LOG, or in a
        `Returned`. Reports of one hand come in the order of its items. An item whose hand died is
        LOST (extra = "signal 9" or "exit code 3"); those behind it are Returned. One over its hard
        time limit is a FAILURE. One that runs over 100 ms is reported as STARTED.

        Raises:
            errors.WorkerLostError: The pool cannot be started, or not again; the text says why.
        """

    def recall(self, kill: Target | None = None, number: int = signal.SIGKILL) -> None:
        """Have every item that has not begun come back, as `Returned`, by and by.

        `kill`: also send a signal to the hand that runs that item, where that is possible. If it
        dies of it, the item is reported LOST ("terminated"). SIGUSR1 raises SoftTimeLimitExceeded
        in the body instead. Repeating: does nothing more, but for another signal.
        """

    def running(self) -> list[Doing]:
        """What the hands are in now."""

    def resize(self, hands: int) -> None:
        """Have another number of hands, at least one.

        New ones are there at once. Of those that go, idle ones go first, and busy ones end after
        what they are in; what waits behind it comes back as `Returned`.

        Raises:
            errors.WrongState: The pool cannot be resized, or not to that number.
        """

    def info(self) -> dict[str, Any]:
        """Figures for people: `processes` (pids, or idents of threads), `max-concurrency`."""

    def stop(self, grace: float) -> None:
        """Wait `grace` seconds for what runs, then end everything. Repeating: does nothing.

        Unread news are lost: stop an idle pool, or one whose items may be lost.
        """
