"""The table of transitions: every pair is in it or is refused; every arrow can be taken."""

from __future__ import annotations

from typing import Any

import pytest

from flowq.core.graph import Kind, On
from flowq.core.machine import Decision, Fact, NodeState, OutEdge, advance, start
from flowq.core.states import (
    ACTIVE,
    RUN_TERMINAL,
    TERMINAL,
    TRANSITIONS,
    Event,
    RunState,
    State,
)
from flowq.errors import InvalidTransition

#: Events that a worker reports about an attempt.
REPORTED = (
    Event.BEGAN,
    Event.SUCCEEDED,
    Event.FAILED,
    Event.RETRIED,
    Event.LOST,
    Event.RETURNED,
    Event.IGNORED,
    Event.REPLACED,
)
#: Events that only follow from others; nobody sends them.
DERIVED = (Event.UNBLOCKED, Event.BLOCKED, Event.RESOLVED, Event.BROKEN)
PAIRS = [(state, event) for state in State for event in Event]


class Small:
    """A view of a few nodes: a parent (0) in a state, and a child (1) of a kind."""

    def __init__(self, state: State, *, kind: Kind = Kind.TASK, on: On = On.SUCCESS) -> None:
        self.states = [_node(0, Kind.TASK, state), _node(1, kind, State.PENDING, unmet=1)]
        self.on = on

    def node(self, index: int) -> NodeState:
        return NodeState(*(getattr(self.states[index], f) for f in NodeState.__struct_fields__))

    def out_edges(self, index: int) -> list[OutEdge]:
        return [OutEdge(1, self.on)] if index == 0 else []

    def parents(self, index: int) -> list[tuple[int, int]]:
        return [(0, self.on)] if index == 1 else []


def _node(index: int, kind: Kind, state: State, unmet: int = 0) -> NodeState:
    return NodeState(index, kind, state, 0, 1, 0, 0, unmet, 0, unmet, -1, 5, 0.0, 0.0)


def _arrow(before: State, event: Event) -> Decision:
    """Have the machine take one arrow, by a fact that a sender could give."""
    if event in DERIVED:
        ends = Event.FAILED if event in (Event.BLOCKED, Event.BROKEN) else Event.SUCCEEDED
        kind = Kind.JOIN if event in (Event.RESOLVED, Event.BROKEN) else Kind.TASK
        view = Small(State.STARTED, kind=kind)
        if event is Event.BROKEN:  # a member's failure, not one in front of the group
            return advance(Members(), Fact(1, ends, 1), now=5.0)
        return advance(view, Fact(0, ends, 1), now=5.0)
    attempt = 1 if event in REPORTED and before in ACTIVE else -1
    return advance(Small(before), Fact(0, event, attempt), now=5.0)


class Members(Small):
    """A join (0) numbered before its only member (1), as the compiler does."""

    def __init__(self) -> None:
        super().__init__(State.PENDING)
        self.states = [
            _node(0, Kind.JOIN, State.PENDING, unmet=1),
            _node(1, Kind.TASK, State.STARTED),
        ]

    def out_edges(self, index: int) -> list[OutEdge]:
        return [OutEdge(0, On.SUCCESS)] if index == 1 else []

    def parents(self, index: int) -> list[tuple[int, int]]:
        return [(1, On.SUCCESS)] if index == 0 else []


@pytest.mark.parametrize(("before", "event"), list(TRANSITIONS), ids=str)
def test_every_arrow_of_the_table_is_taken(before: State, event: Event) -> None:
    steps = [step for step in _arrow(before, event).transitions if step.event is event]
    assert [(step.before, step.after) for step in steps] == [(before, TRANSITIONS[before, event])]


@pytest.mark.parametrize(
    ("before", "event"), [pair for pair in PAIRS if pair not in TRANSITIONS], ids=str
)
def test_every_other_pair_is_refused_and_changes_nothing(before: State, event: Event) -> None:
    for attempt in (1, 0, -1):
        view = Small(before)
        if attempt < 0 and before not in TERMINAL and event is not Event.DUE:
            with pytest.raises(InvalidTransition, match=before) as refused:
                advance(view, Fact(0, event, attempt), now=5.0)
            assert (refused.value.node, refused.value.event) == (0, event)
        else:
            decision = advance(view, Fact(0, event, attempt), now=5.0)
            assert (decision.transitions, decision.counts, decision.timers) == ([], {}, [])
        assert view.states[0] == _node(0, Kind.TASK, before)


@pytest.mark.parametrize("event", REPORTED, ids=str)
@pytest.mark.parametrize("before", State, ids=str)
def test_a_report_about_another_attempt_is_discarded(before: State, event: Event) -> None:
    for attempt in (0, 2):
        decision = advance(Small(before), Fact(0, event, attempt), now=5.0)
        assert decision.discarded
        assert not decision.nodes


@pytest.mark.parametrize("event", REPORTED, ids=str)
@pytest.mark.parametrize("before", [s for s in State if s not in ACTIVE], ids=str)
def test_a_report_is_heard_only_while_its_attempt_is_out(before: State, event: Event) -> None:
    decision = advance(Small(before), Fact(0, event, 1), now=5.0)
    assert decision.discarded
    assert not decision.transitions


def test_terminal_states_are_left_by_reopening_only() -> None:
    leaving = {event for state, event in TRANSITIONS if state in TERMINAL}
    assert leaving == {Event.REOPENED}
    assert (State.SUCCESS, Event.REOPENED) not in TRANSITIONS


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.PENDING}
    while more := {a for (b, _), a in TRANSITIONS.items() if b in reached} - reached:
        reached |= more
    assert reached == set(State)
    assert {before for before, _ in TRANSITIONS} == set(State) - {State.SUCCESS}


def test_each_live_state_reaches_a_terminal_one_in_the_words_of_its_docs() -> None:
    for state in set(State) - TERMINAL:
        after = {a for (b, _), a in TRANSITIONS.items() if b is state}
        assert after & (TERMINAL | {State.READY, State.QUEUED})


def test_run_states_that_end_a_run() -> None:
    assert {RunState.SUCCESS, RunState.FAILURE, RunState.CANCELLED} == RUN_TERMINAL
    assert {State.SUCCESS, State.FAILURE, State.SKIPPED, State.REVOKED} == TERMINAL


def test_start_leaves_alone_what_is_not_waiting() -> None:
    view: Any = Small(State.QUEUED)
    assert start(view, [0, 1], now=5.0).transitions == []
