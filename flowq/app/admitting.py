"""Storing a run in the coordinator's next commit.

The submitting thread makes that turn itself if the engine's is not at it: no change of thread on
the way, one commit for all who wait, and what the pool has reported rides with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowq.app.collecting import collection_paused
from flowq.app.undisturbed import Undisturbed
from flowq.coordinator.admission import Submission
from flowq.core.graph import Graph
from flowq.errors import FlowqError, WrongState
from flowq.store import NewRun

if TYPE_CHECKING:
    from flowq.app.embedded import Engine


def admit(engine: Engine, new: NewRun, graph: Graph) -> tuple[int, str]:
    """Store a run; returns its key and uid, those of an earlier one for a used idempotency key.

    Raises:
        StoreError: Nothing was stored, or (a failing commit) it is not known.
        IdempotencyConflict: The key belongs to another canvas.
        WrongState: The engine was closed meanwhile; nothing was stored.
    """
    if engine.turner_is_here:
        run_id, uid, _ = engine.store.submit(new, graph)  # a task asks; its turn goes on
        engine.submitted()
        return run_id, uid
    assert engine.coordinator is not None
    submission = Submission(new, graph)
    engine.coordinator.submissions.append(submission)
    engine.pace.submitted(engine.is_awaited)
    with engine.turning, collection_paused(), Undisturbed():
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
