"""What the command line has of the store: rerun's plan and copy, pruning, checking, following."""

from __future__ import annotations

from typing import Any

import pytest

from flowq.app.rerun import Source, plan
from flowq.core.graph import Bind, Edge, Graph, Kind, Node, On, Spec
from flowq.store import NewRun, Store
from flowq.store.checking import check
from flowq.store.copying import copy_run
from flowq.store.pruning import PAGE

SUCCESS, FAILURE, SKIPPED = "SUCCESS", "FAILURE", "SKIPPED"


def chain_of(count: int) -> Graph:
    nodes = [
        Node(0, Kind.TASK, f"step#{i}", f"c{i}", need=min(i, 1), unmet=min(i, 1), args=b"j[[],{}]")
        for i in range(count)
    ]
    edges = [Edge(i, i + 1, 0, On.SUCCESS, Bind.PREPEND) for i in range(count - 1)]
    return Graph([Spec("app.step")], nodes, edges, [count - 1])


def submit(store: Store, count: int = 3, uid: str = "uid-1") -> int:
    lane = store.make_lane("app", "embedded", uid, None)
    new = NewRun(uid=uid, lane_id=lane, app="app", name="chain", tags={"a": "b"})
    return store.submit(new, chain_of(count))[0]


def execute(store: Store, statement: str, *params: Any) -> None:
    store.write(lambda cursor: cursor.execute(store.prepared(statement), params))


def end(store: Store, run_id: int, at: float, failed: int = -1) -> None:
    """Have a run's rows say that it ended, with one node failed and those behind it skipped."""
    count = len(store.nodes(run_id))
    for idx in range(count):
        state = SUCCESS if failed < 0 or idx < failed else FAILURE if idx == failed else SKIPPED
        execute(
            store,
            "UPDATE flowq_node SET state = :s, unmet = 0, hits = 1 WHERE run_id = :r AND idx = :i",
            *(state, run_id, idx),
        )
        if state == SUCCESS:
            store.write(
                lambda cursor, idx=idx: cursor.execute(  # type: ignore[misc]
                    store.sql.result_insert, (run_id, idx, 0, b"j%d" % idx, 2)
                )
            )
    execute(
        store,
        "UPDATE flowq_run SET state = :s, open_count = 0, finished_at = :at, submitted_at = :b"
        " WHERE id = :r",
        *(FAILURE if failed >= 0 else SUCCESS, at, at, run_id),
    )
    execute(store, "DELETE FROM flowq_inbox WHERE run_id = :r", run_id)


# -- rerun --------------------------------------------------------------------------------------


def sources(*states: str, kinds: dict[int, Kind] | None = None) -> list[Source]:
    kinds = kinds or {}
    return [
        Source(i, f"c{i}", kinds.get(i, Kind.TASK), min(i, 1), state)
        for i, state in enumerate(states)
    ]


STEPS = [(0, 1, On.SUCCESS), (1, 2, On.SUCCESS), (1, 3, On.FAILURE)]


def test_without_a_node_nothing_is_kept() -> None:
    copy = plan(sources(SUCCESS, SUCCESS, SUCCESS, SKIPPED), STEPS, None)
    assert copy.kept == set()
    assert copy.unmet == [0, 1, 1, 1]


def test_what_is_not_behind_the_node_is_kept() -> None:
    copy = plan(sources(SUCCESS, FAILURE, SKIPPED, SUCCESS), STEPS, 1)
    assert copy.kept == {0}
    assert (copy.unmet, copy.hits) == ([0, 0, 1, 1], [0, 1, 0, 0])


def test_an_errback_beside_the_node_waits_for_a_failure_that_did_not_come() -> None:
    copy = plan(sources(SUCCESS, SUCCESS, SUCCESS, SKIPPED), STEPS, 2)
    assert copy.kept == {0, 1}
    assert (copy.unmet[3], copy.hits[3]) == (0, 0)


def test_fragments_are_left_out_and_their_owner_is_a_task_again() -> None:
    nodes = [
        *sources(SUCCESS, SUCCESS, SUCCESS, SKIPPED, kinds={1: Kind.PASS}),
        Source(4, "c1/r/c0", Kind.TASK, 0, SUCCESS),
        Source(5, "c1/r/c1", Kind.TASK, 1, SUCCESS),
    ]
    steps = [*STEPS, (4, 5, On.SUCCESS), (5, 1, On.ALWAYS)]
    copy = plan(nodes, steps, 5)
    assert copy.count == 4
    assert copy.kept == {0}
    assert copy.needs == [0, 1, 1, 1]
    assert plan(nodes, steps, 2).kept == {0, 1}


def test_a_copy_has_the_rows_it_needs(store: Store) -> None:
    old = submit(store)
    end(store, old, store.now(), failed=1)
    nodes = [Source(*row) for row in store.rows(store.sql.copy_source, (old,))]
    steps = [(r[0], r[1], r[3]) for r in store.rows(store.sql.view_edges, (old,))]
    lane = store.make_lane("app", "embedded", "other", None)
    new = copy_run(store, old, plan(nodes, steps, 1), "uid-2", lane, None)
    row = store.run_by_id(new)
    assert (row.state, row.rerun_of, row.open_count, row.node_count) == ("RUNNING", old, 2, 3)
    assert row.tags == {"a": "b"}
    assert [(n.state, n.unmet) for n in store.nodes(new)] == [
        (SUCCESS, 0),
        ("PENDING", 0),
        ("PENDING", 1),
    ]
    assert store.one(store.sql.result_get, (new, 0)) is not None
    assert store.one(store.sql.result_get, (new, 1)) is None
    assert len(store.edges(new)) == 2
    assert [r[2] for r in store.rows(store.sql.inbox_take, (lane, 10))] == ["submitted"]
    queues = {
        q
        for (q,) in store.rows(
            store.prepared("SELECT id FROM flowq_queue WHERE lane_id = :l"), (lane,)
        )
    }
    held = store.rows(store.sql.view_nodes, (new,))
    assert {r[2] for r in held if r[6] != SUCCESS} == queues
    assert check(store) == []


# -- pruning ------------------------------------------------------------------------------------


def rows_left(store: Store) -> dict[str, int]:
    tables = ("run", "node", "edge", "spec", "result", "tag", "payload", "inbox")
    return {name: int(store.rows(f"SELECT COUNT(*) FROM flowq_{name}")[0][0]) for name in tables}


def test_prune_removes_old_runs_whole_and_keeps_the_others(store: Store) -> None:
    now = store.now()
    old, young, live = submit(store, uid="a"), submit(store, uid="b"), submit(store, uid="c")
    end(store, old, now - 1000)
    end(store, young, now)
    digest = b"x" * 32
    store.write(lambda c: c.execute(store.sql.payload_insert, (digest, b"unused", now - 2000)))
    assert store.prune_due(now - 500)
    assert store.prunable(now - 500) == [old]
    assert store.prune(now - 500) == 1
    assert [row.id for row in store.list_runs()] == [live, young]
    left = rows_left(store)
    assert (left["run"], left["node"], left["edge"], left["payload"]) == (2, 6, 4, 0)
    assert store.prune(now - 500) == 0
    assert not store.prune_due(now - 500)
    assert check(store) == []


def test_prune_keeps_payloads_that_are_referred_to(store: Store) -> None:
    now = store.now()
    old, young = submit(store, uid="a"), submit(store, uid="b")
    end(store, old, now - 1000)
    end(store, young, now)
    digest = b"y" * 32
    store.write(lambda c: c.execute(store.sql.payload_insert, (digest, b"used", now - 2000)))
    execute(
        store,
        "UPDATE flowq_result SET frame = :f WHERE run_id = :r AND idx = 0",
        *(b"r" + digest, young),
    )
    store.prune(now - 500)
    assert rows_left(store)["payload"] == 1
    store.prune(now + 1)
    assert rows_left(store)["payload"] == 0


def test_prune_stops_at_its_limit(store: Store) -> None:
    for name in "abc":
        end(store, submit(store, uid=name), store.now() - 1000)
    assert store.prune(store.now(), limit=2) == 2
    assert len(store.list_runs()) == 1


def test_a_run_of_many_pages_goes_whole(tmp_path: Any) -> None:
    store = Store(f"sqlite:///{tmp_path}/many.db")
    store.ensure()
    run_id = submit(store, PAGE * 2 + 10)
    execute(
        store,
        "UPDATE flowq_run SET state = 'SUCCESS', open_count = 0, finished_at = 1 WHERE id = :r",
        run_id,
    )
    execute(store, "UPDATE flowq_node SET state = 'SUCCESS' WHERE run_id = :r", run_id)
    before = store.write.commits  # type: ignore[attr-defined]
    assert store.prune(2.0) == 1
    assert store.write.commits - before >= 4  # type: ignore[attr-defined]
    left = rows_left(store)
    assert (left["run"], left["node"], left["edge"], left["spec"]) == (0, 0, 0, 0)
    store.close()


def test_a_lane_key_is_never_used_again(store: Store) -> None:
    first = store.make_lane("app", "embedded", "one", None)
    execute(store, "DELETE FROM flowq_lane WHERE id = :l", first)
    assert store.make_lane("app", "embedded", "two", None) > first


# -- checking -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE flowq_run SET open_count = 1", "unfinished nodes"),
        ("UPDATE flowq_node SET unmet = 5 WHERE idx = 2", "what they wait for"),
        ("DELETE FROM flowq_run", "belong to no run"),
    ],
)
def test_check_finds_what_does_not_agree(store: Store, statement: str, words: str) -> None:
    submit(store)
    assert check(store) == []
    execute(store, statement)
    assert any(words in text for text in check(store))


# -- following ----------------------------------------------------------------------------------


def test_a_look_at_a_large_run_costs_what_has_changed(tmp_path: Any) -> None:
    import time

    from flowq.cli.follow import Progress
    from flowq.cli.live import fitted

    store = Store(f"sqlite:///{tmp_path}/large.db")
    store.ensure()
    count = 10_000
    nodes = [Node(-1, Kind.JOIN, "join", "j", need=count, unmet=count)]
    nodes += [Node(0, Kind.TASK, f"one[{i}]", f"g{i}") for i in range(count)]
    edges = [Edge(i + 1, 0, i, On.SUCCESS, Bind.ITEM) for i in range(count)]
    lane = store.make_lane("app", "embedded", "x", None)
    new = NewRun(uid="uid", lane_id=lane, app="app", name="wide")
    run_id = store.submit(new, Graph([Spec("app.one")], nodes, edges, [0]))[0]
    progress = Progress(store, run_id)
    assert progress.whole.counts == {"READY": count}
    story = [
        (run_id, i + 1, i + 1, 0, 1, "READY", "SUCCESS", "succeeded", 1.0, 1.0, 2.0, None, None)
        for i in range(100)
    ]
    store.write(lambda cursor: cursor.executemany(store.sql.transition_insert, story))
    began = time.perf_counter()
    progress.catch_up()
    lines = fitted(progress, 20)
    took = time.perf_counter() - began
    assert progress.whole.done == 100
    assert [line.name for line in lines] == ["one × 10,000"]
    assert took < 0.1
    store.close()
