"""Storing a run in the coordinator's next commit.

The submitting thread makes that turn itself if the engine's is not at it: no change of thread on
the way, one commit for all who wait, and what the pool has reported rides with it.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

from flowq.app.collecting import collection_paused
from flowq.coordinator.admission import Submission
from flowq.core.graph import Graph
from flowq.errors import FlowqError, WrongState
from flowq.store import NewRun

if TYPE_CHECKING:
    from flowq.app.embedded import Engine

# The functions below Python's own, where they are found: those look every handler up in an enum.
_get_handler: Any = getattr(signal.getsignal, "__wrapped__", signal.getsignal)
_set_handler: Any = getattr(signal.signal, "__wrapped__", signal.signal)


def admit(engine: Engine, new: NewRun, graph: Graph) -> tuple[int, str]:
    """Store a run; returns its key and uid, those of an earlier one for a used idempotency key.

    Raises:
        StoreError: Nothing was stored, or (a failing commit) it is not known.
        IdempotencyConflict: The key belongs to another canvas.
        WrongState: The engine was closed meanwhile; nothing was stored.
    """
    if engine.turning.locked() and engine.turner == threading.get_ident():
        run_id, uid, _ = engine.store.submit(new, graph)  # a task asks; its turn goes on
        engine.submitted()
        return run_id, uid
    assert engine.coordinator is not None
    submission = Submission(new, graph)
    engine.coordinator.submissions.append(submission)
    engine.pace.submitted(engine.is_awaited)
    with engine.turning, collection_paused(), _Undisturbed():
        while not submission.done.is_set():  # else the engine's thread was faster
            if engine.thread is None or engine.failure is not None:
                engine.check()
                raise WrongState("the engine was closed before the run was stored")
            try:
                engine.turn()
            except FlowqError as exc:
                if not submission.done.is_set():
                    engine.coordinator.submissions.remove(submission)
                    submission.fail(exc)
        engine.wake_for_timers()
    engine.wake_waiters()
    if submission.error is not None:
        raise submission.error
    return submission.run_id, submission.uid


class _Undisturbed:
    """Has Ctrl-C wait for the end of a block: half a turn would lose what the pool has said.

    A second one is not held back, for the block may be waiting for a lock.
    """

    __slots__ = ("_handler", "_held")

    def __enter__(self) -> None:
        self._handler: Any = None
        self._held: list[Any] = []
        if threading.current_thread() is threading.main_thread():
            handler = _get_handler(signal.SIGINT)
            if callable(handler):
                self._handler = handler
                _set_handler(signal.SIGINT, self._hold)

    def _hold(self, _number: int, frame: Any) -> None:
        self._held.append(frame)
        _set_handler(signal.SIGINT, self._handler)

    def __exit__(self, *exc: object) -> None:
        if self._handler is not None:
            _set_handler(signal.SIGINT, self._handler)
            if self._held:
                self._handler(signal.SIGINT, self._held[0])
