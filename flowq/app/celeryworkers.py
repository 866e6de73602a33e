"""What Celery's workers are asked and told about tasks of ours: each call in a thread of its own.

A coordinator has leases to keep and does not wait for answers; it asks, and looks later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from flowq.broker.depths import depths
from flowq.broker.sideline import Access
from flowq.errors import FlowqError

if TYPE_CHECKING:
    from flowq.app.base import Flowq

log = logging.getLogger("flowq.coordinator")

#: Workers have so long to answer (seconds).
_SECONDS = 2.0


class Answer(msgspec.Struct):
    """What came back."""

    #: What was asked about.
    asked: list[str]
    #: Ids that each worker knows, by its name; who did not answer is not in it.
    known: dict[str, set[str]]
    #: How many messages wait in each queue; None where the broker cannot say.
    waiting: dict[str, int | None]

    def holder(self, task_id: str) -> str | None:
        """Name of a worker that knows a task."""
        return next((name for name, ids in self.known.items() if task_id in ids), None)


class CeleryWorkers:
    """Asks and tells; one question at a time.

    Args:
        app: Its broker is theirs.
    """

    def __init__(self, app: Flowq) -> None:
        self._app = app
        self._asking: threading.Thread | None = None
        self._answer: Answer | None = None

    def ask(self, ids: Iterable[str], queues: Iterable[str]) -> bool:
        """Ask which workers know some tasks; False if the last question is not answered yet."""
        if self._asking is not None:
            return False
        wanted, names = list(ids), sorted(set(queues))
        self._asking = self._run(lambda: self._ask(wanted, names))
        return True

    def answer(self) -> Answer | None:
        """What the last question brought, once; None while there is no answer, or if none came."""
        if self._asking is None or self._asking.is_alive():
            return None
        self._asking, found, self._answer = None, self._answer, None
        return found

    def revoke(self, ids: Iterable[str]) -> None:
        """Tell all workers not to begin some tasks. What runs goes on."""
        wanted = list(ids)
        if wanted:
            self._run(lambda: self._app.control.tell_revoked(wanted))

    def close(self) -> None:
        """Wait a moment for what is under way. A second call does nothing."""
        if self._asking is not None:
            self._asking.join(_SECONDS)

    def _ask(self, ids: list[str], queues: list[str]) -> None:
        found = self._app.control.inspect(timeout=_SECONDS).query_task(ids)
        known = {name: set(tasks) for name, tasks in (found or {}).items()}
        waiting = {}
        for each in depths(Access.of(self._app.conf), queues):
            waiting[each.name] = each.messages
        self._answer = Answer(ids, known, waiting)

    def _run(self, call: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            try:
                call()
            except FlowqError as exc:
                log.warning("Celery's workers cannot be reached: %s", exc)

        thread = threading.Thread(target=run, name="flowq-celery-workers", daemon=True)
        thread.start()
        return thread
