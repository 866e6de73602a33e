"""The seams between worker, coordinator and client.

`UpdateLane` carries what workers report to the one coordinator that owns the lane, at least
once; in a fleet, a `LaneWriter` fills it and a `LaneReader` opens it. `ResultStore` holds the
outcomes of bare tasks, as Celery knows it. The outcome of a node is read from the store, through
`recorded`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import msgspec

from flowq.broker.codec import Report


class UpdateLane(Protocol):
    """Worker -> coordinator. Nothing blocks; what is not acknowledged comes again.

    Its length is the number of reports that wait here, taken or not.
    """

    def __len__(self) -> int: ...

    def put(self, reports: list[Report]) -> None:
        """Hand in reports; safe from any thread; a report may be handed in twice."""
        ...

    def take(self, limit: int) -> list[Report]:
        """Reports in order of arrival, at most `limit`; they stay until acknowledged."""
        ...

    def ack(self, count: int) -> None:
        """Forget the first `count` reports taken; called after the commit."""
        ...

    def rewind(self) -> None:
        """Forget what was taken and not acknowledged was taken: it will be taken again."""
        ...


class LaneReader(Protocol):
    """Update lanes of one coordinator, over one connection; for one thread.

    Reports wait outside until `refill` has brought them into the lanes that are open here. What a
    former owner took and did not acknowledge comes again.
    """

    def open(self, lane_id: int) -> UpdateLane:
        """Begin to read a lane. Only its owner may."""
        ...

    def leave(self, lane_id: int) -> None:
        """Stop reading a lane; what was not acknowledged is for the next owner."""
        ...

    def handles(self) -> list[int]:
        """Descriptors that become readable when reports came in; may change at any call."""
        ...

    def timeout(self) -> float:
        """Seconds until `refill` is due even if no descriptor is readable."""
        ...

    def refill(self) -> None:
        """Bring in what has come, without waiting. A server that is away is tried again later."""
        ...

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        ...


class LaneWriter(Protocol):
    """The workers' end of update lanes; for one thread."""

    def put(self, lane_id: int, reports: list[Report]) -> None:
        """Hand in one record; returns when it is accepted. May be called again with the same.

        Raises:
            FlowqError: It was not accepted, or that is not known; the text says why.
        """
        ...

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        ...


class TaskMeta(msgspec.Struct):
    """Outcome of one bare task. `frame` is the result or the error."""

    state: str
    frame: bytes = b""
    date_done: float | None = None
    name: str = ""
    #: JSON of ``{"state": ..., "meta": ...}`` of a state before the end.
    meta: bytes = b""
    #: What else was recorded, as read: args, kwargs, worker, retries, queue, children, group_id,
    #: parent_id, as far as there are any.
    extra: dict[str, Any] | None = None


class ResultRequest(msgspec.Struct, kw_only=True):
    """What the request that a state belongs to says about it."""

    #: Where the client wants replies, and under which id; only rpc:// looks at them.
    reply_to: str = ""
    correlation_id: str = ""
    name: str = ""
    args: Any = None
    kwargs: Any = None
    retries: int = 0
    queue: str = ""
    worker: str = ""
    group_id: str = ""
    parent_id: str = ""
    #: Result tuples of what the task sent, as Celery has them.
    children: list[Any] | None = None


#: Gets each state as it comes in, the last one included.
OnMessage = Callable[[TaskMeta], None]


class ResultStore(Protocol):
    """Outcomes of bare tasks. `store` is for one thread, the rest for any.

    Every method raises BackendUnavailable, within a bounded time, when the server is away.
    """

    @property
    def reply_to(self) -> str | None:
        """Queue that replies to this client go to; None where results are stored.

        Ask before the message is sent: where it is not None, the queue is there afterwards.
        """
        ...

    def store(self, task_id: str, meta: TaskMeta, request: ResultRequest | None = None) -> None:
        """Record a state. SUCCESS is never overwritten; otherwise the last one wins."""
        ...

    def load(self, task_id: str) -> TaskMeta | None:
        """The recorded state, or None for an id never heard of."""
        ...

    def wait(
        self, task_id: str, timeout: float | None, on_message: OnMessage | None = None
    ) -> TaskMeta | None:
        """Block until the task has ended; None if `timeout` seconds passed before.

        Args:
            task_id: The task.
            timeout: Seconds; None: for ever.
            on_message: Called in this thread with the state recorded now, if there is one, and
                with each that follows; what is recorded while it runs may be passed over by
                stores without pushes.

        Raises:
            NoResultBackend: Nothing is recorded anywhere.
            ResultNotHere: Only another client can read it.
        """
        ...

    def expect(self, task_id: str) -> None:
        """Say that a task of this id is about to be sent from here. Repeating: does nothing."""
        ...

    def forget(self, task_id: str) -> None:
        """Drop what is known of an id. A second call does nothing."""
        ...

    def close(self) -> None:
        """Close connections; waiters get BackendUnavailable. A second call does nothing."""
        ...


@runtime_checkable
class WatchedResults(Protocol):
    """A `ResultStore` that pushes: many ids can be watched at once without asking for each."""

    def load_many(self, ids: Iterable[str]) -> dict[str, TaskMeta]:
        """The recorded states of many tasks; those that have none are left out.

        Raises:
            BackendUnavailable: The server is away.
            MessageDecodeError: One of the records cannot be read.
        """
        ...

    def watch(self, task_id: str, heard: Callable[[str], None]) -> None:
        """Have `heard` called with the id whenever its state may have changed.

        It is called in a thread of the backend's, at least once after the watch began, and at once
        if something is known already. Watching an id that is watched does nothing.
        """
        ...

    def unwatch(self, task_id: str) -> None:
        """End that. A second call does nothing."""
        ...
