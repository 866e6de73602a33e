"""The worker over a pool that only remembers what it is told."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from flowq import Flowq, errors
from flowq.broker.codec import Bundle, Item, Report, ReportKind
from flowq.core.graph import Spec
from flowq.payload import encode_args
from flowq.worker.autoscale import KEEP_ALIVE, Autoscaler
from flowq.worker.pool import Doing, News, Part, Question, Returned
from flowq.worker.threads import ThreadPool
from flowq.worker.worker import PART_ITEMS, Worker
from tests.descriptors import readable


class FakePool:
    """Takes parts and gives what the test puts into `news`."""

    def __init__(self, hands: int) -> None:
        self.hands = hands
        self.parts: list[Part] = []
        self.news: list[News] = []
        self.recalled: list[tuple[int, int] | None] = []
        self.stopped = False

    def handles(self) -> list[int]:
        return []

    def free(self, small: bool) -> int:
        idle = self.hands - len(self.parts)
        behind = sum(1 for part in self.parts[: self.hands] if part.small)
        return max(0, idle + behind) if small else max(0, idle)

    def submit(self, part: Part) -> None:
        assert self.free(part.small)
        self.parts.append(part)

    def collect(self) -> list[News]:
        news, self.news = self.news, []
        return news

    def recall(self, kill: tuple[int, int] | None = None, number: int = 9) -> None:
        self.recalled.append(kill)

    def running(self) -> list[Doing]:
        """Each part is in its first item."""
        return [Doing(*part.entries[0], 1000.0, 7) for part in self.parts[: self.hands]]

    def resize(self, hands: int) -> None:
        self.hands = hands

    def stop(self, grace: float) -> None:
        self.stopped = True

    def finish(self, seconds: float = 0.001, kind: ReportKind = ReportKind.SUCCESS) -> None:
        """End every item of the first part."""
        for _, item in self.parts.pop(0).entries:
            self.news.append(
                Report(item.run, item.idx, item.attempt, kind, 100.0, 100.0 + seconds, id=item.id)
            )

    @property
    def sizes(self) -> list[int]:
        return [len(part.entries) for part in self.parts]

    @property
    def indexes(self) -> list[int]:
        return [item.idx for part in self.parts for _, item in part.entries]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pool() -> FakePool:
    return FakePool(2)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def worker(pool: FakePool, clock: Clock) -> Worker:
    return Worker(pool, pool.hands, clock=clock, monotonic=clock)


def bundle(*idxs: int, run: int = 1, task: str = "t", attempt: int = 1, **fields: Any) -> Bundle:
    options = {k: fields.pop(k) for k in ("max_crashes", "track_started") if k in fields}
    items = [Item(run, idx, attempt, 0, 0, b"j[[],{}]", [], **fields) for idx in idxs]
    return Bundle(1, "s", 1, 1, 0, "q", {run: bytes(16)}, [Spec(task, **options)], items)


def teach(worker: Worker, pool: FakePool, seconds: float = 0.0001, task: str = "t") -> None:
    """Have the worker know how long a task takes."""
    worker.offer([bundle(9999, run=99, task=task)])
    pool.finish(seconds)
    worker.collect()


def test_an_unknown_task_travels_alone_and_only_to_an_idle_hand(
    worker: Worker, pool: FakePool
) -> None:
    worker.offer([bundle(0, 1, 2, 3)])
    assert pool.sizes == [1, 1]
    assert worker.wants() == 0
    pool.finish(seconds=1.0)
    assert [r.idx for r in worker.collect()] == [0]
    assert pool.indexes == [1, 2]


def test_small_items_travel_together_and_one_part_waits_behind_another(
    worker: Worker, pool: FakePool
) -> None:
    teach(worker, pool)
    worker.offer([bundle(*range(300))])
    assert pool.sizes == [PART_ITEMS] * 4
    assert pool.indexes == list(range(4 * PART_ITEMS))
    pool.finish(seconds=0.0001)
    reports = worker.collect()
    assert len(reports) == PART_ITEMS
    assert pool.sizes[-1] == 22  # what is left is shared among two hands


def test_few_small_items_are_shared_among_the_hands(worker: Worker, pool: FakePool) -> None:
    teach(worker, pool)
    worker.offer([bundle(*range(10))])
    assert pool.sizes == [5, 5]


def test_what_takes_next_to_no_time_is_one_part(worker: Worker, pool: FakePool) -> None:
    teach(worker, pool, seconds=0.00001)
    worker.offer([bundle(*range(5))])
    assert pool.sizes == [5]


def test_a_part_is_limited_by_what_it_will_take(worker: Worker, pool: FakePool) -> None:
    teach(worker, pool, seconds=0.004)
    worker.offer([bundle(*range(64))])
    assert pool.sizes[0] == 7


def test_a_slow_task_becomes_small_when_it_gets_faster(worker: Worker, pool: FakePool) -> None:
    teach(worker, pool, seconds=0.05)  # a first call that imports
    for n in range(5):
        worker.offer([bundle(n)])
        pool.finish(seconds=0.0001)
        worker.collect()
    worker.offer([bundle(*range(10, 20))])
    assert pool.sizes[0] > 1


@pytest.mark.parametrize("option", [{"max_crashes": 0}, {"crashes": 1}])
def test_what_must_not_share_a_fate_travels_alone(
    worker: Worker, pool: FakePool, option: dict[str, int]
) -> None:
    teach(worker, pool)
    worker.offer([bundle(0, 1, 2, **option)])
    assert pool.sizes == [1, 1]


def test_larger_priorities_go_first_and_equals_in_order(worker: Worker, pool: FakePool) -> None:
    worker.offer([bundle(0, 1)])
    worker.offer([bundle(2, priority=1), bundle(3, 4, priority=5), bundle(5, priority=1)])
    seen = []
    while pool.parts:
        seen.append(pool.indexes[0])
        pool.finish(seconds=1.0)
        worker.collect()
    assert seen == [0, 1, 3, 4, 2, 5]


def test_a_message_that_comes_twice_runs_once(worker: Worker, pool: FakePool) -> None:
    worker.offer([bundle(0), bundle(0)])
    worker.offer([bundle(0)])
    assert pool.indexes == [0]
    assert worker.held() == {(1, 0, 1)}
    worker.offer([bundle(0, attempt=2)])
    assert pool.indexes == [0, 0]
    pool.finish()
    worker.collect()
    assert worker.held() == {(1, 0, 2)}


def test_bare_tasks_are_told_apart_by_their_ids(worker: Worker, pool: FakePool) -> None:
    worker.offer([bundle(0, run=0, id="a"), bundle(0, run=0, id="b"), bundle(0, run=0, id="a")])
    assert worker.held() == {"a", "b"}
    pool.finish()
    assert [r.id for r in worker.collect()] == ["a"]
    assert worker.held() == {"b"}


def test_returned_items_keep_their_place_in_the_queue(worker: Worker, pool: FakePool) -> None:
    worker.offer([bundle(0, 1, 2, 3, 4)])
    held = pool.parts.pop(0)
    pool.news.append(Returned(held.entries))
    assert worker.collect() == []
    assert pool.indexes == [1, 0]
    assert len(worker.held()) == 5


def test_a_revoked_run_is_dropped_and_stays_out(worker: Worker, pool: FakePool) -> None:
    worker.offer([bundle(0, 1, 2), bundle(0, run=2)])
    worker.revoke(1)
    assert worker.held() == {(1, 0, 1), (1, 1, 1), (2, 0, 1)}
    assert pool.recalled == [None]
    pool.news.append(Returned(pool.parts.pop(0).entries))
    worker.collect()
    assert worker.held() == {(1, 1, 1), (2, 0, 1)}
    worker.offer([bundle(7)])
    assert (1, 7, 1) not in worker.held()


def test_kill_names_the_node_to_the_pool(worker: Worker, pool: FakePool) -> None:
    worker.kill((3, 4))
    assert pool.recalled == [(3, 4)]


def test_a_drained_worker_gives_back_what_has_not_begun(worker: Worker, pool: FakePool) -> None:
    worker.offer([bundle(0, 1, 2, 3)])
    worker.drain()
    reports = worker.collect()
    assert [(r.idx, r.kind) for r in reports] == [
        (2, ReportKind.RETURNED),
        (3, ReportKind.RETURNED),
    ]
    assert worker.wants() == 0
    worker.offer([bundle(8)])
    pool.news.append(Returned(pool.parts.pop().entries))
    assert [r.idx for r in worker.collect()] == [8, 1]
    assert worker.busy
    pool.finish()
    assert [r.kind for r in worker.collect()] == [ReportKind.SUCCESS]
    assert not worker.busy


def test_stop_gives_the_last_reports(worker: Worker, pool: FakePool) -> None:
    worker.offer([bundle(0)])
    pool.finish()
    assert [r.idx for r in worker.stop(1.0)] == [0]
    assert pool.stopped


def test_items_past_their_time_expire_unrun(worker: Worker, pool: FakePool, clock: Clock) -> None:
    worker.offer([bundle(0, 1), bundle(2, expires_at=1005.0), bundle(3, expires_at=2000.0)])
    clock.now = 1010.0
    pool.finish(seconds=1.0)
    assert [(r.idx, r.kind) for r in worker.collect()] == [
        (0, ReportKind.SUCCESS),
        (2, ReportKind.EXPIRED),
    ]
    assert pool.indexes == [1, 3]


def test_wanting_follows_free_hands_and_looks_ahead_when_tasks_are_small(
    worker: Worker, pool: FakePool
) -> None:
    assert worker.wants() == 2
    worker.offer([bundle(0)])
    assert worker.wants() == 1
    worker.offer([bundle(1), bundle(2)])
    assert worker.wants() == 0
    while pool.parts:
        pool.finish(seconds=0.0001)
        worker.collect()
    worker.offer([bundle(*range(10, 30))])
    assert worker.wants() > 0
    worker.offer([bundle(*range(100, 600))])
    assert worker.wants() == 0


def test_news_of_progress_are_thinned_out_and_end_with_the_item(
    worker: Worker, pool: FakePool, clock: Clock
) -> None:
    worker.offer([bundle(0)])

    def progress(text: bytes) -> Report:
        return Report(1, 0, 1, ReportKind.PROGRESS, frame=text)

    pool.news += [progress(b"1"), progress(b"2")]
    assert [r.frame for r in worker.collect()] == [b"2"]
    pool.news.append(progress(b"3"))
    assert worker.collect() == []
    clock.now += 0.2
    assert [r.frame for r in worker.collect()] == [b"3"]
    pool.news.append(progress(b"4"))
    pool.finish()
    assert [r.kind for r in worker.collect()] == [ReportKind.SUCCESS]


def test_questions_reach_whoever_answers(pool: FakePool) -> None:
    replies: list[tuple[bool, bytes]] = []
    asked = Question("submit", b"x", lambda ok, body: replies.append((ok, body)))
    silent = Worker(pool, 2)
    pool.news.append(asked)
    silent.collect()
    assert not replies[0][0]
    assert b"submit" in replies[0][1]

    def answer(name: str, body: bytes, reply: Any) -> None:
        reply(True, name.encode() + body)

    pool.news.append(asked)
    Worker(pool, 2, answer=answer).collect()
    assert replies[1] == (True, b"submitx")


# -- rates ----------------------------------------------------------------------------------


def bares(*ids: str, task: str = "t", rate: float = 0.0, **fields: Any) -> Bundle:
    items = [Item(0, 0, 1, 0, 0, b"j[[],{}]", [], id=task_id, **fields) for task_id in ids]
    return Bundle(1, "", 0, 0, 0, "q", {}, [Spec(task, rate=rate)], items)


def begins(worker: Worker, pool: FakePool, clock: Clock, seconds: float, step: float) -> list[Any]:
    """Turn for a while with bodies that take no time; gives (time, id or idx) of what began."""
    began, start = [], clock.now
    while clock.now < start + seconds - 1e-9:
        for report in worker.collect():
            assert report.kind == ReportKind.SUCCESS
        while pool.parts:
            item = pool.parts[0].entries[0][1]
            began.append((round(clock.now - start, 3), item.id or item.idx))
            pool.finish()
            worker.collect()
        clock.now += step
    return began


def test_bare_tasks_keep_to_the_rate_of_their_task(
    worker: Worker, pool: FakePool, clock: Clock
) -> None:
    worker.offer([bares(*"abcd", rate=2.0)])
    assert pool.sizes == [1]
    assert (worker.load, worker.throttled) == (4, 3)
    assert worker.timeout() == 0.5
    began = begins(worker, pool, clock, 2.0, 0.25)
    assert began == [(0.0, "a"), (0.5, "b"), (1.0, "c"), (1.5, "d")]
    assert worker.timeout() == float("inf")
    assert not worker.busy


def test_a_coarse_loop_makes_up_for_late_starts(
    worker: Worker, pool: FakePool, clock: Clock
) -> None:
    worker.offer([bares(*map(str, range(1000)), rate=100.0)])
    began = begins(worker, pool, clock, 2.0, 0.03)
    assert 195 <= len(began) <= 206


def test_what_is_over_its_rate_holds_nothing_else_up(
    worker: Worker, pool: FakePool, clock: Clock
) -> None:
    worker.offer([bares(*"abc", rate=0.1), bares("x", task="other")])
    assert {part.entries[0][1].id for part in pool.parts} == {"a", "x"}
    pool.finish()
    pool.finish()
    worker.collect()
    assert worker.wants() == 2
    assert not pool.parts


def test_waiting_for_a_hand_saves_up_no_burst(worker: Worker, pool: FakePool, clock: Clock) -> None:
    worker.offer([bundle(1, 2, task="long"), bares(*"abc", rate=1.0)])
    clock.now += 60.0
    worker.collect()
    assert worker.timeout() == float("inf")  # it is let in, and waits for a hand
    pool.finish()
    pool.finish()
    worker.collect()
    assert [part.entries[0][1].id for part in pool.parts] == ["a"]
    assert 0.9 < worker.timeout() <= 1.0


def test_nodes_keep_to_a_limit_that_was_set_here_only(
    worker: Worker, pool: FakePool, clock: Clock
) -> None:
    limited = bundle(0, 1)
    limited.specs = [Spec("t", rate=0.001)]
    worker.offer([limited])
    assert pool.indexes == [0, 1]  # its coordinator sent it in time
    pool.finish()
    pool.finish()
    worker.collect()
    worker.limit_rate("t", 4.0)
    worker.offer([bundle(*range(10, 15))])
    assert worker.wants() == 2
    assert [idx for _, idx in begins(worker, pool, clock, 1.1, 0.125)] == [10, 11, 12, 13, 14]
    assert not worker.held()


def test_many_nodes_over_a_limit_are_given_back_and_not_taken_in_circles(
    worker: Worker, pool: FakePool, clock: Clock
) -> None:
    worker.limit_rate("t", 1000.0)
    worker.offer([bundle(*range(260))])
    assert not worker.collect()  # a second's worth
    worker.limit_rate("t", 4.0)
    worker.offer([bundle(*range(300, 304))])
    back = {r.idx: r.extra for r in worker.collect() if r.kind == ReportKind.RETURNED}
    assert list(back) == [258, 259, 301, 302, 303]  # 256 wait, and one was let in
    assert all(extra == 60.0 for extra in back.values())
    pool.finish()
    worker.collect()
    assert worker.wants() == 0
    clock.now += 0.11
    assert worker.wants() > 0


def test_nodes_that_are_given_back_are_spread_over_time(worker: Worker) -> None:
    worker.limit_rate("t", 100.0)
    worker.offer([bundle(*range(260))])
    [first, second, third, *_] = [r.extra for r in worker.collect()]
    assert isinstance(first, float)
    assert 2.5 < first < 2.7
    assert (second, third) == pytest.approx((first + 0.01, first + 0.02))


def test_a_limit_may_be_changed_and_taken_away(
    worker: Worker, pool: FakePool, clock: Clock
) -> None:
    worker.offer([bares(*"abcdef", rate=0.001)])
    assert worker.timeout() == 1000.0
    worker.limit_rate("t", 0.5)
    assert worker.timeout() == 2.0
    assert begins(worker, pool, clock, 5.0, 1.0) == [(0, "a"), (2, "b"), (4, "c")]
    worker.limit_rate("t", 0)
    assert [item.id for part in pool.parts for _, item in part.entries] == ["d", "e", "f"]
    assert (worker.throttled, worker.timeout()) == (0, float("inf"))


def test_a_limit_holds_what_was_taken_before_it_was_set(worker: Worker, pool: FakePool) -> None:
    worker.offer([bundle(1, 2, task="long"), bares(*"abc")])
    worker.limit_rate("t", 1.0)
    pool.finish()
    pool.finish()
    worker.collect()
    assert [part.entries[0][1].id for part in pool.parts] == ["a"]
    assert worker.throttled == 2


def test_what_waits_for_its_rate_can_be_revoked_and_drained(
    worker: Worker, pool: FakePool, clock: Clock
) -> None:
    worker.limit_rate("t", 4.0)
    worker.offer([bares(*"abc"), bundle(0, 1)])
    assert worker.revoke_task("b")
    assert worker.timeout() == 0.0
    assert [(r.id, r.kind) for r in worker.collect()] == [("b", ReportKind.REVOKED)]
    worker.revoke(1)
    assert worker.held() == {"a", "c"}
    worker.drain()
    assert [(r.id, r.kind) for r in worker.collect()] == [("c", ReportKind.RETURNED)]
    assert worker.timeout() == float("inf")


def test_an_item_that_was_let_in_and_revoked_frees_its_gate(worker: Worker, pool: FakePool) -> None:
    worker.offer([bundle(1, 2, task="long"), bares("a", "b", rate=1.0)])
    assert worker.revoke_task("a")
    pool.finish()
    worker.collect()
    assert [part.entries[0][1].id for part in pool.parts][-1] == "b"


def test_rate_limits_can_be_disabled(pool: FakePool, clock: Clock) -> None:
    worker = Worker(pool, pool.hands, rates=False, clock=clock, monotonic=clock)
    worker.offer([bares(*"ab", rate=0.1)])
    assert pool.sizes == [1, 1]
    with pytest.raises(errors.WrongState, match="worker_disable_rate_limits"):
        worker.limit_rate("t", 1.0)


# -- single tasks ---------------------------------------------------------------------------


def test_a_task_that_waits_with_a_hand_is_revoked_when_it_comes_back(
    worker: Worker, pool: FakePool
) -> None:
    teach(worker, pool)
    worker.offer([bares(*"abc"), bundle(4)])
    [first, *_] = pool.parts
    assert [item.id for _, item in first.entries] == ["a", "b"]
    assert worker.revoke_task("b")
    assert pool.recalled == [None]
    assert worker.collect() == []
    pool.news.append(Returned(first.entries[1:]))
    first.entries = first.entries[:1]
    assert [(r.id, r.kind) for r in worker.collect()] == [("b", ReportKind.REVOKED)]
    assert worker.held() == {"a", "c", (1, 4, 1)}


def test_a_task_that_began_before_it_was_asked_back_ends_as_it_does(
    worker: Worker, pool: FakePool
) -> None:
    teach(worker, pool)
    worker.offer([bares(*"abcd")])
    assert worker.revoke_task("b")
    pool.finish()
    assert [(r.id, r.kind) for r in worker.collect()] == [
        ("a", ReportKind.SUCCESS),
        ("b", ReportKind.SUCCESS),
    ]
    worker.offer([bares("b")])  # the same id again, as of a retry: not held against it
    pool.news.append(Returned(pool.parts.pop().entries))
    assert worker.collect() == []
    assert "b" in worker.held()


def test_a_task_that_runs_or_is_not_here_is_not_revoked(worker: Worker, pool: FakePool) -> None:
    worker.offer([bares("a")])
    assert not worker.revoke_task("a")
    assert not worker.revoke_task("unknown")
    assert pool.recalled == []


def test_a_draining_worker_revokes_what_was_asked_back(worker: Worker, pool: FakePool) -> None:
    teach(worker, pool, 0.001)
    worker.offer([bares(*"abcd")])
    assert worker.revoke_task("b")
    worker.drain()
    pool.news.append(Returned([pool.parts[0].entries[1], pool.parts[1].entries[1]]))
    found = {r.id: r.kind for r in worker.collect()}
    assert found == {"b": ReportKind.REVOKED, "d": ReportKind.RETURNED}


def test_time_limits_that_were_set_hold_for_what_is_taken_from_then_on(
    worker: Worker, pool: FakePool
) -> None:
    worker.offer([bundle(1)])
    worker.limit_time("t", 9.0, 4.0)
    worker.offer([bundle(2), bundle(3, task="other")])
    worker.limit_time("t", None, None)
    worker.offer([bundle(4)])
    entries = [doing[:2] for doing in worker.active()] + worker.reserved()
    specs = {item.idx: bundle.specs[0] for bundle, item in entries}
    limits = {idx: (spec.time_limit, spec.soft_time_limit) for idx, spec in specs.items()}
    assert limits == {1: (None, None), 2: (9.0, 4.0), 3: (None, None), 4: (None, None)}


def test_what_runs_and_what_waits_can_be_looked_at(worker: Worker, pool: FakePool) -> None:
    worker.offer([bares(*"ab"), bundle(1, 2)])
    assert [(doing.item.id, doing.pid) for doing in worker.active()] == [("a", 7), ("b", 7)]
    assert [item.idx for _, item in worker.reserved()] == [1, 2]


# -- resizing -------------------------------------------------------------------------------


def test_a_worker_grows_and_shrinks_and_feeds_the_new_hands(worker: Worker, pool: FakePool) -> None:
    worker.offer([bundle(0, 1, 2, 3)])
    assert len(pool.parts) == 2
    worker.grow(1)
    assert (worker.hands, pool.hands, len(pool.parts)) == (3, 3, 3)
    worker.shrink(2)
    assert (worker.hands, pool.hands) == (1, 1)


class Scaled:
    """An autoscaler over a pretended load."""

    def __init__(self, worker: Worker, clock: Clock, most: int, least: int) -> None:
        self.worker, self.clock = worker, clock
        self.waiting = 0
        self.sizes: list[int] = []
        self.scaler = Autoscaler(
            worker,
            most,
            least,
            backlog=lambda: self.waiting,
            changed=self.sizes.append,
            monotonic=clock,
        )

    def turn(self, waiting: int, seconds: float = 0.5) -> int:
        self.waiting = waiting
        self.clock.now += seconds
        assert self.scaler.timeout() == 0.0
        self.scaler.turn()
        assert self.scaler.timeout() == 0.5
        return self.worker.hands


def test_autoscale_grows_at_once_and_shrinks_by_and_by(worker: Worker, clock: Clock) -> None:
    scaled = Scaled(worker, clock, most=10, least=2)
    assert scaled.turn(1) == 2
    assert scaled.turn(7) == 7
    assert scaled.turn(50) == 10
    assert scaled.turn(3, KEEP_ALIVE) == 10  # busy until just now
    assert scaled.turn(3) == 4
    assert scaled.turn(3, KEEP_ALIVE * 2) == 4  # no more comes and goes
    assert scaled.turn(0) == 4
    assert scaled.turn(0, KEEP_ALIVE + 1) == 2
    assert scaled.sizes == [7, 10, 4, 2]


def test_autoscale_doubles_while_all_are_busy(worker: Worker, clock: Clock) -> None:
    scaled = Scaled(worker, clock, most=7, least=1)
    assert [scaled.turn(worker.hands) for _ in range(3)] == [4, 7, 7]


def test_autoscale_keeps_to_new_bounds(worker: Worker, clock: Clock) -> None:
    scaled = Scaled(worker, clock, most=10, least=1)
    assert scaled.scaler.limit(20, 5) == (20, 5)
    assert scaled.turn(0) == 5
    assert scaled.scaler.limit(3, 0) == (3, 1)
    assert scaled.turn(0) == 3
    with pytest.raises(errors.WrongState, match="at most 2 slots is less than at least 4"):
        scaled.scaler.limit(2, 4)
    assert scaled.scaler.bounds == (3, 1)


def test_autoscale_stays_where_the_pool_has_no_more_room(
    worker: Worker, pool: FakePool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(hands: int) -> None:
        raise errors.WrongState("no room")

    monkeypatch.setattr(pool, "resize", refuse)
    scaled = Scaled(worker, clock, most=10, least=1)
    assert scaled.turn(9) == 2
    assert scaled.scaler.bounds == (2, 1)


def test_autoscale_over_a_pool_of_threads() -> None:
    release = threading.Event()
    app = Flowq("scaled", set_as_current=False)
    app.task(release.wait, name="wait")
    worker = Worker(ThreadPool(1, app.tasks), 1)
    scaler = Autoscaler(worker, 4, 1, monotonic=itertools.count().__next__)
    items = bundle(*range(4), task="wait")
    for item in items.items:
        item.args = encode_args((30,), {})
    worker.offer([items])
    scaler.turn()
    assert worker.hands == 4
    assert drive(worker, lambda reports: len(worker.active()) == 4) == []
    release.set()
    reports = drive(worker, lambda reports: len(reports) == 4)
    assert {report.kind for report in reports} == {ReportKind.SUCCESS}
    for _ in range(int(KEEP_ALIVE) + 2):
        scaler.turn()
    assert worker.hands == 1
    worker.stop(5)


def test_a_thread_gives_back_the_task_that_is_revoked_behind_another() -> None:
    release, ran = threading.Event(), []
    app = Flowq("behind", set_as_current=False)
    app.task(lambda name: (release.wait(30), ran.append(name)), name="wait")
    worker = Worker(ThreadPool(1, app.tasks), 1)

    def offer(*names: str) -> None:
        made = bares(*names, task="wait")
        for item in made.items:
            item.args = encode_args((item.id,), {})
        worker.offer([made])

    release.set()
    offer("quick")
    drive(worker, lambda reports: bool(reports))
    release.clear()
    offer(*"abc")
    drive(worker, lambda reports: bool(worker.active()))
    assert worker.revoke_task("b")
    [revoked] = drive(worker, lambda reports: bool(reports))
    assert (revoked.id, revoked.kind) == ("b", ReportKind.REVOKED)
    release.set()
    drive(worker, lambda reports: len(reports) == 2)
    assert ran == ["quick", "a", "c"]
    worker.stop(5)


def drive(worker: Worker, done: Callable[[list[Report]], bool]) -> list[Report]:
    """Turn a real pool until something is so; gives the reports that end items."""
    reports: list[Report] = []
    deadline = time.monotonic() + 30
    while not done(reports):
        assert time.monotonic() < deadline, reports
        readable(worker.handles(), 0.02)
        reports += [each for each in worker.collect() if each.kind != ReportKind.STARTED]
    return reports
