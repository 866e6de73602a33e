"""`AsyncResult`: the result of one node or bare task, read by its id."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.app import current
from flowq.app.display import ShownLive
from flowq.app.outcome import FAILED, FINAL, Outcome
from flowq.app.waiting import assert_will_not_block, outcome_in_loop
from flowq.core.ids import is_node_id, split_node_id

if TYPE_CHECKING:
    from flowq.app.base import Flowq


class Result(ShownLive):
    """What all results share."""

    app: Any
    _parent: Any = None

    def _engine(self) -> Any:
        return self.app._engine()

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """The same as `get`."""
        return self.get(*args, **kwargs)

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the value; defined below."""
        raise NotImplementedError

    def as_tuple(self) -> Any:
        """Plain data that `result_from_tuple` reads back; defined below."""
        raise NotImplementedError

    def __reduce__(self) -> Any:
        from flowq.app.result import result_from_tuple

        return result_from_tuple, (self.as_tuple(),)


class AsyncResult(Result):
    """The result of one node or bare task.

    Args:
        id: Its id.
        app: The app to ask; none: the current one.
        parent: The result that it follows, where that is known.
        task_name: Name of the task, where that is known.
        run: The Run it belongs to, where that is known.
    """

    def __init__(
        self,
        id: str,
        backend: Any = None,
        task_name: str | None = None,
        app: Flowq | None = None,
        parent: Any = None,
        run: Any = None,
    ) -> None:
        if not isinstance(id, str) or not id:
            raise errors.UnknownId(f"a result needs the id of a task as text, not {id!r}")
        self.id = id
        self.app = app if app is not None else current.get_current()
        self._name = task_name
        self._parent = parent
        self._run = run
        self._last: Outcome | None = None
        self._value: tuple[Any] | None = None
        #: Whether its worker records nothing of it, so that `get` gives None at once. Known where
        #: the task was sent from only: a result that is made of an id waits.
        self.ignored = False

    # -- state ------------------------------------------------------------------------------

    @property
    def task_id(self) -> str:
        """The id."""
        return self.id

    @property
    def state(self) -> str:
        """State by Celery's names; PENDING also for an id that nobody knows, see `exists`."""
        outcome = self._look()
        return "PENDING" if outcome is None else outcome.shown_state

    status = state

    def exists(self) -> bool:
        """Whether anything is known of this id."""
        return self._look() is not None

    def ready(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL

    def successful(self) -> bool:
        """Whether it ended in SUCCESS."""
        return self.state == "SUCCESS"

    def failed(self) -> bool:
        """Whether it ended in FAILURE."""
        return self.state == "FAILURE"

    @property
    def result(self) -> Any:
        """The value, or the exception; before its end the data of a custom state."""
        outcome = self._look()
        if outcome is None:
            return None
        if outcome.state == "SUCCESS":
            return self._decoded(outcome)
        if outcome.state in FAILED or outcome.state == "RETRY":
            return self._exception(outcome)
        return (outcome.meta or {}).get("meta")

    info = result

    @property
    def traceback(self) -> str | None:
        """Text of the worker's traceback, where there is one."""
        outcome = self._look()
        return None if outcome is None else _traceback(outcome)

    @property
    def date_done(self) -> datetime | None:
        """When it ended, aware UTC."""
        outcome = self._look()
        return None if outcome is None else outcome.date_done

    @property
    def name(self) -> str | None:
        """Name of the task."""
        if self._name is None:
            outcome = self._look()
            self._name = None if outcome is None else outcome.name
        return self._name

    def _more(self, key: str) -> Any:
        outcome = self._look()
        return None if outcome is None else (outcome.extra or {}).get(key)

    args = property(lambda self: self._more("args"), doc="Positional arguments, where recorded.")
    kwargs = property(lambda self: self._more("kwargs"), doc="Keyword arguments, where recorded.")
    worker = property(lambda self: self._more("worker"), doc="Worker that ran it, where recorded.")
    retries = property(lambda self: self._more("retries"), doc="Retries so far, where recorded.")
    queue = property(lambda self: self._more("queue"), doc="Queue it was sent to, where recorded.")

    # -- value ------------------------------------------------------------------------------

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> Any:
        """Wait until it has ended and return its value, or raise what it raised.

        Of a bare task that was sent from here to a fleet with `ignore_result` it is None, at once.

        Args:
            timeout: Seconds; None: for ever.
            propagate: False returns the exception instead of raising it.
            interval: Seconds between two calls of `on_interval` and looks for `on_message`.
            no_ack: Accepted for Celery's sake.
            follow_parents: When a chord's header failed, raise what its first member raised; False
                raises the ChordError.
            callback: Called with id and value.
            on_message: Called with each recorded state as a dict, the last one included.
            on_interval: Called while waiting.
            disable_sync_subtasks: False allows the call inside a task.

        Raises:
            errors.TimeoutError: It took longer than `timeout`; it goes on.
            errors.UnknownId: Nobody knows this id.
            errors.TaskRevokedError: It was revoked.
            RuntimeError: Called inside a task.
            Exception: What the task raised, of the original class where that is known here.
        """
        if self.ignored:
            return None
        if disable_sync_subtasks:
            assert_will_not_block()
        if self._value is None:
            outcome = self._await_end(timeout, interval, on_message, on_interval)
            self._last = outcome
        else:
            outcome = self._last  # type: ignore[assignment]
        value = self._answer(outcome, propagate, follow_parents)
        if callback is not None:
            callback(self.id, value)
        return value

    def _await_end(
        self,
        timeout: float | None,
        interval: float,
        on_message: Callable[[dict[str, Any]], Any] | None,
        on_interval: Callable[[], Any] | None,
    ) -> Outcome:
        engine = self._engine()
        if on_message is None and on_interval is None:
            return engine.wait(self.id, timeout)  # type: ignore[no-any-return]
        end = None if timeout is None else time.monotonic() + timeout
        seen: Any = None

        def hear(found: Outcome) -> None:
            nonlocal seen
            if on_message is not None and found != seen and found.shown_state != "PENDING":
                seen = found
                on_message(self._message(found))

        while True:
            left = interval if end is None else min(interval, max(0.0, end - time.monotonic()))
            try:
                outcome: Outcome | None = engine.wait(self.id, left, hear)
            except errors.TimeoutError:
                if end is not None and time.monotonic() >= end:
                    said = f"{self.id} has not ended within {timeout:g} s"
                    raise errors.TimeoutError(said) from None
                outcome = engine.lookup(self.id)
            if outcome is not None:
                hear(outcome)
            if outcome is not None and outcome.final:
                return outcome
            if on_interval is not None:
                on_interval()

    def _message(self, outcome: Outcome) -> dict[str, Any]:
        self._last = outcome
        if outcome.state == "SUCCESS":
            shown = self._decoded(outcome)
        elif outcome.state in FAILED or outcome.state == "RETRY":
            shown = self._exception(outcome)
        else:
            shown = (outcome.meta or {}).get("meta")
        return {
            "task_id": self.id,
            "status": outcome.shown_state,
            "result": shown,
            "traceback": _traceback(outcome),
            "children": list(outcome.children or (outcome.extra or {}).get("children") or ()),
            "date_done": outcome.date_done,
        }

    def _answer(self, outcome: Outcome, propagate: bool, follow_parents: bool = True) -> Any:
        if outcome.state == "SUCCESS":
            return self._decoded(outcome)
        error = self._exception(outcome)
        if not propagate:
            return error
        if follow_parents and isinstance(error, errors.ChordError):
            error = self._first_error(outcome, error)
        raise error

    def _first_error(self, outcome: Outcome, instead: Exception) -> Exception:
        """What the first member of the failed header raised; `instead` when that is not known."""
        if isinstance(instead.__cause__, Exception):
            return instead.__cause__
        from flowq.app.groupresult import GroupResult

        if outcome.members is not None:
            return GroupResult(self.id, app=self.app).first_error(instead)
        above = self.parent
        while above is not None and not isinstance(above, GroupResult):
            above = above.parent
        return instead if above is None else above.first_error(instead)

    def _decoded(self, outcome: Outcome) -> Any:
        if self._value is None:
            self._value = (self._decode(outcome.frame),)
        return self._value[0]

    def _decode(self, frame: bytes | None) -> Any:
        from flowq import payload

        if not frame:
            return None
        accept = {*payload.DEFAULT_ACCEPT, *self.app.conf.accept_content}
        accept.update(self.app.conf.result_accept_content or ())
        return payload.decode(frame, accept, self.app.defines_module)

    def _exception(self, outcome: Outcome) -> Exception:
        error: Exception
        if outcome.frame:
            found = self._decode(outcome.frame)
            error = found if isinstance(found, Exception) else errors.RemoteError(str(found))
        elif outcome.state == "REVOKED":
            error = errors.TaskRevokedError(f"the task {self.id} was revoked")
        elif outcome.state == "FAILURE":
            error = errors.RemoteError(f"the task {self.id} failed and its error was not kept")
        else:
            error = errors.TaskSkipped(f"the task {self.id} was skipped: there is no value")
        if isinstance(error, errors.TaskSignal):  # it steers tasks; here nothing is to be steered
            error = errors.TaskSkipped(f"the task {self.id} raised {error!r}")
        text = _traceback(outcome)
        if text and self.app.conf.task_remote_tracebacks:
            error.add_note(f"In the worker:\n{text}")
        return error

    def maybe_throw(self, propagate: bool = True, callback: Any = None) -> Any:
        """Raise the error of what has failed; else return what is there now, without waiting."""
        outcome = self._look()
        if outcome is not None and outcome.state in FAILED:
            return self._answer(outcome, propagate)
        value = self.result
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def __await__(self) -> Generator[Any, None, Any]:
        return self._in_loop().__await__()

    async def _in_loop(self) -> Any:
        if self.ignored:
            return None
        assert_will_not_block()
        outcome = await outcome_in_loop(self._engine(), self.id)
        self._last = outcome
        return self._answer(outcome, propagate=True)

    # -- what it belongs to -----------------------------------------------------------------

    @property
    def parent(self) -> Any:
        """The result of what it waited for: an AsyncResult, a GroupResult, or None."""
        if self._parent is None:
            outcome = self._look()
            if outcome is not None and outcome.parent:
                self._parent = _result_for(self.app, outcome.parent)
        return self._parent

    @parent.setter
    def parent(self, value: Any) -> None:
        self._parent = value

    @property
    def children(self) -> list[Any]:
        """Results of what waits for this one; of a bare task, of what it sent."""
        from flowq.app.result import result_from_tuple

        outcome = self._look()
        if outcome is None:
            return []
        sent = (outcome.extra or {}).get("children") or ()
        if sent:
            return [
                _result_for(self.app, child[0][0])  # a group of a run: its members are in the store
                if child[1] is None
                else result_from_tuple(child, self.app)
                for child in sent
            ]
        return [_result_for(self.app, i) for i in outcome.children]

    @property
    def run(self) -> Any:
        """The Run it is part of; None for a bare task."""
        if self._run is None:
            uid = run_of(self)
            self._run = None if uid is None else self.app.run(uid)
        return self._run

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Pairs of (what it follows, result), this one first, breadth first; finished ones only.

        Raises:
            errors.WrongState: One of them has not ended, and `intermediate` is off.
        """
        pending: list[tuple[Any, Any]] = [(None, self)]
        while pending:
            before, result = pending.pop(0)
            yield before, result
            if result.ready():
                pending.extend((result, child) for child in result.children or ())
            elif not intermediate:
                raise errors.WrongState(
                    f"{result!r} has not ended yet; wait for it, or collect later"
                )

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Pairs of (result, value), this one first; waits for each."""
        for _, result in self.iterdeps(intermediate=intermediate):
            yield result, result.get(**kwargs)

    def get_leaf(self) -> Any:
        """The value of the last result that `collect` gives."""
        value = None
        for _, result in self.iterdeps():
            value = result.get()
        return value

    # -- orders -----------------------------------------------------------------------------

    def forget(self) -> None:
        """Drop the recorded result of a bare task: its id is unknown then.

        What is recorded of a node belongs to its run: it stays, and goes with the run (`flowq
        prune`, `run_retention`). Repeating: does nothing.
        """
        self._last, self._value = None, None
        self._engine().forget(self.id)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Ask for it not to run; `terminate` ends it where it runs. Repeating: does nothing.

        Args:
            connection: Accepted for Celery's sake, as are `wait` and `timeout`.
            terminate: End its process, and where it is a coroutine in a thread, the coroutine. A
                plain function in a thread cannot be ended: it runs on.
            signal: What to end the process with, as ``"SIGKILL"``; None: SIGTERM for a bare task.

        Raises:
            errors.WrongState: There is no such signal.
        """
        self._engine().revoke(self.id, terminate, signal)

    # -- as a value -------------------------------------------------------------------------

    def _look(self) -> Outcome | None:
        known = self._last  # a success is final; anything else may have changed
        if self._value is None or known is None or known.brief:
            self._last = self._engine().lookup(self.id)
        return self._last

    def as_tuple(self) -> Any:
        """``((id, parent), None)``, nested for the parents that are known here."""
        parent = self._parent
        return (self.id, parent.as_tuple() if parent is not None else None), None

    def as_list(self) -> list[str]:
        """Ids of this one and of its known parents."""
        parent = self._parent
        return [self.id, *(parent.as_list() if parent is not None else ())]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return other.id == self.id
        return other == self.id if isinstance(other, str) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"


def run_of(result: AsyncResult) -> str | None:
    if is_node_id(result.id):
        return str(split_node_id(result.id)[0])
    outcome = result._look()
    return None if outcome is None else outcome.run


def _traceback(outcome: Outcome) -> str | None:
    if outcome.traceback is not None:
        return outcome.traceback
    if outcome.frame and outcome.frame[:1] == b"e":
        from flowq import payload

        return payload.decode_error(outcome.frame).traceback or None
    return None


def _result_for(app: Any, node: str) -> Any:
    from flowq.app.result import result_for

    return result_for(app, node)
