"""Waiting for nodes, bare tasks and runs, in this process and in others.

What ends in this process wakes its waiters; what another process advances is looked at again
and again, a few times a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flowq import errors
from flowq.app.outcome import Outcome
from flowq.app.recording import Outcomes
from flowq.app.stranded import Stranded
from flowq.app.waiters import Waiters
from flowq.backends import TaskMeta
from flowq.core.states import RUN_TERMINAL, TERMINAL

if TYPE_CHECKING:
    from flowq.app.client import Client

_POLL = 0.05

OnOutcome = Callable[[Outcome], None]


class Awaiting:
    """Blocks the caller's thread until something has ended.

    Args:
        engine: Whose store and results are looked at; its failure ends the wait.
        outcomes: Puts outcomes together.
        waiters: Whom the engine wakes.
    """

    def __init__(self, engine: Client, outcomes: Outcomes, waiters: Waiters) -> None:
        self._engine, self._outcomes, self._waiters = engine, outcomes, waiters
        self._stranded = Stranded()

    def task(
        self, task_id: str, timeout: float | None, on_outcome: OnOutcome | None = None
    ) -> Outcome:
        """Block until a node or bare task has ended.

        Args:
            task_id: Its id.
            timeout: Seconds; None: for ever.
            on_outcome: Called with each state of a bare task as it comes in; without it the
                outcome may be brief.

        Raises:
            UnknownId: Nobody knows the id.
            TimeoutError: `timeout` seconds have passed.
        """
        known = self._engine.known
        ours = known.place(task_id)
        place = ours or self._engine.open().locate(task_id)
        if place is None:
            return self._bare(task_id, timeout, on_outcome)
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.004
        store = self._engine.store
        next_look = self._stranded.first_look()
        with self._waiters.waiting(place[0]) as ended:
            if ours is not None and known.is_under_way(ours):
                self._engine.check()
                self._engine.drive(ended, timeout)
                ended.wait(pause if timeout is None else min(timeout, pause))
            while True:
                value = known.value(place) if on_outcome is None else None
                if value is not None:
                    return Outcome("SUCCESS", value, brief=True)
                row = store.one(store.sql.node_state, place)
                if row is None:
                    raise errors.UnknownId(f"the run of {task_id} was pruned meanwhile")
                if row[0] in TERMINAL:
                    return self._outcomes.at(*place)
                self._engine.check()
                now = time.monotonic()
                left = 1.0 if deadline is None else deadline - now
                if left <= 0:
                    raise errors.TimeoutError(f"{task_id} has not ended within {timeout:g} s")
                if now >= next_look:
                    next_look = self._stranded.look(store, place[0])
                ended.wait(min(left, pause))
                pause = min(pause * 2, 0.05)

    def _bare(self, task_id: str, timeout: float | None, on_outcome: OnOutcome | None) -> Outcome:
        outcomes, results = self._outcomes, self._engine.results
        if not outcomes.knows(task_id):
            ended = results.wait(task_id, 0.0)  # raises what the backend has to say of strangers
            if ended is None and results.load(task_id) is None:
                raise errors.UnknownId(f"no node and no task of this process has the id {task_id}")
        heard = None
        if on_outcome is not None:
            tell = on_outcome

            def heard(meta: TaskMeta) -> None:
                tell(outcomes.of_meta(task_id, meta))

        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
            meta = results.wait(task_id, max(0.0, left), heard)
            if meta is not None:
                return outcomes.of_meta(task_id, meta)
            self._engine.check()
            rest = None if deadline is None else deadline - time.monotonic()
            if self._engine.store.locate(task_id) is not None:  # it became a run meanwhile
                try:
                    return self.task(task_id, rest)
                except errors.TimeoutError:
                    break
            if rest is not None and rest <= 0.0:
                break
        raise errors.TimeoutError(f"{task_id} has not ended within {timeout:g} s")

    def run(self, run_id: int, timeout: float | None) -> bool:
        """Block until a run has ended; False if `timeout` seconds passed before."""
        deadline = None if timeout is None else time.monotonic() + timeout
        store = self._engine.open()
        longest = 0.25 if self._engine.works_here else _POLL  # nobody wakes us from elsewhere
        pause = 0.004
        next_look = self._stranded.first_look()
        with self._waiters.waiting(run_id) as ended:
            while True:
                row = store.one(store.sql.run_state, (run_id,))
                if row is None or row[0] in RUN_TERMINAL:
                    return True
                self._engine.check()
                now = time.monotonic()
                left = 1e9 if deadline is None else deadline - now
                if left <= 0:
                    return False
                if now >= next_look:
                    next_look = self._stranded.look(store, run_id)
                ended.wait(min(left, pause))
                pause = min(pause * 2, longest)

    def generation(self, run_id: int, generation: int, timeout: float) -> None:
        """Block until a run was reopened that often.

        Raises:
            TimeoutError: Its coordinator has not answered within `timeout` seconds.
        """
        heard = threading.Event()
        end_listening = self._engine.listen(
            lambda changed: heard.set() if run_id in changed else None
        )
        deadline = time.monotonic() + timeout
        try:
            while self._engine.open().run_by_id(run_id).generation < generation:
                self._engine.check()
                if time.monotonic() >= deadline:
                    raise errors.TimeoutError(f"nobody reopened the run within {timeout:g} s")
                heard.wait(_POLL)
                heard.clear()
        finally:
            end_listening()
