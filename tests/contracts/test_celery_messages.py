"""Celery and flowq in one canvas: its messages are read here, ours are run by a stock worker.

The flowq side is as small as can be, so that what is tested is the messages and what follows the
end of a task: it takes a message, calls a function, and does what the embedded canvas asks for.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flowq.broker.protocol2 import TaskMessage, decode_task, encode_task
from flowq.errors import MessageDecodeError, Replaced
from flowq.payload import decode, decode_args, encode, encode_args, encode_error
from flowq.payload.foreign import to_record
from flowq.worker.chords import RedisChords
from flowq.worker.embeds import (
    Following,
    Inline,
    Rules,
    Stored,
    failed,
    has_embeds,
    replaced,
    succeeded,
)
from flowq.worker.sending import Send, Submission

celery = pytest.importorskip("celery", reason="celery is not installed")
redis = pytest.importorskip("redis", reason="redis is not installed")

pytestmark = [pytest.mark.services, pytest.mark.slow]

URL = os.environ.get("FLOWQ_TEST_REDIS", "redis://127.0.0.1:6379/11")
ALL = ("json", "msgpack", "yaml", "pickle")
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A client of the Redis server of the tests."""
    client = redis.Redis.from_url(URL, socket_connect_timeout=3)
    try:
        client.ping()
    except redis.RedisError as exc:
        reason = f"no Redis at {URL}: {exc}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    yield client
    client.close()


@pytest.fixture(scope="module")
def side(server: Any) -> Iterator[Any]:
    """The stock app, with key names of this module's own."""
    prefix = f"flowq-test-{uuid.uuid4().hex[:8]}-"
    environment = {
        "FLOWQ_TEST_BROKER": URL, "FLOWQ_TEST_BACKEND": URL, "FLOWQ_TEST_PREFIX": prefix
    }  # fmt: skip
    os.environ.update(environment)
    sys.path.insert(0, str(HERE))
    try:
        import celery_side

        celery_side.prefix = prefix  # type: ignore[attr-defined]
        yield celery_side
        celery_side.app.close()
    finally:
        sys.path.remove(str(HERE))
        for name in environment:
            del os.environ[name]
        for key in server.scan_iter(match=f"{prefix}*"):
            server.delete(key)


@pytest.fixture(scope="module")
def worker(side: Any) -> Iterator[Any]:
    """A stock Celery worker in a process of its own."""
    command = [
        sys.executable, "-m", "celery", "-A", "celery_side", "worker", "--pool", "solo", "-Q",
        "celery_side", "--without-gossip", "--without-mingle", "--without-heartbeat", "-l",
        "WARNING",
    ]  # fmt: skip
    more = {"PYTHONWARNINGS": "ignore", "C_FORCE_ROOT": "1"}
    child = subprocess.Popen(command, cwd=HERE, env={**os.environ, **more})
    assert side.add.delay(1, 1).get(timeout=40) == 2, child.poll()
    yield child
    child.terminate()
    child.wait(30)


class Flowq:
    """The other side: takes messages from its queue and runs functions."""

    def __init__(self, client: Any, side: Any) -> None:
        self.client, self.side = client, side
        self.prefix: str = side.prefix
        self.called: list[tuple[Any, ...]] = []
        self.submitted: list[Submission] = []
        self.twice = False
        self.tasks: dict[str, Callable[..., Any]] = {
            "flowq.add": lambda x, y=0: x + y,
            "flowq.total": lambda values, more=0: sum(values) + more,
            "flowq.same": lambda *args: list(args),
            "flowq.fail": self._fail,
            "flowq.swap": self._swap,
            "flowq.seen": lambda *args: self.called.append(args),
        }
        rules = Rules(takes_error=lambda name: name == "flowq.on_error")
        self.rules = rules
        self.chords = RedisChords(client, prefix=self.prefix)
        self.following = Following(
            send=self.send, store=self.store, inline=self.inline, submit=self.submitted.append,
            chords=self.chords, rules=rules,
        )  # fmt: skip

    def _fail(self, *args: Any) -> None:
        raise ValueError("on purpose")

    def _swap(self, *args: Any) -> None:
        raise Replaced(args[-1])

    def inline(self, call: Inline) -> None:
        args, _ = decode_args(call.frame)
        self.called.append((call.task, decode(call.error), *args))

    def store(self, stored: Stored) -> None:
        self.record(stored.task_id, stored.state, stored.frame)

    def record(self, task_id: str, state: str, frame: bytes) -> None:
        """A result as Celery's backend holds it."""
        value = json.loads(to_record(frame))
        meta = {"status": state, "result": value, "traceback": None, "children": [],
                "date_done": "2030-01-01T00:00:00+00:00", "task_id": task_id}  # fmt: skip
        key, text = f"{self.prefix}celery-task-meta-{task_id}", json.dumps(meta)
        self.client.set(key, text, ex=600)
        self.client.publish(key, text)

    def send(self, send: Send) -> None:
        made = encode_task(send.message, compression=send.options.get("compression"))
        near = send.message.task.startswith("flowq.")
        with self.side.app.connection_for_write() as connection:
            producer = connection.Producer()
            producer.publish(
                made.body, exchange="", routing_key="flowq_side" if near else "celery_side",
                content_type=made.content_type, content_encoding=made.content_encoding,
                headers=made.headers, **made.properties,
            )  # fmt: skip

    def take(self, timeout: float = 20) -> TaskMessage:
        """The next message, read as a broker client would read it."""
        found = self.client.brpop(f"{self.prefix}flowq_side", timeout)
        assert found, "no message came"
        raw = json.loads(found[1])
        return decode_task(
            base64.b64decode(raw["body"]), raw["headers"], raw["properties"], raw["content-type"],
            raw["content-encoding"], accept=ALL,
        )  # fmt: skip

    def run(self, count: int = 1) -> None:
        """Run so many messages."""
        for _ in range(count):
            message = self.take()
            self.end(message)
            if self.twice:
                self.end(message)

    def end(self, message: TaskMessage) -> None:
        args, kwargs = decode_args(message.frame, ALL)
        try:
            frame, state = encode(self.tasks[message.task](*args, **kwargs)), "SUCCESS"
            found = succeeded(message, frame, self.rules)
        except Replaced as exc:
            self.following.begin(replaced(message, exc.canvas, self.rules))
            return
        except Exception as exc:
            frame, state = encode_error(exc, node_id=message.id, task=message.task), "FAILURE"
            found = failed(message, frame, self.rules)
        self.following.begin(found)
        self.record(message.id, state, frame)
        self.following.finish(found)


@pytest.fixture
def flowq(server: Any, side: Any) -> Iterator[Flowq]:
    made = Flowq(server, side)
    yield made
    server.delete(f"{made.prefix}flowq_side")


# --- Celery writes, flowq reads ----------------------------------------------------------------


@pytest.mark.parametrize("serializer", ALL)
@pytest.mark.parametrize("compression", [None, "zlib", "bzip2", "lzma"])
def test_celerys_messages_are_read(
    side: Any, flowq: Flowq, serializer: str, compression: str | None
) -> None:
    links: dict[str, Any] = {}
    if serializer in ("json", "pickle"):  # Celery has no other form of a signature
        links = {"link": side.add.s(1), "link_error": [side.add.s(2)]}
    sent = side.app.send_task(
        "flowq.same", (1, "ü", None, 1.5), {"k": [True]}, queue="flowq_side", countdown=60,
        serializer=serializer, compression=compression, expires=600, time_limit=9,
        soft_time_limit=8, priority=0, headers={"mine": "x"}, shadow="shown",
        retries=2, **links,
        stamped_headers=["who"], who="me",
    )  # fmt: skip
    message = flowq.take()
    assert (message.id, message.task) == (sent.id, "flowq.same")
    assert decode_args(message.frame, ALL) == ([1, "ü", None, 1.5], {"k": [True]})
    assert 50 < message.due - time.time() < 61
    assert 590 < message.expires_at - time.time() < 601
    assert (message.timelimit, message.retries, message.shadow) == ((9, 8), 2, "shown")
    assert message.headers == {"mine": "x"}
    assert message.stamps == {"who": "me"}
    assert has_embeds(message) == bool(links)
    if links:
        assert message.callbacks[0]["task"] == "celery.add"
        assert message.errbacks[0]["args"] in ([2], (2,))
    again = encode_task(message)
    assert decode_task(*again, accept=ALL) == message or serializer == "pickle"


def test_celerys_typed_values_are_read(side: Any, flowq: Flowq) -> None:
    values = (
        dt.datetime(2030, 1, 2, 3, 4, 5, 6, dt.UTC), dt.date(2030, 1, 2), dt.time(3, 4),
        uuid.UUID(int=7), Decimal("1.10"), b"text", b"\xff\x00",
    )  # fmt: skip
    side.app.send_task("flowq.same", values, queue="flowq_side")
    assert tuple(decode_args(flowq.take().frame)[0]) == values


def test_celerys_protocol_1_is_read(side: Any, flowq: Flowq) -> None:
    headers, properties, body, _ = side.app.amqp.as_task_v1(
        "an-id", "flowq.add", (1,), {"y": 2}, countdown=5, retries=1
    )
    made = decode_task(json.dumps(body), headers, properties, "application/json", "utf-8")
    assert (made.id, made.task, made.retries) == ("an-id", "flowq.add", 1)
    assert decode_args(made.frame) == ([1], {"y": 2})


def test_every_prefix_of_a_real_message_is_refused(side: Any) -> None:
    headers, properties, body, _ = side.app.amqp.as_task_v2("an-id", "flowq.add", (1,), {"y": 2})
    text = json.dumps(body).encode()
    for end in range(len(text)):
        with pytest.raises(MessageDecodeError):
            decode_task(text[:end], headers, properties, "application/json", "utf-8")
    assert decode_task(text, headers, properties, "application/json", "utf-8").id == "an-id"


# --- flowq writes, a stock worker runs ---------------------------------------------------------


def result(side: Any, task_id: str) -> Any:
    return side.app.AsyncResult(task_id).get(timeout=30)


@pytest.mark.parametrize("serializer", ALL)
@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
def test_a_stock_worker_runs_our_messages(
    side: Any, worker: Any, flowq: Flowq, serializer: str, compression: str | None
) -> None:
    frame = encode_args((1, "ü"), {"k": [None, 1.5]}, serializer)
    message = TaskMessage(task="celery.same", id=str(uuid.uuid4()), frame=frame)
    flowq.send(Send(message, {"compression": compression}))
    assert result(side, message.id) == [[1, "ü"], {"k": [None, 1.5]}]


def test_a_stock_worker_sees_our_typed_values(side: Any, worker: Any, flowq: Flowq) -> None:
    values = (dt.datetime(2030, 1, 2, tzinfo=dt.UTC), dt.date(2030, 1, 2), dt.time(3, 4),
              uuid.UUID(int=7), Decimal("1.10"), b"text", b"\xff\x00")  # fmt: skip
    message = TaskMessage(task="celery.kinds", id=str(uuid.uuid4()), frame=encode_args(values, {}))
    flowq.send(Send(message, {}))
    expected = ["datetime", "date", "time", "UUID", "Decimal", "bytes", "bytes"]
    assert result(side, message.id) == expected


def test_a_stock_worker_sees_every_field(side: Any, worker: Any, flowq: Flowq) -> None:
    message = TaskMessage(
        task="celery.request", id=str(uuid.uuid4()), root_id="root", parent_id="parent",
        group="group", group_index=3, retries=2, timelimit=(9, 8), shadow="shown", origin="me",
        headers={"mine": "x"}, stamps={"who": "me"}, stamped_headers=["who"], reply_to="there",
        eta="2020-01-01T00:00:00+00:00", expires="2099-01-01T00:00:00+00:00",
        replaced_task_nesting=1,
    )  # fmt: skip
    flowq.send(Send(message, {}))
    seen = result(side, message.id)
    assert seen.pop("headers") == {"mine": "x"}
    assert seen.pop("timelimit") == [9, 8]
    ours = message.request()
    assert seen == {name: ours[name] for name in seen}


def test_a_retry_of_ours_is_run(side: Any, worker: Any, flowq: Flowq) -> None:
    side.app.send_task("flowq.add", (1,), {"y": 2}, queue="flowq_side", link=side.add.s(5))
    message = flowq.take()
    message.task = "celery.request"
    flowq.send(Send(message.retried(frame=encode_args((), {})), {}))
    assert result(side, message.id)["retries"] == 1


# --- canvases of a Celery client, run by both sides --------------------------------------------


def test_links_and_chains(side: Any, worker: Any, flowq: Flowq) -> None:
    here, there = side.far("flowq.add"), side.add
    sent = (here.clone((1, 1)) | there.s(2) | here.clone((3,)) | there.si(4, 5) | here).apply_async(
        link=there.s(100)
    )
    flowq.run(3)
    assert sent.get(timeout=30) == 9
    assert sent.parent.parent.get(timeout=30) == 7


def test_a_chain_with_a_failure(side: Any, worker: Any, flowq: Flowq) -> None:
    on_error = side.far("flowq.on_error").clone(("mine",))
    old = side.far("flowq.seen").clone(("mine",))
    sent = (side.add.s(1, 1) | side.far("flowq.fail") | side.add.s(1) | side.add.s(2)).on_error(
        on_error
    )
    sent = sent.on_error(old).apply_async()
    flowq.run(2)
    with pytest.raises(ValueError, match="on purpose"):
        sent.get(timeout=30)
    assert sent.state == sent.parent.state == "FAILURE"
    task, exc, mine = flowq.called[0]
    assert (task, repr(exc), mine) == ("flowq.on_error", "ValueError('on purpose')", "mine")
    assert flowq.called[1] == (sent.parent.parent.id, "mine")


@pytest.mark.parametrize("twice", [False, True])
def test_a_chord_of_both_sides(side: Any, worker: Any, flowq: Flowq, twice: bool) -> None:
    flowq.twice = twice
    for body in (side.total.s(1000), side.far("flowq.total").clone((1000,))):
        header = [
            (side.add.s() if n % 2 else side.far("flowq.add")).clone((n, 1)) for n in range(20)
        ]
        sent = celery.chord(header)(body)
        flowq.run(10)
        if body.task.startswith("flowq."):
            flowq.run()
        assert sent.get(timeout=30) == 1000 + sum(range(20)) + 20
        assert list(flowq.client.scan_iter(match=f"{flowq.prefix}*{sent.parent.id}.[jtsd]")) == []
    assert flowq.client.llen(f"{flowq.prefix}flowq_side") == 0


@pytest.mark.parametrize("who", ["flowq.fail", "celery.fail"])
def test_a_chord_with_a_failure(side: Any, worker: Any, flowq: Flowq, who: str) -> None:
    seen = side.far("flowq.seen").clone(("mine",))
    header = [side.add.s(1, 1), side.far("flowq.add").clone((1, 1)), side.far(who)]
    sent = celery.chord(header)((side.total.s() | side.add.s(1)).on_error(seen))
    if who == "flowq.fail":  # then ours is the last part
        assert sent.parent.results[0].get(timeout=30) == 2
    flowq.run(3 if who == "flowq.fail" else 2)
    with pytest.raises(Exception, match="on purpose"):
        sent.get(timeout=30)
    assert flowq.called == [(sent.id, "mine")]
    with pytest.raises(celery.exceptions.ChordError, match=r"raised ValueError\('on purpose'\)"):
        side.app.AsyncResult(sent.id).get(timeout=30)


def test_a_chord_after_a_task_of_ours(side: Any, worker: Any, flowq: Flowq) -> None:
    far = side.far("flowq.add")
    canvas = far.clone((1, 1)) | celery.group(side.add.s(n) for n in range(5)) | side.total.s()
    sent = (canvas | side.add.s(100)).apply_async()
    flowq.run()
    assert sent.get(timeout=30) == 2 * 5 + sum(range(5)) + 100


def test_a_group_after_a_task_of_ours(side: Any, worker: Any, flowq: Flowq) -> None:
    sent = (
        side.far("flowq.add").clone((1, 1)) | celery.group(side.add.s(n) for n in range(5))
    ).apply_async()
    flowq.run()
    assert sent.get(timeout=30) == [2, 3, 4, 5, 6]


def test_links_that_are_canvases(side: Any, worker: Any, flowq: Flowq) -> None:
    far, seen = side.far("flowq.add"), side.far("flowq.seen")
    inner = celery.chord([side.add.s(1), side.add.s(2) | side.add.s(10)], side.total.s() | seen)
    pair = celery.group(seen.clone(("a",)), celery.chain(side.add.s(1), seen.clone(("b",))))
    far.clone((1, 1)).apply_async(link=[inner, pair, celery.chain(side.add.s(5), seen)])
    flowq.run(5)
    assert sorted(map(str, flowq.called)) == ["(17,)", "(2, 'a')", "(3, 'b')", "(7,)"]


def test_a_chord_in_a_chord(side: Any, worker: Any, flowq: Flowq) -> None:
    far = side.far("flowq.add")
    inner = celery.chord([side.add.s(1, 1), far.clone((2, 2))], side.far("flowq.total"))
    sent = celery.chord([inner, far.clone((3, 3)), side.add.s(4, 4)])(side.total.s())
    flowq.run(3)
    assert sent.get(timeout=30) == 2 + 4 + 6 + 8


def test_an_inner_chord_that_fails_ends_the_outer_one(side: Any, worker: Any, flowq: Flowq) -> None:
    far = side.far("flowq.add")
    inner = celery.chord([side.add.si(1, 1), side.far("flowq.fail")], side.total.s())
    sent = (far.clone((1, 1)) | celery.chord([inner, side.add.s(4)], side.total.s())).apply_async()
    flowq.run(2)
    with pytest.raises(Exception, match="on purpose"):
        sent.get(timeout=30)


def test_nested_results_keep_their_shape(side: Any, worker: Any, flowq: Flowq) -> None:
    far = side.far("flowq.add")
    header = [far.clone((1, 1)) | celery.group(side.add.s(1), far.clone((2,))), side.add.s(4, 4)]
    sent = celery.chord(header)(side.far("flowq.same"))
    flowq.run(3)
    assert sent.get(timeout=30) == [[[3, 4], 8]]


@pytest.mark.parametrize("place", ["chain", "header"])
def test_a_task_is_replaced(side: Any, worker: Any, flowq: Flowq, place: str) -> None:
    for canvas, value in (
        (side.total.si([1, 2]), 3),
        (side.add.si(1, 1) | side.far("flowq.add").clone((3,)), 5),
        (celery.chord([side.add.si(1, 1), side.add.si(2, 2)], side.total.s()), 6),
        (celery.group(side.add.si(1, 1), side.add.si(2, 2)) | side.total.s(), 6),
        (celery.group(side.add.si(1, 1), side.add.si(2, 2)), [2, 4]),
    ):
        swap = side.far("flowq.swap").clone((json.loads(json.dumps(canvas)),))
        if place == "chain":
            sent = (side.add.si(1, 1) | swap | side.same.s()).apply_async()
            expected: Any = [[value], {}]
        else:
            sent = celery.chord([side.add.si(1, 1), swap], side.same.s()).apply_async()
            expected = [[[2, value]], {}]
        flowq.run(2 if "flowq.add" in str(canvas) else 1)
        assert sent.get(timeout=30) == expected


def test_a_long_chain_of_ours_only(side: Any, flowq: Flowq) -> None:
    far = side.far("flowq.add")
    sent = celery.chain([far.clone((0, 1)), *(far.clone((1,)) for _ in range(100))]).apply_async()
    flowq.run(101)
    assert sent.get(timeout=30) == 101


def test_values_that_only_python_json_has_pass_through_a_chord(
    side: Any, worker: Any, flowq: Flowq
) -> None:
    moment = dt.datetime(2030, 1, 2, tzinfo=dt.UTC)
    header = [side.same.s(float("inf")), side.far("flowq.same").clone((moment, "\ud800"))]
    sent = celery.chord(header)(side.same.s())
    flowq.run()
    assert sent.get(timeout=30) == [[[[[float("inf")], {}], [moment, "\ud800"]]], {}]
