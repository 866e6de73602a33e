"""Counts the arrows of TRANSITIONS that the core tests take, and reports any never taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from flowq.core import machine
from flowq.core.states import TRANSITIONS, Event, State

TAKEN: Counter[tuple[State, Event]] = Counter()


@pytest.fixture(autouse=True, scope="session")
def _count_arrows() -> Iterator[None]:
    move = machine._Work._move

    def counting(work: Any, node: Any, event: Event, after: State, cause: int) -> None:
        before = node.state
        move(work, node, event, after, cause)
        TAKEN[before, event] += 1

    machine._Work._move = counting  # type: ignore[method-assign]
    yield
    machine._Work._move = move  # type: ignore[method-assign]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    never = [arrow for arrow in TRANSITIONS if not TAKEN[arrow]]
    if TAKEN and never:
        shown = ", ".join(f"{state} --{event}-->" for state, event in never)
        terminalreporter.write_line(f"arrows of TRANSITIONS not taken by these tests: {shown}")
    elif TAKEN:
        terminalreporter.write_line(f"all {len(TRANSITIONS)} arrows of TRANSITIONS taken")
