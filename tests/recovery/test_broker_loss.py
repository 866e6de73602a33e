"""The broker goes away, goes silent, forgets everything, or takes nothing: what then."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowq.broker import rabbitsource, redispop, redissource
from flowq.broker.codec import Bundle, Item, decode_bundle, node_queue
from flowq.broker.connection import Broker, BrokerOptions
from flowq.broker.consumer import Consumer, Delivery
from flowq.broker.delivery import Outgoing
from flowq.broker.queues import QueueSpec, Router
from flowq.errors import BrokerError
from tests.descriptors import readable
from tests.proxy import CuttingProxy
from tests.servers import (
    address,
    rabbit_channel,
    rabbitmqctl,
    redis_client,
    through,
    token,
    wipe_redis,
)

pytestmark = pytest.mark.services

PATIENCE = 30.0
QUICK = BrokerOptions(timeout=4.0, connect_timeout=1.0, heartbeat=1.0)


class Far:
    """A broker behind a proxy."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind, self.direct = kind, url
        self.proxy = CuttingProxy(*address(url))
        self.url = through(url, self.proxy.port)
        self.token = token()
        self.queue, self.store_id = f"q-{self.token}", f"s-{self.token}"
        self.router = Router({})
        self.spec = self.router.add(self.queue, exchange=self.queue)
        self._open: list[Any] = [self.proxy]

    def broker(self, url: str = "", options: BrokerOptions = QUICK, **more: Any) -> Broker:
        self._open.append(Broker(url or self.url, options, **more))
        return self._open[-1]

    def consumer(self, url: str = "", wait: bool = True) -> Consumer:
        made = Consumer(
            url or self.url, QUICK, self.router, queues=[self.queue], store_id=self.store_id
        )
        self._open.append(made)
        if wait:
            until(made, lambda _: made.connected)
        return made

    def publish(self, broker: Broker, number: int) -> None:
        broker.publish(task(number), routing_key=self.queue, queue=self.spec)

    def bundle(self, number: int) -> Bundle:
        return Bundle(1, "s", 1, number, 0, self.queue, {}, [], [Item(1, 1, 1, 0, 0, b"", [])])

    def cut(self, consumer: Consumer) -> None:
        """Cut the line; until the server has noticed, it may give the next message to the dead."""
        sources = self.proxy.sources()
        self.proxy.cut()
        until(consumer, lambda _: not consumer.connected)
        if self.kind == "redis":
            with redis_client() as client:
                until(
                    consumer, lambda _: sources.isdisjoint(c["addr"] for c in client.client_list())
                )

    def wipe(self) -> None:
        """The broker forgets everything of this test."""
        if self.kind == "redis":
            wipe_redis(self.token)
            return
        with rabbit_channel(self.direct) as channel:
            channel.queue_delete(self.queue)
            channel.queue_delete(node_queue(self.queue, self.store_id))
            channel.exchange_delete(self.queue)

    def close(self) -> None:
        self.proxy.restore()
        for each in reversed(self._open):
            each.close()
        self.wipe()


@pytest.fixture(params=["redis", "rabbitmq"])
def far(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    """A broker behind a proxy; consumers find out soon that it is silent."""
    monkeypatch.setattr(redispop, "BLOCK", 0.5)
    monkeypatch.setattr(redispop, "GRACE", 1.0)
    monkeypatch.setattr(rabbitsource, "HEARTBEAT", 1.0)
    fixture = "redis_url" if request.param == "redis" else "rabbit_url"
    made = Far(request.param, request.getfixturevalue(fixture))
    yield made
    made.close()


def task(number: int) -> Outgoing:
    return Outgoing(f"[[{number}], {{}}, {{}}]", {"id": str(number), "task": "t"})


def until(
    consumer: Consumer, done: Callable[[list[Delivery]], Any], nodes: int = 0, tasks: int = 0
) -> list[Delivery]:
    """Turn the loop until it is done; what came meanwhile."""
    deadline = time.monotonic() + PATIENCE
    found: list[Delivery] = []
    while not done(found):
        assert time.monotonic() < deadline, f"not in time; so far {found}"
        readable(consumer.handles(), min(0.05, consumer.timeout()))
        began = time.monotonic()
        found += consumer.take(nodes, tasks)
        assert time.monotonic() - began < 0.5, "take() blocked"
    return found


def take(consumer: Consumer, count: int, nodes: int = 0, tasks: int = 0) -> list[Delivery]:
    return until(consumer, lambda found: len(found) >= count, nodes, tasks)


def numbers(found: list[Delivery]) -> list[int]:
    return sorted(
        decode_bundle(d.body).outbox_id if d.is_node else int(d.headers["id"]) for d in found
    )


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "flowq.broker"]


# --- the connection breaks ---------------------------------------------------------------------


def test_a_consumer_comes_back_by_itself_and_says_so_twice(
    far: Far, caplog: pytest.LogCaptureFixture
) -> None:
    consumer, broker = far.consumer(), far.broker(far.direct)
    far.publish(broker, 1)
    (held,) = take(consumer, 1, tasks=2)
    with caplog.at_level(logging.INFO, "flowq.broker"):
        far.cut(consumer)
        far.publish(broker, 2)
        broker.publish_bundle(far.bundle(3), far.store_id)
        until(consumer, lambda _: consumer._failures > 2, tasks=1)
        assert consumer.add_queue(far.queue) == far.spec
        far.proxy.restore()
        found = take(consumer, 2 if far.kind == "redis" else 3, nodes=1, tasks=2)
    # RabbitMQ gives again what was not acknowledged; Redis keeps it for the one who holds it
    assert numbers(found) == ([2, 3] if far.kind == "redis" else [1, 2, 3])
    lost, back = warnings(caplog)
    assert lost.startswith("lost the broker")
    assert "is back after" in back
    held.ack()
    for each in found:
        each.ack()
    consumer.close()
    assert far.consumer(far.direct).take(1, 5) == []


def test_redis_takes_an_acknowledgement_over_the_next_connection(far: Far) -> None:
    if far.kind != "redis":
        pytest.skip("RabbitMQ has given the message to another by then")
    consumer, broker = far.consumer(), far.broker(far.direct)
    far.publish(broker, 1)
    (held,) = take(consumer, 1, tasks=1)
    tag = held.properties["delivery_tag"]
    with redis_client() as client:
        until(consumer, lambda _: client.hexists("unacked", tag))
        far.proxy.cut()
        until(consumer, lambda _: not consumer.connected)
        held.ack()
        far.proxy.restore()
        until(consumer, lambda _: not client.hexists("unacked", tag))


def test_a_silent_broker_is_found_out(far: Far, caplog: pytest.LogCaptureFixture) -> None:
    consumer, broker = far.consumer(), far.broker(far.direct)
    until(consumer, lambda _: True, nodes=1, tasks=1)
    far.proxy.stall()
    began = time.monotonic()
    until(consumer, lambda _: not consumer.connected, nodes=1, tasks=1)
    assert time.monotonic() - began < 10
    far.publish(broker, 1)
    far.proxy.drop()
    far.proxy.restore()
    # Redis may have sent one to the dead connection: nodes come again from the store, and a task
    # is at the mercy of the broker, as with Celery
    far.publish(broker, 2)
    (found, *_) = take(consumer, 1, nodes=1, tasks=1)
    found.ack()
    assert len(warnings(caplog)) == 2


def test_a_consumer_may_begin_before_its_broker(far: Far, caplog: pytest.LogCaptureFixture) -> None:
    far.proxy.cut()
    consumer = far.consumer(wait=False)
    until(consumer, lambda _: consumer._failures > 1)
    far.proxy.restore()
    far.publish(far.broker(), 1)
    (found,) = take(consumer, 1, tasks=1)
    found.ack()
    *failed, there = warnings(caplog)
    assert len(failed) > 1
    assert all(line.startswith("cannot connect to the broker") for line in failed)
    assert "is there after" in there


def test_a_publisher_connects_again_within_one_call(far: Far) -> None:
    broker, consumer = far.broker(tended=True), far.consumer(far.direct)
    far.publish(broker, 1)
    broker.publish_bundle(far.bundle(2), far.store_id)
    # RabbitMQ confirms no bundle: cut sooner, it may be lost on its way and come from the store
    found = take(consumer, 2, nodes=4, tasks=4)
    far.proxy.drop()
    far.publish(broker, 3)
    far.proxy.drop()
    broker.tend()
    broker.publish_bundle(far.bundle(4), far.store_id)
    found += take(consumer, 2, nodes=4, tasks=4)
    assert set(numbers(found)) == {1, 2, 3, 4}
    for each in found:
        each.ack()


@pytest.mark.parametrize("way", ["cut", "stall"])
def test_a_publisher_gives_up_in_time_and_works_again_later(far: Far, way: str) -> None:
    broker = far.broker()
    far.publish(broker, 1)
    getattr(far.proxy, way)()
    began = time.monotonic()
    with pytest.raises(BrokerError, match="publish a task"):
        far.publish(broker, 2)
    assert time.monotonic() - began < QUICK.timeout + 1.5
    with pytest.raises(BrokerError):
        broker.check()
    far.proxy.drop()
    far.proxy.restore()
    far.publish(broker, 3)


def test_the_next_url_is_tried_when_one_is_dead(far: Far) -> None:
    other = through(far.direct, 1)
    broker = far.broker(f"{other};{far.url}")
    far.publish(broker, 1)
    assert str(far.proxy.port) in broker.url
    consumer = far.consumer(f"{other};{far.url};{far.direct}")
    (found,) = take(consumer, 1, tasks=1)
    found.ack()
    far.proxy.cut()
    until(consumer, lambda _: not consumer.connected)
    far.publish(far.broker(far.direct), 2)
    (found,) = take(consumer, 1, tasks=1)
    found.ack()


# --- the broker forgets ------------------------------------------------------------------------


def test_a_wipe_loses_what_was_there_and_nothing_after(far: Far) -> None:
    broker, consumer = far.broker(), far.consumer()
    far.publish(broker, 1)
    broker.publish_bundle(far.bundle(2), far.store_id)
    assert numbers(take(consumer, 2, nodes=1, tasks=2)) == [1, 2]
    for number in (10, 20):
        far.wipe()
        far.publish(broker, number)
        broker.publish_bundle(far.bundle(number + 1), far.store_id)
        broker.depth(far.queue, far.store_id)  # RabbitMQ's returned bundles are sent again
        found = take(consumer, 2, nodes=2, tasks=4)
        assert numbers(found) == [number, number + 1]


def test_a_wiped_exchange_is_bound_again_and_swallows_nothing(
    far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redissource, "DECLARE_EVERY", 0.2)
    spec = QueueSpec(far.queue, far.queue, "topic", "a.#")
    far.router.add(spec)
    broker, consumer = far.broker(), far.consumer()
    for number in range(3):
        broker.publish(task(number), exchange=far.queue, routing_key="a.b", queue=spec)
        (found,) = take(consumer, 1, tasks=1)
        assert numbers([found]) == [number]
        found.ack()
        far.wipe()
    with pytest.raises(BrokerError, match="no queue is bound"):
        broker.publish(task(9), exchange=far.queue, routing_key="b.b", queue=spec)


# --- the broker refuses ------------------------------------------------------------------------


def test_a_blocked_rabbitmq_is_an_error_in_time_and_not_a_hang(rabbit_url: str) -> None:
    name = f"q-{token()}"
    spec = QueueSpec(name, name, "direct", name)
    options = BrokerOptions(timeout=1.0)
    broker, fresh = Broker(rabbit_url, options), Broker(rabbit_url, options)
    broker.publish(task(1), routing_key=name, queue=spec)
    alarm = "({{resource_limit, memory, node()}, []})."
    rabbitmqctl("eval", f"rabbit_alarm:set_alarm{alarm}")
    try:
        for each in (broker, fresh, broker):
            began = time.monotonic()
            with pytest.raises(BrokerError, match=r"blocks publishers|did not confirm"):
                each.publish(task(2), routing_key=name, queue=spec)
            assert time.monotonic() - began < 2.0
            began = time.monotonic()
            each.close()
            assert time.monotonic() - began < 1.0
    finally:
        clear = "{resource_limit, memory, node()}"
        rabbitmqctl("eval", f"rabbit_alarm:clear_alarm({clear}).")
    broker.publish(task(3), routing_key=name, queue=spec)
    with rabbit_channel(rabbit_url) as channel:
        channel.queue_delete(name)
        channel.exchange_delete(name)
    broker.close()
    fresh.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port whose connections are never accepted."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield listener.getsockname()[1]


@pytest.mark.parametrize("scheme", ["redis://:pass-word@", "pyamqp://user:pass-word@"])
def test_an_unreachable_broker_is_one_sentence_without_the_password(
    scheme: str, silent_port: int
) -> None:
    for port in (1, silent_port):
        broker = Broker(f"{scheme}127.0.0.1:{port}/0", QUICK)
        began = time.monotonic()
        with pytest.raises(BrokerError, match=r"cannot reach the broker .*\*\*\*@127") as caught:
            broker.check()
        assert time.monotonic() - began < QUICK.timeout + 1.0
        assert "pass-word" not in str(caught.value)
        assert "\n" not in str(caught.value)
        broker.close()


def test_a_refused_login_says_so_at_once(rabbit_url: str) -> None:
    host, port = address(rabbit_url)
    for url in (f"pyamqp://guest:wrong-one@{host}:{port}//", f"pyamqp://{host}:{port}/no-vhost"):
        broker = Broker(url)
        began = time.monotonic()
        with pytest.raises(BrokerError, match="refuses the login") as caught:
            broker.check()
        assert time.monotonic() - began < 3.0
        assert "wrong-one" not in str(caught.value)


def test_redis_with_a_password_it_has_not_says_so(redis_url: str) -> None:
    host, port = address(redis_url)
    with pytest.raises(BrokerError, match="refuses the login") as caught:
        Broker(f"redis://:wrong-one@{host}:{port}/0").check()
    assert "wrong-one" not in str(caught.value)


def test_a_full_redis_is_an_error(redis_url: str) -> None:
    name = f"q-{token()}"
    broker = Broker(redis_url, QUICK)
    with redis_client() as client:
        client.set(name, "no list")
        with pytest.raises(BrokerError, match="WRONGTYPE"):
            broker.publish(task(1), routing_key=name)
        client.delete(name)
    broker.publish(task(2), routing_key=name)
    assert broker.purge(name) == 1
    broker.close()
