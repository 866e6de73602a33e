"""The prefork pool: child processes from a zygote, one pair of sockets each.

Children are forked from a clean process that never had threads, so nothing of the parent's locks
and connections is in them. A child that dies takes one item with it, the one it named in shared
memory before it began; the rest is run elsewhere and nobody counts it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from flowq import errors
from flowq.broker.codec import Bundle, Item, Report, ReportKind
from flowq.payload import encode_error
from flowq.worker import wire
from flowq.worker.alarm import hard_limit
from flowq.worker.call import id_of
from flowq.worker.definitions import Definitions
from flowq.worker.hand import Hand, Running
from flowq.worker.nursery import Launched, Nursery
from flowq.worker.outbox import Outbox
from flowq.worker.pool import Doing, News, Part, Question, Returned, Target, check_size, is_target
from flowq.worker.slots import ROOM, Begun, Slots

#: Limits and long items are looked for that often, in seconds.
_TICK: Final = 0.010
#: A place whose children die without having run anything waits up to that long for another.
_LONGEST_PAUSE: Final = 5.0
#: A zygote that ends that often before it is ready is not started again.
_ZYGOTE_TRIES: Final = 3
_READ: Final = select.EPOLLIN
_BOTH: Final = select.EPOLLIN | select.EPOLLOUT


class Child(Hand):
    """A hand that is a process."""

    def __init__(self, place: int, slots: Slots) -> None:
        super().__init__(slots[place])
        self.place = place
        self.sock: socket.socket | None = None
        self.outbox: Outbox | None = None
        self.inbox = wire.Inbox()
        #: 0 until the zygote has said it.
        self.pid = 0
        #: Version of the definitions that it has.
        self.version = 0
        #: What signals were sent to it for, the latest last: (part, place, signal, why); `why` is
        #: "time limit" or "terminated".
        self.sentences: list[tuple[int, int, int, str]] = []
        #: The one that waits until its pid is known.
        self.pending: tuple[int, int, int, str] | None = None
        #: Deaths in a row without an item to blame, and when the next one may be forked.
        self.barren = 0
        self.fork_at = 0.0

    def why(self, begun: Begun) -> str:
        """Why it was killed while it was in an item; "" if that was meant for no such item."""
        for part, place, _, why in self.sentences:
            if (part, place) == (begun.part, begun.place):
                return why
        return ""


class PreforkPool:
    """A pool of processes; see `Pool` for what it keeps.

    Args:
        processes: How many, at least one.
        definitions: Which tasks they know; looked at again at each `submit`.
        setup: The other things they need; its definitions are filled in here.
        keep: Descriptors that all processes of the pool hold open too.
        launched: A zygote that was started before anything else was known, see `launch`; made for
            the same number of processes.
        nursery: Starts the first process, given the slots' descriptor and their number.
        clock: Epoch seconds.
        monotonic: Seconds on the machine's monotonic clock, the same in all processes.
    """

    def __init__(
        self,
        processes: int,
        definitions: Definitions,
        setup: wire.Setup | None = None,
        *,
        keep: Iterable[int] = (),
        launched: Launched | None = None,
        nursery: Callable[[int, int], Nursery] = Nursery,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        #: What children know; refresh it when tasks may have changed.
        self.definitions = definitions
        self._setup = setup or wire.Setup([], "", b"")
        self._clock, self._now = clock, monotonic
        self._keep = list(keep)
        self._slots = launched.slots if launched is not None else Slots(max(processes, ROOM))
        self._epoll = select.epoll()
        self._children = [Child(place, self._slots) for place in range(processes)]
        self._by_place = {child.place: child for child in self._children}
        self._by_fd: dict[int, Child] = {}
        self._by_pid: dict[int, Child] = {}
        self._news: list[News] = []
        self._next_tick = 0.0
        self._zygote_ends = 0
        self._stopped = False
        self._version = 0
        self._nursery: Nursery | None = None
        self._make_nursery = nursery
        #: What is wrong with the pool, for a person to read; "" when nothing is.
        self.trouble = ""
        self._start(launched.nursery if launched is not None else None)

    # -- the contract -----------------------------------------------------------------------

    def handles(self) -> list[int]:
        """One descriptor that stands for all."""
        return [self._epoll.fileno()]

    def free(self, small: bool) -> int:
        """How many parts it takes now."""
        return len([1 for child in self._children if child.sock and child.has_room(small)])

    def submit(self, part: Part) -> None:
        """Send a part to an idle child, or behind a small one."""
        if self._nursery is None:
            raise errors.WorkerLostError(self.trouble or "the pool was stopped")
        ready = [child for child in self._children if child.sock and child.has_room(part.small)]
        child = next((child for child in ready if not child.parts), ready[0])
        assert child.outbox is not None
        self._update(child)
        number = child.give(part)
        body = wire.encode((number, part.bundles()))
        child.outbox.put(wire.message(wire.Kind.PART, body))
        if child.outbox:
            self._watch(child)

    def collect(self) -> list[News]:
        """Read everything that is there, and look at limits once in a while."""
        if self._stopped:
            news, self._news = self._news, []
            return news
        if self._nursery is None:
            raise errors.WorkerLostError(self.trouble)
        for fd, events in self._epoll.poll(0):
            child = self._by_fd.get(fd)
            if child is not None:
                self._serve(child, events)
            elif self._nursery is not None and fd == self._nursery.fileno():
                self._hear()
        now = self._now()
        if now >= self._next_tick:
            self._next_tick = now + _TICK
            self._tick(now)
        news, self._news = self._news, []
        return news

    def recall(self, kill: Target | None = None, number: int = signal.SIGKILL) -> None:
        """Have everything that has not begun come back."""
        now = self._now()
        for child in self._children:
            child.recall(now)
            if kill is None:
                continue
            running = child.running(now)
            if running is not None and is_target(running.item, kill):
                self._kill(child, running, "terminated", number)

    def running(self) -> list[Doing]:
        """What the children are in now."""
        now, clock = self._now(), self._clock()
        found = []
        for child in self._children:
            running = child.running(now) if child.parts else None
            if running is not None:
                began = clock - running.seconds
                found.append(Doing(running.bundle, running.item, began, child.pid))
        return found

    def resize(self, hands: int) -> None:
        """Fork more children, or have some leave."""
        staying = [child for child in self._children if not child.leaving]
        check_size(hands, self._slots.count)
        if hands < len(staying):
            staying.sort(key=lambda child: (bool(child.parts), -child.place))
            for child in staying[: len(staying) - hands]:
                child.leaving = True
                child.recall(self._now())
                self._retire(child)
        for child in self._children:  # one that is busy may as well stay
            if len(staying) < hands and child.leaving and child.sock is not None:
                child.leaving = False
                staying.append(child)
        places = (place for place in range(self._slots.count) if place not in self._by_place)
        for _ in range(hands - len(staying)):
            child = Child(next(places), self._slots)
            self._children.append(child)
            self._by_place[child.place] = child
            self._fork(child)

    def info(self) -> dict[str, Any]:
        """Pids of the children, and what limits them."""
        return {
            "max-concurrency": sum(1 for child in self._children if not child.leaving),
            "processes": [child.pid for child in self._children if child.pid],
            "max-tasks-per-child": self._setup.max_tasks or "N/A",
            "max-memory-per-child": self._setup.max_memory or "N/A",
        }

    def stop(self, grace: float) -> None:
        """End all children, and the zygote."""
        if self._stopped:
            return
        deadline = self._now() + grace
        self.recall()
        while grace > 0 and self._now() < deadline and any(c.parts for c in self._children):
            self._epoll.poll(min(0.05, max(0.0, deadline - self._now())))
            self._news += self.collect()
        self._stopped = True
        for child in self._children:
            if child.sock is not None:
                child.sock.close()
        if self._nursery is not None:
            self._nursery.end()
            self._nursery = None
        self._epoll.close()
        self._slots.close()

    # -- the zygote -------------------------------------------------------------------------

    def _start(self, nursery: Nursery | None = None) -> None:
        definitions = self.definitions
        if nursery is None:
            nursery = self._make_nursery(self._slots.fd, self._slots.count)
        setup = self._setup
        setup.sys_path = setup.sys_path or list(sys.path)
        setup.cwd = setup.cwd or os.getcwd()
        self._version = definitions.version  # read before the blob, which is written before it
        setup.definitions = definitions.blob
        nursery.setup(setup, self._keep)
        self._nursery = nursery
        self._epoll.register(nursery.fileno(), _READ)
        for child in self._children:
            self._fork(child)

    def _fork(self, child: Child) -> None:
        nursery = self._nursery
        if nursery is None:
            return
        version = self.definitions.version
        if self._version != version:
            nursery.define(self.definitions.blob)
            self._version = version
        child.restart()
        child.pid, child.fork_at = 0, 0.0
        child.sentences, child.pending = [], None
        child.inbox = wire.Inbox()
        child.sock = nursery.fork(child.place)
        child.outbox = Outbox(child.sock)
        child.version = self._version
        self._by_fd[child.sock.fileno()] = child
        self._epoll.register(child.sock.fileno(), _READ)
        self._watch_nursery()

    def _hear(self) -> None:
        nursery = self._nursery
        assert nursery is not None
        nursery.flush()
        try:
            for kind, body in nursery.receive():
                if kind == wire.Kind.FORKED:
                    self._forked(*wire.decode_pair(body))
                elif kind == wire.Kind.EXITED:
                    pid, status = wire.decode_pair(body)
                    child = self._by_pid.pop(pid, None)
                    if child is not None and child.pid == pid:
                        self._died(child, ending(status))
                elif kind == wire.Kind.READY:
                    nursery.is_ready = True
                    self._zygote_ends = 0
                    self.trouble = "; ".join(text for _, text in wire.decode_any(body))
        except EOFError:
            self._zygote_died()
            return
        self._watch_nursery()

    def _forked(self, place: int, pid: int) -> None:
        child = self._by_pid[pid] = self._by_place[place]
        child.pid = pid
        running = child.running(self._now()) if child.pending is not None else None
        if running is not None and child.pending is not None:
            *which, number, why = child.pending
            if [running.begun.part, running.begun.place] == which:
                self._kill(child, running, why, number)
        child.pending = None

    def _watch_nursery(self) -> None:
        if self._nursery is not None:
            flags = _BOTH if self._nursery.has_output else _READ
            self._epoll.modify(self._nursery.fileno(), flags)

    def _zygote_died(self) -> None:
        """Every child dies with it; begin anew, unless it never gets ready."""
        nursery, self._nursery = self._nursery, None
        assert nursery is not None
        self._epoll.unregister(nursery.fileno())
        text = ending(nursery.end())
        self._zygote_ends += 0 if nursery.is_ready else 1
        for child in list(self._children):
            if child.sock is not None:
                self._died(child, text)
            elif child.leaving:
                self._remove(child)
        self._by_pid.clear()
        if self._zygote_ends >= _ZYGOTE_TRIES:
            self.trouble = (
                f"the pool cannot start: its first process ended with {text};"
                " look at what it wrote to stderr"
            )
            return
        self._start()

    # -- children ---------------------------------------------------------------------------

    def _update(self, child: Child) -> None:
        """Give a child the definitions that it does not have yet."""
        version = self.definitions.version
        if child.version == version:
            return
        assert child.outbox is not None
        child.outbox.put(wire.message(wire.Kind.DEFINE, self.definitions.blob))
        child.version = version

    def _watch(self, child: Child) -> None:
        if child.sock is not None and child.sock.fileno() in self._by_fd:
            self._epoll.modify(child.sock.fileno(), _BOTH if child.outbox else _READ)

    def _serve(self, child: Child, events: int) -> None:
        if events & select.EPOLLOUT and child.outbox is not None:
            child.outbox.flush()
            self._watch(child)
        if events & ~select.EPOLLOUT and child.sock is not None:
            self._read(child, child.sock)
            self._retire(child)

    def _read(self, child: Child, sock: socket.socket) -> bool:
        """Take one helping of a child's messages; False when there is no more now."""
        try:
            data = wire.receive(sock)
        except BlockingIOError:
            return False
        if not data:  # its end is closed; how it ended is what the zygote says next
            self._forget_socket(sock)
            return False
        for kind, body in child.inbox.feed(data):
            if kind == wire.Kind.REPORTS:
                reports = wire.decode_reports(body)
                child.take(reports)
                if child.barren:
                    child.barren, self.trouble = 0, ""
                self._news += reports
            elif kind == wire.Kind.RETURNED:
                entries = child.handed_back(*wire.decode_pair(body))
                if entries:
                    self._news.append(Returned(entries))
            elif kind == wire.Kind.ASK:
                number, name, asked = wire.decode_ask(body)
                self._news.append(Question(name, asked, self._reply_to(child, number)))
        return True

    def _reply_to(self, child: Child, number: int) -> Callable[[bool, bytes], None]:
        outbox = child.outbox

        def reply(ok: bool, body: bytes) -> None:
            if outbox is not None and child.outbox is outbox and not self._stopped:
                answer = wire.encode((number, ok, body))
                outbox.put(wire.message(wire.Kind.REPLY, answer))
                self._watch(child)

        return reply

    def _forget_socket(self, sock: socket.socket) -> None:
        if self._by_fd.pop(sock.fileno(), None) is not None:
            self._epoll.unregister(sock.fileno())

    def _retire(self, child: Child) -> None:
        """End a child that is to leave, once it is idle: it does so when its socket ends.

        Its place is free when the zygote has seen it go.
        """
        if not child.is_spent:
            return
        if child.sock is None:  # waits to be forked again, or has been told already
            if child.fork_at:
                self._remove(child)
            return
        self._forget_socket(child.sock)
        child.sock.close()
        child.sock = child.outbox = None

    def _remove(self, child: Child) -> None:
        self._children.remove(child)
        del self._by_place[child.place]

    def _died(self, child: Child, text: str) -> None:
        """Settle what a dead child had, and see to another one."""
        sock = child.sock
        if sock is not None:
            while self._read(child, sock):
                pass
            self._forget_socket(sock)
            sock.close()
        child.sock = child.outbox = None
        culprit, begun, rest = child.lost()
        if culprit is not None and begun is not None:
            self._news.append(self._verdict(child, culprit[0], culprit[1], begun, text))
            child.barren = 0
        else:
            child.barren += 1
        if rest:
            self._news.append(Returned(rest))
        child.restart()
        child.pid = 0
        if child.leaving:
            self._remove(child)
        elif child.barren > 1:
            pause = min(0.05 * 2**child.barren, _LONGEST_PAUSE)
            child.fork_at = self._now() + pause
            self.trouble = f"a pool process ended with {text} before it ran anything"
        elif self._nursery is not None:
            self._fork(child)

    def _verdict(self, child: Child, bundle: Bundle, item: Item, begun: Begun, text: str) -> Report:
        ended = self._clock()
        began = ended - max(0.0, self._now() - begun.at)
        report = Report(item.run, item.idx, item.attempt, ReportKind.LOST, began, ended)
        report.id = item.id
        why = child.why(begun)
        if why == "time limit":
            spec = bundle.specs[item.spec]
            report.kind = ReportKind.FAILURE
            exc = hard_limit(spec.task, spec.time_limit or 0.0)
            report.frame = encode_error(exc, node_id=id_of(bundle, item), task=spec.task)
        else:
            report.extra = why or text
        return report

    # -- by time ----------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        for child in self._children:
            if child.fork_at and now >= child.fork_at:
                self._fork(child)
            running = child.running(now) if child.parts else None
            if running is None:
                continue
            started = child.started(running, now, self._clock)
            if started is not None:
                self._news.append(started)
            limit = running.spec.time_limit
            if limit and running.seconds > limit:
                self._kill(child, running, "time limit", signal.SIGKILL)
            self._relieve(child, running, now)

    def _relieve(self, child: Child, running: Running, now: float) -> None:
        """Take what waits behind an item that runs long."""
        if not child.is_recalled and running.seconds < 0.1:
            return
        if child.has_waiting(running):
            child.recall(now)
            entries = child.take_back(running, now)
            if entries:
                self._news.append(Returned(entries))

    def _kill(self, child: Child, running: Running, why: str, number: int) -> None:
        begun = running.begun
        sentence = (begun.part, begun.place, int(number), why)
        if self._nursery is None or sentence in child.sentences:
            return
        if not child.pid:
            child.pending = sentence
            return
        child.sentences = [*child.sentences[-3:], sentence]
        self._nursery.kill(child.pid, number)
        self._watch_nursery()


def ending(status: int) -> str:
    """What a wait status says, as LOST reports have it."""
    number = status & 0x7F
    return f"signal {number}" if number else f"exit code {status >> 8}"
