"""`Outcome`: what the engine knows of one node or bare task, as result objects read it.

The engine implements this port; results call nothing else of it:

- ``lookup(id) -> Outcome | None``: at once; None for an id that nobody knows. Ids chosen by a
  caller
  and ids of joins (the ids of groups) are looked up as well.
- ``wait(id, timeout) -> Outcome``: blocks until the outcome is final; seconds, None: for ever.
  Raises
  errors.TimeoutError, and errors.UnknownId at once.
- ``forget(id)``: drops the recorded result. ``revoke(id, terminate, signal)``: asks for it not to
  run.

States are those of Celery's API: READY and QUEUED read as PENDING, SKIPPED as its cause's FAILURE
or REVOKED with the cause's error frame; a node that was ignored, or not needed, stays SKIPPED.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

#: Nothing follows these. REJECTED and IGNORED occur with bare and eager tasks only.
FINAL = frozenset({"SUCCESS", "FAILURE", "REVOKED", "SKIPPED", "REJECTED", "IGNORED"})
#: `get()` raises for these.
FAILED = frozenset({"FAILURE", "REVOKED"})
#: Names the core uses that Celery's API does not have.
_AS_CELERY = {"READY": "PENDING", "QUEUED": "PENDING"}


class Outcome(NamedTuple):
    """One node or bare task as recorded now."""

    #: State as Celery's API has it.
    state: str
    #: Frame of the value (SUCCESS), or error frame (FAILURE, REVOKED, RETRY); None: nothing
    #: recorded.
    frame: bytes | None = None
    #: Text of the traceback; None: take that of the error frame.
    traceback: str | None = None
    #: When it ended, aware UTC.
    date_done: datetime | None = None
    #: Name of the task; empty for joins.
    name: str | None = None
    #: Id of the first node whose end it waited for; None for a root.
    parent: str | None = None
    #: Ids of a join's members in order; None for what is not a join.
    members: tuple[str, ...] | None = None
    #: Ids of what waits for its end.
    children: tuple[str, ...] = ()
    #: ``{"state": ..., "meta": ...}`` of the last `update_state`.
    meta: dict[str, Any] | None = None
    #: Uid of its run; None for bare tasks.
    run: str | None = None
    #: More of what a backend recorded: args, kwargs, worker, retries, queue.
    extra: dict[str, Any] | None = None
    #: Whether only state and frame are told here, and there is more to know.
    brief: bool = False

    @property
    def final(self) -> bool:
        """Whether nothing can follow, short of a person's retry."""
        return self.state in FINAL

    @property
    def shown_state(self) -> str:
        """The state to show: one of the task's own while it runs, if it set one."""
        if self.meta and self.meta.get("state") and not self.final:
            return str(self.meta["state"])
        return _AS_CELERY.get(self.state, self.state)
