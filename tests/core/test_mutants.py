"""Deliberately broken machines and compilers: the oracle test must catch each of them.

Each mutant is one patch. It meets the same fixed canvases until one of them shows a
difference; that the healthy code shows none on these is tested as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from flowq.core import compiler, machine, states
from flowq.core.graph import Kind, On
from flowq.core.states import Event, State
from tests.canvases import Undetermined, canvas_by, flow_by, play
from tests.core.test_outcomes import differences
from tests.driver import drive
from tests.oracle import evaluate

#: A mutant that survives this many canvases has escaped.
BOUND = 300

Mutant = Callable[[pytest.MonkeyPatch], None]
MUTANTS: dict[str, Mutant] = {}


def mutant(make: Mutant) -> Mutant:
    MUTANTS[make.__name__] = make
    return make


def _wrapped(patch: pytest.MonkeyPatch, owner: Any, name: str, wrap: Callable[..., Any]) -> None:
    old = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: wrap(old, *args, **kwargs))


# --- of the machine --------------------------------------------------------------------------


@mutant
def a_join_fires_one_early(patch: pytest.MonkeyPatch) -> None:
    def verdict(old: Any, work: Any, node: Any) -> None:
        if node.kind == Kind.JOIN and node.need > 1 and node.hits == node.need - 1:
            work._fire(node)
        else:
            old(work, node)

    _wrapped(patch, machine._Work, "verdict", verdict)


@mutant
def an_errback_runs_on_retry(patch: pytest.MonkeyPatch) -> None:
    def apply(old: Any, work: Any, node: Any, event: Event, after: State, fact: Any) -> None:
        old(work, node, event, after, fact)
        for index, on in work._view.out_edges(node.index) if event is Event.RETRIED else ():
            child = work.node(index)
            if on == On.FAILURE and child.state is State.PENDING:
                work._count(child, 1)
                work.verdict(child)

    _wrapped(patch, machine._Work, "apply", apply)


@mutant
def skipped_is_not_passed_on(patch: pytest.MonkeyPatch) -> None:
    def move(old: Any, work: Any, node: Any, *rest: Any) -> None:
        old(work, node, *rest)
        if node.state is State.SKIPPED:
            work._ended.pop()

    _wrapped(patch, machine._Work, "_move", move)


@mutant
def a_second_success_counts_again(patch: pytest.MonkeyPatch) -> None:
    def advance(old: Any, view: Any, fact: Any, *, now: float) -> Any:
        decision = old(view, fact, now=now)
        if not (decision.discarded and fact.event is Event.SUCCEEDED):
            return decision
        work = machine._Work(view, now)
        if work.node(fact.index).state is State.SUCCESS:
            work._ended.append(work.node(fact.index))
            work.settle()
        return machine.Decision(work.transitions, work.nodes, work.counts, work.timers)

    _wrapped(patch, machine, "advance", advance)


@mutant
def reports_of_old_attempts_are_heard(patch: pytest.MonkeyPatch) -> None:
    def advance(old: Any, view: Any, fact: Any, *, now: float) -> Any:
        state = view.node(fact.index).state
        if fact.event is Event.FAILED and state in (State.READY, State.RETRY):
            fact = machine.Fact(fact.index, fact.event)
        return old(view, fact, now=now)

    _wrapped(patch, machine, "advance", advance)


@mutant
def ignored_counts_as_success(patch: pytest.MonkeyPatch) -> None:
    for state in (State.QUEUED, State.STARTED):
        patch.setitem(states.TRANSITIONS, (state, Event.IGNORED), State.SUCCESS)  # type: ignore


@mutant
def a_replaced_node_tells_nobody(patch: pytest.MonkeyPatch) -> None:
    def end_pass(old: Any, work: Any, node: Any, tail: Any) -> None:
        old(work, node, tail)
        work._ended.pop()

    _wrapped(patch, machine._Work, "_end_pass", end_pass)


@mutant
def a_replaced_node_always_succeeds(patch: pytest.MonkeyPatch) -> None:
    def end_pass(old: Any, work: Any, node: Any, tail: Any) -> None:
        work._move(node, Event.RESOLVED, State.SUCCESS, machine.NO_CAUSE)

    _wrapped(patch, machine._Work, "_end_pass", end_pass)


@mutant
def errbacks_run_for_what_was_blocked(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(machine._HIT, (State.SKIPPED, On.FAILURE), True)


@mutant
def a_blocked_group_fails_its_join(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine._Work, "_blocked_from_before", lambda work, node: False)


@mutant
def poison_is_tried_for_ever(patch: pytest.MonkeyPatch) -> None:
    def node(old: Any, work: Any, index: int) -> Any:
        found = old(work, index)
        found.max_crashes = 1 << 30
        return found

    _wrapped(patch, machine._Work, "node", node)


@mutant
def the_cause_is_the_last_node_in_the_line(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine, "_root", lambda node: node.index)


@mutant
def a_revoked_node_fails_the_task_after_it(patch: pytest.MonkeyPatch) -> None:
    def give_up(old: Any, work: Any, node: Any) -> None:
        parents = [work._view_node(p).state for p, _ in work._view.parents(node.index)]
        if State.REVOKED in parents and node.kind == Kind.TASK:
            work._move(node, Event.FAILED, State.FAILURE, node.index)
        else:
            old(work, node)

    _wrapped(patch, machine._Work, "_give_up", give_up)


# --- of the compiler -------------------------------------------------------------------------


@mutant
def nested_groups_come_out_reversed(patch: pytest.MonkeyPatch) -> None:
    depth = [0]

    def members(old: Any, this: Any, *args: Any) -> None:
        parts = args[5]
        before = len(parts)
        depth[0] += 1
        old(this, *args)
        depth[0] -= 1
        if depth[0]:
            parts[before:] = parts[before:][::-1]

    _wrapped(patch, compiler._Compiler, "_members", members)


@mutant
def a_group_of_one_is_its_member(patch: pytest.MonkeyPatch) -> None:
    def group(old: Any, this: Any, sig: Any, source: Any, path: str, *rest: Any) -> Any:
        if len(sig.tasks) == 1:
            return this.element(sig.tasks[0], source, compiler._under(path, "g0"), *rest)
        return old(this, sig, source, path, *rest)

    _wrapped(patch, compiler._Compiler, "_group", group)


@mutant
def an_errback_is_called_for_each_failure(patch: pytest.MonkeyPatch) -> None:
    def errback(old: Any, this: Any, value: Any, fails: Any, *rest: Any) -> None:
        for fail in fails:
            old(this, value, (fail,), *rest)

    _wrapped(patch, compiler._Compiler, "_errback", errback)


@mutant
def immutable_tasks_get_the_input(patch: pytest.MonkeyPatch) -> None:
    def connect(old: Any, this: Any, index: int, source: Any, *, immutable: bool) -> None:
        old(this, index, source, immutable=False)

    _wrapped(patch, compiler._Compiler, "_connect", connect)


@mutant
def any_waits_for_all(patch: pytest.MonkeyPatch) -> None:
    old = compiler._need
    patch.setattr(compiler, "_need", lambda rule, n: n if rule == "any" else old(rule, n))


@mutant
def always_is_all(patch: pytest.MonkeyPatch) -> None:
    old = compiler._need
    patch.setattr(compiler, "_need", lambda rule, n: n if rule == "always" else old(rule, n))


@mutant
def a_callback_of_a_group_hangs_on_its_first_member(patch: pytest.MonkeyPatch) -> None:
    def links(old: Any, this: Any, sig: Any, part: Any, *rest: Any) -> None:
        tail = part.members[0].tail if part.members else part.tail
        old(this, sig, part._replace(tail=tail), *rest)

    _wrapped(patch, compiler._Compiler, "_links", links)


@mutant
def only_the_body_calls_the_errback_of_a_chord(patch: pytest.MonkeyPatch) -> None:
    def chord(old: Any, *args: Any) -> Any:
        part = old(*args)
        return part._replace(fails=part.fails[1:])

    _wrapped(patch, compiler._Compiler, "_chord", chord)


# --- the hunt --------------------------------------------------------------------------------


def _shows(seed: int) -> bool:
    """Whether canvas number `seed` shows a difference to the oracle."""
    number = random.Random(seed).randint
    canvas = flow_by(number) if seed % 5 == 4 else canvas_by(number, leaves=24, depth=5)
    try:
        expected = evaluate(canvas, play)
    except Undetermined:
        return False
    try:
        return bool(differences(drive(canvas, play, seed), expected))
    except Exception:
        return True


def test_the_healthy_code_differs_on_none_of_these_canvases() -> None:
    assert not [seed for seed in range(BOUND) if _shows(seed)]


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    caught = next((seed for seed in range(BOUND) if _shows(seed)), None)
    assert caught is not None, f"{name} survived {BOUND} canvases"
