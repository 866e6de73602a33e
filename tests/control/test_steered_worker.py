"""A real worker whose pool and rates are changed while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import PROJECT, Rig
from tests.started import Server

pytestmark = pytest.mark.services


@pytest.fixture
def rig(redis_server: Server, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(
        tmp_path,
        broker=f"redis://127.0.0.1:{redis_server.port}/0",
        backend=f"redis://127.0.0.1:{redis_server.port}/1",
        store=f"sqlite:///{tmp_path}/fleet.db",
    )
    yield made
    made.close()


STEER = """
    import threading, time
    from flowq.store.members import living
    from flowq.app.serving import open_store

    def pool():
        [found] = app.control.inspect(timeout=1).stats().values()
        return found["pool"]["max-concurrency"]

    def announced():
        return living(open_store(app), "worker")[0].slots

    def until(condition):
        end = time.monotonic() + 40
        while not condition():
            assert time.monotonic() < end
            threading.Event().wait(0.05)
"""


def steer(rig: Rig, source: str) -> Any:
    listening = "until(lambda: app.control.ping(timeout=0.5))\n"  # its mailbox opens by and by
    return rig.call(STEER.replace("\n    ", "\n") + listening + source)


@pytest.mark.parametrize("kind", ["prefork", "threads", "gevent", "eventlet"])
def test_a_pool_is_resized_by_remote_control(rig: Rig, kind: str) -> None:
    rig.worker("-P", kind, "-c", "1")
    found = steer(
        rig,
        """
first = [nap.delay(1.0, str(n)) for n in range(3)]
app.control.pool_grow(2)
for each in first: each.get(timeout=20)
until(lambda: announced() == 3)
grown = pool()
app.control.pool_shrink(2)
until(lambda: announced() == 1)
refused = app.control.pool_shrink(1, reply=True)
answer([grown, pool(), add.delay(1, 2).get(timeout=20), list(refused[0].values())[0]["error"]])
""",
    )
    assert found[:3] == [3, 1, 3]
    assert "at least one slot" in found[3]
    ledger = (rig.folder / "ledger.txt").read_text().split("\n")
    assert [line.split()[1] for line in ledger[:3]] == ["began"] * 3  # side by side


def test_the_solo_pool_says_that_it_stays_as_it_is(rig: Rig) -> None:
    rig.worker("-P", "solo")
    found = steer(rig, "answer(list(app.control.pool_grow(1, reply=True)[0].values())[0])")
    assert "solo pool is one thread" in found["error"]


def test_a_worker_scales_itself(rig: Rig) -> None:
    rig.worker("--autoscale", "4,1")
    found = steer(
        rig,
        """
before = pool()
naps = [nap.delay(2.0, str(n)) for n in range(6)]
until(lambda: announced() == 4)
grown = pool()
for each in naps: each.get(timeout=40)
app.control.autoscale(2, 1)
until(lambda: announced() == 2)
answer([before, grown, pool()])
""",
    )
    assert found == [1, 4, 2]


def test_nodes_scale_a_worker_too(rig: Rig) -> None:
    worker = rig.worker("--autoscale", "3,1")
    rig.coordinator()
    code = "answer(app.submit(group(nap.s(2.0, n) for n in range(6))).result(timeout=40))"
    assert rig.call(code) == list(range(6))
    assert "autoscale: 3 slots" in rig.log_of(worker)


def test_a_rate_is_limited_and_freed_while_tasks_wait(rig: Rig) -> None:
    rig.worker("-P", "threads", "-c", "4", "--prefetch-multiplier", "0")
    found = steer(
        rig,
        """
until(lambda: app.control.rate_limit("proj.add", "2/s", reply=True))
begin = time.monotonic()
limited = [add.delay(n, 1) for n in range(4)]
other = size.delay("abc").get(timeout=20)
quick = time.monotonic() - begin
for each in limited: each.get(timeout=20)
slow = time.monotonic() - begin
app.control.rate_limit("proj.add", "1/h", reply=True)
limited = [add.delay(n, 1) for n in range(20)]
until(lambda: limited[-1].id in str(app.control.inspect(timeout=1).reserved()))
app.control.rate_limit("proj.add", 0, reply=True)
for each in limited: each.get(timeout=20)
answer([other, quick, slow])
""",
    )
    assert found[0] == 3
    assert found[1] < 1.0 < 1.4 < found[2] < 4.0


def test_nodes_over_a_rate_are_given_back_and_come_again(rig: Rig) -> None:
    rig.worker("-P", "threads", "-c", "2")
    rig.coordinator()
    found = steer(
        rig,
        """
until(lambda: app.control.rate_limit("proj.add", "4/s", reply=True))
begin = time.monotonic()
run = app.submit(group(add.s(n, 1) for n in range(16)))
sums = run.result(timeout=40)
[stats] = app.control.inspect(timeout=1).stats().values()
answer([sums, time.monotonic() - begin, stats["total"]["proj.add"]])
""",
    )
    assert found[0] == [n + 1 for n in range(16)]
    assert found[1] > 3.5
    assert found[2] < 100, found


@pytest.mark.parametrize("kind", ["prefork", "gevent"])
def test_a_running_task_is_ended_with_the_signal_that_is_named(rig: Rig, kind: str) -> None:
    rig.worker("-P", kind, "-c", "2", "-E")
    found = steer(
        rig,
        """
from flowq.broker.events import EventReceiver
from flowq.broker.sideline import Access
heard = []
listener = EventReceiver(Access.of(app.conf), clock=app.clock)
threading.Thread(target=listener.capture, args=(heard.append,), daemon=True).start()
until(lambda: heard)
naps = [nap.delay(30.0, str(n)) for n in range(2)]
until(lambda: len(list(app.control.inspect(timeout=1).active().values())[0]) == 2)
refused = app.control.terminate(naps[0].id, signal="SIGNOT", reply=True)
app.control.terminate(naps[0].id, signal="SIGTERM")
app.control.terminate(naps[1].id, signal="SIGUSR1")
until(lambda: all(each.ready() for each in naps))
told = lambda: [e["terminated"] for e in heard if e["type"] == "task-revoked"]
until(told)
answer([[each.state for each in naps], repr(naps[1].result), str(refused), told()])
""",
    )
    assert found[0] == ["REVOKED", "FAILURE"]
    assert "SoftTimeLimitExceeded" in found[1]
    assert "no signal" in found[2]
    assert found[3] == [True]


def test_a_task_revoked_while_it_runs_is_not_run_again(rig: Rig) -> None:
    rig.worker("-P", "threads", "-c", "1")
    found = steer(
        rig,
        """
doomed = stubborn.delay(20)
until(lambda: app.control.inspect(timeout=0.5).query_task(doomed.id))
app.control.revoke(doomed.id, reply=True)
doomed.get(timeout=30, propagate=False)
answer([doomed.state, add.delay(1, 2).get(timeout=20)])
""",
    )
    assert found == ["REVOKED", 3]


HIDING = (
    PROJECT
    + """
    @app.task(bind=True)
    def login(self, seconds, password):
        threading.Event().wait(seconds)
        return [self.request.argsrepr, self.request.kwargsrepr]
"""
)


@pytest.mark.parametrize("how", ["alone", "run", "canvas", "map"])
def test_arguments_are_shown_as_their_caller_chose(rig: Rig, how: str) -> None:
    rig = Rig(rig.folder, broker=rig.env["FLOWQ_BROKER"], backend=rig.env["FLOWQ_BACKEND"],
              store=rig.env["FLOWQ_STORE"], project=HIDING)  # fmt: skip
    calls = {
        "alone": "login.apply_async((3.0,), {'password': 's3cret'}, **hide)",
        "run": "login.apply_async((3.0,), {'password': 's3cret'}, durable=True, **hide)",
        "canvas": "(size.s('s3cret').set(**hide) | login.si(3.0, 's3cret').set(**hide)).delay()",
        "map": "xstarmap(login, [(3.0, 's3cret')]).set(**hide).delay()",
    }
    try:
        worker = rig.worker("-c", "1", "-E")
        rig.coordinator()
        [events, active, value] = steer(
            rig,
            f"""
from flowq import xstarmap
from flowq.broker.events import EventReceiver
from flowq.broker.sideline import Access
hide = dict(argsrepr="(***)", kwargsrepr="{{***}}")
heard = []
listener = EventReceiver(Access.of(app.conf), clock=app.clock)
threading.Thread(target=listener.capture, args=(heard.append,), daemon=True).start()
until(lambda: heard)
result = {calls[how]}
seen = []
until(lambda: seen.append(str(app.control.inspect(timeout=1).active())) or "***" in seen[-1])
answer([str(heard), seen[-1], result.get(timeout=20)])
""",
        )
        shown = events + active + rig.log_of(worker)
        if how != "alone":
            shown += rig.flowq("list", "--json").stdout
            shown += rig.flowq("show", "@last", *(["1"] if how == "canvas" else ["0"])).stdout
            shown += rig.flowq("show", "@last", "--json", "0").stdout
        assert "s3cret" not in shown
        assert "task-received" in events
        assert "(***)" in active
        assert "(***)" in events
        assert how == "map" or value == ["(***)", "{***}"]
    finally:
        rig.close()
