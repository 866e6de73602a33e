"""The process of a greenlet pool: it speaks a zygote's language and spawns greenlets.

What a zygote does with processes this does with greenlets, which have numbers in place of pids:
the parent asks for one per slot, each has a socket of its own, and each one's end is announced.
So the parent needs to know nothing of greenlets. The process was patched before it came here.
"""

from __future__ import annotations

import contextlib
import contextvars
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NoReturn

from flowq.broker.codec import Bundle, Item, Report
from flowq.core.graph import Spec
from flowq.worker import capture, livelog, uplink, wire, zygote
from flowq.worker.alarm import told_to_stop
from flowq.worker.child import ParentLine, leave, named
from flowq.worker.definitions import Loaded
from flowq.worker.execution import Ended, Executor, Stop
from flowq.worker.greenkit import GreenAlarm, Kit, make_kit
from flowq.worker.runner import Runner
from flowq.worker.slots import Slot, Slots
from flowq.worker.zygote import Zygote

#: Coroutines run in real threads, so many at a time.
_THREADS = 64

_line: ContextVar[ParentLine] = ContextVar("flowq_line")


def _gone() -> NoReturn:
    raise Ended


class _GreenExecutor(Executor):
    """Runs items in one greenlet."""

    #: Whether the greenlet was killed; what its body makes of that is of no interest.
    killed = False

    def run(self, bundle: Bundle, item: Item, spec: Spec) -> Report:
        """Run one item.

        Raises:
            Ended: The hand was killed meanwhile.
        """
        report = super().run(bundle, item, spec)
        if self.killed:
            raise Ended
        return report

    @property
    def in_body(self) -> bool:
        """Whether a body runs."""
        return self._in_body


class _Hand:
    """One greenlet, which runs parts."""

    def __init__(self, house: Greenhouse, sock: socket.socket, slot: Slot) -> None:
        setup, loaded, kit = house.setup, house.loaded, house.kit
        self._kit, self._loaded = kit, loaded
        self.line = ParentLine(sock, _gone)
        self._sock = sock
        self.executor = _GreenExecutor(
            loaded.tasks,
            hostname=setup.hostname,
            compile_fragment=named(setup.compile_fragment) if setup.compile_fragment else None,
            accept=setup.accept,
            emit=lambda report: self.line.send([report]),
            alarm=GreenAlarm(kit),
            max_bytes=setup.max_bytes,
            explain=loaded.explain,
            in_thread=self._in_thread,
        )
        live = setup.logs is not None
        self._runner = Runner(self.executor, slot, self.line, live=live, kept=setup.log_size)
        self._define = house.define
        #: Raises something in the coroutine that runs for this greenlet in a thread, if one does.
        self.stop: Stop | None = None

    def serve(self) -> None:
        """Run what comes, until the socket ends or something kills the greenlet."""
        _line.set(self.line)
        capture.use_in_thread(self._runner.capture)
        # The parent closes its end: this is how a child is told to go.
        with contextlib.closing(self._sock), contextlib.suppress(Ended):
            while True:
                kind, data = self.line.next()
                if kind == wire.Kind.PART:
                    self._runner.run(*wire.decode_part(data))
                elif kind == wire.Kind.DEFINE:
                    self._define(data)
                    self.executor.tasks = self._loaded.tasks

    def _in_thread(self, call: Callable[[], Report], stop: Stop) -> Report:
        """Run a coroutine: an event loop needs a thread of its own, not one shared by greenlets."""
        context = contextvars.copy_context()
        self.stop = stop
        try:
            return self._kit.in_thread(lambda: context.run(call))  # type: ignore[no-any-return]
        except BaseException as exc:
            stop(exc)
            raise
        finally:
            self.stop = None


class Greenhouse(Zygote):
    """The loop of the process."""

    def __init__(self, kit: Kit, control: socket.socket, slots: Slots) -> None:
        super().__init__(kit.plain_socket(control.detach()), slots)
        self.kit = kit
        self._count = 0
        self._greenlets: dict[int, tuple[Any, _Hand]] = {}
        self._blob = b""

    @property
    def setup(self) -> wire.Setup:
        """What the parent said."""
        return self._setup

    @property
    def loaded(self) -> Loaded:
        """The tasks."""
        return self._loaded

    def run(self) -> NoReturn:
        """Serve until the parent is gone."""
        self.kit.set_threads(_THREADS)
        while True:
            self.kit.wait_readable(self._control.fileno())
            self._read()

    def define(self, blob: bytes) -> None:
        """Know other definitions; each hand is told, the first one does it."""
        if blob != self._blob:
            self._blob = blob
            self._loaded.load(blob)

    def _obey(self, kind: int, body: bytes) -> None:
        if kind == wire.Kind.DEFINE:
            self.define(body)
            return
        super()._obey(kind, body)
        if kind == wire.Kind.SETUP:
            if self._setup.logs is not None:
                livelog.set_up(self._setup.logs, of_child=True)
                capture.redirect(self._setup.logs.redirect)
            capture.install(self._setup.log_level)
            uplink.end_loading(lambda name, asked: _line.get().ask(name, asked))

    def _doubts(self) -> list[list[str]]:
        return []

    def _fork(self, place: int) -> None:
        self._count += 1
        number = self._count
        hand = _Hand(self, socket.socket(fileno=self._sockets.popleft()), self._slots[place])
        self._greenlets[number] = (self.kit.spawn(self._serve, number, hand), hand)
        self._tell(wire.Kind.FORKED, (place, number))

    def _serve(self, number: int, hand: _Hand) -> None:
        status = 0
        try:
            hand.serve()
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            status = 70 << 8
        self._greenlets.pop(number, None)
        self._tell(wire.Kind.EXITED, (number, status))

    def _signal(self, pid: int, number: int) -> None:
        greenlet, hand = self._greenlets.get(pid, (None, None))
        if hand is None:
            return
        if number == signal.SIGUSR1:
            if hand.stop is not None:
                hand.stop(told_to_stop(number))
            elif hand.executor.in_body:
                self.kit.throw(greenlet, told_to_stop(number))
            return
        hand.executor.killed = True
        self.kit.throw(greenlet, Ended())

    def _end(self) -> NoReturn:
        leave(0)


def main(kind: str, control: int, slots: int, count: int, watch_parent: bool) -> NoReturn:
    """Entry point of the process, once it is patched; the numbers are file descriptors."""
    kit = make_kit(kind)
    zygote.main(
        control, slots, count, watch_parent, make=lambda sock, made: Greenhouse(kit, sock, made)
    )
