"""One contract for result backends, and what only some of them promise."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flowq.backends import ResultRequest, ResultStore, TaskMeta
from flowq.backends.opening import open_results
from flowq.backends.options import BackendOptions
from flowq.backends.redislink import RedisPlace
from flowq.backends.redispush import RedisPush
from flowq.errors import (
    BackendUnavailable,
    BrokerError,
    ContentDisallowed,
    ImproperlyConfigured,
    MessageDecodeError,
    NoResultBackend,
    ResultNotHere,
    StoreUnavailable,
)
from flowq.payload import decode, decode_error, encode, encode_error
from flowq.store.results import ResultTable
from tests.started import REDIS, Server, rabbitmqctl, until

TIMEOUT = 20.0
#: A time that a record's text holds exactly.
NOW = int(time.time()) + 0.25
STORED = (
    "memory",
    "sqlite",
    pytest.param("redis", marks=pytest.mark.services),
    pytest.param("rediss", marks=pytest.mark.services),
    pytest.param("postgresql", marks=pytest.mark.services),
    pytest.param("memcached", marks=pytest.mark.services),
)
SENT = (
    pytest.param("rpc", marks=pytest.mark.services),
    pytest.param("rpc-redis", marks=pytest.mark.services),
)


class Ends:
    """Both ends of a backend: the client's, the worker's, and how a request refers to the first."""

    def __init__(self, make: Callable[..., ResultStore], shared: bool = False) -> None:
        self._make, self._shared = make, shared
        self._made: list[ResultStore] = []
        self.client = self.open()
        self.worker = self.client if shared else self.open()

    def open(self, **options: Any) -> ResultStore:
        """One more of them, with settings of its own."""
        if self._shared and self._made and not options:
            return self.client
        made = self._make(**options)
        self._made.append(made)
        return made

    def send(self, task_id: str, **more: Any) -> ResultRequest:
        """What a client does before it sends a task, and what the worker knows of it then."""
        self.client.expect(task_id)
        return ResultRequest(reply_to=self.client.reply_to or "", correlation_id=task_id, **more)

    def close(self) -> None:
        """Close all of them."""
        for each in self._made:
            each.close()


def ends_of(name: str, request: pytest.FixtureRequest) -> Ends:
    """A backend by its name in the lists above."""
    prefix, brokers, url = "", (), ""
    if name == "memory":
        return Ends(lambda **more: open_results("memory://", BackendOptions(**more)), shared=True)
    if name == "redis":
        prefix, url = request.getfixturevalue("redis_prefix"), f"{REDIS}/12"
    elif name == "rediss":
        prefix, url = secrets.token_hex(4), request.getfixturevalue("redis_tls")
    elif name == "sqlite":
        url = f"db+sqlite:///{request.getfixturevalue('tmp_path')}/results.db"
    elif name == "postgresql":
        url = f"db+{request.getfixturevalue('postgres_url')}"
    elif name == "memcached":
        url = f"cache+memcached://127.0.0.1:{request.getfixturevalue('memcached_server').port}/"
    elif name == "rpc":
        url, brokers = "rpc://", (request.getfixturevalue("rabbitmq_url"),)
    elif name == "rpc-redis":
        request.getfixturevalue("redis_prefix")
        url, brokers = "rpc://", (f"{REDIS}/12",)

    def make(**more: Any) -> ResultStore:
        options = BackendOptions(transport={"global_keyprefix": prefix}, **more)
        return open_results(url, options, broker_urls=brokers)

    return Ends(make)


@pytest.fixture(params=(*STORED, *SENT))
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    made = ends_of(request.param, request)
    yield made
    made.close()


@pytest.fixture(params=STORED)
def stored(request: pytest.FixtureRequest) -> Iterator[Ends]:
    made = ends_of(request.param, request)
    yield made
    made.close()


@pytest.fixture(params=SENT)
def sent(request: pytest.FixtureRequest) -> Iterator[Ends]:
    made = ends_of(request.param, request)
    yield made
    made.close()


def success(value: Any = 5) -> TaskMeta:
    return TaskMeta("SUCCESS", encode(value), NOW)


def failure(error: BaseException) -> TaskMeta:
    return TaskMeta("FAILURE", encode_error(error), NOW)


def fresh() -> str:
    return secrets.token_hex(8)


class Waiter(threading.Thread):
    """Waits for a task in a thread, and keeps what it heard."""

    def __init__(self, results: ResultStore, task_id: str, timeout: float = TIMEOUT) -> None:
        super().__init__(daemon=True)
        self.results, self.task_id, self.timeout = results, task_id, timeout
        self.heard: list[TaskMeta] = []
        self.found: TaskMeta | None = None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.found = self.results.wait(self.task_id, self.timeout, self.heard.append)
        except Exception as exc:
            self.error = exc

    def end(self) -> TaskMeta | None:
        self.join(TIMEOUT)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.found

    @property
    def states(self) -> list[str]:
        return [meta.state for meta in self.heard]


# -- what all of them do -----------------------------------------------------------------------


def test_a_result_is_waited_for_and_read(ends: Ends) -> None:
    task_id = fresh()
    request = ends.send(task_id)
    waiter = Waiter(ends.client, task_id)
    ends.worker.store(task_id, success({"a": [1, "b", None]}), request)
    found = waiter.end()
    assert found is not None
    assert (found.state, decode(found.frame)) == ("SUCCESS", {"a": [1, "b", None]})
    assert found.date_done == pytest.approx(NOW)
    again = ends.client.wait(task_id, TIMEOUT)
    assert again == found
    assert ends.client.load(task_id) == found


def test_an_error_comes_back_as_it_was(ends: Ends) -> None:
    task_id = fresh()
    try:
        raise KeyError("spam", 3)
    except KeyError as exc:
        error = encode_error(exc)
    ends.worker.store(task_id, TaskMeta("FAILURE", error, NOW), ends.send(task_id))
    found = ends.client.wait(task_id, TIMEOUT)
    assert found is not None
    info = decode_error(found.frame)
    assert (info.type, info.module) == ("KeyError", "builtins")
    assert "Traceback" in info.traceback
    rebuilt = decode(found.frame)
    assert type(rebuilt) is KeyError
    assert rebuilt.args == ("spam", 3)


def test_waiting_for_what_does_not_come_ends_in_time(ends: Ends) -> None:
    task_id = fresh()
    ends.send(task_id)
    began = time.monotonic()
    assert ends.client.wait(task_id, 0.2) is None
    assert 0.15 < time.monotonic() - began < 2.0
    assert ends.client.wait(task_id, 0.0) is None
    assert ends.client.load(task_id) is None


def test_success_is_never_overwritten(ends: Ends) -> None:
    task_id = fresh()
    request = ends.send(task_id)
    ends.worker.store(task_id, success(1), request)
    assert ends.client.wait(task_id, TIMEOUT) is not None
    for later in (TaskMeta("STARTED"), failure(ValueError("late")), success(2)):
        ends.worker.store(task_id, later, request)
    last = fresh()
    ends.worker.store(last, success(), ends.send(last))
    assert ends.client.wait(last, TIMEOUT) is not None  # whatever was sent before is in
    found = ends.client.load(task_id)
    assert found is not None
    assert (found.state, decode(found.frame)) == ("SUCCESS", 1)


def test_of_other_states_the_last_one_wins(ends: Ends) -> None:
    task_id = fresh()
    request = ends.send(task_id)
    ends.worker.store(task_id, TaskMeta("STARTED"), request)
    ends.worker.store(task_id, TaskMeta("RETRY", encode_error(ValueError("once"))), request)
    ends.worker.store(task_id, failure(ValueError("twice")), request)
    assert ends.client.wait(task_id, TIMEOUT) is not None
    ends.worker.store(task_id, success(3), request)

    def state() -> str | None:
        found = ends.client.load(task_id)
        return found.state if found else None

    assert until(lambda: state() == "SUCCESS")


def test_a_custom_state_shows_its_data(ends: Ends) -> None:
    task_id = fresh()
    request = ends.send(task_id)
    meta = b'{"state":"PROGRESS","meta":{"done":3,"of":10}}'
    ends.worker.store(task_id, TaskMeta("PROGRESS", meta=meta), request)
    assert until(lambda: ends.client.load(task_id) is not None)
    found = ends.client.load(task_id)
    assert found is not None
    assert found.state == "PROGRESS"
    assert found.meta == meta


def test_states_on_the_way_are_heard_of(ends: Ends) -> None:
    task_id = fresh()
    request = ends.send(task_id)
    waiter = Waiter(ends.client, task_id)
    for meta in (
        TaskMeta("STARTED"),
        TaskMeta("RETRY", encode_error(ValueError("again"))),
        TaskMeta("PROGRESS", meta=b'{"state":"PROGRESS","meta":1}'),
    ):
        ends.worker.store(task_id, meta, request)
        assert until(lambda state=meta.state: waiter.states[-1:] == [state]), waiter.states
    ends.worker.store(task_id, success(), request)
    assert waiter.end() is not None
    assert waiter.states == ["STARTED", "RETRY", "PROGRESS", "SUCCESS"]
    assert str(decode(waiter.heard[1].frame)) == "again"


def test_what_is_forgotten_is_gone(stored: Ends) -> None:
    task_id = fresh()
    stored.worker.store(task_id, success(), stored.send(task_id))
    stored.client.forget(task_id)
    stored.client.forget(task_id)
    assert stored.client.load(task_id) is None
    stored.worker.store(task_id, success(7), stored.send(task_id))
    found = stored.client.load(task_id)
    assert found is not None
    assert decode(found.frame) == 7


def test_many_threads_wait_at_once(ends: Ends) -> None:
    ids = [fresh() for _ in range(30)]
    requests = {task_id: ends.send(task_id) for task_id in ids}
    waiters = [Waiter(ends.client, task_id) for task_id in ids for _ in range(2)]
    for number, task_id in enumerate(reversed(ids)):
        ends.worker.store(task_id, success(number), requests[task_id])
    values = [decode(found.frame) for waiter in waiters if (found := waiter.end())]
    assert sorted(values) == sorted([*range(30), *range(30)])


def test_a_callback_that_raises_ends_the_wait(ends: Ends) -> None:
    task_id = fresh()
    ends.worker.store(task_id, success(), ends.send(task_id))

    def broken(meta: TaskMeta) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ends.client.wait(task_id, TIMEOUT, broken)
    assert ends.client.wait(task_id, TIMEOUT) is not None


def test_large_and_odd_values_travel(ends: Ends) -> None:
    for value in ("\ud800", "ü" * 300_000, 2**70, {"__type__": "x", "__value__": 1}, [None], ""):
        task_id = fresh()
        ends.worker.store(task_id, success(value), ends.send(task_id))
        found = ends.client.wait(task_id, TIMEOUT)
        assert found is not None
        assert decode(found.frame) == value


def test_closing_twice_does_nothing_and_ends_waits(ends: Ends) -> None:
    task_id = fresh()
    ends.send(task_id)
    ends.client.close()
    ends.client.close()


@pytest.mark.parametrize("serializer", ["json", "msgpack", "pickle", "yaml"])
@pytest.mark.parametrize("name", [*STORED[1:], *SENT])
def test_serializers(name: str, serializer: str, request: pytest.FixtureRequest) -> None:
    ends = ends_of(name, request)
    options = {"serializer": serializer, "accept": ("json", serializer)}
    ends.client, ends.worker = ends.open(**options), ends.open(**options)
    value = {"a": [1, 2.5, "ü"], "b": None}
    meta = TaskMeta("SUCCESS", encode(value, serializer), NOW)
    for found in (_through(ends, meta), _through(ends, success(value))):
        assert decode(found.frame, (serializer, "json")) == value
    found = _through(ends, failure(ValueError("no", 1)))
    assert decode(found.frame).args == ("no", 1)
    ends.close()


def _through(ends: Ends, meta: TaskMeta) -> TaskMeta:
    task_id = fresh()
    ends.worker.store(task_id, meta, ends.send(task_id))
    found = ends.client.wait(task_id, TIMEOUT)
    assert found is not None
    return found


@pytest.mark.parametrize("name", STORED[1:])
def test_compressed_results_are_smaller_and_read_by_all(
    name: str, request: pytest.FixtureRequest
) -> None:
    ends = ends_of(name, request)
    ends.worker = ends.open(compression="gzip")
    found = _through(ends, success("x" * 100_000))
    assert decode(found.frame) == "x" * 100_000
    ends.worker.store("again", success(1))
    ends.worker.store("again", success(2))
    assert decode(ends.client.load("again").frame) == 1  # type: ignore[union-attr]
    ends.close()


@pytest.mark.parametrize("name", STORED[1:])
def test_extended_results_say_more(name: str, request: pytest.FixtureRequest) -> None:
    ends = ends_of(name, request)
    ends.worker = ends.open(extended=True)
    task_id = fresh()
    more = {"args": [1, "x"], "kwargs": {"k": None}, "worker": "w@h", "retries": 2, "queue": "q"}
    ends.worker.store(task_id, success(), ends.send(task_id, name="proj.add", **more))
    found = ends.client.load(task_id)
    assert found is not None
    assert found.name == "proj.add"
    assert found.extra is not None
    assert {key: found.extra[key] for key in more} == more
    ends.close()


# -- expiry --------------------------------------------------------------------------------------


@pytest.mark.services
def test_redis_keys_expire(redis_prefix: str) -> None:
    import redis

    options = BackendOptions(expires=100, transport={"global_keyprefix": redis_prefix})
    results = open_results(f"{REDIS}/12", options)
    results.store("a", success())
    with redis.Redis.from_url(f"{REDIS}/12") as client:
        assert 90 < client.ttl(f"{redis_prefix}celery-task-meta-a") <= 100
    results.close()
    forever = BackendOptions(expires=0.0, transport={"global_keyprefix": redis_prefix})
    results = open_results(f"{REDIS}/12", forever)
    results.store("b", success())
    with redis.Redis.from_url(f"{REDIS}/12") as client:
        assert client.ttl(f"{redis_prefix}celery-task-meta-b") == -1
    results.close()


def test_rows_past_their_time_are_removed(tmp_path: Path) -> None:
    results: Any = open_results(f"db+sqlite:///{tmp_path}/r.db", BackendOptions(expires=3600))
    results.store("old", TaskMeta("SUCCESS", b"j1", time.time() - 7200))
    results.store("new", TaskMeta("SUCCESS", b"j1", time.time()))
    results.store("running", TaskMeta("STARTED"))
    results.cleanup()
    assert [results.load(name) is not None for name in ("old", "new", "running")] == [
        False, True, True,
    ]  # fmt: skip
    results.close()


# -- replies -------------------------------------------------------------------------------------


def test_a_second_reader_gets_an_error_not_a_hang(sent: Ends) -> None:
    task_id = fresh()
    sent.worker.store(task_id, success(), sent.send(task_id))
    assert sent.client.wait(task_id, TIMEOUT) is not None
    other = sent.open()
    began = time.monotonic()
    with pytest.raises(ResultNotHere, match="the client that sent the task"):
        other.wait(task_id, TIMEOUT)
    assert other.load(task_id) is None
    sent.client.forget(task_id)
    with pytest.raises(ResultNotHere):
        sent.client.wait(task_id, TIMEOUT)
    assert time.monotonic() - began < 2.0


def test_a_task_nobody_waits_for_costs_nothing(sent: Ends) -> None:
    sent.worker.store("nobody", success())
    sent.worker.store("gone", success(), ResultRequest(reply_to=fresh(), correlation_id="gone"))
    task_id = fresh()
    sent.worker.store(task_id, success(), sent.send(task_id))
    assert sent.client.wait(task_id, TIMEOUT) is not None


def test_a_result_that_came_before_anybody_waited_is_there(sent: Ends) -> None:
    task_id = fresh()
    sent.worker.store(task_id, success(), sent.send(task_id))
    assert until(lambda: sent.client.load(task_id) is not None)
    assert sent.client.wait(task_id, 0.0) is not None


def _queues(vhost: str) -> dict[str, tuple[str, str]]:
    lines = rabbitmqctl("list_queues", "-p", vhost, "name", "durable", "exclusive").splitlines()
    rows = [line.split("\t") for line in lines]
    return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}


def test_states_that_came_before_anybody_waited_are_heard_of(sent: Ends) -> None:
    task_id = fresh()
    request = sent.send(task_id)
    for state in ("STARTED", "PROGRESS", "SUCCESS"):
        sent.worker.store(task_id, TaskMeta(state, b"j1" if state == "SUCCESS" else b""), request)
    assert until(lambda: (found := sent.client.load(task_id)) and found.state == "SUCCESS")
    heard: list[str] = []
    assert sent.client.wait(task_id, TIMEOUT, lambda meta: heard.append(meta.state)) is not None
    assert heard == ["STARTED", "PROGRESS", "SUCCESS"]


@pytest.mark.services
@pytest.mark.slow
def test_after_a_restart_of_rabbitmq_a_result_is_there_only_if_it_is_persistent(
    rabbitmq_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"pyamqp://guest:guest@127.0.0.1:{rabbitmq_server.port}//"
    clients: dict[bool, Any] = {}
    for persistent in (False, True):
        options = BackendOptions(persistent=persistent)
        client: Any = open_results("rpc://", options, broker_urls=(url,))
        worker = open_results("rpc://", options, broker_urls=(url,))
        clients[persistent], queue = client, client.reply_to
        client.expect("before")
        client.expect("after")
        reader = client._client._reader
        monkeypatch.setattr(reader, "connect", _refuse)  # the replies wait in their queues
        reader._connection.connection.sock.shutdown(socket.SHUT_RDWR)
        assert until(lambda reader=reader: not reader.is_connected)
        worker.store("before", success(), ResultRequest(reply_to=queue))
        worker.close()
    rabbitmq_server.stop(signal.SIGTERM)
    rabbitmq_server.start()
    monkeypatch.undo()
    assert clients[True].wait("before", TIMEOUT) is not None
    assert clients[False].wait("before", 2.0) is None
    for persistent, client in clients.items():
        worker = open_results("rpc://", BackendOptions(persistent=persistent), broker_urls=(url,))
        assert until(lambda reader=client._client._reader: reader.is_connected)
        worker.store("after", success(), ResultRequest(reply_to=client.reply_to))
        assert client.wait("after", TIMEOUT) is not None
        client.close()
        worker.close()


@pytest.mark.services
@pytest.mark.parametrize("persistent", [False, True])
def test_a_reply_queue_is_private_and_goes_with_its_client(
    rabbitmq_url: str, persistent: bool
) -> None:
    vhost = rabbitmq_url.rpartition("/")[2]
    options = BackendOptions(persistent=persistent)
    client: Any = open_results("rpc://", options, broker_urls=(rabbitmq_url,))
    queue = client.reply_to
    assert _queues(vhost)[queue] == (str(persistent).lower(), str(not persistent).lower())
    client.close()
    assert until(lambda: queue not in _queues(vhost), pause=0.2)


def _refuse() -> None:
    raise BrokerError("kept away by the test")


# -- servers that are away ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["redis://:secret@127.0.0.1:1/0", "cache+memcached://127.0.0.1:1/", "rpc://",
            "db+postgresql://me:secret@127.0.0.1:1/x", "db+sqlite:////no/such/folder/x.db"],
)  # fmt: skip
def test_a_server_that_is_away_is_said_in_one_sentence(url: str) -> None:
    results = open_results(url, {}, broker_urls=("pyamqp://me:secret@127.0.0.1:1//",))
    request = ResultRequest(reply_to="q", correlation_id="a")
    began = time.monotonic()
    calls: list[Callable[[], Any]] = [lambda: results.store("a", success(), request)]
    if url == "rpc://":
        calls.append(lambda: results.reply_to)
    else:
        calls += [lambda: results.load("a"), lambda: results.wait("a", 5.0)]
    for call in calls:
        with pytest.raises(BackendUnavailable) as caught:
            call()
        text = str(caught.value)
        assert "secret" not in text
        assert "\n" not in text
        assert "cannot" in text
    assert time.monotonic() - began < 10.0
    results.close()


@pytest.mark.services
def test_redis_away_and_back(redis_server: Server) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    patient = BackendOptions(transport={"retry_policy": {"timeout": 60.0}})
    results = open_results(url, patient)
    other = open_results(url, BackendOptions())
    waiter = Waiter(results, "a")
    assert until(lambda: waiter.results._push is not None and waiter.results._push._live)  # type: ignore[attr-defined]
    redis_server.stop()
    with pytest.raises(BackendUnavailable):
        other.store("a", success())
    redis_server.start()
    assert until(lambda: _stores(other, "a"))
    assert waiter.end() is not None
    results.close()
    other.close()


@pytest.mark.services
def test_redis_away_for_long_is_told_to_who_waits(redis_server: Server) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    transport = {"retry_policy": {"timeout": 1.0}}
    results = open_results(url, BackendOptions(transport=transport))
    waiter = Waiter(results, "a")
    assert until(lambda: waiter.results._push is not None and waiter.results._push._live)  # type: ignore[attr-defined]
    redis_server.stop()
    began = time.monotonic()
    with pytest.raises(BackendUnavailable, match=r"cannot .* the Redis at"):
        waiter.end()
    assert time.monotonic() - began < 8.0
    results.close()


@pytest.mark.services
def test_a_redis_that_stands_still_does_not_hold_a_worker(redis_server: Server) -> None:
    results = open_results(f"redis://127.0.0.1:{redis_server.port}/0", BackendOptions())
    results.store("a", success())
    redis_server.signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(BackendUnavailable, match="Timeout"):
        results.store("b", success())
    assert time.monotonic() - began < 5.0
    redis_server.signal(signal.SIGCONT)
    results.store("b", success())
    results.close()


@pytest.mark.services
def test_who_has_nothing_to_await_keeps_the_connection(
    redis_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A PING on a connection without subscriptions is answered by a word, not by a list.
    monkeypatch.setattr("flowq.backends.redispush._PING_SECONDS", 0.05)
    with closing(RedisPush(RedisPlace(f"{REDIS}/12", BackendOptions()), 60.0)) as push:
        with push.listening(f"{redis_prefix}unheard".encode()) as box:
            assert box.get(timeout=TIMEOUT) is None
        link, pinged = push._link, set[float]()

        def has_pinged_often() -> bool:
            pinged.add(push._pinged_at)
            return len(pinged) > 4

        assert until(has_pinged_often)
        assert link is not None
        assert push._link is link


def _stores(results: ResultStore, task_id: str) -> bool:
    try:
        results.store(task_id, success())
    except BackendUnavailable:
        return False
    return True


@pytest.mark.services
@pytest.mark.parametrize("name", ["redis", "postgresql", "rpc"])
def test_a_fork_opens_connections_of_its_own(name: str, request: pytest.FixtureRequest) -> None:
    ends = ends_of(name, request)
    task_id, theirs = fresh(), fresh()
    ends.worker.store(task_id, success(), ends.send(task_id))
    assert ends.client.wait(task_id, TIMEOUT) is not None
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if name == "rpc":
                queue = ends.client.reply_to
                ends.client.expect(theirs)
                sender = ends.open()
                sender.store(theirs, success(9), ResultRequest(reply_to=queue or ""))
            else:
                ends.client.store(theirs, success(9))
            found = ends.client.wait(theirs, TIMEOUT)
            code = 0 if found is not None and decode(found.frame) == 9 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    again = fresh()
    ends.worker.store(again, success(), ends.send(again))
    assert ends.client.wait(again, TIMEOUT) is not None
    ends.close()


# -- what cannot be -----------------------------------------------------------------------------


def test_without_a_backend_the_sentence_says_so() -> None:
    for url in ("", None):
        results = open_results(url)
        results.store("a", success())
        assert results.load("a") is None
        with pytest.raises(NoResultBackend, match="no result backend is configured"):
            results.wait("a", 5.0)
        results.close()


def test_unknown_kinds_and_options_are_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="mongodb://h/x is of no known kind"):
        open_results("mongodb://me:secret@h/x")
    with pytest.raises(ImproperlyConfigured, match="result_serializer='xml'"):
        open_results(f"{REDIS}/12", BackendOptions(serializer="xml"))
    with pytest.raises(ImproperlyConfigured, match="result_compression='rar'"):
        open_results(f"{REDIS}/12", BackendOptions(compression="rar"))
    with pytest.raises(ImproperlyConfigured, match="rpc://"):
        open_results("rpc://", {}, broker_urls=())


@pytest.mark.services
def test_garbage_and_pickles_in_redis_are_refused(redis_prefix: str) -> None:
    import pickle

    import redis

    transport = {"global_keyprefix": redis_prefix}
    results = open_results(f"{REDIS}/12", BackendOptions(transport=transport))
    pickles = open_results(f"{REDIS}/12", BackendOptions(serializer="pickle", transport=transport))
    key = f"{redis_prefix}celery-task-meta-a"
    with redis.Redis.from_url(f"{REDIS}/12") as client:
        for body in (b"", b"{", b"[1]", b"\x00celery-compressed\x00application/x-gzip\x00junk"):
            client.set(key, body)
            with pytest.raises(MessageDecodeError):
                results.load("a")
        client.set(key, pickle.dumps({"status": "SUCCESS", "result": 1}))
        with pytest.raises(ContentDisallowed, match="pickle"):
            pickles.load("a")
        results.store("a", success(3))  # what cannot be read is no SUCCESS
        assert decode(results.load("a").frame) == 3  # type: ignore[union-attr]
    results.close()
    pickles.close()


def opened_at_once(paths: list[Path], barrier: Any, said: Any) -> None:
    """In a process of its own: read from each new database as the others do."""
    failed = []
    for path in paths:
        table = ResultTable(f"sqlite:///{path}")
        barrier.wait()
        try:
            table.read("a")
        except StoreUnavailable as exc:
            failed.append(str(exc))
        table.close()
    said.put(failed)


def test_processes_that_make_the_tables_at_once_all_succeed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, said = context.Barrier(4), context.Queue()
    paths = [tmp_path / f"{n}.db" for n in range(60)]
    made = [context.Process(target=opened_at_once, args=(paths, barrier, said)) for _ in range(4)]
    for each in made:
        each.start()
    failed = [text for _ in made for text in said.get(timeout=60)]
    for each in made:
        each.join()
    assert failed == []
