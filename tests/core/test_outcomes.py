"""Random canvases: what compiler and machine make of them is what the oracle says.

`FLOWQ_CANVASES` sets how many (200 by default, 5,000 in the campaign; half as many flows), and
`FLOWQ_SEED` which. Run with ``-s`` to see the seed and the histogram of their shapes.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, note, seed, settings
from hypothesis import strategies as st

from flowq.core import machine
from flowq.core.canvas import Signature
from flowq.core.flow import Flow
from flowq.core.states import TERMINAL, RunState, State
from tests.canvases import (
    SHAPES,
    Undetermined,
    canvas_by,
    canvases,
    flow_by,
    flows,
    histogram,
    play,
)
from tests.driver import Driver, drive
from tests.oracle import UNKNOWN, Expected, Subset, evaluate

COUNT = int(os.environ.get("FLOWQ_CANVASES", "200"))
SEED = int(os.environ.get("FLOWQ_SEED") or random.SystemRandom().randrange(2**32))

PROFILE = settings(
    max_examples=COUNT,
    deadline=None,
    print_blob=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def matches(expected: Any, actual: Any) -> bool:
    """Whether a value is what was expected, as far as that is determined."""
    if expected is UNKNOWN:
        return True
    if isinstance(expected, Subset):
        rest = iter(expected.of)
        ordered = all(any(matches(one, value) for one in rest) for value in actual)
        return ordered and len(actual) >= expected.size
    if isinstance(expected, dict):
        return (
            isinstance(actual, dict)
            and expected.keys() == actual.keys()
            and all(matches(item, actual[key]) for key, item in expected.items())
        )
    if isinstance(expected, list | tuple):
        return (
            isinstance(actual, list)
            and len(expected) == len(actual)
            and all(map(matches, expected, actual))
        )
    return bool(expected == actual)


def differences(driver: Driver, expected: Expected) -> list[str]:
    """Everything in which a finished run is not what the oracle says."""
    found = []
    # the gate in front of a canvas in a flow is the compiler's own affair
    paths = {n.path: i for i, n in enumerate(driver.nodes) if not n.name.startswith("gate")}
    twice = [path for path, n in Counter(n.path for n in driver.nodes).items() if n > 1]
    found += [f"path {path!r} used twice" for path in twice]
    for path in sorted(paths.keys() ^ expected.nodes.keys()):
        found += [f"{path!r} only in the {'graph' if path in paths else 'oracle'}"]
    for path, out in expected.nodes.items():
        if path in paths:
            found += _node_differences(driver, paths[path], out, expected)
    names = Counter(node.name for node in driver.nodes[: driver.compiled])
    found += [f"name {name!r} used {n} times" for name, n in names.items() if n > 1]
    if driver.errbacks() != expected.errbacks:
        found.append(f"errbacks called: {driver.errbacks()}, not {expected.errbacks}")
    results = [driver.states[i] for i in driver.results]
    won = RunState.SUCCESS if machine.outcome(results, driver) else RunState.FAILURE
    if expected.run not in (UNKNOWN, won):
        found.append(f"run ended {won}, not {expected.run}")
    elif expected.run is RunState.SUCCESS:
        values = [driver.values.get(s.index) if s.state == State.SUCCESS else None for s in results]
        value = values[0] if len(values) == 1 else values
        if not matches(expected.result, value):
            found.append(f"run's result is {value!r}, not {expected.result!r}")
    return found


def _node_differences(driver: Driver, index: int, out: Any, expected: Expected) -> list[str]:
    state, path = driver.states[index], driver.nodes[index].path
    found = []
    if state.state not in TERMINAL:
        found.append(f"{path!r} still {state.state}")
    if state.state is not out.state:
        return [*found, f"{path!r} ended {state.state}, not {out.state}"]
    if out.state is State.SUCCESS:
        if not matches(out.value, driver.values[index]):
            found.append(f"{path!r} = {driver.values[index]!r}, not {out.value!r}")
    elif out.cause is not UNKNOWN:
        cause = driver.nodes[state.cause].path if state.cause >= 0 else None
        if cause != out.cause:
            found.append(f"{path!r} {state.state} because of {cause!r}, not {out.cause!r}")
    if state.attempt != expected.attempts[path]:
        found.append(f"{path!r} ran {state.attempt} times, not {expected.attempts[path]}")
    return found


def check(canvas: Signature | Flow, order: int) -> None:
    """Drive a canvas and compare; raises Undetermined where the oracle cannot say the outcome."""
    expected = evaluate(canvas, play)
    driver = drive(canvas, play, order)
    assert not (found := differences(driver, expected)), "\n".join(found[:12])


def check_or_pass(canvas: Signature | Flow, order: int) -> None:
    """`check` for what Hypothesis made: what the oracle cannot say does not count."""
    try:
        check(canvas, order)
    except Undetermined:
        assume(False)


def top_up(shapes: Counter[str], wanted: str, make: Callable[..., Signature | Flow]) -> None:
    """Check one canvas more of a shape that chance has left out, so that none is missing."""
    for number in range(0 if shapes[wanted] else 5000):
        canvas = make(random.Random(SEED + number).randint)
        if (seen := histogram(canvas))[wanted]:
            with suppress(Undetermined):  # then the next one that has it
                check(canvas, number)
                shapes.update(seen)
                break
    assert shapes[wanted], f"no canvas has the shape {wanted}"


@pytest.fixture(scope="module")
def shapes() -> Any:
    """What the canvases of this module looked like; printed at its end."""
    seen: Counter[str] = Counter()
    yield seen
    print(f"\nshapes of the canvases (FLOWQ_SEED={SEED}):")  # noqa: T201
    for shape in sorted(seen):
        print(f"  {shape:22}{seen[shape]:8}")  # noqa: T201


def test_random_canvases_end_as_the_oracle_says(shapes: Counter[str]) -> None:
    @seed(SEED)
    @PROFILE
    @given(canvases(), st.integers(0, 2**32))
    def one(canvas: Signature, order: int) -> None:
        note(f"FLOWQ_SEED={SEED}, order {order}: {canvas!r}")
        shapes["canvases"] += 1
        shapes.update(histogram(canvas))
        check_or_pass(canvas, order)

    one()
    for shape in SHAPES:
        if not shape.startswith("flow"):
            top_up(shapes, shape, canvas_by)


def test_random_flows_end_as_the_oracle_says(shapes: Counter[str]) -> None:
    @seed(SEED)
    @settings(PROFILE, max_examples=max(COUNT // 2, 1))
    @given(flows(), st.integers(0, 2**32))
    def one(flow: Flow, order: int) -> None:
        note(f"FLOWQ_SEED={SEED}, order {order}: {flow.to_dict()!r}")
        shapes["flows"] += 1
        shapes.update(histogram(flow))
        check_or_pass(flow, order)

    one()
    for shape in SHAPES:
        if shape.startswith("flow"):
            top_up(shapes, shape, flow_by)
