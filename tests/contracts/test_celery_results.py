"""Results beside the real Celery: it reads what we store, and we read what it stores."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from flowq.backends import ResultRequest, TaskMeta
from flowq.backends.opening import open_results
from flowq.backends.options import BackendOptions
from flowq.errors import TaskRevokedError, WorkerLostError
from flowq.payload import decode, decode_error, encode, encode_error
from tests.started import REDIS, until

celery = pytest.importorskip("celery")

#: Celery's own calls into redis-py, and threads that it leaves.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")
TIMEOUT = 20.0
STORED = (
    "sqlite",
    pytest.param("redis", marks=pytest.mark.services),
    pytest.param("postgresql", marks=pytest.mark.services),
)


class Both:
    """A Celery app and a backend of ours on the same server."""

    def __init__(self, url: str, broker: str = "memory://", prefix: str = "") -> None:
        self.url, self.broker, self.prefix = url, broker, prefix
        self.made: list[Any] = []

    def app(self, **conf: Any) -> Any:
        app = celery.Celery("beside", broker=self.broker, backend=self.url, set_as_current=False)
        app.conf.update(conf)
        if self.prefix:
            app.conf.result_backend_transport_options = {"global_keyprefix": self.prefix}
        return app

    def ours(self, **options: Any) -> Any:
        transport = {"global_keyprefix": self.prefix}
        made = open_results(
            self.url, BackendOptions(transport=transport, **options), broker_urls=(self.broker,)
        )
        self.made.append(made)
        return made


@pytest.fixture(params=STORED)
def both(request: pytest.FixtureRequest) -> Iterator[Both]:
    if request.param == "redis":
        prefix = request.getfixturevalue("redis_prefix")
        made = Both(f"{REDIS}/12", prefix=prefix)
    elif request.param == "postgresql":
        made = Both("db+" + request.getfixturevalue("postgres_url"))
    else:
        made = Both(f"db+sqlite:///{request.getfixturevalue('tmp_path')}/results.db")
    yield made
    for each in made.made:
        each.close()


def fresh() -> str:
    return secrets.token_hex(8)


def error_of(exc: BaseException) -> bytes:
    try:
        raise exc
    except BaseException as raised:
        return encode_error(raised)


VALUES = (5, None, "ü", [1, {"a": 2.5}], {"at": Decimal("1.5")}, b"bytes")


def test_celery_reads_our_results(both: Both) -> None:
    ours, app = both.ours(), both.app()
    for value in VALUES:
        task_id = fresh()
        ours.store(task_id, TaskMeta("SUCCESS", encode(value), 1_764_000_000.5))
        theirs = app.AsyncResult(task_id)
        assert theirs.get(timeout=TIMEOUT) == value
        assert theirs.state == "SUCCESS"
        assert theirs.date_done.isoformat().startswith("2025-11-24T16:00:00.5")
        assert theirs.children in (None, [])


def test_celery_reads_our_errors(both: Both) -> None:
    ours, app = both.ours(), both.app()
    task_id = fresh()
    ours.store(task_id, TaskMeta("FAILURE", error_of(KeyError("spam", 1)), 1.0))
    theirs = app.AsyncResult(task_id)
    with pytest.raises(KeyError) as caught:
        theirs.get(timeout=TIMEOUT)
    assert caught.value.args == ("spam", 1)
    assert "Traceback (most recent call last)" in theirs.traceback
    lost = fresh()
    ours.store(lost, TaskMeta("FAILURE", error_of(WorkerLostError("signal 9")), 1.0))
    with pytest.raises(celery.exceptions.WorkerLostError, match="signal 9"):
        app.AsyncResult(lost).get(timeout=TIMEOUT)
    revoked = fresh()
    ours.store(revoked, TaskMeta("REVOKED", error_of(TaskRevokedError("revoked")), 1.0))
    with pytest.raises(celery.exceptions.TaskRevokedError):
        app.AsyncResult(revoked).get(timeout=TIMEOUT)


def test_celery_reads_our_states_on_the_way(both: Both) -> None:
    ours, app = both.ours(), both.app()
    task_id = fresh()
    ours.store(task_id, TaskMeta("STARTED"))
    assert app.AsyncResult(task_id).state == "STARTED"
    ours.store(task_id, TaskMeta("RETRY", error_of(ValueError("again"))))
    theirs = app.AsyncResult(task_id)
    assert (theirs.state, theirs.result.args) == ("RETRY", ("again",))
    ours.store(task_id, TaskMeta("PROGRESS", meta=b'{"state":"PROGRESS","meta":{"done":3}}'))
    theirs = app.AsyncResult(task_id)
    assert (theirs.state, theirs.info) == ("PROGRESS", {"done": 3})


def test_celery_reads_what_we_add(both: Both) -> None:
    ours, app = both.ours(extended=True), both.app(result_extended=True)
    task_id = fresh()
    child = [[fresh(), None], None]
    request = ResultRequest(
        name="proj.add", args=[1, 2], kwargs={"k": "v"}, retries=1, queue="q", worker="w@h",
        parent_id=fresh(), group_id=fresh(), children=[child],
    )  # fmt: skip
    ours.store(task_id, TaskMeta("SUCCESS", b"j3", 1.0), request)
    theirs = app.AsyncResult(task_id)
    assert theirs.get(timeout=TIMEOUT) == 3
    assert (theirs.name, theirs.args, theirs.kwargs) == ("proj.add", [1, 2], {"k": "v"})
    assert (theirs.retries, theirs.queue, theirs.worker) == (1, "q", "w@h")
    assert [each.id for each in theirs.children] == [child[0][0]]


def test_we_read_what_celery_stores(both: Both) -> None:
    ours, app = both.ours(), both.app()
    for value in VALUES:
        task_id = fresh()
        app.backend.store_result(task_id, value, "SUCCESS")
        found = ours.wait(task_id, TIMEOUT)
        assert decode(found.frame) == value
        assert found.date_done is not None
    task_id = fresh()
    app.backend.store_result(task_id, ValueError("no", 2), "FAILURE", traceback="a traceback")
    found = ours.wait(task_id, TIMEOUT)
    assert decode(found.frame).args == ("no", 2)
    assert decode_error(found.frame).traceback == "a traceback"
    task_id = fresh()
    app.backend.store_result(task_id, {"pid": 1, "hostname": "w@h"}, "STARTED")
    assert ours.load(task_id).state == "STARTED"
    app.backend.store_result(task_id, celery.exceptions.WorkerLostError("gone"), "FAILURE")
    assert type(decode(ours.load(task_id).frame)) is WorkerLostError
    task_id = fresh()
    app.backend.store_result(task_id, {"done": 1}, "PROGRESS")
    assert ours.load(task_id).meta == b'{"state":"PROGRESS","meta":{"done":1}}'


def test_neither_overwrites_the_others_success(both: Both) -> None:
    ours, app = both.ours(), both.app()
    task_id = fresh()
    app.backend.store_result(task_id, 1, "SUCCESS")
    ours.store(task_id, TaskMeta("FAILURE", error_of(ValueError()), 1.0))
    assert decode(ours.load(task_id).frame) == 1
    other = fresh()
    ours.store(other, TaskMeta("SUCCESS", b"j2", 1.0))
    app.backend.store_result(other, ValueError(), "FAILURE")
    assert app.AsyncResult(other).get(timeout=TIMEOUT) == 2


@pytest.mark.parametrize("serializer", ["msgpack", "yaml", "pickle"])
def test_serializers_agree(both: Both, serializer: str) -> None:
    accept = ("json", serializer)
    app = both.app(result_serializer=serializer, accept_content=accept)
    ours = both.ours(serializer=serializer, accept=accept)
    value = {"a": [1, "ü", None, 2.5]}
    first, second, failed = fresh(), fresh(), fresh()
    ours.store(first, TaskMeta("SUCCESS", encode(value, serializer), 1.0))
    assert app.AsyncResult(first).get(timeout=TIMEOUT) == value
    app.backend.store_result(second, value, "SUCCESS")
    assert decode(ours.load(second).frame, accept) == value
    app.backend.store_result(failed, KeyError("k"), "FAILURE")
    assert decode(ours.load(failed).frame, accept).args == ("k",)


def test_compressed_results_agree(both: Both) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where a backend of theirs cannot, it says so
        app = both.app(result_compression="gzip")
        ours = both.ours(compression="gzip")
        first, second = fresh(), fresh()
        ours.store(first, TaskMeta("SUCCESS", encode("x" * 10_000), 1.0))
        assert app.AsyncResult(first).get(timeout=TIMEOUT) == "x" * 10_000
        app.backend.store_result(second, "y" * 10_000, "SUCCESS")
        assert decode(ours.load(second).frame) == "y" * 10_000


@pytest.mark.services
def test_a_waiting_celery_client_is_woken(redis_prefix: str) -> None:
    import redis

    both = Both(f"{REDIS}/12", prefix=redis_prefix)
    ours, app = both.ours(), both.app()
    task_id = fresh()
    theirs = app.AsyncResult(task_id)
    heard: list[dict[str, Any]] = []
    with ThreadPoolExecutor(1) as pool, redis.Redis.from_url(f"{REDIS}/12") as client:
        value = pool.submit(theirs.get, timeout=TIMEOUT, on_message=heard.append)
        channel = f"{redis_prefix}celery-task-meta-{task_id}"
        assert until(lambda: client.pubsub_numsub(channel)[0][1] == 1)
        ours.store(task_id, TaskMeta("STARTED"))
        ours.store(task_id, TaskMeta("SUCCESS", b"j1", 1.0))
        assert value.result(TIMEOUT) == 1
    assert [each["status"] for each in heard] == ["STARTED", "SUCCESS"]
    ours.close()


def test_an_old_celerys_table_is_used_as_it_is(tmp_path: Any) -> None:
    """A table without the extended columns, and rows with pickled values."""
    import pickle
    import sqlite3

    path = tmp_path / "old.db"
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TABLE celery_taskmeta (id INTEGER PRIMARY KEY AUTOINCREMENT,"
            " task_id VARCHAR(155) UNIQUE, status VARCHAR(50), result BLOB,"
            " date_done DATETIME, traceback TEXT)"
        )
        db.execute(
            "INSERT INTO celery_taskmeta (task_id, status, result) VALUES ('old', 'SUCCESS', ?)",
            (pickle.dumps([1]),),
        )
    db.close()
    both = Both(f"db+sqlite:///{path}")
    ours = both.ours(extended=True, accept=("json", "pickle"))
    ours.store("new", TaskMeta("SUCCESS", b"j1", 1.0), ResultRequest(name="x", args=[1]))
    assert decode(ours.load("new").frame) == 1
    assert decode(ours.load("old").frame, ("json", "pickle")) == [1]
    careful = both.ours()
    from flowq.errors import ContentDisallowed

    with pytest.raises(ContentDisallowed):
        careful.load("old")
    ours.close()
    careful.close()


@pytest.mark.services
def test_replies_go_both_ways(rabbitmq_url: str) -> None:
    both = Both("rpc://", broker=rabbitmq_url)
    ours, app = both.ours(), both.app()

    class Request:
        """What Celery's backend asks of a request."""

        def __init__(self, reply_to: str, task_id: str) -> None:
            self.reply_to, self.correlation_id, self.children = reply_to, task_id, []

        group = parent_id = None

    task_id = fresh()
    ours.expect(task_id)
    request = Request(ours.reply_to, task_id)
    app.backend.store_result(task_id, None, "STARTED", request=request)
    app.backend.store_result(task_id, {"a": 1}, "SUCCESS", request=request)
    heard: list[TaskMeta] = []
    found = ours.wait(task_id, TIMEOUT, heard.append)
    assert decode(found.frame) == {"a": 1}
    other = fresh()
    theirs = app.AsyncResult(other)
    with app.connection() as connection, connection.channel() as channel:
        app.backend.binding(channel).declare()
        asked = ResultRequest(reply_to=app.thread_oid, correlation_id=other)
        ours.store(other, TaskMeta("SUCCESS", encode([2]), 1.0), asked)
        assert theirs.get(timeout=TIMEOUT) == [2]
    app.backend.result_consumer.stop()
    app.close()
    ours.close()
