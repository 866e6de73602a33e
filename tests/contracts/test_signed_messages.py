"""Signed messages through real brokers: what they do to headers on the way spoils nothing."""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Queue

from flowq import Flowq
from flowq.app.messages import Sender
from flowq.backends.memory import MemoryResults
from flowq.broker.protocol2 import TaskMessage, decode_task, encode_task
from flowq.broker.signing import KeyRing
from flowq.errors import MessageDecodeError
from flowq.payload import encode_args

pytestmark = pytest.mark.services

KEYS = KeyRing({"main": "m" * 32})
URLS = {
    "redis": os.environ.get("FLOWQ_TEST_REDIS", "redis://127.0.0.1:6379/11"),
    "rabbitmq": os.environ.get("FLOWQ_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672//"),
    "memory": "memory://",
}


@pytest.fixture(params=URLS)
def connection(request: Any) -> Iterator[Any]:
    pytest.importorskip("redis", reason="redis is not installed")
    options = {"confirm_publish": True} if request.param == "rabbitmq" else {}
    made = Connection(URLS[request.param], connect_timeout=3, transport_options=options)
    try:
        made.ensure_connection(max_retries=1, timeout=3)
    except Exception as exc:
        reason = f"no {request.param}: {exc}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    yield made
    made.release()


def test_a_signature_survives_the_broker(connection: Any) -> None:
    signature = {"task": "t", "args": [1], "kwargs": {}, "options": {}}
    message = TaskMessage(
        task="proj.ü", id=str(uuid.uuid4()), frame=encode_args((1, "ü"), {"k": 1.5}),
        timelimit=(10, 5.5), stamps={"who": ["me", None, True, 2**40, -0.1]},
        stamped_headers=["who"], headers={"mine": {"deep": [1, {"x": None}]}, "big": 2**62},
        group_index=3, eta="2030-01-01T00:00:00+00:00", priority=4, callbacks=[signature],
        reply_to="r", ignore_result=False,
    )  # fmt: skip
    queue = Queue(f"flowq-test-{uuid.uuid4().hex}", auto_delete=True)(connection.channel())
    queue.declare()
    try:
        for given in (message, TaskMessage(task="plain", id="i")):
            made = encode_task(given, keys=KEYS)
            connection.Producer().publish(
                made.body, exchange="", routing_key=queue.name, content_type=made.content_type,
                content_encoding=made.content_encoding, headers=dict(made.headers),
                **made.properties,
            )  # fmt: skip
            came = queue.get(no_ack=True)
            parts = (came.headers, came.properties, came.content_type, came.content_encoding)
            read = decode_task(came.body, *parts, keys=KEYS)
            assert (read.id, read.frame, read.stamps) == (given.id, given.frame, given.stamps or {})
            with pytest.raises(MessageDecodeError, match="does not fit"):
                decode_task(came.body, {**came.headers, "retries": 1}, *parts[1:], keys=KEYS)
    finally:
        queue.delete()


def test_a_route_that_sets_the_priority_spoils_no_signature() -> None:
    redis = pytest.importorskip("redis", reason="redis is not installed")
    prefix, client = f"flowq-test-{uuid.uuid4().hex}-", redis.Redis.from_url(URLS["redis"])
    try:
        client.ping()
    except redis.RedisError as exc:
        client.close()
        if os.environ.get("CI") == "true":
            pytest.fail(f"no Redis: {exc}")
        pytest.skip(f"no Redis: {exc}")
    app = Flowq("signed", set_as_current=False)
    app.conf.update(
        broker_url=URLS["redis"], broker_transport_options={"global_keyprefix": prefix},
        message_signing_keys={"main": "m" * 32},
        task_routes={"any": {"queue": "q", "priority": 6}},
    )  # fmt: skip
    sender = Sender(app, MemoryResults())
    try:
        sender.publish(TaskMessage(task="any", id="i"))
        (key,) = list(client.scan_iter(f"{prefix}q*"))
        raw = json.loads(client.lpop(key))
        parts = (raw["headers"], raw["properties"], raw["content-type"], raw["content-encoding"])
        assert decode_task(base64.b64decode(raw["body"]), *parts, keys=KEYS).priority == 6
    finally:
        sender.close()
        for key in client.scan_iter(f"{prefix}*"):
            client.delete(key)
        client.close()
