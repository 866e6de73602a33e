"""`apply()` of random canvases agrees with the reference evaluator: same outcome, same calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hypothesis import HealthCheck, assume, given, settings

from flowq import Flowq, Signature, Task, errors
from flowq.app.result import EagerResult
from flowq.core import canvas as cv
from flowq.core.states import RunState
from tests import canvases
from tests.oracle import UNKNOWN, Act, Subset, evaluate

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _blurred(value: Any) -> Any:
    """A value with errors, and ids of what failed, as UNKNOWN: both sides show them differently."""
    if isinstance(value, Exception) or (isinstance(value, str) and _UUID.fullmatch(value)):
        return UNKNOWN
    if isinstance(value, Mapping):
        return UNKNOWN if set(value) == {"error"} else {k: _blurred(v) for k, v in value.items()}
    return [_blurred(v) for v in value] if isinstance(value, list | tuple) else value


def _play(task: str, args: Any, kwargs: Any) -> Act:
    """What a task does; a run in one process cannot revoke, so such tasks fail."""
    act = canvases.play(task, _blurred(args), kwargs)
    kind = "fail" if act.kind.startswith("revoke") else act.kind
    return Act(kind, act.value)


class _Counted(Task):
    started = 0

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        _Counted.started += 1


def _make_app() -> Flowq:
    app = Flowq("eager", set_as_current=False, task_cls=_Counted)

    def body(self: Any, *args: Any, **kwargs: Any) -> Any:
        act = _play(self.name, list(args), kwargs)
        if act.kind == "ok":
            return act.value
        if act.kind == "ignore":
            raise errors.Ignore
        if act.kind == "replace":
            return self.replace(act.value)
        raise ValueError(act.value)

    for name in canvases.TASKS:
        app.task(body, name=name, bind=True)
    return app


_app = _make_app()


def _same(expected: Any, actual: Any) -> bool:
    if expected is UNKNOWN:
        return True
    if isinstance(expected, Subset):
        rest = iter(actual)
        hits = sum(any(_same(e, a) for e in expected.of) for a in rest)
        return hits == len(actual) >= expected.size
    if isinstance(expected, Mapping) and set(expected) == {"error"}:
        return isinstance(actual, Exception)
    if isinstance(expected, list | tuple):
        same_kind = isinstance(actual, list | tuple) and len(actual) == len(expected)
        return same_kind and all(_same(e, a) for e, a in zip(expected, actual, strict=True))
    if isinstance(expected, Mapping):
        return set(expected) == set(actual) and all(_same(expected[k], actual[k]) for k in expected)
    return bool(expected == actual)


def _outcome(result: Any) -> tuple[RunState, Any]:
    if isinstance(result, EagerResult) and result.state == "IGNORED":
        return RunState.SUCCESS, None
    try:
        return RunState.SUCCESS, result.get()
    except errors.Ignore:
        return RunState.SUCCESS, None
    except Exception:
        return RunState.FAILURE, None


@given(canvases.canvases(leaves=24, depth=5))
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_apply_agrees_with_the_oracle(canvas: cv.Signature) -> None:
    try:
        expected = evaluate(canvas, _play)
    except canvases.Undetermined:
        assume(False)
    _Counted.started = 0
    result = Signature.from_dict(canvas, app=_app).apply()
    state, value = _outcome(result)
    assert state == expected.run
    assert _same(expected.result, value), (expected.result, value)
    assert _Counted.started == sum(1 for n in expected.attempts.values() if n)


def test_replace_is_raised_or_returned_here_as_in_a_worker() -> None:
    app = Flowq("eager replace", set_as_current=False)

    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    @app.task
    def fail() -> None:
        raise ValueError("in its place")

    @app.task(bind=True)
    def swap(self: Any, x: int) -> Any:
        raise self.replace(add.s(x, 10))

    @app.task(bind=True)
    def bad(self: Any) -> Any:
        self.replace(fail.s())

    assert swap.apply((1,)).get() == 11
    assert (swap.s(1) | add.s(5)).apply().get() == 16
    assert isinstance(bad.apply().result, ValueError)
