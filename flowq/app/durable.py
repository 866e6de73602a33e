"""Runs that a worker of a fleet makes: of tasks that have to wait, and of what its tasks submit."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from flowq.app.child import answer
from flowq.app.messages import Sender
from flowq.app.place import is_default
from flowq.app.recording import run_of
from flowq.app.submission import compile_for, new_run
from flowq.broker.codec import Report, ReportKind
from flowq.coordinator.leases import ensure_lanes
from flowq.errors import StoreUnavailable
from flowq.payload import decode
from flowq.store import Store
from flowq.store.members import living
from flowq.worker.shown import chosen, with_chosen

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.app.client import Client
    from flowq.worker.baretask import Held

log = logging.getLogger("flowq.worker")
_call = msgspec.msgpack.Decoder(tuple[str, bytes, bytes]).decode

#: Whether a coordinator lives is asked that often (seconds).
_ASK_EVERY = 2.0


class DurableRuns:
    """Writes runs for a worker; for one thread. Implements `worker.bare.Durable`.

    Args:
        app: Whose tasks they are.
        store: Where they go.
    """

    def __init__(self, app: Flowq, store: Store) -> None:
        self._app, self.store = app, store
        self._ready, self._asked_at = False, -_ASK_EVERY
        self._lanes: list[int] = []
        #: Advances what no coordinator would; made when it is needed.
        self._engine: Any = None

    @property
    def is_ready(self) -> bool:
        """Whether a coordinator lives that would advance a run of no other run's.

        A store that is away has none.
        """
        now = time.monotonic()
        if now - self._asked_at >= _ASK_EVERY:
            self._asked_at = now
            try:
                self._ready = bool(living(self.store, "coordinator"))
            except StoreUnavailable as exc:
                log.warning("nothing becomes a run for now: %s", exc)
                self._ready = False
        return self._ready

    def lane_for(self, parent_run: int | None) -> int:
        """The lane of a run that another one submits, or of one by itself.

        A store that was not named is this worker's own: where no coordinator lives, this process
        advances the run, as a client would. In a named one it waits for a coordinator.
        """
        if parent_run is not None:
            head = self.store.one(self.store.sql.run_head, (parent_run,))
            if head is not None:
                return int(head[2])
        if not self.is_ready:
            if is_default(self._app.conf):
                self._engine = self._app._engine()
                self._engine.start(work=False)
                return int(self._engine.lane_id)
            log.warning(
                "a task submitted a run that waits, for no coordinator lives at this worker's "
                "store: start flowq coordinator"
            )
        self._lanes = self._lanes or ensure_lanes(self.store)
        return random.choice(self._lanes)

    def submitted(self) -> None:
        """Wake the coordinator, where it is in this process; others look for themselves."""
        if self._engine is not None:
            self._engine.submitted()

    def wait(self, held: Held, delay: float, report: Report | None) -> None:
        """Make a task a run of one node that waits so many seconds, under the task's own id."""
        item = held.item
        asked = Report(0, 0, item.retries, ReportKind.RETRY, extra=delay, id=item.id)
        self._submit(held, asked)

    def replace(self, held: Held, report: Report) -> None:
        """Put the canvas of a report in the place of a task, under the task's id."""
        self._submit(held, report)

    def submit_canvas(self, canvas: dict[str, Any], first: list[Any]) -> None:
        """Submit a canvas in dict form, with values before its own arguments."""
        app = self._app
        sig = app.signature(canvas)
        graph = compile_for(app, sig, tuple(first))
        self.store.submit(new_run(app, self.lane_for(None), sig, graph), graph)

    def _submit(self, held: Held, report: Report) -> None:
        texts = with_chosen(held.spec, *chosen(held.message))
        spec = msgspec.structs.replace(held.spec, queue=held.queue, **texts)
        new, graph = run_of(
            self._app,
            self.lane_for(None),
            report,
            self.store.now(),
            name=spec.task,
            spec=spec,
            frame=held.item.args,
        )
        self.store.submit(new, graph)


class Answers:
    """What pool children of a fleet's worker ask for: messages to send, runs to submit.

    Args:
        sender: Publishes.
        durable: Writes runs; None where there is no store.
        client: Gives who reads results and revokes.
    """

    def __init__(
        self, sender: Sender, durable: DurableRuns | None, client: Callable[[], Client]
    ) -> None:
        self._sender, self._durable, self._client = sender, durable, client

    def answer(self, what: str, body: bytes, reply: Callable[[bool, bytes], None]) -> None:
        """Do what a child asks for, and tell it the outcome. Asking again does it again."""
        try:
            reply(True, self._done(what, body))
        except Exception as exc:
            reply(False, str(exc).encode())

    def _done(self, what: str, body: bytes) -> bytes:
        if what == "send":
            name, frame, options = _call(body)
            return self._sender.forward(name, frame, decode(options)).encode()
        return answer(self._durable, what, body, self._client)
