"""The embedded engine, end to end, on each kind of store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import Session

from flowq import Flowq, chain, chord, group
from flowq.errors import CanvasError, Reject, RunCancelled, RunFailed, TaskSkipped
from flowq.store.schema import sqlalchemy_url

TIMEOUT = 30


@pytest.fixture
def app(store_url: str) -> Iterator[Flowq]:
    made = Flowq(
        "stores", store=store_url, worker_pool="threads", worker_concurrency=2, set_as_current=False
    )
    yield made
    made.close()


def tasks(app: Flowq) -> Any:
    class Tasks:
        fail = True
        begun = threading.Event()
        go_on = threading.Event()

        @staticmethod
        @app.task(name="add")
        def add(x: Any, y: Any = 1) -> Any:
            return x + y

        @staticmethod
        @app.task(name="total")
        def total(values: list[int]) -> int:
            return sum(values)

        @staticmethod
        @app.task(name="moody")
        def moody(x: int) -> int:
            if Tasks.fail:
                raise ValueError(f"no \0 {x}")
            return x

        @staticmethod
        @app.task(name="wait")
        def wait(x: int) -> int:
            print("waits \0")  # noqa: T201 - what it says has to be stored
            Tasks.begun.set()
            Tasks.go_on.wait(TIMEOUT)
            return x

        @staticmethod
        @app.task(name="again", bind=True)
        def again(self: Any, x: int) -> int:
            if self.request.retries < 2:
                raise self.retry(countdown=0.01)
            return x + self.request.retries

    return Tasks


def test_a_small_canvas(app: Flowq) -> None:
    t = tasks(app)
    run = app.submit(
        chain(t.add.s(1, 2), group(t.add.s(i) for i in range(3)), t.total.s(), t.again.s())
    )
    assert run.result(TIMEOUT) == 14
    assert {row.state for row in run.nodes} == {"SUCCESS"}


def test_a_group_of_a_thousand(app: Flowq) -> None:
    t = tasks(app)
    run = app.submit(chord([t.add.s(i, i) for i in range(1000)], t.total.s()))
    assert run.result(TIMEOUT) == 999_000


def test_failing_and_retrying(app: Flowq) -> None:
    t = tasks(app)
    run = app.submit(chain(t.add.s(1), t.moody.s(), t.add.s(5)))
    with pytest.raises(RunFailed) as failed:
        run.result(TIMEOUT)
    assert isinstance(failed.value.__cause__, ValueError)
    t.fail = False
    assert run.retry().result(TIMEOUT) == 7
    assert [row.generation for row in run.nodes] == [0, 1, 1]


def test_cancelling_and_retrying(app: Flowq) -> None:
    t = tasks(app)
    run = app.submit(chain(t.wait.s(1), t.add.s(1)))
    assert t.begun.wait(TIMEOUT)
    run.cancel()
    with pytest.raises(RunCancelled):
        run.result(TIMEOUT)
    t.go_on.set()
    assert run.retry().result(TIMEOUT) == 2
    assert "waits" in run["wait"].logs


def test_pausing(app: Flowq) -> None:
    t = tasks(app)
    run = app.submit(chain(t.wait.s(1), t.add.s(1)))
    assert t.begun.wait(TIMEOUT)
    run.pause()
    t.go_on.set()
    assert run["wait"].run.wait(0.3) is False
    run.unpause()
    assert run.result(TIMEOUT) == 2


def test_a_session_of_the_callers(app: Flowq) -> None:
    t = tasks(app)
    assert app.submit(t.add.s(1)).result(TIMEOUT) == 2
    engine = create_engine(sqlalchemy_url(app._engine().store.database), poolclass=NullPool)
    with Session(engine) as session:
        kept = app.submit(t.add.s(2), session=session)
        session.commit()
    assert kept.result(TIMEOUT) == 3
    with Session(engine) as session:
        app.submit(t.add.s(3), session=session)
        session.rollback()
    assert len(app.runs()) == 2
    engine.dispose()


def test_a_large_argument_and_result(app: Flowq) -> None:
    t = tasks(app)
    big = "x" * 1_000_000
    assert app.submit(chain(t.add.s(big, "y"), t.add.s("z"))).result(TIMEOUT) == f"{big}yz"


def test_reruns_reuse_what_is_there(app: Flowq) -> None:
    t = tasks(app)
    run = app.submit(chain(t.add.s(1), t.again.s(), t.add.s(1)))
    assert run.result(TIMEOUT) == 5
    again = run.rerun(from_="add#2")
    assert again.result(TIMEOUT) == 5
    assert [row.attempt for row in again.nodes] == [0, 0, 1]


@pytest.mark.services
def test_a_server_that_drops_its_connections_costs_time_only(postgres_url: str) -> None:
    app = Flowq(
        "drops", store=postgres_url, worker_pool="threads", worker_concurrency=2,
        set_as_current=False,
    )  # fmt: skip
    t = tasks(app)
    run = app.submit(chain(t.wait.s(1), group(t.add.s(i) for i in range(50)), t.total.s()))
    assert t.begun.wait(TIMEOUT)
    engine = create_engine(postgres_url, poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    engine.dispose()
    t.go_on.set()
    done = threading.Event()
    threading.Thread(target=lambda: (_patiently(run), done.set())).start()
    assert done.wait(TIMEOUT)
    assert run.result(TIMEOUT) == 50 + sum(range(50))
    app.close()


def _patiently(run: Any) -> None:
    """Wait for a run through errors of the store: they reach whoever reads just then."""
    from flowq.errors import StoreError

    for _ in range(20):
        try:
            if run.wait(TIMEOUT):
                return
        except StoreError:
            continue


def test_a_state_of_the_tasks_own_is_not_overwritten_by_started(app: Flowq) -> None:
    go_on = threading.Event()

    @app.task(name="tells", bind=True)
    def tells(self: Any) -> None:
        self.update_state(state="PROGRESS", meta={"done": 1})
        go_on.wait(TIMEOUT)

    result = tells.delay()
    while (state := result.state) != "PROGRESS":
        assert state == "PENDING"
        time.sleep(0.001)
    time.sleep(0.4)  # after 0.1 s it is noticed that a task runs long
    assert (result.state, result.info) == ("PROGRESS", {"done": 1})
    go_on.set()
    result.get(TIMEOUT)


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"name": 5}, "name is a text, not 5"),
        ({"idempotency_key": 3}, "idempotency_key is a text, not 3"),
        ({"tags": "x"}, "tags is a mapping"),
        ({"tags": ["x"]}, "tags is a mapping"),
    ],
)
def test_what_a_run_is_called_is_checked(app: Flowq, about: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        app.submit(tasks(app).add.s(1), **about)
    assert list(app.runs()) == []


def test_a_delay_may_be_a_timedelta(app: Flowq) -> None:
    add, soon = tasks(app).add, timedelta(milliseconds=1)
    later = timedelta(minutes=1)
    assert add.apply_async((1,), expires=later, countdown=soon).get(timeout=TIMEOUT) == 2
    canvas = add.s(1).set(countdown=soon, expires=later) | add.s()
    assert app.submit(canvas).result(TIMEOUT) == 3
    with pytest.raises(CanvasError, match=r"eta=.* must be seconds or a datetime"):
        app.submit(add.s(1).set(eta=soon))


def test_a_queue_may_be_given_as_an_object(app: Flowq) -> None:
    kombu = pytest.importorskip("kombu")

    @app.task(name="held", queue=kombu.Queue("slow"))
    def held() -> int:
        return 1

    assert held.queue == "slow"
    assert held.delay().get(timeout=TIMEOUT) == 1
    add = tasks(app).add
    assert add.apply_async((1,), queue=kombu.Queue("slow")).get(timeout=TIMEOUT) == 2
    run = app.submit(add.s(1).set(queue=kombu.Queue("slow")) | add.s())
    assert run.result(TIMEOUT) == 3


def test_a_rejection_says_why(app: Flowq) -> None:
    @app.task(name="refuse")
    def refuse() -> None:
        raise Reject("no thanks")

    with pytest.raises(TaskSkipped, match=r"raised Reject\('no thanks'"):
        refuse.delay().get(timeout=TIMEOUT)
    with pytest.raises(RunFailed, match="rejected: no thanks"):
        app.submit(refuse.s()).result(TIMEOUT)
