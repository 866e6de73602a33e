"""One contract, two databases: everything here holds on SQLite and on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.orm import Session

from flowq.app import lanes
from flowq.backends.memory import MemoryLane
from flowq.backends.recorded import Recorded
from flowq.broker.codec import Bundle, Report, ReportKind
from flowq.coordinator import Coordinator, Fence
from flowq.core.canvas import Signature, chain, group
from flowq.core.compiler import compile_canvas
from flowq.core.graph import Graph
from flowq.core.states import RUN_TERMINAL
from flowq.errors import (
    CorruptStore,
    IdempotencyConflict,
    ImproperlyConfigured,
    LaneLost,
    SchemaMismatch,
    StaleState,
    StoreError,
    StoreUnavailable,
    UnknownId,
    WrongState,
)
from flowq.payload import decode, encode, encode_error
from flowq.store import NewRun, Store
from flowq.store.schema import check, sqlalchemy_url
from flowq.store.sessions import SessionTransaction, transaction_of
from tests.simulation.workers import Binder

ROOT = Path(__file__).parents[2]


def task(*args: Any, **kwargs: Any) -> Signature:
    return Signature("work.do", args, kwargs)


def graph_of(canvas: Any) -> Graph:
    return compile_canvas(canvas, Binder())


_numbers = iter(range(1, 1_000_000))


def new(lane: int = 1, name: str = "run", **more: Any) -> NewRun:
    return NewRun(f"01900000-0000-7000-8000-{next(_numbers) << 30:012x}", lane, "app", name, **more)


def counts(store: Store) -> dict[str, int]:
    names = ("run", "node", "edge", "spec", "inbox", "tag", "alias")
    return {n: store.rows(f"SELECT COUNT(*) FROM flowq_{n}")[0][0] for n in names}


class Engine:
    """A coordinator with a worker that does at once what `act` says."""

    def __init__(self, store: Store, act: Callable[[Any], Report] | None = None) -> None:
        self.store = store
        self.lane = store.make_lane("app", "embedded", "me", None)
        self.fence = Fence(self.lane, "me", 1)
        self.updates = MemoryLane()
        self.act = act or (lambda item: report(item, ReportKind.SUCCESS, encode(item.idx)))
        self.bundles: list[Bundle] = []
        self.coordinator = Coordinator(
            store, self.fence, self.updates, publish=self.bundles.append, slots=lambda queue: 50
        )
        self.coordinator.start()

    def submit(self, canvas: Any, **more: Any) -> int:
        run_id, _, _ = self.store.submit(new(self.lane, **more), graph_of(canvas))
        self.coordinator.inbox_rung = True
        return run_id

    def tell(self, run_id: int, kind: str, body: bytes | None = None) -> None:
        row = (self.lane, run_id, kind, body)
        self.store.write(lambda c: c.execute(self.store.sql.inbox_insert, row))
        self.coordinator.inbox_rung = True

    def work(self) -> None:
        """Run what was published, until nothing is."""
        for _ in range(5000):
            done = self.coordinator.step()
            bundles, self.bundles[:] = list(self.bundles), []
            self.updates.put([self.act(item) for bundle in bundles for item in bundle.items])
            if not done and not len(self.updates):
                return
        raise AssertionError("it goes on for ever")

    def state(self, run_id: int) -> str:
        return self.store.run_by_id(run_id).state


def report(item: Any, kind: ReportKind, frame: bytes = b"", **more: Any) -> Report:
    return Report(item.run, item.idx, item.attempt, kind, 1.0, 2.0, frame, **more)


# --- the tables ------------------------------------------------------------------------------


def test_a_fresh_store_is_made_once(store_url: str) -> None:
    first, second = Store(store_url), Store(store_url)
    assert first.ensure() is True
    assert first.ensure() is False
    assert second.ensure() is False
    assert check(second.database) == []
    first.close()
    second.close()
    second.close()


def test_two_processes_may_make_the_store_at_once(store_url: str) -> None:
    stores = [Store(store_url) for _ in range(4)]
    made: list[bool] = []
    threads = [threading.Thread(target=lambda s=s: made.append(s.ensure())) for s in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    for each in stores:
        assert check(each.database) == []
        each.close()


def test_a_store_of_a_newer_version_is_refused(store: Store) -> None:
    store.write(lambda c: c.execute("UPDATE flowq_schema_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="install a newer flowq"):
        store.ensure()


def test_a_version_table_without_a_row_is_damage(store: Store) -> None:
    store.write(lambda c: c.execute("DELETE FROM flowq_schema_version"))
    with pytest.raises(CorruptStore, match="empty"):
        store.ensure()


@pytest.mark.parametrize("content", [b"this is no database, " * 100, b"SQLite format 3\0" * 300])
def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.db"
    path.write_bytes(content)
    store = Store(f"sqlite:///{path}")
    with pytest.raises(CorruptStore, match=r"bad\.db"):
        store.ensure()
    assert path.read_bytes() == content
    store.close()


def test_a_store_that_cannot_be_reached_says_so() -> None:
    store = Store("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreUnavailable, match="--store"):
        store.ensure()
    store.close()


def test_a_url_of_no_known_kind_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="sqlite:///"):
        Store("mongodb://host/db")


# --- submitting ------------------------------------------------------------------------------


def test_a_submitted_run_is_there_with_all_its_rows(store: Store) -> None:
    canvas = chain(task(1), group(task(i) for i in range(3)), task(9)).clone()
    run_id, uid, fresh = store.submit(new(name="etl", tags={"a": "1", "b": "x"}), graph_of(canvas))
    row = store.run_by_id(run_id)
    assert (row.uid, row.name, row.state, row.node_count, row.tags) == (
        uid, "etl", "RUNNING", 6, {"a": "1", "b": "x"},
    )  # fmt: skip
    assert fresh
    nodes = store.nodes(run_id)
    assert [node.path for node in nodes] == ["c0", "c1/j", "c1/g0", "c1/g1", "c1/g2", "c1/b"]
    assert [node.state for node in nodes] == ["READY"] + ["PENDING"] * 5
    assert len(store.edges(run_id)) == 7
    assert store.counts(run_id) == {"READY": 1, "PENDING": 5}
    assert counts(store)["inbox"] == 1


def test_one_key_one_run(store: Store) -> None:
    graph = graph_of(task(1))
    first = store.submit(new(idempotency_key="k", digest=b"\x00\xff"), graph)
    again = store.submit(new(idempotency_key="k", digest=b"\x00\xff"), graph)
    assert again == (first[0], first[1], False)
    before = counts(store)
    with pytest.raises(IdempotencyConflict, match="another canvas"):
        store.submit(new(idempotency_key="k", digest=b"other"), graph)
    assert counts(store) == before


def test_one_key_from_many_threads_is_one_run(store: Store) -> None:
    graph = graph_of(group(task(i) for i in range(5)))
    found: list[tuple[int, str, bool]] = []

    def submit() -> None:
        found.append(store.submit(new(idempotency_key="k", digest=b"d"), graph))

    threads = [threading.Thread(target=submit) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run_id for run_id, _, _ in found}) == 1
    assert sum(fresh for _, _, fresh in found) == 1
    assert counts(store)["node"] == 6


def test_a_session_of_the_callers_decides(store: Store) -> None:
    engine = create_engine(sqlalchemy_url(store.database), poolclass=NullPool)
    store.write(lambda c: c.execute("CREATE TABLE mine (x INTEGER)"))
    rings: list[int] = []

    def submit(session: Session, number: int) -> int:
        transaction = SessionTransaction(session)
        cursor = transaction.writing_cursor(store.database)
        session.execute(text(f"INSERT INTO mine VALUES ({number})"))
        run_id, _, _ = store.submit_in(cursor, new(), graph_of(task(1)), remember=False)
        transaction.after_commit(lambda: rings.append(number))
        return run_id

    with Session(engine) as session:
        submit(session, 1)
        session.rollback()
    assert counts(store)["run"] == counts(store)["node"] == counts(store)["inbox"] == 0
    with Session(engine) as session:
        run_id = submit(session, 2)
        session.commit()
    assert store.run_by_id(run_id).node_count == 1
    assert store.rows("SELECT x FROM mine") == [(2,)]
    assert rings == [2]
    engine.dispose()


def test_queues_of_a_transaction_that_was_undone_are_not_remembered(store: Store) -> None:
    engine = create_engine(sqlalchemy_url(store.database), poolclass=NullPool)
    with Session(engine) as session:
        cursor = SessionTransaction(session).writing_cursor(store.database)
        store.submit_in(cursor, new(), graph_of(task(1)), remember=False)
        session.rollback()
    run_id, _, _ = store.submit(new(), graph_of(task(1)))
    named = "SELECT q.name FROM flowq_node n JOIN flowq_queue q ON q.id = n.queue_id"
    assert store.rows(named) == [("celery",)]
    assert store.run_by_id(run_id).node_count == 1
    engine.dispose()


def test_a_session_of_another_database_is_refused(store: Store, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/other.db")
    with Session(engine) as session, pytest.raises(ImproperlyConfigured, match="own database"):
        transaction_of(session).check(store.database)
    with Session() as session, pytest.raises(ImproperlyConfigured, match="no database of its own"):
        transaction_of(session).check(store.database)
    with pytest.raises(ImproperlyConfigured, match="Session"):
        transaction_of(object())
    engine.dispose()


# --- reading ---------------------------------------------------------------------------------


def test_runs_are_found_by_id_prefix_name_and_age(store: Store) -> None:
    ids = [store.submit(new(name=name), graph_of(task(1)))[0] for name in ("a", "b_1", "a")]
    uid = store.run_by_id(ids[0]).uid
    assert store.find_run(uid).id == ids[0]
    assert store.find_run("@last").id == ids[2]
    assert store.find_run("@last:b_1").id == ids[1]
    assert store.find_run("a").id == ids[2]
    for ref in ("nothing", "0190", uid[:3], "%", "____"):
        with pytest.raises(UnknownId):
            store.find_run(ref)


def test_runs_are_listed_by_what_is_asked(store: Store) -> None:
    names = ("alpha", "al_pha", "al%pha", "beta")
    for i, name in enumerate(names):
        store.submit(new(name=name, tags={"n": str(i)}), graph_of(task(1)))

    def found(**how: Any) -> list[str]:
        return [row.name for row in store.list_runs(**how)]

    assert found() == list(reversed(names))
    assert found(limit=2) == ["beta", "al%pha"]
    assert found(name="al_pha") == ["al_pha"]
    assert found(name="al%pha") == ["al%pha"]
    assert set(found(name="al*")) == set(names[:3])
    assert set(found(name="al?pha")) == {"al_pha", "al%pha"}
    assert found(tags={"n": "3"}) == ["beta"]
    assert found(tags={"n": "3", "m": "1"}) == []
    assert found(states=["SUCCESS"]) == []
    assert found(states=["RUNNING", "PAUSED"], name="b*") == ["beta"]
    assert found(since=time.time() + 3600) == []


def test_a_read_that_fails_spoils_no_later_one(store: Store) -> None:
    with pytest.raises(StoreError):
        store.rows("SELECT nothing FROM nowhere")
    assert counts(store)["run"] == 0


def test_a_reader_sees_what_was_committed_meanwhile(store: Store) -> None:
    assert counts(store)["run"] == 0
    other = Store(store.url)
    other.submit(new(), graph_of(task(1)))
    assert counts(store)["run"] == 1
    other.close()


# --- writing ---------------------------------------------------------------------------------


def test_many_threads_share_commits(store: Store) -> None:
    graph = graph_of(group(task(i) for i in range(20)))
    before = store.write.commits
    threads = [
        threading.Thread(target=lambda: [store.submit(new(), graph) for _ in range(10)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(store)["run"] == 80
    assert counts(store)["node"] == 80 * 21
    assert store.write.commits - before <= 80


def test_one_that_fails_undoes_only_itself(store: Store) -> None:
    together = threading.Barrier(6)
    errors: list[BaseException] = []

    def write(i: int) -> None:
        together.wait()
        for _ in range(10):
            try:
                store.write(lambda c: _insert(store, c, i))
            except StoreError as exc:
                errors.append(exc)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 30
    assert counts(store)["inbox"] == 30


def _insert(store: Store, cursor: Any, i: int) -> None:
    cursor.execute(store.sql.inbox_insert, (1, i, "pause", None))
    if i % 2:
        cursor.execute("INSERT INTO flowq_tag (run_id, key, value) VALUES (1, NULL, NULL)")


def test_an_error_of_ours_undoes_the_transaction(store: Store) -> None:
    def write(cursor: Any) -> None:
        cursor.execute(store.sql.inbox_insert, (1, 1, "pause", None))
        raise StaleState("no")

    with pytest.raises(StaleState):
        store.write(write)
    assert counts(store)["inbox"] == 0


def test_the_stores_clock_goes_on(store: Store) -> None:
    first = store.now()
    assert abs(first - time.time()) < 5
    assert store.now() >= first


_OTHER = """
import sys, time
from flowq.store import Store
store = Store(sys.argv[1])
waits = []
for i in range(25):
    began = time.monotonic()
    store.write(lambda c: c.execute(store.sql.inbox_insert, (1, i, "pause", None)))
    waits.append(time.monotonic() - began)
print(max(waits))
"""


@pytest.mark.slow
def test_another_process_gets_in_while_the_owner_commits_without_a_pause(store: Store) -> None:
    stop = threading.Event()

    def commit() -> None:
        i = 0
        while not stop.is_set():
            i += 1
            row = (2, i, "pause", None)
            store.write(lambda c, row=row: c.execute(store.sql.inbox_insert, row))

    owner = threading.Thread(target=commit)
    owner.start()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _OTHER, store.url],
            capture_output=True, text=True, check=True, timeout=60, cwd=ROOT,
        )  # fmt: skip
    finally:
        stop.set()
        owner.join()
    assert float(done.stdout) < 1.5
    assert store.rows("SELECT COUNT(*) FROM flowq_inbox WHERE lane_id = 1") == [(25,)]


# --- lanes -----------------------------------------------------------------------------------


def test_a_lane_that_was_taken_over_cannot_be_written(store: Store) -> None:
    engine = Engine(store)
    run_id = engine.submit(task(1))
    store.write(lambda c: c.execute(store.sql.lane_take, ("other", engine.lane, 1)))
    with pytest.raises(LaneLost):
        engine.work()
    assert store.counts(run_id) == {"READY": 1}
    assert engine.bundles == []


def test_rows_that_changed_under_a_batch_undo_it(store: Store) -> None:
    engine = Engine(store)
    run_id = engine.submit(chain(task(1), task(2)))
    engine.coordinator.step()
    item = engine.bundles[0].items[0]
    store.write(lambda c: c.execute("UPDATE flowq_node SET attempt = 7 WHERE idx = 0"))
    engine.updates.put([report(item, ReportKind.SUCCESS, encode(1))])
    engine.coordinator.step()  # sees it, reads anew, finds the report out of date
    assert store.counts(run_id) == {"QUEUED": 1, "PENDING": 1}
    assert Recorded(store).value(run_id, 0) is None


def test_a_run_moves_to_another_lane_and_goes_on_there(store: Store) -> None:
    first = Engine(store)
    run_id = first.submit(group(task(i).set(countdown=0) for i in range(5)))
    first.coordinator.step()
    second = Engine(store)
    lanes.move_run(store, run_id, second.lane, "me", ["adopt"])
    with pytest.raises(LaneLost):
        first.work()
    second.coordinator.inbox_rung = True
    second.work()
    assert second.state(run_id) == "SUCCESS"
    assert store.rows("SELECT COUNT(*) FROM flowq_outbox") == [(0,)]
    assert [node.attempt for node in store.nodes(run_id)] == [0, 2, 2, 2, 2, 2]


def test_a_live_owners_run_does_not_move(store: Store, tmp_path: Path) -> None:
    lock = lanes.LaneLock(store, "owner")
    lane = store.make_lane("app", "embedded", "owner", str(lock.path))
    run_id, _, _ = store.submit(new(lane), graph_of(task(1)))
    other = store.make_lane("app", "embedded", "other", None)
    with pytest.raises(WrongState, match="live process"):
        lanes.move_run(store, run_id, other, "other", ["adopt"])
    lock.release()
    lanes.move_run(store, run_id, other, "other", ["adopt"])
    assert store.run_by_id(run_id).lane_id == other


# --- a run from birth to end -----------------------------------------------------------------


def test_a_group_of_a_thousand_and_its_join(store: Store) -> None:
    engine = Engine(store)
    run_id = engine.submit(group(task(i) for i in range(1000)) | task())
    engine.work()
    assert engine.state(run_id) == "SUCCESS"
    assert store.counts(run_id) == {"SUCCESS": 1002}
    assert decode(Recorded(store).value(run_id, 0) or b"") == list(range(1, 1001))
    for name in ("outbox", "timer", "inbox"):
        assert store.rows(f"SELECT COUNT(*) FROM flowq_{name}") == [(0,)]


def test_failing_retrying_and_cancelling(store: Store) -> None:
    broken = {1}

    def act(item: Any) -> Report:
        if item.idx in broken:
            return report(item, ReportKind.FAILURE, encode_error(ValueError("no\x00 \udc80")))
        return report(item, ReportKind.SUCCESS, encode({"ü": [item.idx]}), log=[(1, "a\x00\udc80")])

    engine = Engine(store, act)
    run_id = engine.submit(chain(task(0), task(1), task(2)))
    engine.work()
    assert engine.state(run_id) == "FAILURE"
    assert "ValueError" in str(store.nodes(run_id)[1].error)
    broken.clear()
    engine.tell(run_id, "retry")
    engine.work()
    assert engine.state(run_id) == "SUCCESS"
    assert [(n.state, n.generation) for n in store.nodes(run_id)] == [
        ("SUCCESS", 0), ("SUCCESS", 1), ("SUCCESS", 1),
    ]  # fmt: skip
    assert len(store.logs(run_id)) == 3
    other = engine.submit(group(task(i).set(countdown=100) for i in range(3)))
    engine.work()
    engine.tell(other, "pause")
    engine.tell(other, "cancel")
    engine.work()
    assert engine.state(other) == "CANCELLED"
    assert store.rows("SELECT COUNT(*) FROM flowq_timer") == [(0,)]


def test_a_large_value_travels_by_reference(store: Store) -> None:
    big = "x" * 300_000
    engine = Engine(store, lambda item: report(item, ReportKind.SUCCESS, encode(big)))
    run_id = engine.submit(chain(task(0), task(1)))
    engine.work()
    assert decode(Recorded(store).value(run_id, 1) or b"") == big
    assert store.rows("SELECT COUNT(*) FROM flowq_payload") == [(1,)]
    assert store.rows("SELECT MAX(LENGTH(frame)) FROM flowq_result") == [(33,)]


def test_a_broken_run_delays_no_other(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    engine = Engine(store)
    bad = engine.submit(chain(task(0), task(1)))
    store.write(lambda c: c.execute("UPDATE flowq_spec SET body = args FROM (SELECT"
                                    " args FROM flowq_node) AS x"))  # fmt: skip
    good = engine.submit(chain(task(0), task(1)))
    engine.work()
    assert engine.state(good) == "SUCCESS"
    assert engine.state(bad) == "RUNNING"


def test_pruning_removes_what_ended_long_ago(store: Store) -> None:
    big = "x" * 100_000
    engine = Engine(store, lambda item: report(item, ReportKind.SUCCESS, encode(big)))
    old = engine.submit(group(task(i) for i in range(3)), tags={"a": "b"})
    engine.work()
    live = engine.submit(task(1))
    assert store.prune(store.now() - 3600) == 0
    store.write(lambda c: c.execute("UPDATE flowq_payload SET created_at = 1.0"))
    assert store.prune(store.now() + 1) == 1
    with pytest.raises(UnknownId):
        store.run_by_id(old)
    assert store.run_by_id(live).state not in RUN_TERMINAL
    assert counts(store) == {
        "run": 1, "node": 1, "edge": 0, "spec": 1, "inbox": 1, "tag": 0, "alias": 0,
    }  # fmt: skip
    for name in ("payload", "result", "transition"):
        assert store.rows(f"SELECT COUNT(*) FROM flowq_{name}") == [(0,)], name


def test_the_latest_run_is_the_one_submitted_last_whoever_did(store: Store) -> None:
    """Processes may take their keys from blocks of their own; the order is that of time."""
    other = Store(store.url)
    try:
        names = ["first", "second", "third"]
        for name, each in zip(names, (store, other, store), strict=True):
            each.submit(new(name=name), graph_of(task(1)))
        assert store.find_run("@last").name == "third"
        assert [row.name for row in other.list_runs()][:3] == names[::-1]
    finally:
        other.close()


@pytest.mark.services
def test_the_server_compiles_nothing_for_us(postgres_url: str) -> None:
    store = Store(postgres_url)
    assert store.rows("SHOW jit") == [("off",)]
    assert store.write(lambda cursor: cursor.execute("SHOW jit").fetchone()) == ("off",)
    store.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE flowq_node SET state = 'DONE'",
        "UPDATE flowq_node SET unmet = -1",
        "UPDATE flowq_node SET kind = 3",
        "UPDATE flowq_run SET state = 'DONE'",
        "UPDATE flowq_run SET open_count = -1",
    ],
)
def test_what_cannot_be_is_refused_by_the_tables(store: Store, statement: str) -> None:
    store.submit(new(), graph_of(task(1)))
    with pytest.raises(StoreError, match=r"flowq_|CHECK"):
        store.write(lambda cursor: cursor.execute(statement))


@pytest.mark.services
def test_a_server_that_takes_no_writes_for_now_is_away(postgres_url: str) -> None:
    """As a primary that has become a standby: who writes tries again, and nothing ends."""
    import psycopg

    store = Store(postgres_url)
    store.ensure()
    store.submit(new(), graph_of(task(1)))
    name = postgres_url.rpartition("/")[2]
    plain = postgres_url.replace("+psycopg", "").removesuffix(name) + "postgres"
    with psycopg.connect(plain, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        admin.execute(ended, (name,))
        for _ in range(2):  # the first one meets the end of its connection
            with pytest.raises(StoreUnavailable):
                store.submit(new(), graph_of(task(1)))
        assert store.rows("SELECT COUNT(*) FROM flowq_run") == [(1,)]
        admin.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    assert store.submit(new(), graph_of(task(1)))[2]
    store.close()
