"""The machine, one rule a test: facts in, decisions compared."""

from __future__ import annotations

import random
from typing import Any

import pytest

from flowq.core import machine
from flowq.core.canvas import Signature, at_least, chain, chord, expand, group
from flowq.core.compiler import compile_canvas
from flowq.core.graph import Kind
from flowq.core.machine import Fact, Timer
from flowq.core.states import Event, State
from tests.canvases import canvas_by, play
from tests.driver import Binder, Driver


class Bench(Driver):
    """A driver moved by hand: nodes by path, one fact at a time."""

    def __init__(self, canvas: Signature) -> None:
        super().__init__(compile_canvas(canvas, Binder()), play, random.Random(0), 0.0)
        self.begun = machine.start(self, range(len(self.nodes)), now=self.now)
        self.write(self.begun)

    def at(self, path: str) -> int:
        return next(i for i, node in enumerate(self.nodes) if node.path == path)

    def tell(self, path: str, event: Event, delay: float = 0.0) -> machine.Decision:
        """Report something about the current attempt, dispatching it first if need be."""
        index = self.at(path)
        if self.states[index].state is State.READY:
            self.feed(Fact(index, Event.DISPATCHED))
        self.values.setdefault(index, path)
        return self.feed(Fact(index, event, self.states[index].attempt, delay))

    def of(self, *paths: str) -> list[State]:
        return [self.states[self.at(path)].state for path in paths]

    def cause(self, path: str) -> str | None:
        cause = self.states[self.at(path)].cause
        return self.nodes[cause].path if cause >= 0 else None


def task(name: str = "t", **options: Any) -> Signature:
    return Signature(name, (), {"v": name}, options)


S, F, SKIP, P, R = State.SUCCESS, State.FAILURE, State.SKIPPED, State.PENDING, State.READY


def test_start_readies_what_waits_for_nothing_and_only_once() -> None:
    bench = Bench(task() | group(task(), task()))
    assert [(s.node, s.after) for s in bench.begun.transitions] == [(bench.at("c0"), R)]
    again = machine.start(bench, range(len(bench.nodes)), now=9.0)
    assert again.transitions == []
    assert again.counts == {}


def test_a_success_unblocks_the_next_node_and_counts_it() -> None:
    bench = Bench(task() | task())
    decision = bench.tell("c0", Event.SUCCEEDED)
    assert [(t.node, t.event) for t in decision.transitions] == [
        (0, Event.SUCCEEDED),
        (1, Event.UNBLOCKED),
    ]
    assert decision.counts == {1: (1, 1)}


def test_a_join_fires_in_the_decision_of_its_last_member() -> None:
    bench = Bench(chord([task(), task()], task()))
    bench.tell("g1", Event.SUCCEEDED)
    assert bench.of("j", "b") == [P, P]
    bench.tell("g0", Event.SUCCEEDED)
    assert bench.of("j", "b") == [S, R]
    assert bench.values[bench.at("j")] == ["g0", "g1"]


@pytest.mark.parametrize(
    ("rule", "ends", "fires"),
    [("any", "fs", 2), ("any", "s", 1), (at_least(2), "sfs", 3), ("always", "fff", 3)],
)
def test_join_rules_fire_at(rule: str, ends: str, fires: int) -> None:
    bench = Bench(chord([task(), task(), task()], task(), join=rule))
    for i, end in enumerate(ends, 1):
        bench.tell(f"g{i - 1}", Event.SUCCEEDED if end == "s" else Event.FAILED)
        assert (bench.of("j") == [S]) == (i == fires)


@pytest.mark.parametrize(("rule", "ends"), [("all", "sfs"), ("any", "fff"), (at_least(2), "ffs")])
def test_a_join_that_cannot_fire_fails_once_all_have_ended(rule: str, ends: str) -> None:
    bench = Bench(chord([task(), task(), task()], task(), join=rule))
    for i, end in enumerate(ends):
        assert bench.of("j", "b") == [P, P]
        bench.tell(f"g{i}", Event.SUCCEEDED if end == "s" else Event.FAILED)
    assert bench.of("j", "b") == [F, SKIP]
    assert bench.cause("j") == f"g{ends.index('f')}"
    assert bench.cause("b") == "j"


def test_a_join_is_skipped_not_failed_when_its_whole_group_was_blocked() -> None:
    bench = Bench(task() | chord([task(), chain(task(), task())], task(), join="always"))
    bench.tell("c0", Event.FAILED)
    assert bench.of("c1/g0", "c1/g1/c1", "c1/j", "c1/b") == [SKIP] * 4
    assert bench.cause("c1/b") == "c0"


def test_an_errback_waits_for_failure_and_not_for_retry() -> None:
    bench = Bench(task().on_error(task()))
    bench.tell("", Event.RETRIED, 3.0)
    assert bench.of("", "e0") == [State.RETRY, P]
    bench.feed(Fact(0, Event.DUE))
    bench.tell("", Event.FAILED)
    assert bench.of("", "e0") == [F, R]


@pytest.mark.parametrize("end", [Event.SUCCEEDED, Event.IGNORED, Event.REVOKED])
def test_an_errback_that_is_not_needed_is_skipped_without_a_cause(end: Event) -> None:
    bench = Bench(task().on_error(chord([task(), task()], task().on_error(task()))))
    if end is Event.REVOKED:
        bench.feed(Fact(0, end))
    else:
        bench.tell("", end)
    paths = [node.path for node in bench.nodes if node.path]
    assert bench.of(*paths) == [SKIP] * 5
    assert [bench.cause(path) for path in paths] == [None] * 5


def test_a_retry_sets_a_timer_counts_and_keeps_the_attempt() -> None:
    bench = Bench(task())
    bench.now = 100.0
    decision = bench.tell("", Event.RETRIED, 30.0)
    assert decision.timers == [Timer(0, "retry", 130.0)]
    assert (bench.states[0].retries, bench.states[0].attempt) == (1, 1)
    bench.feed(Fact(0, Event.DUE))
    bench.feed(Fact(0, Event.DISPATCHED))
    assert bench.states[0].attempt == 2


def test_a_lost_attempt_is_tried_again_up_to_the_limit() -> None:
    bench = Bench(task().on_error(task()))
    for crashes in range(1, 6):
        bench.tell("", Event.LOST)
        assert (bench.states[0].crashes, bench.of("")) == (crashes, [R])
    bench.tell("", Event.LOST)
    assert bench.of("", "e0") == [F, R]


def test_a_task_that_must_not_run_twice_fails_at_the_first_loss() -> None:
    bench = Bench(task())
    bench.states[0].max_crashes = 0
    bench.tell("", Event.LOST)
    assert bench.of("") == [F]


def test_what_is_handed_back_counts_nothing() -> None:
    bench = Bench(task())
    bench.tell("", Event.RETURNED)
    state = bench.states[0]
    assert (state.state, state.retries, state.crashes) == (R, 0, 0)


def test_an_ignored_node_is_its_own_cause() -> None:
    bench = Bench(task() | task())
    bench.tell("c0", Event.IGNORED)
    assert bench.of("c0", "c1") == [SKIP, SKIP]
    assert (bench.cause("c0"), bench.cause("c1")) == ("c0", "c0")


def test_revoking_a_waiting_node_skips_what_follows_at_once() -> None:
    bench = Bench(task() | task() | task())
    bench.feed(Fact(bench.at("c1"), Event.REVOKED))
    assert bench.of("c1", "c2") == [State.REVOKED, SKIP]
    bench.tell("c0", Event.SUCCEEDED)
    assert bench.of("c0", "c1") == [S, State.REVOKED]


def test_a_countdown_waits_for_its_timer_after_its_parents() -> None:
    bench = Bench(task() | task(countdown=60))
    bench.now = 1000.0
    decision = bench.tell("c0", Event.SUCCEEDED)
    assert decision.timers == [Timer(1, "eta", 1060.0)]
    assert bench.of("c1") == [P]
    bench.feed(Fact(1, Event.DUE))
    assert bench.of("c1") == [R]


def test_an_eta_in_the_past_does_not_wait() -> None:
    bench = Bench(task() | task(eta="2001-09-09T01:46:41+00:00"))
    bench.now = 2e9
    bench.tell("c0", Event.SUCCEEDED)
    assert bench.of("c1") == [R]


def test_a_timer_that_comes_too_early_changes_nothing() -> None:
    bench = Bench(task() | task(countdown=60))
    assert bench.feed(Fact(1, Event.DUE)).transitions == []
    assert bench.of("c1") == [P]


def test_an_expiry_is_dated_when_the_node_becomes_ready() -> None:
    bench = Bench(task() | task(expires=5))
    bench.now = 50.0
    assert bench.tell("c0", Event.SUCCEEDED).timers == [Timer(1, "expires", 55.0)]
    bench.feed(Fact(1, Event.FAILED))
    assert bench.of("c1") == [F]


def _replace(bench: Bench, path: str, canvas: Signature) -> None:
    bench.feed(Fact(bench.at(path), Event.DISPATCHED))
    index = bench.at(path)
    bench.fragments[index, bench.states[index].attempt] = canvas
    bench.deliver(Fact(index, Event.REPLACED, bench.states[index].attempt))


def test_a_replaced_node_waits_for_its_fragment_and_keeps_its_edges() -> None:
    bench = Bench(task() | task().on_error(task()) | task())
    bench.tell("c0", Event.SUCCEEDED)
    _replace(bench, "c1", chain(task("x"), task("y")))
    assert bench.states[1].kind == Kind.PASS
    assert bench.of("c1", "c1/r/c0", "c1/r/c1", "c2") == [P, R, P, P]
    bench.tell("c1/r/c0", Event.SUCCEEDED)
    bench.tell("c1/r/c1", Event.SUCCEEDED)
    assert bench.of("c1", "c1/e0", "c2") == [S, SKIP, R]
    assert bench.values[1] == "c1/r/c1"


@pytest.mark.parametrize(
    ("end", "state", "errback"),
    [
        (Event.FAILED, F, R),
        (Event.IGNORED, SKIP, SKIP),
        (Event.REVOKED, State.REVOKED, SKIP),
    ],
)
def test_a_replaced_node_ends_as_the_cause_of_its_fragment(
    end: Event, state: State, errback: State
) -> None:
    bench = Bench(task().on_error(task()))
    _replace(bench, "", chain(task("x"), task("y")))
    if end is Event.REVOKED:
        bench.feed(Fact(bench.at("r/c0"), end))
    else:
        bench.tell("r/c0", end)
    assert bench.of("", "r/c1", "e0") == [state, SKIP, errback]
    assert bench.cause("") == "r/c0"


def test_replacing_by_a_group_of_none_ends_at_once() -> None:
    bench = Bench(task() | task())
    _replace(bench, "c0", group())
    assert bench.of("c0", "c0/r/j", "c1") == [S, S, R]
    assert bench.values[0] == []


def test_reports_about_a_replaced_attempt_come_too_late() -> None:
    bench = Bench(task())
    _replace(bench, "", task("x"))
    for event in (Event.SUCCEEDED, Event.FAILED, Event.LOST, Event.REPLACED, Event.RETRIED):
        assert bench.tell("", event).discarded
    assert bench.of("") == [P]


@pytest.mark.parametrize("late", [Event.SUCCEEDED, Event.FAILED, Event.RETRIED, Event.IGNORED])
@pytest.mark.parametrize("over", [Event.LOST, Event.RETURNED, Event.RETRIED])
def test_a_late_report_about_an_attempt_that_is_over_is_discarded(over: Event, late: Event) -> None:
    bench = Bench(task())
    bench.tell("", over)
    assert bench.feed(Fact(0, late, 1)).discarded


def test_every_fact_may_arrive_twice() -> None:
    bench = Bench(chord([task(), task()], task()))
    bench.tell("g0", Event.SUCCEEDED)
    before = [machine.NodeState(*_fields(state)) for state in bench.states]
    assert bench.tell("g0", Event.SUCCEEDED).discarded
    assert bench.states == before


def _fields(state: Any) -> list[Any]:
    return [getattr(state, name) for name in state.__struct_fields__]


def test_a_decision_leaves_the_view_as_it_was() -> None:
    bench = Bench(task() | group(task(), task()))
    bench.feed(Fact(0, Event.DISPATCHED))
    before = [machine.NodeState(*_fields(state)) for state in bench.states]
    machine.advance(bench, Fact(0, Event.SUCCEEDED, 1), now=1.0)
    assert bench.states == before


def test_a_failure_before_ten_thousand_chained_nodes_needs_no_stack() -> None:
    bench = Bench(chain(task(), *(task() for _ in range(10_000))))
    decision = bench.tell("c0", Event.FAILED)
    assert len(decision.transitions) == 10_001
    assert bench.of("c10000") == [SKIP]


def test_outcome_reads_the_result_nodes_and_their_causes() -> None:
    for end, won in [(Event.SUCCEEDED, True), (Event.FAILED, False), (Event.IGNORED, True)]:
        bench = Bench(task() | expand(task()))
        bench.tell("c0", end)
        if end is Event.SUCCEEDED:
            _replace(bench, "c1", group())
        results = [bench.states[i] for i in bench.results]
        assert machine.outcome(results, bench) is won


def test_the_order_of_events_changes_no_state() -> None:
    for number in range(40):
        canvas = canvas_by(random.Random(number).randint, leaves=16)
        ends = []
        for seed in range(3):
            driver = Driver(compile_canvas(canvas, Binder()), play, random.Random(seed))
            driver.run()
            states = zip(driver.nodes, driver.states)
            ends.append({n.path: (s.state, s.attempt) for n, s in states if "/r" not in n.path})
        assert ends[0] == ends[1] == ends[2]
