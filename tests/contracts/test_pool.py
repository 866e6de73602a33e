"""The pool contract, over processes, threads and a single thread; then what only processes do."""

from __future__ import annotations

import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowq import Flowq, errors
from flowq.broker.codec import Bundle, Item, Report, ReportKind
from flowq.core.graph import Spec
from flowq.core.ids import run_uid
from flowq.payload import decode, encode_args
from flowq.worker import wire
from flowq.worker.definitions import Definitions
from flowq.worker.greens import GreenPool, make_room, resident
from flowq.worker.hand import Entry
from flowq.worker.nursery import launch
from flowq.worker.pool import News, Part, Pool, Question, Returned, signal_number
from flowq.worker.prefork import PreforkPool
from flowq.worker.threads import ThreadPool
from tests.contracts.pool_tasks import app
from tests.descriptors import readable
from tests.started import absent

UID = run_uid(1_700_000_000_000, 1).bytes
GREENS = ("gevent", "eventlet")
#: Generous, for a busy machine; nothing waits that long unless it is broken.
PATIENCE = 30.0


def entry(task: str, *args: Any, idx: int = 0, **spec: Any) -> Entry:
    item = Item(1, idx, 1, 0, 0, encode_args(args, {}), [])
    return Bundle(1, "s", 1, 1, 0, "q", {1: UID}, [Spec(task, **spec)], [item]), item


class Driver:
    """Drives a pool and keeps what comes out of it."""

    def __init__(self, pool: Any) -> None:
        self.pool: Any = pool
        self.news: list[News] = []

    def until(self, done: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            if time.monotonic() > deadline:
                trouble = getattr(self.pool, "trouble", "")
                pytest.fail(f"nothing came; trouble: {trouble!r}; so far: {self.news}")
            readable(self.pool.handles(), 0.02)
            self.news += self.pool.collect()

    def run(self, *entries: Entry, small: bool = False) -> list[Report]:
        """Run a part to its end and give its last reports."""
        known = len(self.ends())
        self.until(lambda: self.pool.free(small))
        self.pool.submit(Part(list(entries), small=small))
        self.until(lambda: len(self.ends()) >= known + len(entries))
        return self.ends()[known:]

    def reports(self, *kinds: ReportKind) -> list[Report]:
        return [n for n in self.news if isinstance(n, Report) and (n.kind in kinds or not kinds)]

    def ends(self) -> list[Report]:
        on_the_way = (ReportKind.STARTED, ReportKind.PROGRESS, ReportKind.LOG)
        return [r for r in self.reports() if r.kind not in on_the_way]

    def returned(self) -> list[int]:
        return [i.idx for n in self.news if isinstance(n, Returned) for _, i in n.entries]


def make(kind: str, hands: int = 2, **limits: int) -> Pool:
    setup = wire.Setup([], "", b"", **limits)
    if kind == "prefork":
        return PreforkPool(hands, Definitions(app, modules=["tests.contracts.pool_tasks"]), setup)
    if kind in GREENS:
        if importlib.util.find_spec(kind) is None:
            absent(f"{kind} is not installed")
        return GreenPool(
            kind, hands, Definitions(app, modules=["tests.contracts.pool_tasks"]), setup
        )
    if kind == "solo":
        return ThreadPool(1, app.tasks, solo=True)
    return ThreadPool(hands, app.tasks)


POOLS = ("prefork", "threads", "solo", *GREENS)


@pytest.fixture(params=POOLS)
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    driver = Driver(make(request.param))
    yield driver
    driver.pool.stop(5)


@pytest.fixture
def prefork() -> Iterator[Driver]:
    driver = Driver(make("prefork"))
    yield driver
    driver.pool.stop(0)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        readable([], 0.005)


# -- every pool -----------------------------------------------------------------------------


def test_items_run_and_are_reported_in_order(driver: Driver) -> None:
    parts = [entry("pool.add", n, 1, idx=n) for n in range(64)]
    reports = driver.run(*parts, small=True)
    assert [r.idx for r in reports] == list(range(64))
    assert [decode(r.frame) for r in reports] == [n + 1 for n in range(64)]
    assert all(r.kind == ReportKind.SUCCESS for r in reports)


def test_a_pool_says_how_much_it_takes(driver: Driver, tmp_path: Path) -> None:
    hands = driver.pool.free(False)
    assert driver.pool.free(True) == hands
    for n in range(hands):
        driver.pool.submit(Part([entry("pool.hold", str(tmp_path), f"{n}", idx=n)]))
    assert driver.pool.free(False) == driver.pool.free(True) == 0
    for n in range(hands):
        (tmp_path / f"{n}.go").touch()
    driver.until(lambda: len(driver.ends()) == hands)
    assert driver.pool.free(False) == hands


def test_a_small_part_may_wait_behind_a_small_one(driver: Driver) -> None:
    hands = driver.pool.free(True)
    for n in range(2 * hands):
        assert driver.pool.free(True)
        driver.pool.submit(Part([entry("pool.add", 1, 1, idx=n)], small=True))
    driver.until(lambda: len(driver.ends()) == 2 * hands)


def test_system_exit_fails_only_its_task(driver: Driver) -> None:
    reports = driver.run(entry("pool.exit", 3), entry("pool.add", 1, 2, idx=1))
    assert [r.kind for r in reports] == [ReportKind.FAILURE, ReportKind.SUCCESS]
    assert isinstance(decode(reports[0].frame), errors.WorkerLostError)


def test_an_unknown_task_fails_its_node(driver: Driver) -> None:
    [report] = driver.run(entry("pool.ad", 1, 2))
    exc = decode(report.frame)
    assert isinstance(exc, errors.NotRegistered)
    assert "pool.add" in str(exc)


def test_what_a_task_writes_is_in_its_report_and_in_no_other(driver: Driver) -> None:
    first, second, third = driver.run(
        entry("pool.write", "one"), entry("pool.nothing", idx=1), entry("pool.write", "é", idx=2)
    )
    assert first.log is not None
    assert [number for number, _ in first.log] == [1, 2, 3]
    assert [text for _, text in first.log[:2]] == ["out one\n", "err one\n"]
    assert first.log[2][1].endswith("WARNING pool: log one\n")
    assert second.log is None
    assert third.log is not None
    assert third.log[0] == (1, "out é\n")


def test_an_item_that_runs_long_is_reported_as_started(driver: Driver, tmp_path: Path) -> None:
    driver.pool.submit(Part([entry("pool.hold", str(tmp_path), idx=5)]))
    driver.until(lambda: driver.reports(ReportKind.STARTED))
    (tmp_path / "a.go").touch()
    driver.until(driver.ends)
    [started] = driver.reports(ReportKind.STARTED)
    [ended] = driver.ends()
    assert (started.run, started.idx, started.attempt) == (1, 5, 1)
    assert abs(started.began - ended.began) < 0.05


@pytest.mark.parametrize("option", [{"track_started": True}, {"max_crashes": 0}])
def test_started_comes_first_where_it_is_asked_for(
    driver: Driver, tmp_path: Path, option: dict[str, Any]
) -> None:
    (tmp_path / "a.go").touch()
    driver.run(entry("pool.hold", str(tmp_path), **option))
    kinds = [r.kind for r in driver.reports()]
    assert kinds == [ReportKind.STARTED, ReportKind.SUCCESS]


def test_what_waits_behind_a_long_item_comes_back(driver: Driver, tmp_path: Path) -> None:
    quick = [entry("pool.add", 1, 1, idx=n) for n in range(1, 4)]
    behind = [entry("pool.add", 1, 1, idx=n) for n in range(4, 6)]
    hands = driver.pool.free(False)
    for n in range(1, hands):
        driver.pool.submit(Part([entry("pool.hold", str(tmp_path), f"{n}", idx=90 + n)]))
    driver.pool.submit(Part([entry("pool.hold", str(tmp_path)), *quick], small=True))
    driver.pool.submit(Part(behind, small=True))
    wait_for(tmp_path / "a.begun")
    driver.until(lambda: len(driver.returned()) == 5)
    assert driver.returned() == [1, 2, 3, 4, 5]
    assert not driver.ends()
    for name in ["a", *map(str, range(1, hands))]:
        (tmp_path / f"{name}.go").touch()
    driver.until(lambda: len(driver.ends()) == hands)
    assert len(driver.run(entry("pool.add", 1, 1, idx=7))) == 1
    assert driver.returned() == [1, 2, 3, 4, 5]


def test_a_turn_ends_after_fifty_milliseconds(driver: Driver) -> None:
    driver.pool.submit(Part([entry("pool.nap", 0.02, idx=n) for n in range(10)], small=True))
    driver.until(lambda: len(driver.ends()) + len(driver.returned()) == 10)
    done = [r.idx for r in driver.ends()]
    assert done + driver.returned() == list(range(10))
    assert 1 <= len(done) <= 4


def test_a_recall_brings_back_what_has_not_begun(driver: Driver, tmp_path: Path) -> None:
    parts = [entry("pool.hold", str(tmp_path)), entry("pool.add", 1, 1, idx=1)]
    driver.pool.submit(Part(parts))
    wait_for(tmp_path / "a.begun")
    driver.pool.recall()
    driver.until(lambda: driver.returned() == [1])
    (tmp_path / "a.go").touch()
    driver.until(driver.ends)
    assert [r.idx for r in driver.ends()] == [0]


def test_update_state_comes_before_the_end(driver: Driver) -> None:
    [report] = driver.run(entry("pool.progress"))
    [progress] = driver.reports(ReportKind.PROGRESS)
    assert decode(report.frame) == "whole"
    assert decode(progress.frame) == {"state": "HALF", "meta": {"n": 1}}


def test_the_hard_limit_makes_a_failure(driver: Driver) -> None:
    [report] = driver.run(entry("pool.nap", 0.3, time_limit=0.05))
    assert report.kind == ReportKind.FAILURE
    assert isinstance(decode(report.frame), errors.TimeLimitExceeded)
    assert decode(driver.run(entry("pool.add", 1, 2, idx=1))[0].frame) == 3


def test_stopping_twice_is_allowed_and_a_stopped_pool_takes_nothing(driver: Driver) -> None:
    driver.run(entry("pool.add", 1, 2))
    driver.pool.stop(5)
    driver.pool.stop(5)
    with pytest.raises(errors.WorkerLostError):
        driver.pool.submit(Part([entry("pool.add", 1, 2)]))


def test_coroutines_share_the_event_loop_of_their_hand(driver: Driver) -> None:
    driver.run(entry("pool.loop", idx=9))  # imports take longer than a turn
    first, second = driver.run(entry("pool.loop"), entry("pool.loop", idx=1))
    assert first.kind == second.kind == ReportKind.SUCCESS
    if "greenlets" not in driver.pool.info():  # there each has a thread and a loop for itself
        assert decode(first.frame) == decode(second.frame)


def test_a_coroutine_knows_its_request_and_may_use_threads(driver: Driver) -> None:
    [report] = driver.run(entry("pool.request"))
    task_id, five = decode(report.frame)
    assert (bool(task_id), five) == (True, 5)
    assert report.log == [(1, "in a coroutine")]


@pytest.mark.parametrize("how", ["sleep", "group"])
def test_the_soft_limit_reaches_a_coroutine_that_waits(driver: Driver, how: str) -> None:
    [report] = driver.run(entry("pool.soft", how, soft_time_limit=0.05))
    assert "0.05 s passed" in decode(report.frame)
    assert report.ended - report.began < 10
    [report] = driver.run(entry("pool.loop", 0.01, idx=1))
    assert report.kind == ReportKind.SUCCESS


def test_the_hard_limit_ends_a_coroutine_that_waits(driver: Driver, tmp_path: Path) -> None:
    limits = {"time_limit": 0.2, "soft_time_limit": 0.1}
    [report] = driver.run(entry("pool.stubborn", str(tmp_path), **limits))
    assert report.kind == ReportKind.FAILURE
    exc = decode(report.frame)
    assert isinstance(exc, errors.TimeLimitExceeded)
    assert "over its time limit of 0.2 s and was ended" in str(exc)
    assert report.ended - report.began < 10
    assert driver.run(entry("pool.loop", idx=1))[0].kind == ReportKind.SUCCESS


def test_a_coroutine_that_waits_can_be_ended(driver: Driver, tmp_path: Path) -> None:
    driver.pool.submit(Part([entry("pool.stubborn", str(tmp_path), idx=4)]))
    wait_for(tmp_path / "a.begun")
    driver.until(lambda: driver.reports(ReportKind.STARTED))
    driver.until(lambda: alive(driver))
    driver.pool.recall((1, 5))
    driver.pool.recall((1, 4))
    driver.until(driver.ends)
    [report] = driver.ends()
    assert (report.kind, report.idx, report.extra) == (ReportKind.LOST, 4, "terminated")
    assert driver.run(entry("pool.loop", idx=1))[0].kind == ReportKind.SUCCESS


def test_a_coroutine_can_be_told_to_stop(driver: Driver) -> None:
    driver.pool.submit(Part([entry("pool.soft", "sleep")]))
    driver.until(lambda: driver.reports(ReportKind.STARTED))
    driver.until(lambda: alive(driver))
    driver.pool.recall((1, 0), signal.SIGUSR1)
    driver.until(driver.ends)
    assert "told to stop (SIGUSR1)" in str(decode(driver.ends()[0].frame))  # or before it began


@pytest.mark.parametrize("kind", ["exit", "cancel", "value"])
def test_what_a_coroutine_raises_fails_its_task_only(driver: Driver, kind: str) -> None:
    reports = driver.run(entry("pool.raises", kind)) + driver.run(entry("pool.loop", idx=1))
    assert [r.kind for r in reports] == [ReportKind.FAILURE, ReportKind.SUCCESS]


# -- pools that can be resized --------------------------------------------------------------


@pytest.fixture(params=["prefork", "threads", *GREENS])
def sizable(request: pytest.FixtureRequest) -> Iterator[Driver]:
    driver = Driver(make(request.param))
    yield driver
    driver.pool.stop(5)


def alive(driver: Driver) -> int:
    """How many hands there are, those that leave counted."""
    info = driver.pool.info()
    return int(info.get("greenlets", len(info["processes"])))


def hold(driver: Driver, folder: Path, *names: str) -> None:
    for n, name in enumerate(names):
        driver.pool.submit(Part([entry("pool.hold", str(folder), name, idx=n)]))
    for name in names:
        wait_for(folder / f"{name}.begun")


def test_the_solo_pool_refuses_to_be_resized() -> None:
    pool = make("solo")
    with pytest.raises(errors.WrongState, match="solo pool is one thread"):
        pool.resize(2)
    pool.stop(1)


@pytest.mark.parametrize("hands", [0, 5000])
def test_a_number_of_hands_that_cannot_be_is_refused(sizable: Driver, hands: int) -> None:
    with pytest.raises(errors.WrongState, match=r"at least one|room for 1024"):
        sizable.pool.resize(hands)
    assert sizable.pool.info()["max-concurrency"] == 2


def test_a_pool_grows_and_its_new_hands_work(sizable: Driver, tmp_path: Path) -> None:
    sizable.pool.resize(4)
    assert sizable.pool.free(False) == sizable.pool.info()["max-concurrency"] == 4
    hold(sizable, tmp_path, "a", "b", "c", "d")
    assert sizable.pool.free(False) == 0
    assert len(sizable.pool.running()) == 4
    for name in "abcd":
        (tmp_path / f"{name}.go").touch()
    sizable.until(lambda: len(sizable.ends()) == 4)


def test_idle_hands_go_first_and_busy_ones_after_their_task(
    sizable: Driver, tmp_path: Path
) -> None:
    sizable.pool.resize(3)
    hold(sizable, tmp_path, "a", "b")
    sizable.pool.resize(2)
    assert sizable.pool.free(False) == 0
    sizable.pool.resize(1)
    assert sizable.pool.info()["max-concurrency"] == 1
    assert len(sizable.pool.running()) == 2
    for name in "ab":
        (tmp_path / f"{name}.go").touch()
    sizable.until(lambda: len(sizable.ends()) == 2)
    sizable.until(lambda: alive(sizable) == 1)
    assert {r.kind for r in sizable.ends()} == {ReportKind.SUCCESS}
    assert sizable.pool.free(False) == 1
    assert decode(sizable.run(entry("pool.add", 1, 2, idx=7))[0].frame) == 3


def test_what_waits_behind_the_task_of_a_leaving_hand_comes_back(
    sizable: Driver, tmp_path: Path
) -> None:
    sizable.pool.submit(
        Part([entry("pool.hold", str(tmp_path), "a"), entry("pool.add", 1, 1, idx=1)])
    )
    wait_for(tmp_path / "a.begun")
    hold(sizable, tmp_path, "c")
    sizable.pool.resize(1)  # one of the two goes, whichever
    sizable.pool.recall()
    sizable.until(lambda: sizable.returned() == [1])
    for name in "ac":
        (tmp_path / f"{name}.go").touch()
    sizable.until(lambda: len(sizable.ends()) == 2 and sizable.pool.free(False) == 1)


def test_a_busy_hand_that_was_to_leave_stays_when_the_pool_grows_again(
    sizable: Driver, tmp_path: Path
) -> None:
    hold(sizable, tmp_path, "a", "b")
    sizable.until(lambda: alive(sizable) == 2)
    before = sizable.pool.info()["processes"]
    sizable.pool.resize(1)
    sizable.pool.resize(2)
    for name in "ab":
        (tmp_path / f"{name}.go").touch()
    sizable.until(lambda: len(sizable.ends()) == 2)
    assert sizable.pool.free(False) == 2
    assert sizable.pool.info()["processes"] == before


def test_a_pool_may_be_resized_again_and_again(sizable: Driver) -> None:
    for n in range(30):
        sizable.pool.resize(1 + n * 7 % 5)
        assert decode(sizable.run(entry("pool.add", n, 1, idx=n))[-1].frame) == n + 1
    sizable.pool.resize(3)
    sizable.until(lambda: sizable.pool.free(False) == alive(sizable) == 3)


# -- processes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "argument", "text"),
    [
        ("pool.die", signal.SIGKILL, "signal 9"),
        ("pool.die", signal.SIGTERM, "signal 15"),
        ("pool.leave", 3, "exit code 3"),
    ],
)
def test_a_dead_child_names_its_culprit_and_the_rest_comes_back(
    prefork: Driver, task: str, argument: int, text: str
) -> None:
    before = [entry("pool.add", n, 1, idx=n) for n in range(3)]
    after = [entry("pool.add", n, 1, idx=n) for n in range(4, 8)]
    prefork.pool.submit(Part([*before, entry(task, argument, idx=3), *after], small=True))
    prefork.until(lambda: prefork.reports(ReportKind.LOST))
    prefork.until(lambda: len(prefork.ends()) + len(prefork.returned()) == 8)
    [lost] = prefork.reports(ReportKind.LOST)
    assert (lost.idx, lost.extra) == (3, text)
    assert 0 < lost.began <= lost.ended
    seen = {r.idx for r in prefork.ends()}
    assert seen | set(prefork.returned()) == set(range(8))
    assert prefork.returned() == sorted(set(range(8)) - seen)
    assert decode(prefork.run(entry("pool.add", 2, 2, idx=9))[0].frame) == 4


def test_results_written_before_the_death_are_read(prefork: Driver) -> None:
    parts = [entry("pool.nap", 0.01, idx=0), entry("pool.die", idx=1)]
    reports = prefork.run(*parts)
    assert [(r.idx, r.kind) for r in reports] == [(0, ReportKind.SUCCESS), (1, ReportKind.LOST)]


def test_the_hard_limit_ends_the_process_and_returns_what_waited(prefork: Driver) -> None:
    parts = [entry("pool.nap", 30, time_limit=0.05), entry("pool.add", 1, 1, idx=1)]
    prefork.pool.submit(Part(parts))
    prefork.until(prefork.ends)
    prefork.until(prefork.returned)
    [report] = prefork.ends()
    assert isinstance(decode(report.frame), errors.TimeLimitExceeded)
    assert report.ended - report.began < 10
    assert prefork.returned() == [1]


def test_the_soft_limit_reaches_the_body(prefork: Driver) -> None:
    [report] = prefork.run(entry("pool.nap", 30, soft_time_limit=0.05))
    assert isinstance(decode(report.frame), errors.SoftTimeLimitExceeded)


def test_a_running_node_can_be_killed(prefork: Driver, tmp_path: Path) -> None:
    prefork.pool.submit(Part([entry("pool.hold", str(tmp_path), idx=4)]))
    wait_for(tmp_path / "a.begun")
    prefork.until(lambda: prefork.reports(ReportKind.STARTED))
    prefork.pool.recall((1, 5))
    prefork.pool.recall((1, 4))
    prefork.until(prefork.ends)
    [report] = prefork.ends()
    assert (report.kind, report.extra) == (ReportKind.LOST, "terminated")


def test_a_node_can_be_killed_before_the_pid_of_its_process_is_known(
    prefork: Driver, tmp_path: Path
) -> None:
    prefork.pool.submit(Part([entry("pool.hold", str(tmp_path))]))
    wait_for(tmp_path / "a.begun")
    assert prefork.pool.info()["processes"] == []
    prefork.pool.recall((1, 0))
    prefork.until(prefork.ends)
    [report] = prefork.ends()
    assert (report.kind, report.extra) == (ReportKind.LOST, "terminated")
    assert decode(prefork.run(entry("pool.add", 1, 2, idx=1))[0].frame) == 3


def test_a_running_node_can_be_told_to_stop_by_a_signal(prefork: Driver, tmp_path: Path) -> None:
    pool = prefork.pool
    pool.submit(Part([entry("pool.hold", str(tmp_path)), entry("pool.add", 1, 1, idx=1)]))
    wait_for(tmp_path / "a.begun")
    prefork.until(lambda: len(pool.info()["processes"]) == 2)
    pool.recall((1, 0), signal.SIGTERM)
    prefork.until(prefork.ends)
    [report] = prefork.ends()
    assert (report.kind, report.extra) == (ReportKind.LOST, "terminated")
    prefork.until(lambda: prefork.returned() == [1])


@pytest.mark.parametrize(("task", "args"), [("pool.patient", ()), ("pool.soft", ("sleep",))])
def test_a_signal_may_raise_in_the_body(
    prefork: Driver, tmp_path: Path, task: str, args: tuple[str, ...]
) -> None:
    prefork.pool.submit(Part([entry(task, *(args or (str(tmp_path),)))]))
    prefork.until(lambda: prefork.reports(ReportKind.STARTED))
    prefork.until(lambda: len(prefork.pool.info()["processes"]) == 2)
    prefork.pool.recall((1, 0), signal.SIGUSR1)
    prefork.until(prefork.ends)
    assert "told to stop (SIGUSR1)" in decode(prefork.ends()[0].frame)


def test_a_signal_that_a_task_survives_is_not_held_against_another(
    prefork: Driver, tmp_path: Path
) -> None:
    prefork.pool.resize(1)
    prefork.until(lambda: len(prefork.pool.info()["processes"]) == 1)
    prefork.pool.submit(Part([entry("pool.deaf", str(tmp_path))]))
    wait_for(tmp_path / "a.begun")
    prefork.pool.recall((1, 0), signal.SIGTERM)
    wait_for(tmp_path / "told")
    (tmp_path / "a.go").touch()
    prefork.until(prefork.ends)
    assert decode(prefork.ends()[0].frame) == "a"
    [report] = prefork.run(entry("pool.die", idx=1))
    assert (report.kind, report.extra) == (ReportKind.LOST, "signal 9")


def test_the_soft_limit_reaches_a_coroutine_that_computes(prefork: Driver) -> None:
    [report] = prefork.run(entry("pool.soft", "compute", soft_time_limit=0.05))
    assert "0.05 s passed" in decode(report.frame)


@pytest.mark.parametrize(
    ("named", "number"), [(None, 9), ("SIGTERM", 15), ("usr1", 10), (15, 15), ("2", 2)]
)
def test_signals_are_named_as_people_do(named: Any, number: int) -> None:
    assert signal_number(named) == number


def test_a_signal_that_is_none_is_refused() -> None:
    for wrong in ("SIGNOT", "400", -1):
        with pytest.raises(errors.WrongState, match="no signal"):
            signal_number(wrong)


def test_a_task_may_ask_the_parent(prefork: Driver) -> None:
    prefork.pool.submit(Part([entry("pool.ask", "hello"), entry("pool.add", 1, 1, idx=1)]))
    prefork.until(lambda: any(isinstance(n, Question) for n in prefork.news))
    [question] = [n for n in prefork.news if isinstance(n, Question)]
    assert (question.name, question.body) == ("shout", b"hello")
    question.reply(True, b"HELLO")
    prefork.until(lambda: len(prefork.ends()) == 2)
    assert decode(prefork.ends()[0].frame) == "HELLO"


def test_a_refused_question_is_an_error_in_the_task(prefork: Driver) -> None:
    prefork.pool.submit(Part([entry("pool.ask", "hello")]))
    prefork.until(lambda: prefork.news)
    question = prefork.news[0]
    assert isinstance(question, Question)
    question.reply(False, b"not now")
    prefork.until(prefork.ends)
    exc = decode(prefork.ends()[0].frame)
    assert isinstance(exc, errors.FlowqError)
    assert str(exc) == "not now"


def pids_of(driver: Driver, count: int, first: int = 0) -> list[int]:
    """Which process each of some tasks runs in, one after the other."""
    pids: list[int] = []
    for n in range(first, first + count):
        known = len(driver.ends())
        driver.until(lambda: driver.pool.free(False))
        driver.pool.submit(Part([entry("pool.pid", idx=n)]))
        driver.until(lambda n=n, k=known: len(driver.ends()) > k or n in driver.returned())
        if n in driver.returned():  # it was under way to a child that had just ended
            driver.run(entry("pool.pid", idx=n))
        pids.append(decode(driver.ends()[known].frame))
    return pids


def test_a_spent_child_makes_way_for_another() -> None:
    driver = Driver(make("prefork", 1, max_tasks=2))
    pids = pids_of(driver, 4)
    driver.pool.stop(1)
    assert pids[0] == pids[1] != pids[2] == pids[3]


@pytest.mark.parametrize("limit", ["tasks", "memory"])
def test_a_spent_child_gives_back_the_rest_of_its_part(limit: str) -> None:
    limits = {"max_tasks": 2} if limit == "tasks" else {"max_memory": 1}
    driver = Driver(make("prefork", 1, **limits))
    waiting = [entry("pool.pid", idx=n) for n in range(7)]
    while waiting:
        known = len(driver.news)
        driver.until(lambda: driver.pool.free(True))
        driver.pool.submit(Part(waiting, small=True))
        count = len(driver.ends()) + len(waiting)
        driver.until(
            lambda k=known, c=count: (
                len(driver.ends()) + sum(len(n.entries) for n in returned(driver, k)) == c
            )
        )
        waiting = [each for news in returned(driver, known) for each in news.entries]
    driver.pool.stop(1)
    pids = [decode(report.frame) for report in driver.ends()]
    most = 2 if limit == "tasks" else 1
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [most] * (7 // most) + [1] * (
        7 % most
    )


def returned(driver: Driver, first: int) -> list[Returned]:
    """What came back since so many news."""
    return [news for news in driver.news[first:] if isinstance(news, Returned)]


def test_a_child_that_grew_too_large_makes_way_for_another() -> None:
    driver = Driver(make("prefork", 1, max_memory=150 * 1024))
    before = pids_of(driver, 2)
    driver.run(entry("pool.grow", 200, idx=2))
    after = pids_of(driver, 2, first=3)
    driver.pool.stop(1)
    assert before[0] == before[1] != after[0] == after[1]


def test_large_messages_pass_both_ways(prefork: Driver) -> None:
    text = "x" * 3_000_000
    [report] = prefork.run(entry("pool.write", text))
    assert decode(report.frame) == text


def test_children_ignore_ctrl_c_and_have_no_stdin(prefork: Driver) -> None:
    [report] = prefork.run(entry("pool.signals"))
    assert decode(report.frame) == [True, True]


def test_a_killed_zygote_is_replaced(prefork: Driver) -> None:
    prefork.run(entry("pool.add", 1, 1))
    os.kill(prefork.pool._nursery.pid, signal.SIGKILL)
    prefork.until(lambda: prefork.pool._nursery.is_ready is False)
    assert decode(prefork.run(entry("pool.add", 1, 2, idx=1))[0].frame) == 3


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while any(map(_alive, pids)) and time.monotonic() < deadline:
        readable([], 0.005)
    return not any(map(_alive, pids))


def test_no_process_is_left_after_stop(prefork: Driver, tmp_path: Path) -> None:
    prefork.pool.submit(Part([entry("pool.hold", str(tmp_path))]))
    prefork.until(lambda: all(child.pid for child in prefork.pool._children))
    pids = [prefork.pool._nursery.pid, *(child.pid for child in prefork.pool._children)]
    wait_for(tmp_path / "a.begun")
    assert all(map(_alive, pids))
    prefork.pool.stop(0)
    assert not any(map(_alive, pids))


def _program(code: str, tmp_path: Path, *args: str) -> subprocess.Popen[str]:
    """Start a Python program from a file, in the folder of the repository."""
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(code))
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    return subprocess.Popen(
        [sys.executable, str(file), *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=env,
    )


_PROGRAM = """
    import os, select, sys, threading
    from flowq import Flowq
    from flowq.broker.codec import Bundle, Item
    from flowq.core.graph import Spec
    from flowq.payload import decode, encode_args
    from flowq.worker.definitions import Definitions
    from flowq.worker.pool import Part
    from flowq.worker.prefork import PreforkPool

    app = Flowq("prog")
    factor = 10

    class Odd(Exception):
        pass

    def helper(x):
        return x * factor

    @app.task
    def work(x):
        if x % 2:
            raise Odd(x)
        return helper(x)

    @app.task
    def pid():
        return [os.getpid(), os.getppid()]

    @app.task
    def sleep():
        import time
        time.sleep(60)

    def entry(task, *args):
        item = Item(0, 0, 1, 0, 0, encode_args(args, {}), [], id="bare")
        return Bundle(1, "s", 1, 1, 0, "q", {}, [Spec(task)], [item]), item

    def run(pool, *entries):
        pool.submit(Part(list(entries)))
        found = []
        while len(found) < len(entries):
            select.select(pool.handles(), [], [], 0.05)
            found += pool.collect()
        return [decode(r.frame, allowed=lambda module: module == "__main__") for r in found]
"""


def test_tasks_of_the_program_itself_run_in_children(tmp_path: Path) -> None:
    code = """
    if __name__ == "__main__":
        pool = PreforkPool(1, Definitions(app))
        print(run(pool, entry("prog.work", 4), entry("prog.work", 3)))
        factor = 100
        definitions = pool.definitions
        print(definitions.refresh(), definitions.refresh())
        print(run(pool, entry("prog.work", 4)))
        pool.stop(1)
    """
    program = _program(_PROGRAM + code, tmp_path)
    out, err = program.communicate(timeout=PATIENCE)
    assert err == ""
    assert out.splitlines() == ["[40, Odd(3)]", "True False", "[400]"]


def test_no_process_outlives_a_killed_parent(tmp_path: Path) -> None:
    code = """
    def main():
        pool = PreforkPool(2, Definitions(app))
        pids = run(pool, entry("prog.pid"))[0]
        pool.submit(Part([entry("prog.sleep")]))
        print(*pids, flush=True)
        while True:
            select.select(pool.handles(), [], [], 1)
            pool.collect()

    main() if sys.argv[1] == "main" else threading.Thread(target=main).start()
    """
    for where in ("main", "thread"):
        program = _program(_PROGRAM + code, tmp_path, where)
        assert program.stdout is not None
        pids = list(map(int, program.stdout.readline().split()))
        assert len(pids) == 2
        assert all(map(_alive, pids))
        program.kill()
        program.communicate(timeout=PATIENCE)
        assert _gone(pids)


def test_what_children_inherit_is_stderr_and_never_stdout(tmp_path: Path) -> None:
    code = """
    if __name__ == "__main__":
        import tests.contracts.pool_tasks as module
        open("loud.py", "w").write("print('imported')")
        pool = PreforkPool(1, Definitions(module.app, modules=["loud"]))
        print(run(pool, entry("pool.stdout")))
        pool.stop(1)
    """
    program = _program(_PROGRAM + code, tmp_path)
    out, err = program.communicate(timeout=PATIENCE)
    assert out == "[0]\n"
    assert err == "stray\n"


def test_a_module_that_is_on_no_path_travels_by_value(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "loose.py").write_text(
        "from flowq import Flowq\napp = Flowq('loose')\ndef help(x): return x + 1\n"
        "@app.task\ndef t(x): return help(x)\n"
    )
    code = """
    if __name__ == "__main__":
        sys.path.insert(0, "elsewhere")
        import loose
        sys.path.pop(0)
        pool = PreforkPool(1, Definitions(loose.app))
        print(run(pool, entry("loose.t", 1)))
        pool.stop(1)
    """
    program = _program(_PROGRAM + code, tmp_path)
    out, _ = program.communicate(timeout=PATIENCE)
    assert out == "[2]\n"


def test_what_pickles_as_a_name_travels_by_value(tmp_path: Path) -> None:
    code = """
    import contextvars, functools, random, typing

    P = typing.ParamSpec("P")
    Number = typing.NewType("Number", int)
    SEEN = contextvars.ContextVar("SEEN", default="default")
    LOCK, LOCAL = threading.RLock(), threading.local()
    DICE = random.SystemRandom()

    @app.task
    @functools.lru_cache(maxsize=7)
    def cached(x):
        return x

    app.task(functools.lru_cache(functools.partial(helper, 5)), name="nameless")

    @functools.cache
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    @app.task
    def uses(n: Number):
        LOCAL.n = n
        with LOCK, threading.Lock():
            return [fib(n), fib.cache_info().misses, cached.run.cache_parameters()["maxsize"],
                    Number(1), P.__name__, SEEN.get(), LOCAL.n,
                    DICE.randint(6, 6)]

    @functools.singledispatch
    def kind(x):
        return "object"

    @kind.register
    def _(x: int):
        return "int"

    @kind.register(list)
    def _(x):
        return [kind(part) for part in x]

    app.task(kind, name="kind")

    if __name__ == "__main__":
        pool = PreforkPool(1, Definitions(app))
        print(run(pool, entry("prog.cached", 3), entry("prog.uses", 20), entry("kind", [1, "a"]),
                  entry("nameless")))
        pool.stop(1)
    """
    program = _program(_PROGRAM + code, tmp_path)
    out, err = program.communicate(timeout=PATIENCE)
    assert err == ""
    assert out == "[3, [6765, 21, 7, 1, 'P', 'default', 20, 6], ['int', 'object'], 50]\n"


def test_what_cannot_travel_spoils_no_other_task(tmp_path: Path) -> None:
    code = """
    class ByName:
        def __reduce__(self):
            return "ONLY"

    ONLY = ByName()

    @app.task
    def bad():
        return ONLY

    if __name__ == "__main__":
        pool = PreforkPool(1, Definitions(app))
        print(run(pool, entry("prog.work", 4), entry("prog.bad")))
        pool.stop(1)
    """
    program = _program(_PROGRAM + code, tmp_path)
    out, err = program.communicate(timeout=PATIENCE)
    assert err == ""
    assert "[40, NotRegistered(" in out
    assert "'prog.bad'; the task prog.bad cannot be sent to pool children" in out


def test_class_based_tasks_travel_with_their_state_and_options(tmp_path: Path) -> None:
    code = """
    import functools, sqlite3
    from flowq import Task

    class Adds(Task):
        name = "adds"

        def __init__(self, n):
            self.n = n

        def run(self, x):
            return [self.n + x, self.queue, self.max_retries]

    class Asks(Task):
        def __init__(self):
            self.db = sqlite3.connect(":memory:")  # every process has its own

        def run(self, x):
            return self.db.execute("select ?", (x,)).fetchone()[0]

    app.register_task(Adds(5), queue="slow", max_retries=9)
    app.register_task(Asks())

    @app.task
    @functools.lru_cache
    def odd(x):
        raise Odd(x)

    if __name__ == "__main__":
        pool = PreforkPool(1, Definitions(app))
        print(run(pool, entry("adds", 2), entry("prog.Asks", 3), entry("prog.odd", 1)))
        pool.stop(1)
    """
    program = _program(_PROGRAM + code, tmp_path)
    out, err = program.communicate(timeout=PATIENCE)
    assert err == ""
    assert out == "[[7, 'slow', 9], 3, Odd(1)]\n"


def test_what_an_imported_module_makes_a_task_of_the_current_app_runs_in_children(
    tmp_path: Path,
) -> None:
    (tmp_path / "made.py").write_text(
        "import functools, json\nfrom flowq import current_app\n"
        "def scale(k, x): return k * x\n"
        "class Adds:\n"
        "    def __init__(self, n): self.n = n\n"
        "    def __call__(self, x): return self.n + x\n"
        "    def twice(self, x): return 2 * (self.n + x)\n"
        "tasks = [current_app.task(functools.partial(scale, 3), name='partial'),\n"
        "         current_app.task(json.dumps), current_app.task(Adds(1), name='object'),\n"
        "         current_app.task(Adds(1).twice, name='method')]\n"
    )
    code = """
    import functools
    from flowq import Flowq

    app = Flowq("prog", store="sqlite:///prog.db", worker_pool="prefork", worker_concurrency=1)

    import made

    tasks = [
        *made.tasks,
        app.task(functools.partial(made.scale, 4), name="far"),
        app.task(functools.partial(functools.partial(pow, 2)), name="builtin"),
        app.task(functools.partial(functools.partial(lambda x, y: [x, y], 1)), name="near"),
    ]

    if __name__ == "__main__":
        print([task.delay(2).get(timeout=30) for task in tasks[:-2]])
        print(tasks[-2].delay(3).get(timeout=30), tasks[-1].delay(2).get(timeout=30))
        app.close()
    """
    program = _program(code, tmp_path)
    out, err = program.communicate(timeout=PATIENCE)
    assert err == ""
    assert out == "[6, '2', 3, 6, 8]\n8 [1, 2]\n"


def test_a_module_that_children_cannot_import_is_named(tmp_path: Path) -> None:
    (tmp_path / "fragile.py").write_text(
        "from flowq import Flowq\nfrom flowq.worker import uplink\napp = Flowq('fragile')\n"
        "assert not uplink.is_child(), 'no'\n@app.task\ndef t(): pass\n"
    )
    code = """
    if __name__ == "__main__":
        import fragile
        pool = PreforkPool(1, Definitions(fragile.app))
        print(run(pool, entry("fragile.t")))
        pool.stop(1)
    """
    program = _program(_PROGRAM + code, tmp_path)
    out, _ = program.communicate(timeout=PATIENCE)
    assert "its pool cannot import fragile" in out


def test_submitting_while_a_child_loads_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "eager.py").write_text(
        "from flowq import Flowq\nfrom flowq.worker import uplink\napp = Flowq('eager')\n"
        "if uplink.is_child():\n    uplink.ask('submit', b'')\n"
        "@app.task\ndef t(): pass\n"
    )
    code = """
    if __name__ == "__main__":
        import eager
        pool = PreforkPool(1, Definitions(eager.app))
        print(run(pool, entry("eager.t")))
        pool.stop(1)
    """
    program = _program(_PROGRAM + code, tmp_path)
    out, _ = program.communicate(timeout=PATIENCE)
    assert "submits work when it is imported" in out


def test_a_task_that_cannot_be_sent_is_named_and_hurts_no_other() -> None:
    own = Flowq("odd", set_as_current=False)
    connection = sqlite3.connect(":memory:")

    def asks() -> None:
        connection.execute("select 1")

    for function in (asks, lambda: 1):
        function.__module__ = "__main__"
        own.task(function, name=f"odd.{function.__name__.strip('<>')}")
    definitions = Definitions(own)
    assert list(definitions.problems) == ["odd.asks"]
    assert "cannot be sent to pool children" in definitions.problems["odd.asks"]
    driver = Driver(PreforkPool(1, definitions))
    try:
        refused, fine = driver.run(entry("odd.asks"), entry("odd.lambda", idx=1))
        assert "cannot be sent to pool children" in str(decode(refused.frame))
        assert decode(fine.frame) == 1
    finally:
        driver.pool.stop(1)


def test_a_zygote_may_be_launched_early_and_descriptors_are_held_open(tmp_path: Path) -> None:
    early = launch(1)
    reader, writer = os.pipe()
    definitions = Definitions(app, modules=["tests.contracts.pool_tasks"])
    driver = Driver(PreforkPool(1, definitions, keep=[writer], launched=early))
    try:
        assert decode(driver.run(entry("pool.add", 1, 2))[0].frame) == 3
        os.close(writer)
        assert not readable([reader], 0)  # the pool still has the other end
    finally:
        driver.pool.stop(1)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_child_that_was_to_leave_may_die_and_its_zygote_too(
    prefork: Driver, tmp_path: Path
) -> None:
    hold(prefork, tmp_path, "a", "b")
    prefork.pool.resize(1)
    os.kill(prefork.pool._nursery.pid, signal.SIGKILL)
    prefork.until(lambda: len(prefork.reports(ReportKind.LOST)) == 2)
    prefork.until(lambda: prefork.pool.free(False) == 1)
    assert decode(prefork.run(entry("pool.add", 1, 2, idx=1))[-1].frame) == 3
    assert len(prefork.pool.info()["processes"]) == 1


def test_hands_that_left_are_processes_that_ended(prefork: Driver) -> None:
    prefork.until(lambda: all(child.pid for child in prefork.pool._children))
    pids = prefork.pool.info()["processes"]
    prefork.pool.resize(1)
    prefork.until(lambda: len(prefork.pool.info()["processes"]) == 1)
    assert _gone([pid for pid in pids if pid not in prefork.pool.info()["processes"]])


# -- greenlets --------------------------------------------------------------------------------


@pytest.fixture(params=GREENS)
def greens(request: pytest.FixtureRequest) -> Iterator[Driver]:
    driver = Driver(make(request.param, hands=3))
    yield driver
    driver.pool.stop(0)


def test_greenlets_share_one_process_that_was_patched_first(greens: Driver) -> None:
    [first] = greens.run(entry("pool.pid"))
    [patched] = greens.run(entry("pool.patched", idx=1))
    assert decode(first.frame) == greens.pool.info()["processes"][0] != os.getpid()
    assert decode(patched.frame) is True


def test_many_greenlets_wait_at_the_same_time() -> None:
    for kind in GREENS:
        driver = Driver(make(kind, hands=1500))
        driver.until(lambda driver=driver: alive(driver) == 1500)
        begin = time.monotonic()
        for n in range(1500):
            driver.pool.submit(Part([entry("pool.nap", 1.0, idx=n)]))
        driver.until(lambda driver=driver: len(driver.ends()) == 1500)
        assert time.monotonic() - begin < 20
        assert {r.kind for r in driver.ends()} == {ReportKind.SUCCESS}
        driver.pool.stop(0)


def test_a_crash_loses_what_ran_and_nothing_else(greens: Driver, tmp_path: Path) -> None:
    hold(greens, tmp_path, "a")
    parts = [entry("pool.add", 1, 1, idx=n) for n in (7, 8)]
    greens.pool.submit(Part([entry("pool.hold", str(tmp_path), "b", idx=1), *parts]))
    wait_for(tmp_path / "b.begun")
    greens.pool.submit(Part([entry("pool.die", idx=2)]))
    greens.until(lambda: len(greens.ends()) == 3 and len(greens.returned()) == 2)
    assert {(r.idx, r.kind, r.extra) for r in greens.ends()} == {
        (n, ReportKind.LOST, "signal 9") for n in range(3)
    }
    assert greens.returned() == [7, 8]
    assert decode(greens.run(entry("pool.add", 1, 2, idx=9))[0].frame) == 3


def test_limits_reach_a_greenlet_that_waits(greens: Driver, tmp_path: Path) -> None:
    greens.pool.submit(Part([entry("pool.hold", str(tmp_path), "a", idx=1)]))
    greens.pool.submit(Part([entry("pool.nap", 30, time_limit=0.05, idx=2)]))
    greens.pool.submit(Part([entry("pool.nap", 30, soft_time_limit=0.05, idx=3)]))
    greens.until(lambda: len(greens.ends()) == 2)
    found = {r.idx: decode(r.frame) for r in greens.ends()}
    assert isinstance(found[2], errors.TimeLimitExceeded)
    assert isinstance(found[3], errors.SoftTimeLimitExceeded)
    (tmp_path / "a.go").touch()  # its neighbours went on
    greens.until(lambda: len(greens.ends()) == 3)
    assert decode(greens.ends()[-1].frame) == "a"
    greens.until(lambda: greens.pool.free(False) == 3)


def test_a_greenlet_that_never_waits_is_ended_with_its_process(
    greens: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowq.worker.greens.STUCK", 0.2)
    greens.pool.submit(Part([entry("pool.spin", time_limit=0.1)]))
    greens.until(greens.ends)
    assert isinstance(decode(greens.ends()[0].frame), errors.TimeLimitExceeded)
    assert decode(greens.run(entry("pool.add", 1, 2, idx=9))[0].frame) == 3


def test_a_greenlet_can_be_killed_or_told_to_stop(greens: Driver, tmp_path: Path) -> None:
    hold(greens, tmp_path, "a", "b")
    (tmp_path / "third").mkdir()
    greens.pool.submit(Part([entry("pool.patient", str(tmp_path / "third"), idx=2)]))
    greens.until(lambda: len(greens.reports(ReportKind.STARTED)) == 3)
    greens.pool.recall((1, 0), signal.SIGTERM)
    greens.pool.recall((1, 2), signal.SIGUSR1)
    greens.until(lambda: len(greens.ends()) == 2)
    found = {r.idx: r for r in greens.ends()}
    assert (found[0].kind, found[0].extra) == (ReportKind.LOST, "terminated")
    assert "told to stop" in decode(found[2].frame)
    (tmp_path / "b.go").touch()
    greens.until(lambda: len(greens.ends()) == 3)
    assert greens.ends()[-1].kind == ReportKind.SUCCESS


def test_greenlets_ask_and_are_answered_each_for_itself(greens: Driver) -> None:
    for n in range(3):
        greens.pool.submit(Part([entry("pool.ask", f"question {n}", idx=n)]))
    greens.until(lambda: sum(isinstance(n, Question) for n in greens.news) == 3)
    for question in [n for n in greens.news if isinstance(n, Question)]:
        question.reply(True, question.body.upper())
    greens.until(lambda: len(greens.ends()) == 3)
    assert {decode(r.frame) for r in greens.ends()} == {f"QUESTION {n}" for n in range(3)}


def test_coroutines_of_greenlets_run_side_by_side_and_can_be_ended(greens: Driver) -> None:
    begin = time.monotonic()
    for n in range(3):
        greens.pool.submit(Part([entry("pool.loop", 0.5, idx=n)]))
    greens.until(lambda: len(greens.ends()) == 3)
    assert time.monotonic() - begin < 10
    greens.pool.submit(Part([entry("pool.loop", 30, time_limit=0.1, idx=3)]))
    greens.until(lambda: len(greens.ends()) == 4)
    assert isinstance(decode(greens.ends()[-1].frame), errors.TimeLimitExceeded)


@pytest.mark.parametrize("kind", GREENS)
def test_a_spent_process_of_greenlets_makes_way_and_nothing_waits_for_it(
    kind: str, tmp_path: Path
) -> None:
    driver = Driver(make(kind, 2, max_tasks=3))
    hold(driver, tmp_path, "a")
    [first] = driver.pool.info()["processes"]
    for n in range(3):
        assert decode(driver.run(entry("pool.pid", idx=n))[0].frame) == first
    assert len(driver.pool.info()["processes"]) == 2
    assert (driver.pool.free(False), len(driver.pool.running())) == (1, 1)
    later = [decode(driver.run(entry("pool.pid", idx=n))[0].frame) for n in range(3, 8)]
    assert len(set(later)) == 1  # spent too, but the first one is still there
    assert later[0] != first
    (tmp_path / "a.go").touch()
    driver.until(lambda: len(driver.ends()) == 9)
    driver.until(lambda: first not in driver.pool.info()["processes"])
    assert _gone([first])
    driver.until(lambda: later[0] not in driver.pool.info()["processes"])
    assert {r.kind for r in driver.ends()} == {ReportKind.SUCCESS}
    assert driver.pool.free(False) == 2
    driver.pool.stop(1)


@pytest.mark.parametrize("kind", GREENS)
def test_a_task_in_a_spent_process_can_be_killed_and_is_stopped_with_the_pool(
    kind: str, tmp_path: Path
) -> None:
    driver = Driver(make(kind, 3, max_tasks=1))
    driver.pool.submit(Part([entry("pool.hold", str(tmp_path), "a", idx=5)]))
    hold(driver, tmp_path, "b")
    driver.run(entry("pool.add", 1, 1, idx=6))
    pids = driver.pool.info()["processes"]
    assert len(pids) == 2
    driver.pool.recall((1, 5))
    driver.until(lambda: len(driver.ends()) == 2)
    lost = driver.ends()[-1]
    assert (lost.idx, lost.kind, lost.extra) == (5, ReportKind.LOST, "terminated")
    driver.pool.stop(0)
    assert not any(map(_alive, pids))


@pytest.mark.parametrize("kind", GREENS)
def test_a_process_of_greenlets_that_grew_too_large_makes_way(kind: str) -> None:
    driver = Driver(make(kind, 2, max_memory=150 * 1024))
    [small] = driver.run(entry("pool.pid"))
    driver.run(entry("pool.grow", 200, idx=1))
    driver.until(lambda: driver.pool.info()["processes"] != [decode(small.frame)])
    driver.until(lambda: len(driver.pool.info()["processes"]) == 1)
    [fresh] = driver.run(entry("pool.pid", idx=2))
    assert decode(fresh.frame) != decode(small.frame)
    driver.pool.stop(1)


def test_memory_of_a_process_that_is_gone_is_none() -> None:
    assert resident(os.getpid()) > 1000
    assert resident(2**22 + 1) == 0


@pytest.mark.parametrize("kind", GREENS)
def test_ending_a_coroutine_writes_no_traceback(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    driver = Driver(make(kind))  # after capfd: its process writes where it finds stderr
    driver.pool.submit(Part([entry("pool.stubborn", str(tmp_path))]))
    wait_for(tmp_path / "a.begun")
    driver.pool.recall((1, 0))
    driver.until(driver.ends)
    driver.run(entry("pool.add", 1, 1, idx=1))
    driver.pool.stop(5)
    assert capfd.readouterr().err == ""


def test_what_a_greenlet_writes_is_its_own(greens: Driver) -> None:
    for n in range(3):
        greens.pool.submit(Part([entry("pool.chatter", f"{n}", idx=n)]))
    greens.until(lambda: len(greens.ends()) == 3)
    for report in greens.ends():
        assert report.log == [(1, f"{report.idx}" * 10)]


def test_no_process_of_greenlets_is_left_after_stop(greens: Driver, tmp_path: Path) -> None:
    hold(greens, tmp_path, "a")
    pids = greens.pool.info()["processes"]
    greens.pool.stop(0)
    assert not any(map(_alive, pids))


def test_a_greenlet_pool_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.ImproperlyConfigured, match=r"pip install 'flowq\[gevent\]'"):
        GreenPool("gevent", 2, Definitions(app))


def test_more_greenlets_than_there_can_be_descriptors_are_refused() -> None:
    with pytest.raises(errors.ImproperlyConfigured, match="open files"):
        make_room(10**12)
