"""Every exception class of flowq, grouped by who can act on it. Imports nothing of flowq.

Messages are one sentence that names what is wrong, followed by what to try. Fields stay
attributes; ``args`` holds the fields, so that every class pickles.
"""

from __future__ import annotations

import builtins


class FlowqError(Exception):
    """Root of everything flowq raises on its own account."""

    #: Exit code of the command line when this error ends it (7, 4, 69, 78 ...).
    exit_code = 1


# --- you composed or called something impossible; nothing was stored -----------------------


class CanvasError(FlowqError, ValueError):
    """Raised when a canvas or flow cannot be compiled. Fix the composition."""

    exit_code = 7


class CycleFound(CanvasError):
    """Raised when dependencies form a cycle. Remove one of the edges that are named."""


class LimitExceeded(CanvasError):
    """Raised when a canvas is larger or deeper than the settings allow."""


class UnserialisableArgument(CanvasError, TypeError):
    """Raised at the call when an argument cannot travel. Pass an id or plain data instead."""


class ImproperlyConfigured(FlowqError):
    """Raised when a setting or an option is wrong. Its name and a near one are in the text."""

    exit_code = 78


class NotRegistered(CanvasError, KeyError):
    """Raised when no task of that name is registered; near names are listed."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "task not registered"


class UnknownQueue(CanvasError, LookupError):
    """Raised when a queue is named that ``task_queues`` lacks and that may not be made."""


class AlreadyRegistered(FlowqError, ValueError):
    """Raised when a second, different function claims a task name."""

    exit_code = 7


class TargetError(FlowqError):
    """Raised when what ``flowq run`` was pointed at cannot be loaded or checked."""

    exit_code = 7
    #: The user's own frames of a traceback, or the line at fault; may be empty.
    details = ""


class RenderError(FlowqError):
    """Raised when a picture cannot be drawn in the format asked for."""

    exit_code = 7


class OutputError(FlowqError, OSError):
    """Raised when the command line cannot write its data: a full disk, a closed stdout."""

    exit_code = 74


class IdempotencyConflict(FlowqError):
    """Raised when an idempotency key was used before for another canvas."""

    exit_code = 8


class WrongState(FlowqError):
    """Raised when a run or node is in a state in which the action makes no sense."""

    exit_code = 8


# --- the machine refused: a bug in a sender, never a user's mistake ------------------------


class StateError(FlowqError):
    """Root of what the state machine refuses."""


class InvalidTransition(StateError):
    """Raised when an event cannot follow a node's state."""

    def __init__(self, node: int, state: str, event: str) -> None:
        super().__init__(node, state, event)
        self.node, self.state, self.event = node, state, event

    def __str__(self) -> str:
        return f"cannot apply {self.event} to node {self.node}: it is {self.state}"


class StaleState(StateError):
    """Raised when a guarded write met rows that had moved on; the batch is decided again."""


class LaneLost(StateError):
    """Raised when a coordinator's lane was taken over; it must stop writing at once."""


# --- store and broker ----------------------------------------------------------------------


class StoreError(FlowqError):
    """Raised when the database failed; the cause is chained."""

    exit_code = 69


class StoreUnavailable(StoreError):
    """Raised when the store cannot be opened or written (missing folder, read-only, full)."""


class SchemaMismatch(StoreError):
    """Raised when the store was written by a newer flowq, or is not a flowq store."""

    exit_code = 78


class CorruptStore(StoreError):
    """Raised when the store's file is damaged."""

    exit_code = 78


class BrokerError(FlowqError):
    """Raised when the broker failed or cannot be reached; the cause is chained."""

    exit_code = 69


class NoReply(FlowqError):
    """Raised when no worker answered a command in time."""

    exit_code = 69


class Refused(FlowqError):
    """Raised when a worker refused a command, or when one needs to be confirmed."""

    exit_code = 8


class MessageDecodeError(BrokerError):
    """Raised when a message or frame cannot be read."""


class ContentDisallowed(MessageDecodeError):
    """Raised when a payload's content type is not named in ``accept_content``."""


class DecodeError(MessageDecodeError):
    """Raised when a payload's bytes do not hold what its content type says."""


class EncodeError(FlowqError, TypeError):
    """Raised when a value cannot be serialised: names its place and type, and what to pass."""

    exit_code = 7


# --- asked for a result that is not there --------------------------------------------------


class ResultError(FlowqError):
    """Root of what reading results raises."""


class BackendUnavailable(ResultError):
    """Raised when the result backend cannot be reached or refuses; the cause is chained."""

    exit_code = 69


class NoResultBackend(ResultError):
    """Raised when a bare task's result is asked for and no result backend is configured."""

    exit_code = 78


class ResultNotHere(ResultError, LookupError):
    """Raised when only another process can read a result, or it was read and is gone."""

    exit_code = 4


class UnknownId(ResultError, LookupError):
    """Raised when no run or node has that id or name."""

    exit_code = 4


class RunFailed(ResultError):
    """Raised by ``Run.result()`` when the run ended in FAILURE; the first error is chained."""


class RunCancelled(ResultError):
    """Raised by ``Run.result()`` when the run was cancelled."""

    exit_code = 3


class TimeoutError(ResultError, builtins.TimeoutError):
    """Raised when waiting took longer than the caller allowed; the run goes on."""

    exit_code = 5


class ChordError(ResultError):
    """Outcome of a join one of whose members did not succeed."""


class TaskRevokedError(ResultError):
    """Outcome of a node that was revoked, or that expired before it began."""


class TaskSkipped(ResultError):
    """Outcome of a node that never had to run (its task raised Ignore, or nothing led to it)."""


class RemoteError(Exception):
    """Stands for an exception whose class is not known in this process.

    The synthetic subclass carries the name of the original class.
    """


# --- a worker's verdicts -------------------------------------------------------------------


class TaskError(FlowqError):
    """Root of verdicts the worker gives instead of the task."""


class WorkerLostError(TaskError):
    """The process of the task died, as often as it may, or its body called ``sys.exit()``."""


class TimeLimitExceeded(TaskError):
    """The hard time limit passed and the process was ended."""


class SoftTimeLimitExceeded(Exception):
    """Raised inside the task when its soft time limit passes; catch it to clean up."""


class MaxRetriesExceededError(TaskError):
    """``self.retry()`` was called more often than ``max_retries`` allows."""


# --- raised by user tasks to steer; not errors ---------------------------------------------


class TaskSignal(Exception):
    """Root of what a task raises to say how it ended."""


class Retry(TaskSignal):
    """Run this task again.

    Args:
        message: Text for the log.
        exc: The exception that made it necessary.
        when: Seconds from now.
        args: New positional arguments, or None to keep those it has.
        kwargs: New keyword arguments, or None.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: float | None = None,
        args: tuple[object, ...] | None = None,
        kwargs: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message, exc, when)
        self.message, self.exc, self.when = message, exc, when
        self.new_args, self.new_kwargs = args, kwargs

    def __str__(self) -> str:
        if self.message:
            return self.message
        return f"Retry in {self.when or 0:g}s" + (f": {self.exc!r}" if self.exc else "")


class Ignore(TaskSignal):
    """End this node without an outcome: what follows on success is skipped, no errback runs."""


class Reject(TaskSignal):
    """Refuse this node: FAILURE, or (``requeue=True``) back to the queue uncounted."""

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason, self.requeue = reason, requeue

    def __str__(self) -> str:
        return "rejected" if self.reason is None else f"rejected: {self.reason}"


class Replaced(TaskSignal):
    """Raised by ``self.replace(sig)``: the canvas takes this node's place. Not for users."""

    def __init__(self, canvas: object) -> None:
        super().__init__(canvas)
        self.canvas = canvas
