"""Chords counted in Redis: once, by one, whatever comes twice, late or at the same time."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from flowq.payload import decode, decode_error, encode, encode_error
from flowq.worker.chords import Joined, Part, RedisChords
from flowq.worker.embeds import Following, FollowUp, Rules
from flowq.worker.sending import Send

redis = pytest.importorskip("redis", reason="redis is not installed")

pytestmark = pytest.mark.services

URL = os.environ.get("FLOWQ_TEST_REDIS", "redis://127.0.0.1:6379/11")
BODY = {"task": "body", "args": [], "kwargs": {}, "options": {"task_id": "b"}}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    made = redis.Redis.from_url(URL, socket_connect_timeout=3)
    try:
        made.ping()
    except redis.RedisError as exc:
        reason = f"no Redis at {URL}: {exc}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    yield made
    made.close()


@pytest.fixture
def prefix(client: Any) -> Iterator[str]:
    made = f"flowq-test-{uuid.uuid4().hex[:8]}-"
    yield made
    for key in client.scan_iter(match=f"{made}*"):
        client.delete(key)


@pytest.fixture(params=[True, False], ids=["ordered", "unordered"])
def chords(client: Any, prefix: str, request: Any) -> RedisChords:
    return RedisChords(client, prefix=prefix, ordered=request.param)


def part(index: int, value: Any = None, *, group: str = "g", **more: Any) -> Part:
    frame = encode(index if value is None else value)
    fields: dict[str, Any] = {"state": "SUCCESS", "frame": frame, "body": BODY, "index": index}
    return Part(**{"group": group, "task_id": f"t{index}", **fields, **more})


def keys(client: Any, prefix: str) -> list[str]:
    return sorted(key.decode().removeprefix(prefix) for key in client.scan_iter(f"{prefix}*"))


def test_the_last_part_gets_the_results(chords: RedisChords, client: Any, prefix: str) -> None:
    chords.begin("g", 3)
    assert chords.count(part(2)) is None
    assert chords.count(part(0)) is None
    full = chords.count(part(1))
    assert full is not None
    ordered = [0, 1, 2] if chords._ordered else [2, 0, 1]
    assert (decode(full.frame), full.error) == (ordered, b"")
    assert 0 < client.ttl(f"{prefix}celery-taskset-meta-g.j") <= 86_400
    assert chords.done(full) is True
    assert keys(client, prefix) == ["celery-taskset-meta-g.c"]
    assert chords.done(full) is False


def test_a_part_counts_once_and_late_copies_do_nothing(chords: RedisChords, client: Any) -> None:
    chords.begin("g", 2)
    assert chords.count(part(0)) is None
    assert chords.count(part(0, "another result")) is None
    full = chords.count(part(1))
    assert full is not None
    assert decode(full.frame) == [0, 1]
    assert chords.count(part(1)) is None  # the claim is held
    assert chords.done(full)
    assert chords.count(part(0)) is None
    assert chords.count(part(1)) is None


def test_a_claim_that_ran_out_is_taken_over(chords: RedisChords, client: Any, prefix: str) -> None:
    chords.begin("g", 1)
    first = chords.count(part(0))
    assert first is not None
    client.delete(f"{prefix}celery-taskset-meta-g.c")  # as when its time is over
    second = chords.count(part(0))
    assert second is not None
    assert chords.done(first) is False
    assert chords.done(second) is True


def test_the_size_may_come_late_and_grow(chords: RedisChords, client: Any, prefix: str) -> None:
    assert chords.count(part(0)) is None
    chords.begin("g", 1)
    client.incr(f"{prefix}celery-taskset-meta-g.t")
    full = chords.count(part(1))
    assert full is not None
    assert decode(full.frame) == [0, 1]


def test_a_chord_may_be_begun_anew(chords: RedisChords) -> None:
    for _ in range(2):
        chords.begin("g", 1)
        full = chords.count(part(0))
        assert full is not None
        assert chords.done(full)


def test_the_first_failure_in_order_is_the_error(client: Any, prefix: str) -> None:
    chords = RedisChords(client, prefix=prefix)
    chords.begin("g", 3)
    for index in (2, 1):
        frame = encode_error(ValueError(index))
        assert chords.count(part(index, state="FAILURE", frame=frame)) is None
    full = chords.count(part(0))
    assert full is not None
    info = decode_error(full.error)
    assert (info.type, info.message) == ("ChordError", "Dependency t1 raised ValueError(1)")
    assert info.cause is not None
    assert decode(full.cause).args == (1,)
    assert full.frame == b""


def test_results_of_a_nested_header_keep_their_shape(client: Any, prefix: str) -> None:
    chords = RedisChords(client, prefix=prefix)
    leaves = [[[f"t{n}", None], None] for n in range(3)]
    shape = [["g", None], [leaves[0], [["inner", None], leaves[1:]]]]
    chords.begin("g", 3, shape)
    assert [chords.count(part(n)) for n in range(2)] == [None, None]
    full = chords.count(part(2))
    assert full is not None
    assert decode(full.frame) == [0, [1, 2]]


@pytest.mark.parametrize("shape", ["{", "[]", '{"result": 7}', '{"result": [["g"], [7]]}',
                                   '{"result": [["g", null], [[["x", null], null]]]}'])  # fmt: skip
def test_a_header_that_cannot_be_read_fails_the_chord(client: Any, prefix: str, shape: str) -> None:
    chords = RedisChords(client, prefix=prefix)
    chords.begin("g", 1)
    client.set(f"{prefix}celery-taskset-meta-g", shape, ex=60)
    full = chords.count(part(0))
    assert full is not None
    assert decode_error(full.error).message.startswith("Join error")


def test_celerys_compressed_parts_are_read(client: Any, prefix: str) -> None:
    base = pytest.importorskip("celery.backends.base", reason="celery is not installed")
    chords = RedisChords(client, prefix=prefix)
    chords.begin("g", 2)
    raw = base.compress_payload(json.dumps([1, "t0", "SUCCESS", "x" * 99]), "gzip")
    client.zadd(f"{prefix}celery-taskset-meta-g.j", {raw: 0})
    client.sadd(f"{prefix}celery-taskset-meta-g.d", "t0:0")
    full = chords.count(part(1))
    assert full is not None
    assert decode(full.frame) == ["x" * 99, 1]


def test_of_many_at_once_one_sends_the_body(client: Any, prefix: str) -> None:
    chords = RedisChords(client, prefix=prefix)
    chords.begin("g", 400)
    found: list[Joined] = []

    def count(worker: int) -> None:
        for index in range(worker * 50, worker * 50 + 100):  # each part comes twice
            full = chords.count(part(index % 400))
            if full is not None:
                found.append(full)

    threads = [threading.Thread(target=count, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [decode(full.frame) for full in found] == [list(range(400))]


def test_a_body_that_cannot_be_sent_fails(client: Any, prefix: str) -> None:
    chords = RedisChords(client, prefix=prefix)
    stored: list[Any] = []
    sent: list[Send] = []
    following = Following(
        send=sent.append, store=stored.append, inline=stored.append, submit=stored.append,
        chords=chords, rules=Rules(),
    )  # fmt: skip
    broken = {**BODY, "kwargs": [7]}
    for body in (BODY, broken, {**BODY, "subtask_type": "?"}, 7):
        group = str(uuid.uuid4())
        chords.begin(group, 1)
        following.finish(FollowUp(parts=[part(0, group=group, body=body)]))
        assert chords.count(part(0, group=group)) is None
    assert [send.message.id for send in sent] == ["b"]
    assert stored == []
