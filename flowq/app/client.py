"""What a program does with its runs, wherever they are advanced: submit, read, wait, act.

`Engine` advances them in this process, `FleetEngine` leaves that to workers and coordinators
elsewhere; both are a `Client` and differ in what starting and sending mean.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.app import acting
from flowq.app.awaiting import Awaiting, OnOutcome
from flowq.app.collecting import collection_paused
from flowq.app.known import Known
from flowq.app.outcome import Outcome
from flowq.app.place import url_of
from flowq.app.recording import Outcomes
from flowq.app.run import Run
from flowq.app.waiters import Waiters
from flowq.backends import ResultStore
from flowq.config import mask_url
from flowq.store import NewRun, Store

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.app.pools import Early
    from flowq.core.graph import Graph

log = logging.getLogger("flowq")


class Client:
    """One app's way to its store, and to whoever advances its runs.

    Args:
        app: Whose runs these are.
        results: Outcomes of bare tasks.
    """

    def __init__(self, app: Flowq, results: ResultStore) -> None:
        self.app, self.results = app, results
        conf = app.conf
        self.store = Store(url_of(conf), synchronous=str(conf.sqlite_synchronous).upper())
        self.store.inline_bytes = int(conf.inline_payload_bytes)
        self._ensured = False
        self._lock = threading.RLock()
        self.owner = uuid.uuid4().hex
        #: Where this process's runs go; 0 until something was started.
        self.lane_id = 0
        self._waiters = Waiters()
        self._listeners: list[Callable[[list[int]], None]] = []
        self.failure: BaseException | None = None
        self.outcomes = Outcomes(self.store)
        self.known = Known()
        self._awaiting = Awaiting(self, self.outcomes, self._waiters)
        #: Since when (monotonic) the store cannot be written, and why; None if it can.
        self.trouble: tuple[float, errors.StoreUnavailable] | None = None
        #: A pool's first process that somebody had started before there was an engine.
        self.early: Early | None = None
        #: Called with text for a person, at most once for each thing: the CLI prints it.
        self.notify: Callable[[str], None] = log.info

    # -- what differs --------------------------------------------------------------------

    def start(self, *, work: bool = True) -> None:
        """Make ready for submissions (`work`), or for acting on runs. Repeatable."""
        raise NotImplementedError

    @property
    def is_started(self) -> bool:
        """Whether `start` was called, so that there is a lane to submit to."""
        return self.lane_id != 0

    def submitted(self) -> None:
        """Tell the coordinator that its inbox holds something."""
        raise NotImplementedError

    def _admit(self, new: NewRun, graph: Graph) -> tuple[int, str]:
        """Store a run; gives its key and uid, those of an earlier one for a used key."""
        raise NotImplementedError

    def send_bare(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> str:
        """Send one task the short road, without a run; gives its id."""
        raise NotImplementedError

    def follow_definitions(self, graph: Graph | None = None) -> None:
        """Have workers of this process know tasks as they are defined now."""

    @property
    def works_here(self) -> bool:
        """Whether this process advances the runs of its lane, and must stay for them."""
        raise NotImplementedError

    def drain(self) -> None:
        """Take no more work; what runs here is finished. `close` waits for it."""

    @property
    def drained(self) -> bool:
        """Whether all that ran here when `drain` was called has ended and is recorded."""
        return True

    def close(self, grace: float = 0.0) -> None:
        """Finish what runs here for at most `grace` seconds and stop. Repeatable."""
        raise NotImplementedError

    # -- opening -------------------------------------------------------------------------

    def open(self) -> Store:
        """The store, made or checked at the first call."""
        if not self._ensured:
            with self._lock:
                if not self._ensured:
                    if self.store.ensure():
                        self.notify(f"made a new store: {mask_url(self.store.url)}")
                    self._ensured = True
        return self.store

    # -- submitting ----------------------------------------------------------------------

    def submit(
        self,
        canvas: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        **about: Any,
    ) -> Run:
        """Compile, store, wake; see `Flowq.submit`."""
        from flowq.app.submission import compile_for, new_run

        self.check()
        with collection_paused():
            graph = compile_for(self.app, canvas, args, kwargs)
        session = about.pop("session", None)
        if session is not None:
            from flowq.app.insession import submit_in_session

            return submit_in_session(self, session, canvas, graph, about)
        self.start()
        self.follow_definitions(graph)
        new = new_run(self.app, self.lane_id, canvas, graph, **about)
        run_id, uid = self._admit(new, graph)
        return Run(self, run_id, uid, kind=graph.nodes[graph.results[0]].kind, result=graph.results)

    # -- reading -------------------------------------------------------------------------

    def runs(self, **filters: Any) -> list[Run]:
        """Runs in the store, latest first; filters as `Store.list_runs`."""
        return [Run(self, row.id, row.uid) for row in self.open().list_runs(**filters)]

    def run(self, ref: str) -> Run:
        """One run by id, prefix, ``@last`` or name; raises UnknownId."""
        row = self.open().find_run(ref)
        return Run(self, row.id, row.uid)

    def lookup(self, task_id: str) -> Outcome | None:
        """What is known of a node or bare task now; None for an unknown id."""
        found = self.outcomes.node(self.open(), task_id)
        if found is None:
            return self.outcomes.of_bare(self.results, task_id)
        return found

    def wait(
        self, task_id: str, timeout: float | None, on_outcome: OnOutcome | None = None
    ) -> Outcome:
        """Block until a node or bare task has ended; raises UnknownId, TimeoutError.

        `on_outcome` is called with each state of a bare task as its backend hands it on. Without
        it the outcome may be a brief one.
        """
        return self._awaiting.task(task_id, timeout, on_outcome)

    def wait_run(self, run_id: int, timeout: float | None) -> bool:
        """Block until a run has ended; False if `timeout` seconds passed before."""
        return self._awaiting.run(run_id, timeout)

    def wait_generation(self, run_id: int, generation: int, timeout: float = 30.0) -> None:
        """Block until a run was reopened that often; raises TimeoutError."""
        self._awaiting.generation(run_id, generation, timeout)

    def forget(self, task_id: str) -> None:
        """Drop the recorded result of a bare task; a node's belongs to its run and stays."""
        self.results.forget(task_id)
        self.outcomes.forget(task_id)

    def revoke(self, task_id: str, terminate: bool = False, signal: Any = None) -> None:
        """Revoke a node; what waits for it is skipped. `terminate` ends its process too."""
        place = self.open().locate(task_id)
        if place is None:
            self._revoke_bare(task_id, terminate, signal)
            return
        self.act(place[0], "revoke", str(place[1]).encode())
        if terminate:
            self._kill(place, task_id, signal)

    def _revoke_bare(self, task_id: str, terminate: bool, signal: Any) -> None:
        """Revoke a task that is no node."""

    def _kill(self, place: tuple[int, int], task_id: str, signal: Any) -> None:
        """End the process that runs a node."""

    # -- acting on runs ------------------------------------------------------------------

    def act(self, run_id: int, kind: str, body: bytes | None = None) -> None:
        """Ask a run's coordinator for something; see `acting.act`."""
        acting.act(self, run_id, kind, body)

    def resume(self, run_id: int) -> None:
        """Go on with an interrupted run in this process; see `acting.resume`."""
        acting.resume(self, run_id)

    def listen(self, listener: Callable[[list[int]], None]) -> Callable[[], None]:
        """Have `listener` called with the ids of changed runs; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener) if listener in self._listeners else None

    def drive(self, ended: threading.Event, timeout: float | None) -> None:
        """Help what the caller waits for along, where the work is done in this process."""

    def check(self) -> None:
        """Raise what stopped the engine, if something did."""
        if self.failure is not None:
            failure = self.failure
            if isinstance(failure, errors.FlowqError):
                raise failure
            raise errors.FlowqError(
                f"the engine stopped: {type(failure).__name__}: {failure}; the run is kept, go on "
                "with flowq resume"
            ) from failure
