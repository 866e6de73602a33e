"""Who makes a turn of the embedded engine, and what is answered without a look at the store."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from flowq import Flowq, chain, errors, group
from flowq.app.driving import DRIVE_SECONDS
from flowq.app.pace import LONGEST_GAP, Pace
from flowq.app.undisturbed import Undisturbed
from flowq.store import Store
from tests.rig import until


@pytest.fixture
def app(store_url: str) -> Iterator[Flowq]:
    app = Flowq(
        "turns", store=store_url, worker_pool="threads", worker_concurrency=2, set_as_current=False
    )

    @app.task(name="turns.inc", durable=True)
    def inc(x: int) -> int:
        return x + 1

    @app.task(name="turns.more")
    def more(x: int) -> str:
        return str(inc.delay(x).id)

    @app.task(name="turns.large")
    def large(size: int) -> str:
        return "x" * size

    @app.task(name="turns.fails")
    def fails() -> None:
        raise ValueError("no")

    yield app
    app.close()


class _Reads:
    """Counts statements that read the store in the thread that made it."""

    def __init__(self, app: Flowq, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        store, me = app._engine().store, threading.get_ident()
        rows = store.rows

        def counted(*args: Any) -> Any:
            self.count += threading.get_ident() == me
            return rows(*args)

        patch.setattr(store, "rows", counted)


def test_many_submissions_without_a_wait_between_them(app: Flowq) -> None:
    inc = app.tasks["turns.inc"]
    results = [chain(inc.s(i), group(inc.s(), inc.s()), inc.si(i)).delay() for i in range(50)]
    assert [result.get(timeout=60) for result in results] == [i + 1 for i in range(50)]


def test_tasks_submit_while_their_program_submits(app: Flowq) -> None:
    results = [app.tasks["turns.more"].s(i).delay() for i in range(30)]
    ids = [result.get(timeout=60) for result in results]
    assert [app.AsyncResult(each).get(timeout=60) for each in ids] == [i + 1 for i in range(30)]


def test_threads_submit_and_wait_side_by_side(app: Flowq) -> None:
    inc, found = app.tasks["turns.inc"], {}

    def work(first: int) -> None:
        found[first] = [inc.delay(i).get(timeout=60) for i in range(first, first + 10)]

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [i + 1 for i in range(n, n + 10)] for n in (0, 100, 200)}


def test_what_passed_through_this_process_is_not_read_again(
    app: Flowq, monkeypatch: pytest.MonkeyPatch
) -> None:
    inc = app.tasks["turns.inc"]
    inc.delay(0).get(timeout=60)
    reads = _Reads(app, monkeypatch)
    result = inc.delay(1)
    wait_for_end(result)
    reads.count = 0
    assert result.get(timeout=60) == 2
    assert reads.count == 0
    assert result.state == "SUCCESS"
    assert result.name == "turns.inc"
    assert result.date_done is not None
    assert reads.count > 0  # there is more to an outcome than its value


def wait_for_end(result: Any) -> None:
    """Wait by the run, which does look at the store."""
    assert result.run.wait(60)


def test_a_large_value_and_an_error_are_read_from_the_store(app: Flowq) -> None:
    large = app.tasks["turns.large"].s(5000).delay()
    assert large.get(timeout=60) == "x" * 5000
    assert app._engine().known.value(app._engine().store.locate(large.id)) is None
    failed = app.tasks["turns.fails"].s().delay()
    with pytest.raises(ValueError, match="no"):
        failed.get(timeout=60)


def test_ctrl_c_waits_for_the_end_of_a_turn() -> None:
    seen: list[str] = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("interrupted"))
    try:
        with Undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("inside")
        assert seen == ["inside", "interrupted"]
        with Undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("a second one does not wait")
        assert seen[2:] == ["interrupted", "a second one does not wait", "interrupted"]
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_flow_is_several_submissions_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("flowq.app.pace.time.monotonic", lambda: now[0])
    pace = Pace()
    for _ in range(6):
        now[0] += 0.001
        pace.submitted(somebody_waits=False)
    assert pace.flowing
    assert not pace.due(3, 1.0)
    pace.waits()
    assert not pace.flowing
    assert pace.due(3, 1.0)
    for _ in range(6):
        now[0] += 0.001
        pace.submitted(somebody_waits=True)
    assert not pace.flowing
    for _ in range(6):
        now[0] += 0.001
        pace.submitted(somebody_waits=False)
    now[0] += 2 * LONGEST_GAP
    assert not pace.flowing


def test_who_waits_for_something_short_makes_the_turns(app: Flowq) -> None:
    inc, engine = app.tasks["turns.inc"], app._engine()
    assert inc.delay(0).get(timeout=60) == 1
    by_me = 0
    for i in range(20):
        assert inc.delay(i).get(timeout=60) == i + 1
        by_me += engine.turner == threading.get_ident()
    assert by_me > 2  # not all: the engine's thread may be faster, on a busy machine often


def test_what_takes_longer_is_left_to_the_engine_s_thread(app: Flowq) -> None:
    inc, engine = app.tasks["turns.inc"], app._engine()
    release = threading.Event()

    @app.task(name="turns.hold", durable=True)
    def hold() -> str:
        release.wait(60)
        return "held"

    assert inc.delay(0).get(timeout=60) == 1
    result = hold.delay()
    threading.Timer(10 * DRIVE_SECONDS, release.set).start()
    assert result.get(timeout=60) == "held"
    assert engine.turner == engine.thread.ident


def test_a_driver_learns_of_what_another_thread_s_turn_ended(app: Flowq) -> None:
    inc, engine = app.tasks["turns.inc"], app._engine()
    assert inc.delay(0).get(timeout=60) == 1
    driver, ended, began = engine._driver, threading.Event(), threading.Event()
    gate = threading.Event()

    @app.task(name="turns.gate")
    def gated() -> None:
        began.set()
        gate.wait(60)

    result = gated.delay()
    assert began.wait(60)
    took: list[float] = []

    def drive() -> None:
        start = time.monotonic()
        driver.drive(ended)
        took.append(time.monotonic() - start)

    for _ in range(5):
        ended.clear()
        thread = threading.Thread(target=drive)
        thread.start()
        until(lambda: driver._thread, "it drives")
        time.sleep(DRIVE_SECONDS / 10)  # until it listens to the pool: nothing tells when
        ended.set()
        driver.nudge()
        thread.join()
    gate.set()
    result.get(timeout=60)
    assert min(took) < DRIVE_SECONDS / 2  # else it had waited to the end of its time


def test_who_drives_waits_no_longer_than_the_caller(app: Flowq) -> None:
    engine, gate = app._engine(), threading.Event()

    @app.task(name="turns.gate", durable=True)
    def gated() -> None:
        gate.wait(60)

    result = gated.delay()
    took = []
    for _ in range(5):
        start = time.monotonic()
        with pytest.raises(errors.TimeoutError):
            result.get(timeout=0.001)
        took.append(time.monotonic() - start)
    assert min(took) < DRIVE_SECONDS / 2
    assert engine.worker.busy
    gate.set()
    result.get(timeout=60)


def test_a_bare_task_is_served_while_the_engine_s_thread_stands_by(app: Flowq) -> None:
    engine = app._engine()

    @app.task(name="turns.bare")
    def bare(x: int) -> int:
        return x

    assert app.tasks["turns.inc"].delay(0).get(timeout=60) == 1
    engine._driver._until = time.monotonic() + 3600
    assert [bare.delay(x).get(timeout=20) for x in range(5)] == list(range(5))


def test_commands_of_others_are_heard_while_threads_make_the_turns(app: Flowq) -> None:
    inc = app.tasks["turns.inc"]
    canvas = inc.s(1).set(countdown=3600)
    late = app.submit(canvas)
    other = Store(app._engine().store.url)
    other.write(
        lambda cursor: cursor.execute(
            other.sql.inbox_insert, (app._engine().lane_id, late.run_id, "cancel", None)
        )
    )
    other.close()
    deadline = time.monotonic() + 60
    while late.state != "CANCELLED":
        assert inc.delay(1).get(timeout=60) == 2
        assert time.monotonic() < deadline


def test_ctrl_c_ends_a_wait_and_not_the_run(app: Flowq) -> None:
    inc = app.tasks["turns.inc"]
    assert inc.delay(0).get(timeout=60) == 1
    waiting, release = threading.Event(), threading.Event()

    @app.task(name="turns.slow", durable=True)
    def slow() -> int:
        release.wait(60)
        return 7

    def press(after: float) -> None:
        waiting.wait(60)
        time.sleep(after)
        os.kill(os.getpid(), signal.SIGINT)

    for after in (0.0, DRIVE_SECONDS / 2, 2 * DRIVE_SECONDS):
        waiting.clear()
        release.clear()
        result = slow.delay()
        thread = threading.Thread(target=press, args=(after,))
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            waiting.set()
            result.get(timeout=60)
        thread.join()
        release.set()
        assert result.get(timeout=60) == 7
