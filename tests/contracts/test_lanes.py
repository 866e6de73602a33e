"""One contract for update lanes, whatever carries them: streams, queues, rows, memory."""

from __future__ import annotations

import secrets
import select
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowq.backends import LaneReader, LaneWriter, UpdateLane
from flowq.backends.memory import MemoryLane
from flowq.backends.opening import open_lane_reader, open_lane_writer
from flowq.backends.options import BackendOptions
from flowq.broker.codec import Report, ReportKind
from flowq.errors import FlowqError
from flowq.store import Store
from tests.proxy import CuttingProxy
from tests.servers import address, rabbit_channel, through
from tests.started import REDIS, Server, until

ALL = (
    "memory",
    "sqlite",
    pytest.param("redis", marks=pytest.mark.services),
    pytest.param("rediss", marks=pytest.mark.services),
    pytest.param("amqp", marks=pytest.mark.services),
    pytest.param("postgresql", marks=pytest.mark.services),
)


class MemoryLanes:
    """Both ends of lanes in memory, as the contract has them."""

    def __init__(self) -> None:
        self.lanes: dict[int, MemoryLane] = {}

    def _lane(self, lane_id: int) -> MemoryLane:
        return self.lanes.setdefault(lane_id, MemoryLane())

    def open(self, lane_id: int) -> MemoryLane:
        lane = self._lane(lane_id)
        lane.rewind()
        return lane

    def put(self, lane_id: int, reports: list[Report]) -> None:
        self._lane(lane_id).put(reports)

    def leave(self, lane_id: int) -> None:
        """It stays for the next."""

    def handles(self) -> list[int]:
        return []

    def timeout(self) -> float:
        return 3600.0

    def refill(self) -> None:
        """Everything is here."""

    def close(self) -> None:
        """Nothing to close."""


class Kind:
    """Makes both ends of one kind of lanes, as often as a test wants, and closes them."""

    def __init__(self, make: Callable[[bool], Any]) -> None:
        self._make = make
        self._made: list[Any] = []

    def reader(self) -> LaneReader:
        return self._keep(self._make(True))

    def writer(self) -> LaneWriter:
        return self._keep(self._make(False))

    def _keep(self, made: Any) -> Any:
        self._made.append(made)
        return made

    def close(self) -> None:
        for each in self._made:
            each.close()


def lanes_at(
    url: str | None,
    store: Any,
    brokers: tuple[str, ...] = (),
    prefix: str = "",
    name: str = "s1",
) -> Kind:
    """Lanes as a fleet opens them."""
    options = BackendOptions(transport={"global_keyprefix": prefix})

    def make(reads: bool) -> Any:
        opener = open_lane_reader if reads else open_lane_writer
        return opener(url, broker_urls=brokers, store=store, store_id=name, options=options)

    return Kind(make)


@pytest.fixture(params=ALL)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    made = kind_of(request.param, request)
    yield made
    made.close()


def kind_of(name: str, request: pytest.FixtureRequest) -> Kind:
    if name == "memory":
        lanes = MemoryLanes()
        return Kind(lambda reads: lanes)
    if name == "redis":
        prefix = request.getfixturevalue("redis_prefix")
        return lanes_at(f"{REDIS}/12", None, prefix=prefix)
    if name == "rediss":
        return lanes_at(request.getfixturevalue("redis_tls"), None, prefix=secrets.token_hex(4))
    if name == "amqp":
        url = request.getfixturevalue("rabbitmq_url")
        return lanes_at("rpc://", None, (url,), name=secrets.token_hex(4))
    path = request.getfixturevalue("tmp_path")
    sqlite = name == "sqlite"
    store = Store(f"sqlite:///{path}/s.db" if sqlite else request.getfixturevalue("postgres_url"))
    store.ensure()
    request.addfinalizer(store.close)
    return lanes_at("db+sqlite://", store)


def reports(*numbers: int) -> list[Report]:
    return [Report(1, number, 1, ReportKind.SUCCESS, frame=b"jnull") for number in numbers]


def pump(reader: LaneReader, lane: UpdateLane, count: int, seconds: float = 10.0) -> bool:
    """Drive a reader as a coordinator does until so many reports wait; False if they do not."""
    end = time.monotonic() + seconds
    reader.refill()
    while len(lane) < count:
        left = end - time.monotonic()
        if left <= 0:
            return False
        poller = select.poll()
        for handle in reader.handles():
            poller.register(handle, select.POLLIN)
        poller.poll(max(0.0, min(left, reader.timeout())) * 1000)
        reader.refill()
    return True


def numbers(found: list[Report]) -> list[int]:
    return [report.idx for report in found]


def test_reports_come_in_order_and_go_when_acknowledged(kind: Kind) -> None:
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    for first in range(0, 30, 3):
        writer.put(1, reports(first, first + 1, first + 2))
    assert pump(reader, lane, 30)
    assert numbers(lane.take(7)) == list(range(7))
    assert numbers(lane.take(100)) == list(range(7, 30))
    lane.ack(7)
    assert len(lane) == 23
    lane.ack(23)
    assert len(lane) == 0
    assert lane.take(10) == []


def test_what_was_rewound_is_taken_again(kind: Kind) -> None:
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    writer.put(1, reports(*range(10)))
    assert pump(reader, lane, 10)
    lane.take(4)
    lane.ack(1)
    lane.rewind()
    assert numbers(lane.take(100)) == list(range(1, 10))
    lane.rewind()
    lane.rewind()
    assert numbers(lane.take(2)) == [1, 2]
    lane.ack(2)
    assert numbers(lane.take(100)) == list(range(3, 10))


def test_a_report_comes_back_with_all_it_says(kind: Kind) -> None:
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    sent = [
        Report(1, 2, 3, ReportKind.FAILURE, 1.5, 2.5, b"e\x00\xff", "signal 9", [(1, "a")], "id"),
        Report(1, 3, 1, ReportKind.RETRY, extra=2.5, args=b"j[]"),
    ]
    writer.put(1, sent)
    assert pump(reader, lane, 2)
    assert lane.take(9) == sent


def test_lanes_are_apart(kind: Kind) -> None:
    reader, writer = kind.reader(), kind.writer()
    first, second = reader.open(1), reader.open(2)
    writer.put(2, reports(20))
    writer.put(1, reports(10))
    writer.put(3, reports(30))
    assert pump(reader, first, 1)
    assert pump(reader, second, 1)
    assert numbers(first.take(9)) == [10]
    assert numbers(second.take(9)) == [20]
    third = reader.open(3)
    assert pump(reader, third, 1)
    assert numbers(third.take(9)) == [30]


def test_what_nobody_read_waits_for_the_owner(kind: Kind) -> None:
    kind.writer().put(1, reports(1, 2))
    reader = kind.reader()
    lane = reader.open(1)
    assert pump(reader, lane, 2)
    assert numbers(lane.take(9)) == [1, 2]


def test_a_lane_opened_later_is_read_at_once(kind: Kind) -> None:
    reader, writer = kind.reader(), kind.writer()
    first = reader.open(1)
    writer.put(1, reports(1))
    assert pump(reader, first, 1)
    reader.refill()
    began = time.monotonic()
    second = reader.open(2)
    writer.put(2, reports(2))
    assert pump(reader, second, 1)
    assert time.monotonic() - began < 2.0


def test_a_new_owner_gets_what_the_last_one_took_and_did_not_acknowledge(kind: Kind) -> None:
    first, writer = kind.reader(), kind.writer()
    lane = first.open(1)
    for number in range(5):
        writer.put(1, reports(number))
    assert pump(first, lane, 5)
    lane.take(4)
    lane.ack(2)
    first.refill()
    first.leave(1)
    second = kind.reader()
    again = second.open(1)
    assert pump(second, again, 3)
    assert numbers(again.take(9)) == [2, 3, 4]


def test_an_owner_that_was_killed_loses_nothing(kind: Kind) -> None:
    first, writer = kind.reader(), kind.writer()
    lane = first.open(1)
    writer.put(1, reports(1, 2, 3))
    assert pump(first, lane, 3)
    lane.take(2)
    lane.ack(2)  # part of a record: it comes again as a whole
    first.close()
    second = kind.reader()
    again = second.open(1)
    writer.put(1, reports(4))
    assert pump(second, again, 2)
    assert numbers(again.take(9))[-2:] == [3, 4]


def test_a_lane_left_and_opened_again_goes_on(kind: Kind) -> None:
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    writer.put(1, reports(1))
    assert pump(reader, lane, 1)
    reader.leave(1)
    writer.put(1, reports(2))
    lane = reader.open(1)
    assert pump(reader, lane, 2)
    assert numbers(lane.take(9)) == [1, 2]


def test_what_is_acknowledged_never_comes_again(kind: Kind) -> None:
    first, writer = kind.reader(), kind.writer()
    lane = first.open(1)
    for number in range(50):
        writer.put(1, reports(number))
    assert pump(first, lane, 50)
    lane.take(50)
    lane.ack(50)
    first.refill()
    first.close()
    second = kind.reader()
    again = second.open(1)
    writer.put(1, reports(99))
    assert pump(second, again, 1)
    assert numbers(again.take(9)) == [99]


def test_a_record_may_be_large(kind: Kind) -> None:
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    for number in range(3):
        writer.put(1, [Report(1, number, 1, ReportKind.SUCCESS, frame=b"j" + b"1" * 3_000_000)])
    assert pump(reader, lane, 3)
    assert [len(report.frame) for report in lane.take(9)] == [3_000_001] * 3


def test_closing_twice_does_nothing(kind: Kind) -> None:
    reader, writer = kind.reader(), kind.writer()
    reader.open(1)
    reader.refill()
    writer.put(1, reports(1))
    for each in (reader, writer):
        each.close()
        each.close()


# -- Redis -----------------------------------------------------------------------------------


@pytest.fixture
def own(redis_server: Server) -> Iterator[tuple[Server, Kind]]:
    made = lanes_at(f"redis://127.0.0.1:{redis_server.port}/0", None)
    yield redis_server, made
    made.close()


def client_of(server: Server) -> Any:
    import redis

    return redis.Redis(port=server.port)


@pytest.mark.services
def test_redis_away_and_back(own: tuple[Server, Kind], caplog: pytest.LogCaptureFixture) -> None:
    server, kind = own
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    writer.put(1, reports(1))
    assert pump(reader, lane, 1)
    server.stop()
    began = time.monotonic()
    with pytest.raises(FlowqError, match=r"cannot .* the Redis at redis://127.0.0.1:\d+/0"):
        writer.put(1, reports(2))
    assert time.monotonic() - began < 2.5
    assert not pump(reader, lane, 2, seconds=1.0)
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1
    server.start()
    assert until(lambda: _accepted(writer, reports(3)))
    assert pump(reader, lane, 2)
    assert numbers(lane.take(9)) == [1, 3]
    lane.ack(2)


def _accepted(writer: LaneWriter, record: list[Report]) -> bool:
    try:
        writer.put(1, record)
    except FlowqError:
        return False
    return True


@pytest.mark.services
def test_a_wiped_redis_costs_only_what_was_unread(own: tuple[Server, Kind]) -> None:
    server, kind = own
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    with client_of(server) as client:
        for number in range(50):
            writer.put(1, reports(number))
            assert pump(reader, lane, 1)
            written = client.time()
            client.flushall()
            # Records of one millisecond before and after would have one id.
            assert until(lambda then=written: client.time()[1] // 1000 != then[1] // 1000)
            writer.put(1, reports(1000 + number))
            assert pump(reader, lane, 2)
            assert numbers(lane.take(9)) == [number, 1000 + number]
            lane.ack(2)


@pytest.mark.services
def test_a_stream_whose_ids_begin_anew_is_read_from_its_beginning(own: tuple[Server, Kind]) -> None:
    server, kind = own
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    with client_of(server) as client:
        client.xadd("flowq:s1:upd:1", {"r": b"\x90"}, id="99999999999999-1")
        writer.put(1, reports(1))
        assert pump(reader, lane, 1)
        client.flushall()
        writer.put(1, reports(2))
        assert pump(reader, lane, 2, seconds=20.0)
        assert numbers(lane.take(9)) == [1, 2]
        lane.ack(2)
        reader.refill()
        assert until(lambda: client.xlen("flowq:s1:upd:1") == 0)


@pytest.mark.services
def test_a_redis_that_stands_still_is_noticed(own: tuple[Server, Kind]) -> None:
    server, kind = own
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    writer.put(1, reports(1))
    assert pump(reader, lane, 1)
    server.signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(FlowqError, match="Timeout"):
        writer.put(1, reports(2))
    assert time.monotonic() - began < 2.5
    server.signal(signal.SIGCONT)
    assert until(lambda: _accepted(writer, reports(3)))
    assert pump(reader, lane, 2)


@pytest.mark.services
def test_garbage_on_a_stream_is_dropped_and_said(
    own: tuple[Server, Kind], caplog: pytest.LogCaptureFixture
) -> None:
    server, kind = own
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    with client_of(server) as client:
        client.xadd("flowq:s1:upd:1", {"r": b"\xc1 no reports"})
        writer.put(1, reports(1))
        assert pump(reader, lane, 1)
        assert "cannot be read" in caplog.text
        lane.take(1)
        lane.ack(1)
        reader.refill()
        assert until(lambda: client.xlen("flowq:s1:upd:1") == 0)


@pytest.mark.services
def test_a_reader_far_behind_does_not_take_everything_at_once(own: tuple[Server, Kind]) -> None:
    server, kind = own
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    for _ in range(200):
        writer.put(1, reports(*range(500)))
    assert pump(reader, lane, 50_000)
    for _ in range(50):
        reader.refill()
    assert len(lane) < 70_000
    left = 100_000
    while left:
        assert pump(reader, lane, 1)
        got = len(lane.take(5000))
        lane.ack(got)
        left -= got
    reader.refill()
    with client_of(server) as client:
        assert until(lambda: client.xlen("flowq:s1:upd:1") == 0)


@pytest.mark.services
def test_a_report_wakes_the_reader_at_once(kind: Kind, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params["kind"] not in ("redis", "rediss", "amqp"):
        pytest.skip("rows are looked at a few times a second")
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    pump(reader, lane, 1, seconds=0.2)
    go, times = threading.Semaphore(0), []

    def write() -> None:
        for number in range(200):
            go.acquire()
            times.append(time.perf_counter())
            writer.put(1, reports(number))

    thread = threading.Thread(target=write)
    thread.start()
    waits = []
    for _ in range(200):
        go.release()
        assert pump(reader, lane, 1)
        waits.append(time.perf_counter() - times[-1])
        lane.ack(len(lane.take(9)))
        reader.refill()
    thread.join()
    assert statistics.median(waits) < 0.005, statistics.median(waits)


# -- AMQP ------------------------------------------------------------------------------------


@pytest.fixture
def cut_amqp(rabbitmq_url: str) -> Iterator[tuple[CuttingProxy, Kind]]:
    """Lanes over RabbitMQ behind a network that can be cut."""
    host, port = address(rabbitmq_url)
    with CuttingProxy(host, port) as proxy:
        url = through(rabbitmq_url, proxy.port)
        made = lanes_at("rpc://", None, (url,), name=secrets.token_hex(4))
        yield proxy, made
        made.close()


@pytest.mark.services
def test_a_cut_connection_brings_what_was_not_acknowledged_again(
    cut_amqp: tuple[CuttingProxy, Kind],
) -> None:
    proxy, kind = cut_amqp
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    for number in range(4):
        writer.put(1, reports(number))
    assert pump(reader, lane, 4)
    assert numbers(lane.take(2)) == [0, 1]
    proxy.drop()
    writer.put(1, reports(4))  # over a new connection, and nobody hears of it
    lane.ack(1)  # what was taken stays taken, whatever became of the connection
    assert pump(reader, lane, 6)
    assert numbers(lane.take(9)) == [0, 1, 2, 3, 4]
    lane.ack(6)
    assert len(lane) == 0


@pytest.mark.services
def test_rabbitmq_away_and_back(
    cut_amqp: tuple[CuttingProxy, Kind], caplog: pytest.LogCaptureFixture
) -> None:
    proxy, kind = cut_amqp
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    writer.put(1, reports(1))
    assert pump(reader, lane, 1)
    lane.take(1)
    lane.ack(1)
    reader.refill()
    proxy.cut()
    began = time.monotonic()
    with pytest.raises(FlowqError, match=r"cannot .* pyamqp://guest:\*\*\*@") as caught:
        writer.put(1, reports(2))
    assert "guest:guest" not in str(caught.value)
    assert time.monotonic() - began < 2.5
    assert not pump(reader, lane, 1, seconds=1.0)
    ours = [r for r in caplog.records if r.name == "flowq.backends" and r.levelname == "WARNING"]
    assert len(ours) == 1
    proxy.restore()
    assert until(lambda: _accepted(writer, reports(3)))
    assert until(lambda: _after_refill(reader, lane)[-1:] == [3])  # 1 too, if its ack was cut off


@pytest.mark.services
def test_a_rabbitmq_that_gives_no_answer_holds_a_writer_two_seconds_at_most(
    cut_amqp: tuple[CuttingProxy, Kind],
) -> None:
    proxy, kind = cut_amqp
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    writer.put(1, reports(1))
    assert pump(reader, lane, 1)
    proxy.stall()
    began = time.monotonic()
    with pytest.raises(FlowqError):
        writer.put(1, reports(2))
    with pytest.raises(FlowqError):
        writer.put(1, reports(2))
    reader.refill()
    assert time.monotonic() - began < 5.0
    proxy.restore()
    assert until(lambda: _accepted(writer, reports(3)))
    assert pump(reader, lane, 2)


@pytest.mark.services
def test_a_lanes_queue_that_was_deleted_is_made_again(rabbitmq_url: str) -> None:
    name = secrets.token_hex(4)
    kind = lanes_at("rpc://", None, (rabbitmq_url,), name=name)
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    writer.put(1, reports(1))
    assert pump(reader, lane, 1)
    with rabbit_channel(rabbitmq_url) as channel:
        channel.queue_delete(f"flowq.{name}.upd.1")
    writer.put(1, reports(2))
    assert pump(reader, lane, 1)
    assert until(lambda: 2 in _after_refill(reader, lane))
    kind.close()


def _after_refill(reader: LaneReader, lane: UpdateLane) -> list[int]:
    reader.refill()
    found = numbers(lane.take(99))
    lane.rewind()
    return found


@pytest.mark.services
def test_an_owner_that_does_not_know_it_was_taken_over_gets_nothing_new(rabbitmq_url: str) -> None:
    kind = lanes_at("rpc://", None, (rabbitmq_url,), name=secrets.token_hex(4))
    old, writer = kind.reader(), kind.writer()
    stale = old.open(1)
    old.refill()
    second = int(time.time())
    assert until(lambda: int(time.time()) > second)  # the priority of consumers is in seconds
    new = kind.reader()
    lane = new.open(1)
    new.refill()
    for number in range(50):
        writer.put(1, reports(number))
    assert pump(new, lane, 50)
    old.refill()
    assert len(stale) == 0
    kind.close()


@pytest.mark.services
@pytest.mark.slow
def test_unread_reports_outlive_a_restart_of_rabbitmq(rabbitmq_server: Server) -> None:
    url = f"pyamqp://guest:guest@127.0.0.1:{rabbitmq_server.port}//"
    kind = lanes_at("rpc://", None, (url,))
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    writer.put(1, reports(1))
    writer.put(1, reports(2))
    writer.put(2, reports(3))
    assert pump(reader, lane, 2)
    lane.take(1)
    lane.ack(1)
    reader.refill()
    rabbitmq_server.stop(signal.SIGKILL)
    assert not pump(reader, lane, 2, seconds=0.5)
    rabbitmq_server.start()
    other = reader.open(2)
    assert pump(reader, other, 1, seconds=30.0)
    assert pump(reader, lane, 1)
    assert numbers(lane.take(9))[-1] == 2
    assert numbers(other.take(9)) == [3]
    assert until(lambda: _accepted(writer, reports(4)))
    kind.close()


# -- the store -------------------------------------------------------------------------------


@pytest.mark.services
def test_a_postgresql_that_drops_its_connections_costs_time_only(postgres_url: str) -> None:
    import psycopg

    store = Store(postgres_url)
    store.ensure()
    kind = lanes_at(None, store)
    reader, writer = kind.reader(), kind.writer()
    lane = reader.open(1)
    writer.put(1, reports(1))
    assert pump(reader, lane, 1)
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert until(lambda: _accepted(writer, reports(2)))
    assert pump(reader, lane, 2)
    assert numbers(lane.take(9)) == [1, 2]
    lane.ack(2)
    reader.refill()
    assert until(lambda: _refilled_empty(reader, store))
    store.close()


def _refilled_empty(reader: LaneReader, store: Store) -> bool:
    reader.refill()
    return store.rows("SELECT COUNT(*) FROM flowq_inbox") == [(0,)]


def test_the_coordinators_inbox_does_not_show_updates(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/s.db")
    store.ensure()
    lanes_at(None, store).writer().put(7, reports(1))
    assert store.rows(store.sql.lanes_with_news) == []
    assert store.rows(store.sql.inbox_take, (7, 10)) == []
    store.write(lambda c: c.execute(store.sql.inbox_insert, (7, 1, "pause", None)))
    assert store.rows(store.sql.lanes_with_news) == [(7,)]
    assert [row[2] for row in store.rows(store.sql.inbox_take, (7, 10))] == ["pause"]
    store.close()


# -- which one -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "brokers", "wanted"),
    [
        ("redis://h/1", ("pyamqp://h//",), "RedisLane"),
        ("rediss://h/1", (), "RedisLane"),
        ("rpc://", ("pyamqp://h//",), "QueueLane"),
        ("", ("amqp://a//;amqp://b//",), "QueueLane"),
        ("db+sqlite://", ("pyamqp://h//",), "QueueLane"),
        ("rpc://", ("redis://h/0",), "RedisLane"),
        (None, ("redis://a/0", "redis://b/0"), "InboxLane"),
        ("cache+memcached://h/", (), "InboxLane"),
        ("db+sqlite://", ("filesystem://",), "InboxLane"),
        (None, ("memory://",), "InboxLane"),
    ],
)
def test_lanes_go_where_both_ends_meet(
    backend: str | None, brokers: tuple[str, ...], wanted: str
) -> None:
    kind = lanes_at(backend, None, brokers)
    assert type(kind.reader()).__name__ == f"{wanted}Reader"
    assert type(kind.writer()).__name__ == f"{wanted}Writer"
