"""Events from a worker, over real brokers."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from flowq import Flowq
from flowq.app.clock import LamportClock
from flowq.broker.events import BATCH, EventSender
from flowq.broker.sideline import Access
from tests.control.fake import FakeWorker, capturing, wait_for

pytestmark = pytest.mark.services


def kinds(found: list[dict[str, object]]) -> list[str]:
    return [str(event["type"]) for event in found]


def test_worker_events_come_with_all_that_monitors_ask_for(access: Access) -> None:
    with capturing(access, LamportClock()) as found:
        with FakeWorker("a@here", access):
            wait_for(lambda: kinds(found).count("worker-heartbeat") >= 2, "no heartbeats")
        wait_for(lambda: "worker-offline" in kinds(found), "it did not say that it ends")
    assert kinds(found)[0] == "worker-online"
    beat = next(e for e in found if e["type"] == "worker-heartbeat")
    assert beat["hostname"] == "a@here"
    assert (beat["freq"], beat["active"], beat["processed"]) == (1.0, 1, 7)
    assert beat["sw_ident"] == "py-flowq"
    assert len(beat["loadavg"]) == 3
    assert abs(beat["timestamp"] - time.time()) < 60
    clocks = [event["clock"] for event in found]
    assert clocks == sorted(clocks)


def test_task_events_are_sent_only_when_asked_for(access: Access) -> None:
    with FakeWorker("a@here", access) as worker, capturing(access, LamportClock()) as found:
        worker.sender.started("no")
        worker.events(True)
        sender = worker.sender
        sender.received("t1", "shop.add", "(1, 2)", "{}", root_id="r", retries=1)
        sender.started("t1")
        sender.succeeded("t1", "3", 0.5)
        sender.failed("t2", "ValueError('x')", "Traceback ...")
        sender.retried("t3", "OSError()", "")
        sender.revoked("t4", terminated=True, signum=15, expired=False)
        sender.rejected("t5", requeue=True)
        sender.sent("t6", "shop.add", "()", "{}", queue="fast")
        sender.send("task-odd", uuid="t7", value=object)
        wait_for(lambda: "task-odd" in kinds(found), "task events are missing")
    tasks = [event for event in found if event["type"].startswith("task-")]
    assert [e["uuid"] for e in tasks] == ["t1", "t1", "t1", "t2", "t3", "t4", "t5", "t6", "t7"]
    assert tasks[0]["root_id"] == "r"
    assert tasks[2]["runtime"] == 0.5
    assert tasks[7]["routing_key"] == "fast"
    assert tasks[8]["value"] == repr(object)


def test_many_events_come_in_order_and_in_few_messages(
    access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    publish = EventSender._publish

    def counted(self: EventSender, producer: Any, batch: list[Any]) -> None:
        sizes.append(len(batch))
        publish(self, producer, batch)

    monkeypatch.setattr(EventSender, "_publish", counted)
    with (
        FakeWorker("a@here", access, tasks=True) as worker,
        capturing(access, LamportClock()) as found,
    ):
        for number in range(3000):
            worker.sender.started(str(number))
        wait_for(lambda: kinds(found).count("task-started") == 3000, "events are missing")
    started = [int(e["uuid"]) for e in found if e["type"] == "task-started"]
    assert started == list(range(3000))
    assert max(sizes) == BATCH
    assert len(sizes) < 300


def test_telling_never_waits_and_the_oldest_are_dropped() -> None:
    dead = Access(["redis://127.0.0.1:1/0"])
    sender = EventSender(dead, "a@here", clock=LamportClock(), tasks=True, capacity=100)
    sender.start()
    began = time.monotonic()
    for number in range(1000):
        sender.started(str(number))
    assert time.monotonic() - began < 2
    assert sender.dropped >= 900
    sender.stop(0.2)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_events_told_while_the_broker_was_away_come_later(access: Access) -> None:
    import redis

    client = redis.Redis.from_url(access.urls[0])
    with (
        FakeWorker("a@here", access, tasks=True) as worker,
        capturing(access, LamportClock()) as found,
    ):
        worker.sender.started("before")
        wait_for(lambda: "task-started" in kinds(found), "the first is missing")
        client.client_kill_filter(_type="normal", skipme=True)
        worker.sender.started("after")
        wait_for(lambda: kinds(found).count("task-started") == 2, "the second is missing")
    client.close()


def test_a_limit_ends_listening(access: Access) -> None:
    with FakeWorker("a@here", access, tasks=True) as worker:
        with capturing(access, LamportClock(), limit=2) as found:
            for number in range(5):
                worker.sender.started(str(number))
            wait_for(lambda: len(found) == 2, "too few")
            threading.Event().wait(0.2)
        assert len(found) == 2


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_a_client_tells_what_it_sent_only_if_it_is_told_to(
    broker_url: str, access: Access, serializer: str
) -> None:
    app = Flowq("shop", broker=broker_url, set_as_current=False, event_serializer=serializer)
    app.conf.task_routes = {"shop.slow": {"queue": "slow"}}
    with capturing(access, LamportClock(), accept=["json", "msgpack"]) as found:
        app.send_task("shop.add", (0,))
        app.conf.task_send_sent_event = True
        one = app.send_task("shop.add", (1, 2), countdown=60, retries=2)
        two = app.send_task("shop.slow", kwargs={"x": "y"}, queue="slower")
        app.send_task("shop.slow", argsrepr="(hidden)")
        app.close()  # what was sent last is not lost
        wait_for(lambda: len(found) == 3, "events are missing")
    assert kinds(found) == ["task-sent"] * 3
    first, second, third = found
    assert (first["uuid"], first["root_id"], first["name"]) == (one.id, one.id, "shop.add")
    assert (first["args"], first["kwargs"], first["retries"]) == ("(1, 2)", "{}", 2)
    assert (first["queue"], first["routing_key"]) == ("celery", "celery")
    assert first["eta"] is not None
    assert (second["uuid"], second["queue"], second["kwargs"]) == (two.id, "slower", "{'x': 'y'}")
    assert (third["queue"], third["args"]) == ("slow", "(hidden)")
    assert first["hostname"].startswith("gen")
