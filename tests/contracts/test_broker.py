"""The broker contract: the same from memory to quorum queues. Then what only one of them does."""

from __future__ import annotations

import bz2
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Producer

from flowq.broker import redissource
from flowq.broker.codec import Bundle, Item, decode_bundle, node_queue
from flowq.broker.connection import Broker, BrokerOptions
from flowq.broker.consumer import Consumer, Delivery
from flowq.broker.delivery import Outgoing
from flowq.broker.queues import Broadcast, QueueSpec, Router
from flowq.errors import BrokerError
from tests.descriptors import readable
from tests.servers import rabbit_channel, redis_client, token, wipe_redis

#: Generous, for a busy machine; nothing waits that long unless it is broken.
PATIENCE = 20.0


class Place:
    """One kind of broker with names that are this test's own."""

    def __init__(self, kind: str, url: str, **transport_options: Any) -> None:
        self.kind, self.url, self.token = kind, url, token()
        self.store_id = f"store-{self.token}"
        self.options = BrokerOptions(transport_options=transport_options)
        self.queue = f"q-{self.token}"
        self._open: list[Any] = []
        self._used: set[str] = set()

    def router(self, **conf: Any) -> Router:
        kind = "quorum" if self.kind == "quorum" else "classic"
        return Router({"task_create_missing_queue_type": kind, **conf})

    def broker(self) -> Broker:
        self._open.append(Broker(self.url, self.options))
        return self._open[-1]

    def consumer(
        self, *queues: str, router: Router | None = None, store_id: str | None = "", url: str = ""
    ) -> Taker:
        router = router or self.router()
        names = list(queues or (self.queue,))
        self._used.update(names)
        consumer = Consumer(
            url or self.url,
            self.options,
            router,
            queues=names,
            store_id=self.store_id if store_id == "" else store_id,
        )
        taker = Taker(consumer)
        self._open.append(consumer)
        taker.until(lambda: consumer.connected)
        return taker

    def spec(self, name: str = "", **options: Any) -> QueueSpec:
        router = self.router()
        self._used.add(name or self.queue)
        return router.add(name or self.queue, **options) if options else router.queue(self.queue)

    def bundle(self, number: int, priority: int = 0, queue: str = "") -> Bundle:
        item = Item(1, number, 1, 0, 0, b"args", [], priority=priority)
        return Bundle(1, self.store_id, 1, number, 0, queue or self.queue, {}, [], [item])

    def close(self) -> None:
        for each in reversed(self._open):
            each.close()
        if self.kind == "redis":
            wipe_redis(self.token)
        if self.kind in ("rabbitmq", "quorum"):
            with rabbit_channel(self.url) as channel:
                for name in self._used:
                    channel.queue_delete(name)
                    channel.queue_delete(node_queue(name, self.store_id))
                    channel.exchange_delete(name)


class Taker:
    """A consumer with a loop around it."""

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer

    def until(self, done: Callable[[], Any], nodes: int = 0, tasks: int = 0) -> list[Delivery]:
        deadline = time.monotonic() + PATIENCE
        found: list[Delivery] = []
        while not done():
            assert time.monotonic() < deadline, "nothing came"
            readable(self.consumer.handles(), min(0.05, self.consumer.timeout()))
            found += self.consumer.take(nodes, tasks)
        return found

    def take(self, count: int, nodes: int = 0, tasks: int = 0) -> list[Delivery]:
        """Take until there are `count`, never giving more room than asked for at a time."""
        found: list[Delivery] = []
        deadline = time.monotonic() + PATIENCE
        while len(found) < count:
            assert time.monotonic() < deadline, f"only {found} came"
            got = self.consumer.take(nodes, tasks)
            assert sum(d.is_node for d in got) <= nodes
            assert sum(not d.is_node for d in got) <= tasks
            found += got
            if not got:
                readable(self.consumer.handles(), min(0.05, self.consumer.timeout()))
        return found

    def nothing(self, nodes: int = 0, tasks: int = 0, seconds: float = 0.4) -> None:
        """Nothing comes for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.consumer.take(nodes, tasks) == []
            readable(self.consumer.handles(), min(0.05, self.consumer.timeout()))


SERVED = [
    pytest.param("redis", marks=pytest.mark.services),
    pytest.param("rabbitmq", marks=pytest.mark.services),
    pytest.param("quorum", marks=pytest.mark.services),
]


@pytest.fixture(params=["memory", "filesystem", *SERVED])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Each kind of broker in turn."""
    made = make_place(request.param, request, tmp_path)
    yield made
    made.close()


def make_place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if kind == "memory":
        return Place(kind, "memory://")
    if kind == "filesystem":
        folder = tmp_path / "messages"
        folder.mkdir()
        options = {"data_folder_in": str(folder), "data_folder_out": str(folder)}
        return Place(kind, "filesystem://", **options, control_folder=str(tmp_path / "control"))
    if kind == "redis":
        return Place(kind, request.getfixturevalue("redis_url"))
    return Place(kind, request.getfixturevalue("rabbit_url"))


@pytest.fixture
def redis(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = make_place("redis", request, tmp_path)
    yield made
    made.close()


@pytest.fixture
def rabbit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = make_place("rabbitmq", request, tmp_path)
    yield made
    made.close()


def message(number: int = 0, **headers: Any) -> Outgoing:
    return Outgoing(
        json.dumps([[number], {}, {}]),
        {"id": f"id-{number}", "task": "t", "eta": None, **headers},
        {"correlation_id": f"id-{number}", "reply_to": "there"},
    )


def numbers(found: list[Delivery]) -> list[int]:
    return [
        decode_bundle(d.body).outbox_id if d.is_node else json.loads(d.body)[0][0] for d in found
    ]


# --- tasks -------------------------------------------------------------------------------------


def test_a_task_arrives_as_it_was_sent(place: Place) -> None:
    taker = place.consumer()
    place.broker().publish(message(7), routing_key=place.queue, queue=place.spec())
    (found,) = taker.take(1, tasks=1)
    assert not found.is_node
    assert found.queue == place.queue
    assert json.loads(found.body) == [[7], {}, {}]
    assert found.headers == {"id": "id-7", "task": "t", "eta": None}
    assert (found.content_type, found.content_encoding) == ("application/json", "utf-8")
    assert found.properties["correlation_id"] == "id-7"
    assert found.properties["reply_to"] == "there"
    assert found.properties["delivery_mode"] == 2
    assert found.delivery_info["routing_key"] == place.queue
    found.ack()


def test_bytes_stay_bytes_and_compressed_ones_are_not_inflated(place: Place) -> None:
    taker, broker = place.consumer(), place.broker()
    bomb = bz2.compress(b"\0" * (64 << 20))
    body = bytes(range(256))
    for content in (body, bomb):
        out = Outgoing(content, {"compression": "application/x-bz2"}, {}, "application/x", "binary")
        broker.publish(out, routing_key=place.queue, queue=place.spec())
    found = sorted(taker.take(2, tasks=2), key=lambda each: each.body)
    assert [d.body for d in found] == [body, bomb]
    assert found[0].headers["compression"] == "application/x-bz2"
    found[1].reject(requeue=True)
    (again,) = taker.take(1, tasks=2)
    assert again.body == bomb
    again.ack()


def test_many_tasks_come_in_order_and_never_more_than_there_is_room_for(place: Place) -> None:
    broker, taker = place.broker(), place.consumer()
    for number in range(40):
        broker.publish(message(number), routing_key=place.queue, queue=place.spec())
    found: list[Delivery] = []
    while len(found) < 40:
        for each in taker.take(1, tasks=3):
            found.append(each)
            each.ack()
    if place.kind == "filesystem":  # knows no order within a millisecond
        found.sort(key=lambda each: numbers([each]))
    assert numbers(found) == list(range(40))
    taker.nothing(tasks=3)


def test_what_is_not_acknowledged_is_given_to_another(place: Place) -> None:
    broker, first = place.broker(), place.consumer()
    for number in range(3):
        broker.publish(message(number), routing_key=place.queue, queue=place.spec())
    held = first.take(3, tasks=3)
    done = numbers(held[1:2])
    held[1].ack()
    first.consumer.close()
    found = place.consumer().take(2, tasks=5)
    assert sorted(numbers(found) + done) == [0, 1, 2]
    for each in found:
        each.ack()
    held[0].ack()  # too late, and without harm


def test_a_rejected_task_is_dropped_or_comes_again(place: Place) -> None:
    broker, taker = place.broker(), place.consumer()
    broker.publish(message(1), routing_key=place.queue, queue=place.spec())
    (found,) = taker.take(1, tasks=1)
    found.reject(requeue=True)
    found.ack()  # settled already
    (found,) = taker.take(1, tasks=1)
    found.reject()
    taker.nothing(tasks=1)
    taker.consumer.close()
    place.consumer().nothing(tasks=1)


def test_one_worker_leaves_to_another_what_it_has_no_room_for(place: Place) -> None:
    broker = place.broker()
    full = place.consumer()
    for number in range(4):
        broker.publish(message(number), routing_key=place.queue, queue=place.spec())
    held = full.take(2, tasks=2)
    assert len(held) == 2
    full.nothing(tasks=0)
    rest = place.consumer().take(2, tasks=4)
    assert sorted(numbers(held + rest)) == [0, 1, 2, 3]


def test_a_paused_consumer_takes_nothing_but_acknowledges(place: Place) -> None:
    broker, taker = place.broker(), place.consumer()
    broker.publish(message(1), routing_key=place.queue, queue=place.spec())
    (held,) = taker.take(1, tasks=1)
    taker.consumer.pause()
    taker.nothing(nodes=1, tasks=1, seconds=0.2)
    broker.publish(message(2), routing_key=place.queue, queue=place.spec())
    broker.publish_bundle(place.bundle(3), place.store_id)
    taker.nothing(nodes=1, tasks=1)
    held.ack()
    taker.consumer.resume()
    assert sorted(numbers(taker.take(2, nodes=1, tasks=1))) == [2, 3]
    taker.consumer.close()
    assert numbers(place.consumer().take(1, tasks=1)) == [2]


# --- bundles -----------------------------------------------------------------------------------


def test_a_bundle_arrives_whole(place: Place) -> None:
    taker = place.consumer()
    sent = place.bundle(5)
    place.broker().publish_bundle(sent, place.store_id)
    (found,) = taker.take(1, nodes=1)
    assert found.is_node
    assert found.queue == place.queue
    assert decode_bundle(found.body) == sent
    found.ack()
    found.reject(requeue=True)
    taker.nothing(nodes=1)


def test_a_worker_takes_a_bundle_only_when_it_has_a_slot(place: Place) -> None:
    broker, first, second = place.broker(), place.consumer(), place.consumer()
    first.nothing(nodes=1, seconds=0.1)
    broker.publish_bundles([place.bundle(n) for n in range(3)], place.store_id)
    taken = first.take(1, nodes=1)
    first.nothing(nodes=0)
    rest = second.take(2, nodes=2)
    assert sorted(numbers(taken + rest)) == [0, 1, 2]
    first.nothing(nodes=1, seconds=0.1)
    broker.publish_bundle(place.bundle(3), place.store_id)
    assert numbers(first.take(1, nodes=1)) == [3]


def test_bundles_of_a_dead_worker_are_not_given_to_another(place: Place) -> None:
    broker, first = place.broker(), place.consumer()
    broker.publish_bundle(place.bundle(1), place.store_id)
    first.take(1, nodes=1)
    first.nothing(nodes=0, seconds=0.1)
    first.consumer.close()
    place.consumer().nothing(nodes=1)


def test_urgent_bundles_come_first(place: Place) -> None:
    broker = place.broker()
    taker = place.consumer()
    for number, priority in enumerate((0, 3, 9, 6, -5, 70)):
        broker.publish_bundle(place.bundle(number, priority), place.store_id)
    found = [numbers(taker.take(1, nodes=1))[0] for _ in range(6)]
    # one may have been on its way before the others were published
    assert [n for n in found[1:] if n not in (0, 4)] == [n for n in (2, 5, 3, 1) if n != found[0]]
    assert set(found[-2:]) == {0, 4} - {found[0]} or found[0] in (0, 4)


def test_a_worker_without_a_store_takes_no_bundles(place: Place) -> None:
    taker = place.consumer(store_id=None)
    place.broker().publish_bundle(place.bundle(1), place.store_id)
    taker.nothing(nodes=5, tasks=5)


def test_stores_do_not_see_one_another(place: Place) -> None:
    broker, taker = place.broker(), place.consumer(store_id=f"other-{place.token}")
    broker.publish_bundle(place.bundle(1), place.store_id)
    taker.nothing(nodes=1)
    assert broker.depth(place.queue, place.store_id) == 1
    broker.purge(place.queue, f"other-{place.token}")


def test_depth_and_purge_tell_what_waits(place: Place) -> None:
    broker = place.broker()
    assert not broker.depth(place.queue, place.store_id)
    broker.publish_bundles([place.bundle(n, n) for n in range(7)], place.store_id)
    assert eventually(lambda: broker.depth(place.queue, place.store_id) == 7)
    for number in range(3):
        broker.publish(message(number), routing_key=place.queue, queue=place.spec())
    assert broker.depth(place.queue, place.store_id) == 7
    assert broker.purge(place.queue, place.store_id) == 7
    assert broker.depth(place.queue, place.store_id) == 0
    assert broker.purge(place.queue) == 3
    assert broker.purge(place.queue) == 0


def eventually(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            return False
        readable([], 0.01)
    return True


# --- queues ------------------------------------------------------------------------------------


def test_queues_come_and_go_while_it_runs(place: Place) -> None:
    other = f"other-{place.token}"
    broker, taker = place.broker(), place.consumer()
    added = taker.consumer.add_queue(other, exchange=other, routing_key=other)
    place._used.add(other)
    assert [spec.name for spec in taker.consumer.active()] == [place.queue, other]
    assert added.described()["exchange"]["name"] == other
    broker.publish(message(1), routing_key=other, queue=added)
    broker.publish_bundle(place.bundle(2, queue=other), place.store_id)
    found = taker.take(2, nodes=1, tasks=1)
    assert sorted(numbers(found)) == [1, 2]
    assert {d.queue for d in found} == {other}
    for each in found:
        each.ack()
    assert taker.consumer.cancel_queue(other)
    assert not taker.consumer.cancel_queue(other)
    taker.nothing(nodes=1, tasks=1, seconds=0.2)
    broker.publish(message(3), routing_key=other, queue=added)
    broker.publish_bundle(place.bundle(4, queue=other), place.store_id)
    taker.nothing(nodes=1, tasks=1)
    broker.publish(message(5), routing_key=place.queue, queue=place.spec())
    assert numbers(taker.take(1, nodes=1, tasks=1)) == [5]
    broker.purge(other, place.store_id)


def test_no_queue_starves_another(place: Place) -> None:
    other = f"other-{place.token}"
    broker, router = place.broker(), place.router()
    for number in range(20):
        broker.publish_bundle(place.bundle(number), place.store_id)
        broker.publish_bundle(place.bundle(100 + number, queue=other), place.store_id)
    taker = place.consumer(place.queue, other, router=router)
    taken = numbers([taker.take(1, nodes=1)[0] for _ in range(20)])
    assert 4 <= sum(number >= 100 for number in taken) <= 16
    broker.purge(place.queue, place.store_id)
    broker.purge(other, place.store_id)


def test_topic_exchanges_route_by_pattern(place: Place) -> None:
    exchange = f"x-{place.token}"
    names = {f"all-{place.token}": "#", f"eu-{place.token}": "eu.*"}
    router = place.router(
        task_queues={
            name: {"exchange": exchange, "exchange_type": "topic", "routing_key": key}
            for name, key in names.items()
        }
    )
    place._used |= {exchange}
    taker = place.consumer(*names, router=router)
    route = router.route("t", {"queue": f"eu-{place.token}", "routing_key": "us.new"})
    assert (route.exchange, route.routing_key) == (exchange, "us.new")
    broker = place.broker()
    for number, key in enumerate(("us.new", "eu.old")):
        broker.publish(message(number), exchange=exchange, routing_key=key, queue=route.queue)
    found = taker.take(3, tasks=3)
    assert sorted((d.queue, *numbers([d])) for d in found) == sorted(
        [(f"all-{place.token}", 0), (f"all-{place.token}", 1), (f"eu-{place.token}", 1)]
    )
    for each in found:
        each.ack()


def test_a_broadcast_reaches_every_worker(place: Place) -> None:
    name = f"bc-{place.token}"
    place._used.add(name)
    takers = []
    for _ in range(2):
        router = place.router(task_queues=[Broadcast(name)])
        takers.append(place.consumer(name, router=router))
    router = place.router(task_queues=[Broadcast(name)])
    route = router.route("t", {"queue": name})
    assert route.exchange == name
    for taker in takers:
        taker.nothing(tasks=1, seconds=0.1)
    place.broker().publish(
        message(4), exchange=route.exchange, routing_key=route.routing_key, queue=route.queue
    )
    for taker in takers:
        (found,) = taker.take(1, tasks=1)
        assert numbers([found]) == [4]
        assert found.queue == name
        found.ack()


def test_an_exchange_that_leads_nowhere_is_an_error(place: Place) -> None:
    with pytest.raises(BrokerError, match=r"cannot publish a task.*no"):
        place.broker().publish(message(), exchange=f"none-{place.token}", routing_key="k")


def test_a_sleeping_consumer_is_woken_by_its_handles(place: Place) -> None:
    if place.kind == "filesystem":
        pytest.skip("folders are polled when another process writes to them")
    broker, taker = place.broker(), place.consumer()
    for number in range(5):
        taker.nothing(nodes=1, tasks=1, seconds=0.1)
        if number % 2:
            broker.publish(message(number), routing_key=place.queue, queue=place.spec())
        else:
            broker.publish_bundle(place.bundle(number), place.store_id)
        assert readable(taker.consumer.handles(), PATIENCE)
        for each in taker.take(1, nodes=1, tasks=1):
            each.ack()


def test_everything_can_be_closed_twice(place: Place) -> None:
    broker, taker = place.broker(), place.consumer()
    broker.check()
    broker.close()
    broker.close()
    taker.consumer.close()
    taker.consumer.close()
    assert taker.consumer.take(1, 1) == []
    broker.check()


# --- with stock kombu, as Celery uses it -------------------------------------------------


def stock(place: Place) -> Any:
    return Connection(place.url, transport_options=dict(place.options.transport_options))


def test_stock_kombu_reads_what_is_published_here(place: Place) -> None:
    taker = place.consumer()  # declares
    taker.consumer.close()
    place.broker().publish(message(9), routing_key=place.queue, queue=place.spec())
    with stock(place) as connection:
        channel = connection.channel()
        seen: list[Any] = []
        assert eventually(lambda: bool(seen.append(channel.basic_get(place.queue)) or seen[-1]))
        assert channel.message_to_python(seen[-1]).payload == [[9], {}, {}]
        channel.basic_ack(seen[-1].delivery_tag)


def test_what_stock_kombu_publishes_is_read_here(place: Place) -> None:
    taker = place.consumer()
    with stock(place) as connection:
        Producer(connection).publish(
            [[3], {}, {}],
            routing_key=place.queue,
            serializer="json",
            compression="gzip",
            headers={"task": "t", "id": "i"},
        )
        (found,) = taker.take(1, tasks=1)
    assert found.headers["compression"] == "application/x-gzip"
    assert found.body[:1] in (b"\x1f", b"x")
    assert (found.content_type, found.headers["task"]) == ("application/json", "t")
    found.ack()


# --- Redis only --------------------------------------------------------------------------------


@pytest.mark.services
def test_redis_keeps_no_trace_of_what_was_acknowledged(redis: Place) -> None:
    broker, taker = redis.broker(), redis.consumer()
    broker.publish(message(1), routing_key=redis.queue, queue=redis.spec())
    (found,) = taker.take(1, tasks=1)
    tag = found.properties["delivery_tag"]
    with redis_client() as client:
        assert eventually(lambda: client.hexists("unacked", tag))
        found.ack()
        assert eventually(lambda: not client.hexists("unacked", tag))
        assert client.zscore("unacked_index", tag) is None


#: Options that keep the unacknowledged messages of one test apart from those of others.
OWN_KEYS = ("unacked_key", "unacked_index_key", "unacked_mutex_key")


@pytest.mark.services
def test_redis_gives_again_what_a_dead_worker_held_too_long(
    redis: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redissource, "RESTORE_EVERY", 0.2)
    redis.options = BrokerOptions(
        transport_options={
            "visibility_timeout": 1,
            **{key: f"{key}.{redis.token}" for key in OWN_KEYS},
        }
    )
    broker, dead = redis.broker(), redis.consumer()
    broker.publish(message(1), routing_key=redis.queue, queue=redis.spec())
    dead.take(1, tasks=1)
    dead.consumer._source.close(gently=False)  # type: ignore[union-attr]
    (found,) = redis.consumer().take(1, tasks=1)
    assert found.redelivered
    assert numbers([found]) == [1]
    found.ack()


@pytest.mark.services
def test_what_is_no_message_is_dropped_with_an_error_line(
    redis: Place, caplog: pytest.LogCaptureFixture
) -> None:
    broker, taker = redis.broker(), redis.consumer()
    bad = [b"\xff\xfe", b"[]", b"null", b'{"properties": {}}', b'{"body": "%", "properties": 3}']
    with redis_client() as client:
        for each in bad:
            client.lpush(redis.queue, each)
    broker.publish(message(1), routing_key=redis.queue, queue=redis.spec())
    with caplog.at_level(logging.ERROR, "flowq.broker"):
        (found,) = taker.take(1, tasks=1)
    assert numbers([found]) == [1]
    lines = [r.getMessage() for r in caplog.records if "is no message" in r.getMessage()]
    assert len(lines) == len(bad)
    assert redis.queue in lines[0]
    found.ack()


@pytest.mark.services
def test_redis_priorities_of_tasks_are_kombus(redis: Place) -> None:
    broker = redis.broker()
    for number, priority in enumerate((9, 5, 0)):
        broker.publish(
            message(number), routing_key=redis.queue, queue=redis.spec(), priority=priority
        )
    with redis_client() as client:
        assert client.llen(f"{redis.queue}\x06\x163") == 1
        assert client.llen(f"{redis.queue}\x06\x169") == 1
    taker = redis.consumer()
    assert numbers([taker.take(1, tasks=1)[0] for _ in range(3)]) == [2, 1, 0]


@pytest.mark.services
def test_a_prefix_of_redis_keys_holds_for_everything(redis: Place) -> None:
    prefix = f"p{redis.token}:"
    redis.options = BrokerOptions(transport_options={"global_keyprefix": prefix})
    broker, taker = redis.broker(), redis.consumer()
    taker.nothing(seconds=0.1)
    broker.publish_bundle(redis.bundle(1), redis.store_id)
    broker.publish(message(2), routing_key=redis.queue, queue=redis.spec())
    with redis_client() as client:
        assert client.exists(f"{prefix}{redis.queue}")
        assert client.exists(f"{prefix}{node_queue(redis.queue, redis.store_id)}")
    found = taker.take(2, nodes=1, tasks=1)
    assert sorted(numbers(found)) == [1, 2]
    with redis_client() as client:
        assert eventually(lambda: client.hlen(f"{prefix}unacked") == 1)
        for each in found:
            each.ack()
        assert eventually(lambda: client.hlen(f"{prefix}unacked") == 0)


# --- RabbitMQ only -----------------------------------------------------------------------------


@pytest.mark.services
def test_rabbitmq_priorities_of_tasks(rabbit: Place) -> None:
    spec = rabbit.spec(rabbit.queue, max_priority=9, exchange=rabbit.queue)
    broker = rabbit.broker()
    for number, priority in enumerate((0, 5, 9)):
        broker.publish(message(number), routing_key=rabbit.queue, queue=spec, priority=priority)
    router = rabbit.router(task_queues=[spec])
    taker = rabbit.consumer(rabbit.queue, router=router)
    found = []
    for _ in range(3):
        (each,) = taker.take(1, tasks=1)
        found.append(each)
        each.ack()
    assert numbers(found) == [2, 1, 0]


@pytest.mark.services
def test_a_queue_with_other_arguments_is_used_as_it_is(
    rabbit: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with rabbit_channel(rabbit.url) as channel:
        channel.queue_declare(rabbit.queue, durable=True, auto_delete=False, arguments={
            "x-max-priority": 3})  # fmt: skip
    broker = rabbit.broker()
    broker.publish(message(1), routing_key=rabbit.queue, queue=rabbit.spec())
    assert "other arguments" in caplog.text
    (found,) = rabbit.consumer().take(1, tasks=1)
    found.ack()


@pytest.mark.services
def test_an_early_acknowledged_task_is_gone_though_the_worker_dies(rabbit: Place) -> None:
    broker, dead = rabbit.broker(), rabbit.consumer()
    broker.publish(message(1), routing_key=rabbit.queue, queue=rabbit.spec())
    (found,) = dead.take(1, tasks=1)
    found.ack()
    dead.consumer._source.close(gently=False)  # type: ignore[union-attr]
    rabbit.consumer().nothing(tasks=1)
