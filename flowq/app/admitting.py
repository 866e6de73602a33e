"""Storing a run in the coordinator's next commit.

The submitting thread makes that commit itself if the engine's is not at it: no change of
thread on the way, and one commit for all who wait.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from flowq.app.collecting import collection_paused
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
    if threading.current_thread() is engine.thread:  # it must not wait for itself
        run_id, uid, _ = engine.store.submit(new, graph)
        engine.submitted()
        return run_id, uid
    assert engine.coordinator is not None
    submission = Submission(new, graph)
    engine.coordinator.submissions.append(submission)
    engine.pace.submitted()
    with engine.turning, collection_paused():
        while not submission.done.is_set():  # else the engine's thread was faster
            if engine.thread is None or engine.failure is not None:
                engine.check()
                raise WrongState("the engine was closed before the run was stored")
            try:
                engine.coordinator.step()
            except FlowqError as exc:
                if not submission.done.is_set():
                    engine.coordinator.submissions.remove(submission)
                    submission.fail(exc)
    engine.ring()
    if submission.error is not None:
        raise submission.error
    return submission.run_id, submission.uid
