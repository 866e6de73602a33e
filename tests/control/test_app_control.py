"""`app.control` over real brokers, and on nodes of runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from flowq import Flowq
from flowq.app.control import flatten_reply
from flowq.app.queues import purge, queue_names, stored, waiting
from flowq.broker.sideline import Access
from flowq.errors import ImproperlyConfigured
from tests.control.fake import FakeWorker, wait_for

services = pytest.mark.services


@pytest.fixture
def app(broker_url: str, tmp_path: Path) -> Any:
    """An app with a broker, and a store that is not made yet."""
    made = Flowq("shop", broker=broker_url, store=f"sqlite:///{tmp_path}/s.db",
                 set_as_current=False)  # fmt: skip
    yield made
    made.close()


@services
def test_inspect_is_celerys(app: Flowq, access: Access) -> None:
    with FakeWorker("w1@farm", access), FakeWorker("w2@farm", access):
        both = app.control.inspect(limit=2, timeout=5)
        assert both.ping() == {"w1@farm": {"ok": "pong"}, "w2@farm": {"ok": "pong"}}
        assert sorted(both.stats()) == ["w1@farm", "w2@farm"]
        one = app.control.inspect(["w1@farm"], timeout=5)
        assert one.active()["w1@farm"][0]["args"] == [2, 3]
        assert one.active(safe=True)["w1@farm"][0]["args"] == "(2, '***')"
        assert one.registered("rate_limit")["w1@farm"][1] == "shop.mail [rate_limit=10/m]"
        assert set(one.query_task("id-1", "id-2")["w1@farm"]) == {"id-1", "id-2"}
        assert set(one.query_task(["id-1"])["w1@farm"]) == {"id-1"}
        for name in ("reserved", "scheduled", "revoked", "active_queues", "clock", "conf", "report",
                     "memsample"):  # fmt: skip
            assert "w1@farm" in getattr(one, name)()
        assert one.hello("w9@farm")["w1@farm"]["revoked"] == []
        text = app.control.inspect("w2@farm", timeout=5)
        assert text.ping() == {"ok": "pong"}
        glob = app.control.inspect(pattern="*2@farm", matcher="glob", timeout=1)
        assert list(glob.ping()) == ["w2@farm"]
        assert app.control.inspect("w3@farm", timeout=0.2).ping() is None


@services
def test_control_is_celerys(app: Flowq, access: Access) -> None:
    control: Any = app.control
    how = {"destination": ["w1@farm"], "reply": True, "timeout": 5}
    with FakeWorker("w1@farm", access) as worker:
        assert control.ping(timeout=5, limit=1) == [{"w1@farm": {"ok": "pong"}}]
        assert control.add_consumer("fast", routing_key="k", **how)[0]["w1@farm"]["ok"]
        control.cancel_consumer("fast", **how)
        control.rate_limit("shop.add", "3/s", **how)
        control.time_limit("shop.add", soft=1, hard=2, **how)
        control.pool_grow(2, **how)
        control.pool_shrink(1, **how)
        assert "error" in control.autoscale(3, 1, **how)[0]["w1@farm"]
        assert "error" in control.pool_restart(**how)[0]["w1@farm"]
        control.revoke("id-5", **how)
        control.terminate(["id-6", "id-7"], signal="KILL", **how)
        control.revoke_by_stamped_headers({"color": "red"}, **how)
        assert control.election("1", "x") is None
        assert "enabled" in control.enable_events(**how)[0]["w1@farm"]["ok"]
        assert "disabled" in control.disable_events(**how)[0]["w1@farm"]["ok"]
        assert control.heartbeat(**how) == [{"w1@farm": None}]
        assert control.shutdown() is None
        wait_for(lambda: ("shutdown",) in worker.calls, "it was not told to end")
    assert worker.calls == [
        ("add", "fast", None, "direct", "k"),
        ("cancel", "fast"),
        ("rate", "shop.add", "3/s"),
        ("time", "shop.add", 2, 1),
        ("grow", 2),
        ("shrink", 1),
        ("revoke", ["id-5"], False, "SIGTERM"),
        ("revoke", ["id-6", "id-7"], True, "KILL"),
        ("stamps", {"color": ["red"]}, False),
        ("shutdown",),
    ]


@services
def test_queues_are_counted_and_emptied(app: Flowq, broker_url: str) -> None:
    from kombu import Producer, Queue

    app.conf.task_queues = [Queue("one", routing_key="one"), Queue("two", routing_key="two")]
    assert queue_names(app) == ["one", "two"]
    with Access([broker_url]).opened() as connection:
        channel = connection.channel()
        for name in ("one", "two"):
            Queue(name, routing_key=name)(channel).declare()
            for priority in (0, 5):
                Producer(channel).publish({}, routing_key=name, priority=priority)
        channel.close()
    wait_for(lambda: [q.tasks for q in waiting(app, ["one", "two"])] == [2, 2], "too few")
    assert [q.nodes for q in waiting(app, ["one"])] == [None]
    assert purge(app, ["one"]) == {"one": 2}
    assert app.control.purge() == 2
    assert [q.tasks for q in waiting(app, ["one", "two"])] == [0, 0]


@services
def test_what_waits_of_nodes_is_counted_once_there_is_a_store(app: Flowq) -> None:
    from flowq.store import Store
    from flowq.store.members import store_id

    assert stored(app) is None
    store = Store(str(app.conf.store_url))
    store.ensure()
    store_id(store)
    store.close()
    assert [q.nodes for q in waiting(app, ["celery"])] == [0]


def test_nodes_are_revoked_in_the_store_without_any_worker(tmp_path: Path) -> None:
    app = Flowq("shop", store=f"sqlite:///{tmp_path}/s.db", set_as_current=False,
                worker_pool="threads", worker_concurrency=1)  # fmt: skip

    @app.task(name="shop.slow")
    def slow() -> None:
        gate.wait(60)

    @app.task(name="shop.never")
    def never() -> None: ...

    import threading

    gate = threading.Event()
    run = app.submit(slow.si() | never.si())
    node = run.result_id
    assert app.control.revoke(node) is None
    assert app.control.revoke([node], reply=True) == []
    gate.set()
    result = app.AsyncResult(node)
    wait_for(lambda: result.state == "REVOKED", "it is not revoked")
    assert app.control.revoke("nobody") is None
    app.close()


def test_without_a_broker_there_is_nobody_to_ask() -> None:
    app = Flowq("alone", set_as_current=False)
    with pytest.raises(ImproperlyConfigured, match="set broker_url"):
        app.control.ping()


def test_two_workers_of_one_name_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert flatten_reply([{"a": 1}, {"a": 2}, {"b": 3}]) == {"a": 2, "b": 3}
    assert "several workers are named a" in caplog.text
