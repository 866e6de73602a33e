"""States, and the one table of legal transitions.

What is not in `TRANSITIONS` cannot happen. The diagram in the docs is printed from it, and a
test collects the arrows really taken and fails on one that never is.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """State of one node. Celery's words, and four that a DAG needs."""

    #: Waits for parents or for a time; next: READY, SKIPPED, REVOKED, FAILURE (expired); joins
    #: and passes: SUCCESS, FAILURE. Airflow: none / scheduled.
    PENDING = "PENDING"
    #: May run now, not yet published (dispatch window); next: QUEUED, FAILURE, REVOKED.
    READY = "READY"
    #: Published, not known to have started; next: STARTED, any outcome, RETRY, READY.
    QUEUED = "QUEUED"
    #: A worker has begun it; next: any outcome, RETRY, READY (worker lost), PENDING (replaced).
    STARTED = "STARTED"
    #: Failed, will be tried again at a set time; next: READY, REVOKED, FAILURE (expired).
    RETRY = "RETRY"
    #: Final: its result is recorded.
    SUCCESS = "SUCCESS"
    #: Final: attempts exhausted.
    FAILURE = "FAILURE"
    #: Final: its condition can never hold, or its task raised Ignore.
    SKIPPED = "SKIPPED"
    #: Final: by request.
    REVOKED = "REVOKED"


class RunState(StrEnum):
    """State of a run."""

    #: Nodes may be dispatched; next: any other.
    RUNNING = "RUNNING"
    #: Nothing new is dispatched; what runs ends; next: RUNNING, CANCELLED.
    PAUSED = "PAUSED"
    #: Final until retried: every result node is there.
    SUCCESS = "SUCCESS"
    #: Final until retried: a result node failed, or never could run.
    FAILURE = "FAILURE"
    #: Final: by request.
    CANCELLED = "CANCELLED"


TERMINAL = frozenset({State.SUCCESS, State.FAILURE, State.SKIPPED, State.REVOKED})
#: States in which a dispatched attempt is out.
ACTIVE = frozenset({State.QUEUED, State.STARTED})
RUN_TERMINAL = frozenset({RunState.SUCCESS, RunState.FAILURE, RunState.CANCELLED})


class Event(StrEnum):
    """What can happen to a node. The first ten are reported, the rest follow from others."""

    BEGAN = "began"  #: a worker says that the body has begun
    SUCCEEDED = "succeeded"  #: the body returned and its result is encoded
    FAILED = "failed"  #: for good: raised, limit passed, lost too often, expired
    RETRIED = "retried"  #: the task asks for another attempt after a delay
    LOST = "lost"  #: the process that had begun it died
    RETURNED = "returned"  #: handed back, not begun
    IGNORED = "ignored"  #: the task raised Ignore
    REPLACED = "replaced"  #: a canvas takes its place
    REVOKED = "revoked"  #: by request
    REOPENED = "reopened"  #: a person retries the run: a new generation
    DISPATCHED = "dispatched"  #: put on a queue
    DUE = "due"  #: its time has come
    UNBLOCKED = "unblocked"  #: all it waited for is there
    BLOCKED = "blocked"  #: what it waits for can never come
    RESOLVED = "resolved"  #: a join or pass has its value
    BROKEN = "broken"  #: a join or pass can have no value


_S, _E = State, Event

#: (state, event) -> next state. Reported events on a terminal node are discarded, not errors.
TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (_S.PENDING, _E.UNBLOCKED): _S.READY,
    (_S.PENDING, _E.DUE): _S.READY,
    (_S.PENDING, _E.BLOCKED): _S.SKIPPED,
    (_S.PENDING, _E.RESOLVED): _S.SUCCESS,
    (_S.PENDING, _E.BROKEN): _S.FAILURE,
    (_S.PENDING, _E.FAILED): _S.FAILURE,
    (_S.PENDING, _E.REVOKED): _S.REVOKED,
    (_S.READY, _E.DISPATCHED): _S.QUEUED,
    (_S.READY, _E.FAILED): _S.FAILURE,
    (_S.READY, _E.REVOKED): _S.REVOKED,
    (_S.QUEUED, _E.BEGAN): _S.STARTED,
    (_S.QUEUED, _E.SUCCEEDED): _S.SUCCESS,
    (_S.QUEUED, _E.FAILED): _S.FAILURE,
    (_S.QUEUED, _E.RETRIED): _S.RETRY,
    (_S.QUEUED, _E.LOST): _S.READY,
    (_S.QUEUED, _E.RETURNED): _S.READY,
    (_S.QUEUED, _E.IGNORED): _S.SKIPPED,
    (_S.QUEUED, _E.REPLACED): _S.PENDING,
    (_S.QUEUED, _E.REVOKED): _S.REVOKED,
    (_S.STARTED, _E.SUCCEEDED): _S.SUCCESS,
    (_S.STARTED, _E.FAILED): _S.FAILURE,
    (_S.STARTED, _E.RETRIED): _S.RETRY,
    (_S.STARTED, _E.LOST): _S.READY,
    (_S.STARTED, _E.RETURNED): _S.READY,
    (_S.STARTED, _E.IGNORED): _S.SKIPPED,
    (_S.STARTED, _E.REPLACED): _S.PENDING,
    (_S.STARTED, _E.REVOKED): _S.REVOKED,
    (_S.RETRY, _E.DUE): _S.READY,
    (_S.RETRY, _E.FAILED): _S.FAILURE,
    (_S.RETRY, _E.REVOKED): _S.REVOKED,
    (_S.FAILURE, _E.REOPENED): _S.PENDING,
    (_S.SKIPPED, _E.REOPENED): _S.PENDING,
    (_S.REVOKED, _E.REOPENED): _S.PENDING,
}
