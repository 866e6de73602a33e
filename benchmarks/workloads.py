"""W1 to W6: what is composed, what has to come out, and which part of it is on the clock.

One function per workload, the same for both engines, because both speak Celery's API. The clock
starts when `apply_async` is called and stops when the result is in the caller's hands. Composing is
outside the clock (`build_s`), except in W5, where it is part of submitting many workflows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.bodies import WIDE, fibo, layers_value

LIGHT, LIGHT_VALUE = 10, 55
LONG, LONG_VALUE = 33, 3_524_578


class WrongResult(Exception):
    """Raised when an engine returned something else than the workload's known result."""


class Engine(Protocol):
    """What a workload needs: Celery's primitives, the tasks, and a DAG where there is one."""

    chain: Callable[..., Any]
    group: Callable[..., Any]
    chord: Callable[..., Any]
    tasks: Mapping[str, Any]
    durable_inc: Any

    def layers(self, count: int) -> Any:
        """The W4 graph, or None where the engine cannot express it."""

    def submit(self, graph: Any) -> Any:
        """Start what `layers` built; the answer has `.result(timeout=)`."""


@dataclass(frozen=True)
class Workload:
    """A workload's name, its default size, how many tasks that is, and what runs it."""

    name: str
    default: int
    tasks: Callable[[int], int]
    run: Callable[[Engine, int, float], dict[str, Any]]


def _check(value: Any, expected: Any) -> None:
    if value != expected:
        raise WrongResult(f"expected {expected!r}, got {value!r:.300}")


def _timed(canvas: Any, expected: Any, timeout: float) -> dict[str, Any]:
    """Submit, wait, check. `propagate=False` because Celery's default is quadratic on chords."""
    start = time.perf_counter()
    result = canvas.apply_async()
    submitted = time.perf_counter()
    value = result.get(timeout=timeout, propagate=False)
    end = time.perf_counter()
    _check(value, expected)
    return {"wall_s": end - start, "submit_s": submitted - start}


def _composed(
    compose: Callable[[Engine, int], Any], expected: Callable[[int], Any]
) -> Callable[[Engine, int, float], dict[str, Any]]:
    def run(engine: Engine, n: int, timeout: float) -> dict[str, Any]:
        start = time.perf_counter()
        canvas = compose(engine, n)
        built = time.perf_counter() - start
        return {**_timed(canvas, expected(n), timeout), "build_s": built}

    return run


def _sequence(size: int) -> Callable[[Engine, int], Any]:
    return lambda engine, n: engine.chain(*[engine.tasks["fibo"].si(size) for _ in range(n)])


def _parallel(size: int) -> Callable[[Engine, int], Any]:
    def compose(engine: Engine, n: int) -> Any:
        header = [engine.tasks["fibo"].si(size) for _ in range(n)]
        return engine.chord(header, engine.tasks["total"].s())

    return compose


def _steps(engine: Engine, n: int) -> Any:
    inc = engine.tasks["inc"]
    return engine.chain(inc.s(0), *[inc.s() for _ in range(n - 1)])


def _fan(engine: Engine, n: int) -> Any:
    ident = engine.tasks["ident"]
    return engine.chord([ident.s(i) for i in range(n)], engine.tasks["total"].s())


def _with_ideal(
    run: Callable[[Engine, int, float], dict[str, Any]], workers: int
) -> Callable[[Engine, int, float], dict[str, Any]]:
    """Add what the bodies alone need on `workers` idle cores, timed in this process just before."""

    def timed(engine: Engine, n: int, timeout: float) -> dict[str, Any]:
        solo = min(_seconds(lambda: fibo(LONG)) for _ in range(2))
        measured = run(engine, n, timeout)
        ideal = solo * -(-n // workers)
        return {**measured, "ideal_s": ideal, "overhead_s": measured["wall_s"] - ideal}

    return timed


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _layers(engine: Engine, n: int, timeout: float) -> dict[str, Any]:
    start = time.perf_counter()
    graph = engine.layers(n)
    if graph is None:
        return {"skipped": "this engine's canvas cannot express a layered DAG"}
    built = time.perf_counter()
    run = engine.submit(graph)
    submitted = time.perf_counter()
    value = run.result(timeout=timeout)
    end = time.perf_counter()
    _check(value, layers_value(n))
    return {"wall_s": end - built, "submit_s": submitted - built, "build_s": built - start}


def _many(engine: Engine, n: int, timeout: float) -> dict[str, Any]:
    """a -> [b, c, d] -> e, n times, all submitted before the first is awaited.

    A workflow's latency runs from its own submission to the clock that its last body read.
    """
    inc, stamp = engine.tasks["inc"], engine.tasks["stamp"]
    start = time.perf_counter()
    began, results = [], []
    for i in range(n):
        canvas = engine.chain(inc.s(i), engine.group(inc.s(), inc.s(), inc.s()), stamp.s())
        began.append(time.time())
        results.append(canvas.apply_async())
    submitted = time.perf_counter()
    values = [result.get(timeout=timeout, propagate=False) for result in results]
    end = time.perf_counter()
    for i, value in enumerate(values):
        _check(isinstance(value, list) and value[0], 3 * (i + 2))
    waits = [value[1] - since for value, since in zip(values, began, strict=True)]
    measured = {"wall_s": end - start, "submit_s": submitted - start}
    return {**measured, **_latency(waits), "workflows_per_s": n / (end - start)}


def _one_by_one(task: Callable[[Engine], Any]) -> Callable[[Engine, int, float], dict[str, Any]]:
    def run(engine: Engine, n: int, timeout: float) -> dict[str, Any]:
        call = task(engine)
        waits, submits = [], []
        for i in range(n):
            start = time.perf_counter()
            result = call.delay(i)
            submits.append(time.perf_counter() - start)
            value = result.get(timeout=timeout)
            waits.append(time.perf_counter() - start)
            _check(value, i + 1)
        return {"wall_s": sum(waits), "submit_s": sum(submits), **_latency(waits)}

    return run


def _latency(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {
        "p50_ms": ordered[round(last * 0.50)] * 1e3,
        "p99_ms": ordered[round(last * 0.99)] * 1e3,
    }


def _workload(
    name: str, default: int, run: Callable[[Engine, int, float], dict[str, Any]], **more: Any
) -> Workload:
    return Workload(name, default, more.get("tasks", lambda n: n), run)


WORKLOADS = {
    workload.name: workload
    for workload in (
        _workload("W1s", 40, _composed(_sequence(LIGHT), lambda n: LIGHT_VALUE)),
        _workload(
            "W1p",
            40,
            _composed(_parallel(LIGHT), lambda n: LIGHT_VALUE * n),
            tasks=lambda n: n + 1,
        ),
        _workload("W1l", 10, _with_ideal(_composed(_sequence(LONG), lambda n: LONG_VALUE), 1)),
        _workload(
            "W1lp",
            10,
            _with_ideal(_composed(_parallel(LONG), lambda n: LONG_VALUE * n), 2),
            tasks=lambda n: n + 1,
        ),
        _workload("W2", 1000, _composed(_steps, lambda n: n)),
        _workload("W3", 1000, _composed(_fan, lambda n: n * (n - 1) // 2), tasks=lambda n: n + 1),
        _workload("W4", 50, _layers, tasks=lambda n: n * WIDE + 1),
        _workload("W5", 1000, _many, tasks=lambda n: n * 5),
        _workload("W6", 500, _one_by_one(lambda engine: engine.tasks["inc"])),
        _workload("W6d", 500, _one_by_one(lambda engine: engine.durable_inc)),
    )
}
FAMILIES = {"W1": ["W1s", "W1p", "W1l", "W1lp"]}


def names(workload: str) -> list[str]:
    """The workloads that a name on the command line stands for: itself, or the four of W1."""
    return FAMILIES.get(workload, [workload])
