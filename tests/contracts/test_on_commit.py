"""Runs and the caller's rows: they exist together, or neither does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, event, text
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from flowq import Flowq, chain, chord, group
from flowq.errors import CanvasError, IdempotencyConflict, ImproperlyConfigured, StoreUnavailable
from flowq.store.database import open_database
from flowq.store.schema import sqlalchemy_url

TIMEOUT = 30


@pytest.fixture
def app(store_url: str) -> Iterator[Flowq]:
    made = Flowq(
        "stores", store=store_url, worker_pool="threads", worker_concurrency=2, set_as_current=False
    )
    made.task(lambda x, y=1: x + y, name="add")
    made.task(lambda values: sum(values), name="total")
    yield made
    made.close()


def made_engine(url: str) -> Any:
    """A SQLAlchemy engine on a database with one table of the caller's."""
    engine = create_engine(sqlalchemy_url(open_database(url)), poolclass=NullPool)
    if engine.dialect.name == "sqlite":  # as SQLAlchemy's manual says, for savepoints
        event.listen(engine, "connect", lambda c, _: setattr(c, "isolation_level", None))
        event.listen(engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE article (id INTEGER)"))
    return engine


@pytest.fixture
def own(store_url: str) -> Iterator[Any]:
    """An engine on the store's database."""
    made = made_engine(store_url)
    yield made
    made.dispose()


@pytest.fixture
def other(tmp_path: Any) -> Iterator[Any]:
    """An engine on another one."""
    made = made_engine(f"sqlite:///{tmp_path}/articles.db")
    yield made
    made.dispose()


@pytest.fixture(params=["own", "other"])
def engine(request: pytest.FixtureRequest) -> Any:
    """An engine on the store's database, and one on another: both keep the promise."""
    return request.getfixturevalue(request.param)


def write(session: Any) -> None:
    session.execute(text("INSERT INTO article VALUES (1)"))


def send(app: Flowq, session: Any, *args: int, **options: Any) -> Any:
    return app.tasks["add"].apply_async_on_commit(args, session=session, **options)


def articles(engine: Any) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT COUNT(*) FROM article")).scalar())


def values(app: Flowq) -> list[Any]:
    """Results of all runs, sorted; waits for them."""
    return sorted(run.result(TIMEOUT) for run in app.runs())


# --- what is committed, and what is not ---------------------------------------------------------


def test_committed_runs(app: Flowq, engine: Any) -> None:
    assert app.runs() == []
    with Session(engine) as session:
        write(session)
        send(app, session, 2)
        assert app.runs() == []
        session.commit()
    assert values(app) == [3]
    assert articles(engine) == 1


def test_rolled_back_does_not(app: Flowq, engine: Any) -> None:
    with Session(engine) as session:
        write(session)
        send(app, session, 2)
        session.rollback()
        send(app, session, 5)
        session.commit()
    assert values(app) == [6]


def test_closed_without_a_commit_does_not(app: Flowq, engine: Any) -> None:
    session = Session(engine)
    write(session)
    send(app, session, 2)
    session.close()
    send(app, session, 5)
    session.commit()
    session.close()
    assert values(app) == [6]


def test_an_exception_in_the_block_undoes_it(app: Flowq, engine: Any) -> None:
    with pytest.raises(ZeroDivisionError), Session(engine) as session, session.begin():
        write(session)
        send(app, session, 2)
        raise ZeroDivisionError
    assert values(app) == []


def test_a_second_commit_sends_nothing_again(app: Flowq, engine: Any) -> None:
    with Session(engine) as session:
        send(app, session, 2)
        session.commit()
        session.commit()
        write(session)
        session.commit()
    assert values(app) == [3]


def test_savepoints(app: Flowq, engine: Any) -> None:
    assert app.runs() == []
    with Session(engine) as session:
        send(app, session, 1)
        with session.begin_nested():
            send(app, session, 2)
            undone = session.begin_nested()
            send(app, session, 3)
            with session.begin_nested():
                send(app, session, 4)
            undone.rollback()
            send(app, session, 5)
        assert app.runs() == []
        session.commit()
    assert values(app) == [2, 3, 6]


def test_a_released_savepoint_in_a_transaction_that_is_undone(app: Flowq, engine: Any) -> None:
    with Session(engine) as session:
        with session.begin_nested():
            send(app, session, 2)
        session.rollback()
        session.commit()
    assert values(app) == []


def test_everything_can_be_sent(app: Flowq, engine: Any) -> None:
    add, total = app.tasks["add"], app.tasks["total"]
    with Session(engine) as session:
        add.s(1).apply_async_on_commit((10,), session=session)
        chain(add.s(1), add.s(5)).apply_async_on_commit(session=session, tags={"a": "b"})
        group(add.s(1), add.s(2)).apply_async_on_commit(session=session, run_name="two")
        chord([add.s(1), add.s(2)], total.s()).apply_async_on_commit(session=session)
        assert chain().apply_async_on_commit(session=session) is None
        session.commit()
    found = [run.result(TIMEOUT) for run in app.runs()]
    assert sorted(found, key=str) == [11, 5, 7, [2, 3]]
    assert [run.result(TIMEOUT) for run in app.runs(name="two")] == [[2, 3]]
    assert [run.row.tags for run in app.runs() if run.row.tags] == [{"a": "b"}]


def test_links_and_countdowns_are_kept(app: Flowq, engine: Any) -> None:
    with Session(engine) as session:
        send(app, session, 2, countdown=0.01, link=app.tasks["add"].s(100))
        session.commit()
    (run,) = app.runs()
    assert run.wait(TIMEOUT)
    assert sorted(run[i].result for i in range(2)) == [3, 103]


def test_the_arguments_are_those_of_the_call(app: Flowq, engine: Any) -> None:
    numbers = [1, 2]
    with Session(engine) as session:
        app.tasks["total"].apply_async_on_commit((numbers,), session=session)
        numbers.append(1000)
        session.commit()
    assert values(app) == [3]


def test_mistakes_are_told_at_the_call(app: Flowq, engine: Any) -> None:
    with Session(engine) as session:
        with pytest.raises(TypeError):
            send(app, session)
        with pytest.raises(CanvasError):
            send(app, session, object())
        session.commit()
    assert values(app) == []


def test_an_idempotency_key_gives_one_run(app: Flowq, engine: Any) -> None:
    for _ in range(2):
        with Session(engine) as session:
            send(app, session, 2, idempotency_key="once")
            session.commit()
    assert values(app) == [3]


# --- where the session comes from ---------------------------------------------------------------


def test_scoped_sessions_and_delay(app: Flowq, engine: Any) -> None:
    sessions = scoped_session(sessionmaker(engine))
    app.use_session(sessions)
    app.tasks["add"].delay_on_commit(1)
    sessions.rollback()
    app.tasks["add"].delay_on_commit(2, y=5)
    app.tasks["add"].s(3).delay_on_commit()
    sessions.commit()
    send(app, sessions, 10)
    sessions.commit()
    sessions.remove()
    assert values(app) == [4, 7, 11]


def test_without_a_session_it_says_what_to_pass(app: Flowq) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"pass session=.*use_session.*Django"):
        app.tasks["add"].delay_on_commit(2)
    app.use_session(lambda: None)
    with pytest.raises(ImproperlyConfigured, match="pass session="):
        app.tasks["add"].s(2).delay_on_commit()
    with pytest.raises(ImproperlyConfigured, match="takes a SQLAlchemy Session, not int"):
        send(app, 3, 2)
    with pytest.raises(ImproperlyConfigured, match="give one of them"):
        send(app, 3, 2, using="default")


def test_async_sessions(app: Flowq, store_url: str) -> None:
    pytest.importorskip("greenlet")
    if store_url.startswith("sqlite"):
        pytest.importorskip("aiosqlite")
    made_engine(store_url).dispose()
    url = sqlalchemy_url(open_database(store_url)).replace("sqlite:", "sqlite+aiosqlite:")

    async def program() -> None:
        engine = create_async_engine(url, poolclass=NullPool)
        async with AsyncSession(engine) as session:
            await session.execute(text("INSERT INTO article VALUES (1)"))
            await session.run_sync(lambda s: send(app, s, 1))
            await session.rollback()
            await session.execute(text("INSERT INTO article VALUES (1)"))
            await session.run_sync(lambda _: send(app, session, 2))
            await session.commit()
        scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
        await scoped().run_sync(lambda _: send(app, scoped, 3))
        await scoped.commit()
        await scoped.remove()
        async with AsyncSession(engine) as session:
            with pytest.raises(ImproperlyConfigured, match="run_sync"):
                send(app, session, 1)
        await engine.dispose()

    asyncio.run(program())
    assert values(app) == [3, 4]


# --- what is particular to the store's own database, and to another -----------------------------


def test_the_result_is_known_before_the_commit(app: Flowq, own: Any) -> None:
    with Session(own) as session:
        result = send(app, session, 2)
        session.commit()
    assert result.get(timeout=TIMEOUT) == 3


def test_a_conflict_is_told_at_the_call_and_leaves_the_transaction_whole(
    app: Flowq, own: Any
) -> None:
    with Session(own) as session:
        write(session)
        send(app, session, 1, idempotency_key="mine")
        with pytest.raises(IdempotencyConflict):
            send(app, session, 2, idempotency_key="mine")
        session.commit()
    assert values(app) == [2]
    assert articles(own) == 1


def test_a_session_that_cannot_roll_back_is_refused(app: Flowq, own: Any) -> None:
    if own.dialect.name == "sqlite":
        pytest.skip("on SQLite the run's own BEGIN opens a transaction")
    refused = pytest.raises(ImproperlyConfigured, match="AUTOCOMMIT")
    with Session(own.execution_options(isolation_level="AUTOCOMMIT")) as session, refused:
        send(app, session, 2)
    assert values(app) == []


def test_the_broker_has_no_part_in_it(own: Any, store_url: str) -> None:
    nobody = "redis://127.0.0.1:1/0"
    with Flowq("stores", store=store_url, broker=nobody, set_as_current=False) as client:
        add = client.task(lambda x, y=1: x + y, name="add")
        for ends in ("commit", "rollback"):
            with Session(own) as session:
                write(session)
                add.apply_async_on_commit((2,), session=session)
                getattr(session, ends)()
        assert [run.state for run in client.runs()] == ["RUNNING"]
    assert articles(own) == 1


def test_another_database_gives_no_result_and_submit_refuses_it(app: Flowq, other: Any) -> None:
    with Session(other) as session:
        assert send(app, session, 2) is None
        session.rollback()
        with pytest.raises(ImproperlyConfigured, match=r"bound to .*articles.db, the store is "):
            app.submit(app.tasks["add"].s(2), session=session)
        with pytest.raises(ImproperlyConfigured, match="own database"):
            app.tasks["add"].apply_async((2,), session=session)
    assert app._engine().thread is None  # nothing was started for what was refused
    assert values(app) == []


def test_an_error_after_the_commit_is_told_and_hides_no_other_call(
    app: Flowq, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(other) as session:
        write(session)
        send(app, session, 1, idempotency_key="mine")
        send(app, session, 2, idempotency_key="mine")
        send(app, session, 3)
        with pytest.raises(Exception, match="another canvas") as told:
            session.commit()
        assert "had been committed" in told.value.__notes__[0]
    assert values(app) == [2, 4]
    assert articles(other) == 1


def test_a_session_without_a_bind_of_its_own(app: Flowq, other: Any) -> None:
    with Session() as session:
        assert send(app, session, 2) is None
        session.execute(text("SELECT 1"), bind_arguments={"bind": other})
        session.commit()
    assert values(app) == [3]


def test_eager_calls_wait_for_the_commit_too(app: Flowq, engine: Any) -> None:
    called: list[int] = []
    note = app.task(called.append, name="note")
    app.conf.task_always_eager = True
    with Session(engine) as session:
        note.apply_async_on_commit((1,), session=session)
        session.rollback()
        note.apply_async_on_commit((2,), session=session)
        assert called == []
        session.commit()
    assert called == [2]


# --- SQLite: the session may hold the lock before anything was started --------------------------


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("wal", [True, False])
def test_first_submission_while_the_session_has_the_lock(
    tmp_path: Any, commits: bool, wal: bool
) -> None:
    url = f"sqlite:///{tmp_path}/both.db"
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        if wal:
            connection.execute(text("PRAGMA journal_mode = WAL"))
        connection.execute(text("CREATE TABLE article (id INTEGER)"))
    app = Flowq("both", store=url, worker_pool="threads", set_as_current=False)
    add = app.task(lambda x, y=1: x + y, name="add")
    with Session(engine) as session:
        write(session)  # the file is locked from here
        first = app.submit(add.s(1), session=session)
        second = add.apply_async_on_commit((5,), session=session)
        (session.commit if commits else session.rollback)()
    if commits:
        assert first.result(TIMEOUT) == 2
        assert second.get(timeout=TIMEOUT) == 6
    assert len(app.runs()) == (2 if commits else 0)
    assert app.submit(add.s(7)).result(TIMEOUT) == 8
    app.close()
    engine.dispose()


def test_a_process_that_dies_right_after_the_commit_leaves_a_run_to_resume(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/both.db"
    engine = create_engine(url, poolclass=NullPool)

    def made() -> tuple[Flowq, Any]:
        app = Flowq("both", store=url, worker_pool="threads", set_as_current=False)
        return app, app.task(lambda x, y=1: x + y, name="add")

    dying, add = made()
    with Session(engine) as session:
        session.execute(text("CREATE TABLE article (id INTEGER)"))
        write(session)
        run = dying.submit(add.s(1), session=session)
        dying._engine().resume = lambda run_id: None  # it is dead by then
        session.commit()
    living, _ = made()
    again = living.run(run.id)
    living._engine().resume(again.run_id)
    assert again.result(TIMEOUT) == 2
    living.close()
    dying.close()
    engine.dispose()


def test_a_file_that_another_has_locked(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/both.db"
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": 0.01})
    app = Flowq("both", store=url, worker_pool="threads", set_as_current=False)
    add = app.task(lambda x, y=1: x + y, name="add")
    assert app.submit(add.s(1)).result(TIMEOUT) == 2
    locking: Callable[[Any], Any] = lambda s: s.connection().exec_driver_sql("BEGIN IMMEDIATE")  # noqa: E731
    with Session(engine) as first, Session(engine) as second:
        locking(first)
        with pytest.raises(StoreUnavailable, match="lock of the SQLite file"):
            app.submit(add.s(1), session=second)
        first.rollback()
        second.rollback()
    assert values(app) == [2]
    app.close()
    engine.dispose()
