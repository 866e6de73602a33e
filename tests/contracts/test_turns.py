"""Who makes a turn of the embedded engine, and what is answered without a look at the store."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from flowq import Flowq, chain, group
from flowq.app.admitting import _Undisturbed
from flowq.app.pace import LONGEST_GAP, Pace


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
        with _Undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("inside")
        assert seen == ["inside", "interrupted"]
        with _Undisturbed():
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
