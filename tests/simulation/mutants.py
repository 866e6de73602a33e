"""Planted bugs: small patches of production code that the simulator must catch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from flowq.coordinator import coordinator, dispatch, folding
from flowq.coordinator.batch import Batch
from flowq.coordinator.coordinator import Coordinator
from flowq.coordinator.dispatch import Dispatcher
from flowq.coordinator.folding import Folder
from flowq.coordinator.values import Values
from flowq.core import machine
from flowq.core.graph import On
from flowq.core.states import Event, RunState, State
from flowq.payload import encode_list
from flowq.store import queries

Mutant = Callable[[pytest.MonkeyPatch], None]
MUTANTS: dict[str, Mutant] = {}


def mutant(make: Mutant) -> Mutant:
    MUTANTS[make.__name__] = make
    return make


def wrap(patch: pytest.MonkeyPatch, owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Put `around(old, ...)` in place of a function."""
    old = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: around(old, *args, **kwargs))


@mutant
def publishes_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    def turn(old: Any, this: Coordinator, *args: Any, **kwargs: Any) -> Any:
        plan = this.dispatcher.dispatch

        def early(batch: Batch) -> Any:
            bundles = plan(batch)
            for bundle in bundles:
                this._publish(bundle)
            return bundles

        this.dispatcher.dispatch = early  # type: ignore[method-assign]
        try:
            return old(this, *args, **kwargs)
        finally:
            this.dispatcher.dispatch = plan  # type: ignore[method-assign]

    wrap(patch, Coordinator, "_turn", turn)


@mutant
def writes_without_a_fence(patch: pytest.MonkeyPatch) -> None:
    text = "SELECT 1 FROM flowq_lane WHERE id = :id AND :owner <> '' AND :epoch > 0"
    patch.setitem(queries.SQL, "lane_held", text)


@mutant
def hears_reports_of_old_attempts(patch: pytest.MonkeyPatch) -> None:
    def advance(old: Any, view: Any, fact: Any, *, now: float) -> Any:
        if fact.attempt >= 0:
            fact.attempt = view.attempt[fact.index]
        return old(view, fact, now=now)

    wrap(patch, folding, "advance", advance)


@mutant
def counts_a_join_by_duplicates(patch: pytest.MonkeyPatch) -> None:
    def advance(old: Any, view: Any, fact: Any, *, now: float) -> Any:
        decision = old(view, fact, now=now)
        if not (decision.discarded and fact.event is Event.SUCCEEDED):
            return decision
        work = machine._Work(view, now)
        if work.node(fact.index).state is State.SUCCESS:
            work._ended.append(work.node(fact.index))
            work.settle()
        return machine.Decision(work.transitions, work.nodes, work.counts, work.timers)

    wrap(patch, folding, "advance", advance)


@mutant
def never_sends_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Coordinator, "_again", lambda this, key, now: True)


@mutant
def a_cancelled_run_is_still_dispatched(patch: pytest.MonkeyPatch) -> None:
    def cancel(old: Any, this: Folder, batch: Batch, view: Any) -> None:
        alive = [i for i, state in enumerate(view.states) if state is State.READY]
        old(this, batch, view)
        for index in alive:
            view.states[index] = State.READY
        view.open_count = len(alive)

    def dispatch_(old: Any, this: Dispatcher, batch: Batch) -> Any:
        cancelled = [view for view in batch.finished if view.open_count]
        for view in cancelled:
            view.run_state = RunState.RUNNING
            batch.ready += folding._ready(view)
        bundles = old(this, batch)
        for view in cancelled:
            view.run_state = RunState.CANCELLED
        return bundles

    wrap(patch, Folder, "cancel", cancel)
    wrap(patch, Dispatcher, "dispatch", dispatch_)


@mutant
def a_cancelled_run_keeps_its_messages(patch: pytest.MonkeyPatch) -> None:
    def cancel(old: Any, this: Folder, batch: Batch, view: Any) -> None:
        left, this.left_message = this.left_message, lambda *args: None
        old(this, batch, view)
        this.left_message = left

    wrap(patch, Folder, "cancel", cancel)


@mutant
def calls_errbacks_of_what_went_well(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(machine._HIT, (State.SUCCESS, On.FAILURE), True)


@mutant
def retries_without_a_new_attempt(patch: pytest.MonkeyPatch) -> None:
    def queue(old: Any, this: Dispatcher, batch: Batch, view: Any, index: int, key: int) -> None:
        old(this, batch, view, index, key)
        if view.retries[index]:
            view.attempt[index] -= 1

    wrap(patch, Dispatcher, "_queue", queue)


@mutant
def forgets_idempotency_keys(patch: pytest.MonkeyPatch) -> None:
    text = queries.SQL["run_insert"].replace(
        ":idempotency_key,", "NULLIF(:idempotency_key, 'key 1'),"
    )
    patch.setitem(queries.SQL, "run_insert", text)


@mutant
def lists_results_in_the_order_of_arrival(patch: pytest.MonkeyPatch) -> None:
    def join_frame(old: Any, this: Values, view: Any, index: int) -> bytes:
        members = [edge.parent for edge in view.in_edges(index) if edge.bind == 2]
        if view.need[index] != len(members):
            return old(this, view, index)  # type: ignore[no-any-return]
        there = sorted(members, key=lambda m: list(view.frames).index(m) if m in view.frames else 0)
        return encode_list([this.value(view, member) for member in there])

    wrap(patch, Values, "_join", join_frame)


@mutant
def loses_timers_when_a_run_moves(patch: pytest.MonkeyPatch) -> None:
    text = "UPDATE flowq_timer SET due_at = due_at WHERE :lane_id > 0 AND run_id = :run_id"
    patch.setitem(queries.SQL, "timer_move", text)


@mutant
def keeps_views_after_a_failed_commit(patch: pytest.MonkeyPatch) -> None:
    def forget(this: Coordinator, rewind: bool = True) -> None:
        this.inbox_rung = True
        if rewind:
            this._updates.rewind()

    patch.setattr(Coordinator, "_forget", forget)


@mutant
def dispatches_a_node_twice(patch: pytest.MonkeyPatch) -> None:
    def begin(old: Any, this: Folder, batch: Batch, view: Any) -> None:
        old(this, batch, view)
        batch.ready += [pair for pair in batch.ready if pair[0] is view]

    wrap(patch, Folder, "begin", begin)


@mutant
def believes_that_nothing_waits(patch: pytest.MonkeyPatch) -> None:
    def fill(old: Any, this: Dispatcher, batch: Batch, queue: Any, *args: Any) -> None:
        old(this, batch, queue, *args)
        queue.backlog = False

    wrap(patch, Dispatcher, "_fill", fill)


@mutant
def takes_a_broken_run_for_a_broken_store(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(coordinator, "_DOWN", (Exception,))


@mutant
def settles_what_was_never_published(patch: pytest.MonkeyPatch) -> None:
    """No outbox relay: what a crash kept from going out is taken for published and held."""

    def reload(old: Any, this: Dispatcher) -> None:
        old(this)
        this.messages.clear()

    wrap(patch, Dispatcher, "reload", reload)


assert dispatch.BUNDLE  # the module is patched through its class
