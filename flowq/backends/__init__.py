"""The seams between worker, coordinator and client.

`UpdateLane` carries what workers report to the one coordinator that owns the lane, at least
once; in a fleet, a `LaneWriter` fills it and a `LaneReader` opens it. `ResultStore` holds the
outcomes of bare tasks, as Celery knows it. The outcome of a node is read from the store, through
`recorded`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from flowq.broker.codec import Report


class UpdateLane(Protocol):
    """Worker -> coordinator. Nothing blocks; what is not acknowledged comes again."""

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
    meta: bytes = b""


class ResultStore(Protocol):
    """Outcomes of bare tasks."""

    def store(self, task_id: str, meta: TaskMeta) -> None:
        """Record a state. SUCCESS is never overwritten; otherwise the last one wins."""
        ...

    def load(self, task_id: str) -> TaskMeta | None:
        """The recorded state, or None for an id never heard of."""
        ...

    def wait(self, task_id: str, timeout: float | None) -> TaskMeta | None:
        """Block until the task has ended; None if `timeout` seconds passed before."""
        ...

    def forget(self, task_id: str) -> None:
        """Drop what is known of an id. A second call does nothing."""
        ...
