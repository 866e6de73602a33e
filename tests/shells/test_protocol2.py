"""Task messages: round trips, hostile bodies and headers, compression bombs, signatures."""

from __future__ import annotations

import bz2
import datetime as dt
import gzip
import json
import lzma
import pickle
import resource
import tracemalloc
import uuid
import zlib
from decimal import Decimal
from typing import Any

import msgpack
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from flowq.broker.inflate import CHUNK, deflate, inflate
from flowq.broker.messages import PROTOCOL_HEADERS
from flowq.broker.protocol2 import Encoded, TaskMessage, decode_task, encode_task
from flowq.broker.signing import UNSEALED, KeyRing, Seal
from flowq.config import Settings
from flowq.errors import (
    ContentDisallowed,
    EncodeError,
    ImproperlyConfigured,
    MessageDecodeError,
)
from flowq.payload import decode_args, encode_args, frames

ALL = ("json", "msgpack", "yaml", "pickle")
KEYS = KeyRing({"new": "n" * 32, "old": "o" * 32})
MIMES = {
    "json": "application/json",
    "msgpack": "application/x-msgpack",
    "yaml": "application/x-yaml",
    "pickle": "application/x-python-serialize",
}


def full(frame: bytes = b"j[[1],{}]", **more: Any) -> TaskMessage:
    """A message with every field set."""
    signature = {"task": "proj.next", "args": [2], "kwargs": {}, "options": {"task_id": "n"}}
    fields: dict[str, Any] = {
        "task": "proj.add", "id": "11111111-1111-4111-8111-111111111111", "frame": frame,
        "callbacks": [signature], "errbacks": [signature], "chain": [signature, signature],
        "chord": signature, "root_id": "root", "parent_id": "parent", "group": "group",
        "group_index": 3, "retries": 2, "eta": "2031-01-02T03:04:05+00:00",
        "expires": "2032-01-02T03:04:05+02:00", "timelimit": (10, 5.5), "shadow": "shown",
        "origin": "1@host", "argsrepr": "(1,)", "kwargsrepr": "{}", "ignore_result": True,
        "replaced_task_nesting": 1, "stamped_headers": ["who"], "stamps": {"who": ["me"]},
        "headers": {"who": "me", "x-tenant": "a"}, "reply_to": "reply", "correlation_id": "corr",
        "priority": 4,
    }  # fmt: skip
    return TaskMessage(**{**fields, **more})


def read(made: Encoded, **more: Any) -> TaskMessage:
    return decode_task(*made, **{"accept": ALL, **more})


def body_of(value: Any, name: str) -> bytes:
    if name == "json":
        return json.dumps(value).encode()
    if name == "msgpack":
        return bytes(msgpack.packb(value))
    return yaml.safe_dump(value).encode() if name == "yaml" else pickle.dumps(value)


# --- round trips -----------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", ALL)
@pytest.mark.parametrize("compression", [None, "gzip", "bzip2", "lzma"])
def test_every_field_survives(serializer: str, compression: str | None) -> None:
    message = full(encode_args((1, "ü", None), {"x": [1.5, True]}, serializer))
    made = encode_task(message, compression=compression, keys=KEYS)
    assert made.content_type == MIMES[serializer]
    again = read(made, keys=KEYS)
    assert decode_args(again.frame, ALL) == ([1, "ü", None], {"x": [1.5, True]})
    assert again == message or serializer == "pickle"
    assert read(encode_task(again)) == again


def test_a_plain_message_gets_celerys_defaults() -> None:
    made = encode_task(TaskMessage(task="t", id="i"))
    assert made.headers["root_id"] == "i"
    assert made.headers["timelimit"] == [None, None]
    assert made.properties == {"correlation_id": "i", "reply_to": ""}
    again = read(made)
    assert (again.due, again.expires_at, again.reply_to) == (None, None, None)
    assert again.request()["root_id"] == "i"


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_arguments_pass_through_as_they_came(serializer: str) -> None:
    frame = encode_args((1, dt.date(2030, 1, 2)), {"u": uuid.UUID(int=5)}, serializer)
    assert read(encode_task(TaskMessage(task="t", id="i", frame=frame))).frame == frame


def test_typed_values_in_a_json_body_are_opened() -> None:
    moment = dt.datetime(2030, 1, 2, 3, 4, tzinfo=dt.UTC)
    values = [
        moment,
        moment.date(),
        dt.time(3, 4),
        uuid.UUID(int=7),
        Decimal("1.10"),
        b"a",
        b"\xff",
    ]
    kombu_json = pytest.importorskip("kombu.utils.json", reason="kombu is not installed")
    body = kombu_json.dumps([values, {}, {}]).encode()
    message = decode_task(body, {"task": "t", "id": "i"}, {}, MIMES["json"], "utf-8")
    assert decode_args(message.frame)[0] == values


def test_tags_are_those_of_payload_frames() -> None:
    for serializer in ALL:
        frame = frames.encode_args((), {}, serializer)
        made = encode_task(TaskMessage(task="t", id="i", frame=frame))
        assert made.content_type == MIMES[serializer]
        assert read(made).frame[:1] == frame[:1]


@pytest.mark.parametrize(
    ("text", "value"),
    [("NaN", "nan"), ("-Infinity", "-inf"), ('"\\ud800"', "'\\ud800'"), ("1e999", "inf")],
)
def test_json_that_only_python_writes_is_read(text: str, value: str) -> None:
    body = f"[[{text}], {{}}, {{}}]".encode()
    message = decode_task(body, {"task": "t", "id": "i"}, {}, MIMES["json"], "utf-8")
    assert repr(decode_args(message.frame)[0][0]) == value


def test_other_character_sets_are_read() -> None:
    for charset in ("latin-1", "utf-16"):
        body = json.dumps([["ü"], {}, {}], ensure_ascii=False).encode(charset)
        message = decode_task(body, {"task": "t", "id": "i"}, {}, MIMES["json"], charset)
        assert decode_args(message.frame)[0] == ["ü"]
    with pytest.raises(MessageDecodeError, match="character set"):
        decode_task(b"[[],{},{}]", {"task": "t", "id": "i"}, {}, MIMES["json"], "zlib")


@pytest.mark.parametrize("serializer", ALL)
def test_protocol_1_is_read(serializer: str) -> None:
    old = {
        "task": "t", "id": "i", "args": [1], "kwargs": {"k": 2}, "retries": 3, "utc": True,
        "eta": "2030-01-01T00:00:00", "expires": None, "taskset": "g", "chord": None,
        "callbacks": [{"task": "c"}], "errbacks": None, "timelimit": [None, 3],
    }  # fmt: skip
    message = decode_task(
        body_of(old, serializer), {"mine": 1}, {"reply_to": "r"}, MIMES[serializer], "utf-8",
        accept=ALL,
    )  # fmt: skip
    assert decode_args(message.frame, ALL) == ([1], {"k": 2})
    assert (message.task, message.id, message.retries, message.group) == ("t", "i", 3, "g")
    assert message.callbacks == [{"task": "c"}]
    assert message.headers == {"mine": 1}
    assert message.due == dt.datetime(2030, 1, 1, tzinfo=dt.UTC).timestamp()


def test_a_retry_keeps_all_but_the_count_and_the_time() -> None:
    message = full(headers={"mine": 1, "x-death": [{"count": 1}]})
    eta = dt.datetime(2030, 1, 1)  # noqa: DTZ001 - a naive time is what is meant
    again = message.retried(eta, frame=b"j[[9],{}]")
    assert (again.id, again.retries, again.eta) == (message.id, 3, "2030-01-01T00:00:00+00:00")
    assert (again.frame, again.argsrepr) == (b"j[[9],{}]", None)
    assert again.headers == {"mine": 1}
    assert again.chain == message.chain
    assert message.retries == 2
    assert message.retried().frame == message.frame


def test_what_cannot_be_encoded_is_named() -> None:
    with pytest.raises(EncodeError, match="'task' is the protocol's own"):
        encode_task(TaskMessage(task="t", id="i", headers={"task": "x"}))
    with pytest.raises(EncodeError, match="plain JSON data"):
        encode_task(TaskMessage(task="t", id="i", chain=[{"args": [{1}]}]))
    with pytest.raises(EncodeError, match="not a pair"):
        encode_task(TaskMessage(task="t", id="i", frame=b"j1"))
    with pytest.raises(EncodeError, match="tag 'e'"):
        encode_task(TaskMessage(task="t", id="i", frame=b"e1"))
    with pytest.raises(EncodeError, match="unknown compression"):
        encode_task(TaskMessage(task="t", id="i"), compression="rar")


# --- bad inputs ------------------------------------------------------------------------------


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize(
    "content_type",
    [MIMES["pickle"], MIMES["yaml"], MIMES["msgpack"], "application/data", "text/plain", "", None],
)
def test_m1_only_what_is_accepted_is_opened(content_type: Any) -> None:
    body = pickle.dumps(Trap())
    with pytest.raises(ContentDisallowed):
        decode_task(body, {"task": "t", "id": "i"}, {}, content_type, "binary")


def test_m1_a_mime_type_in_accept_counts() -> None:
    headers = {"task": "t", "id": "i"}
    made = decode_task(b"[[],{},{}]", headers, {}, MIMES["json"], "", accept=[MIMES["json"]])
    assert made.task == "t"


BOMBS = {
    "application/x-gzip": zlib.compress(bytes(64 << 20), 9),
    "gzip": gzip.compress(bytes(64 << 20), 9),
    "application/x-bz2": bz2.compress(bytes(64 << 20)),
    "application/x-lzma": lzma.compress(bytes(64 << 20)),
}


@pytest.mark.parametrize("method", BOMBS)
def test_m2_a_bomb_is_refused_before_it_is_inflated(method: str) -> None:
    limit = 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(MessageDecodeError, match="limit of 1,048,576 bytes"):
            decode_task(
                BOMBS[method], {"task": "t", "id": "i", "compression": method}, {},
                MIMES["json"], "utf-8", max_bytes=limit,
            )  # fmt: skip
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    window = 9 << 20 if "lzma" in method else 1 << 19  # lzma looks back 8 MiB
    assert peak < limit + 2 * CHUNK + window
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20 << 10  # KiB; lzma's window is 8 MiB


def test_m2_83_bytes_of_bzip2_are_64_mib() -> None:
    assert len(BOMBS["application/x-bz2"]) < 100
    with pytest.raises(MessageDecodeError, match="limit"):
        inflate(BOMBS["application/x-bz2"], "bzip2", (64 << 20) - 1)
    assert len(inflate(BOMBS["application/x-bz2"], "bzip2", 64 << 20)) == 64 << 20


@pytest.mark.parametrize("method", ["gzip", "bzip2", "lzma", "zstd", "brotli"])
def test_compression_round_trips_and_refuses_broken_streams(method: str) -> None:
    data = bytes(range(256)) * 700
    try:
        packed, mime = deflate(data, method)
    except EncodeError as exc:
        pytest.skip(str(exc))
    assert inflate(packed, mime, len(data)) == data
    for cut in (0, 1, len(packed) // 2, len(packed) - 1):
        with pytest.raises(MessageDecodeError):
            inflate(packed[:cut], mime, len(data))
    with pytest.raises(MessageDecodeError):
        inflate(packed, mime, len(data) - 1)
    if method != "brotli":
        with pytest.raises(MessageDecodeError, match="followed by 3 other bytes"):
            inflate(packed + b"xyz", mime, len(data))


def test_an_lzma_window_has_a_bound() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 512 << 20}]
    raw = lzma.compress(b"x", format=lzma.FORMAT_XZ, filters=filters)
    with pytest.raises(MessageDecodeError, match=r"[Mm]emory"):
        inflate(raw, "lzma", 100)


def test_unknown_compression_is_refused() -> None:
    for method in ("rar", "", 7):
        with pytest.raises(MessageDecodeError):
            decode_task(
                b"", {"task": "t", "id": "i", "compression": method}, {}, MIMES["json"], "utf-8"
            )


def test_m4_a_large_body_is_refused_by_its_length() -> None:
    with pytest.raises(MessageDecodeError, match="over the limit of 1,000"):
        decode_task(b"[" * 1001, {}, {}, MIMES["json"], "utf-8", max_bytes=1000)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[", b"[[],{}", b"[[],{},{}", b"[]", b"[[],{}]", b"[[],{},{},{}]", b"null", b"7",
        b'"x"', b"[{},{},{}]", b"[[],[],{}]", b"[null,null,null]", b"[[],{},[]]", b"[[],{},7]",
        b'[[],{},{"chain":7}]', b'[[],{},{"callbacks":{}}]', b"\xff\xfe", b"[[],{},{}]x",
        b"[" * 100_000, b"[" + b"[" * 100_000 + b"]" * 100_000 + b",{},{}]",
        b'[[],{},{"chord":' + b"[" * 100_000 + b"]" * 100_000 + b"}]",
        b'{"args":[],"kwargs":{}}', b'{"task":"t","id":"i","args":{},"kwargs":{"a":1}}',
        b'{"task":"t","id":"i","args":[],"kwargs":[1]}', b"{}",
    ],
    ids=lambda body: body[:24].decode("latin-1"),
)  # fmt: skip
def test_m5_bodies_that_are_no_task(body: bytes) -> None:
    headers = {} if body[:1] == b"{" else {"task": "t", "id": "i"}
    with pytest.raises(MessageDecodeError):
        decode_task(body, headers, {}, MIMES["json"], "utf-8")


@pytest.mark.parametrize(
    "more",
    [
        {"task": 7}, {"task": ""}, {"task": "x" * 256}, {"task": None}, {"id": ""}, {"id": None},
        {"id": ["x"]}, {"task": "a\x1b[31m"}, {"id": "\u202eabc"}, {"retries": -1},
        {"retries": "3"}, {"retries": True}, {"retries": 10**9}, {"eta": "soon"}, {"eta": 7},
        {"expires": "0000-00-00"}, {"expires": 5}, {"timelimit": [1]}, {"timelimit": 5},
        {"timelimit": ["1", None]}, {"group_index": "first"}, {"stamps": []},
        {"stamped_headers": "who"}, {"root_id": 5}, {"ignore_result": "yes"}, {"compression": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_m8_headers_of_wrong_types(more: dict[str, Any]) -> None:
    with pytest.raises(MessageDecodeError):
        decode_task(b"[[],{},{}]", {"task": "t", "id": "i", **more}, {}, MIMES["json"], "utf-8")


def test_m8_strange_names_of_ones_own_do_no_harm() -> None:
    strange = {"chain": 7, "frame": b"x", "headers": [], "callbacks": "x", "priority": "high"}
    message = decode_task(
        b"[[],{},{}]", {"task": "t", "id": "i", **strange}, {"priority": "x", "reply_to": 7},
        MIMES["json"], "utf-8",
    )  # fmt: skip
    assert message.headers == strange
    assert (message.chain, message.callbacks, message.priority) == (None, None, None)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)
names = st.sampled_from(sorted(PROTOCOL_HEADERS)) | st.text(max_size=9)
tables = st.dictionaries(names, plain, max_size=8).map(lambda t: {"task": "t", "id": "i", **t})


@settings(max_examples=300, deadline=None)
@given(
    body=st.binary(max_size=300) | st.text(max_size=99) | plain,
    headers=tables | st.dictionaries(names, plain, max_size=8) | plain,
    properties=st.dictionaries(
        st.sampled_from(["reply_to", "priority", "correlation_id"]), plain
    ) | st.none(),
    content_type=st.sampled_from([*MIMES.values(), "", None, 7]),
    encoding=st.sampled_from(["utf-8", "binary", "utf-16", "hex", "", None, 3]),
    keys=st.sampled_from([None, KEYS]),
)  # fmt: skip
def test_any_message_is_read_or_refused(
    body: Any, headers: Any, properties: Any, content_type: Any, encoding: Any, keys: Any
) -> None:
    accept = ("json", "msgpack", "yaml")  # a hostile pickle does as it likes
    try:
        message = decode_task(
            body, headers, properties, content_type, encoding, accept=accept, keys=keys
        )
    except MessageDecodeError:
        return
    assert isinstance(message, TaskMessage)


@settings(max_examples=300, deadline=None)
@given(
    value=st.tuples(
        st.lists(plain, max_size=3), st.dictionaries(st.text(max_size=5), plain, max_size=3),
        st.dictionaries(st.sampled_from(["chain", "chord", "callbacks", "errbacks"]), plain),
    ) | plain,
    serializer=st.sampled_from(["json", "msgpack", "yaml"]),
    cut=st.integers(0, 40),
    headers=tables,
)  # fmt: skip
def test_damaged_messages_are_read_or_refused(
    value: Any, serializer: str, cut: int, headers: dict[str, Any]
) -> None:
    try:
        body = body_of(value, serializer)
    except (TypeError, ValueError, OverflowError, yaml.YAMLError):
        return
    try:
        decode_task(
            body[: len(body) - cut], headers, {}, MIMES[serializer], "utf-8", accept=ALL[:3]
        )
    except MessageDecodeError:
        return


# --- signatures ------------------------------------------------------------------------------


def signed(keys: KeyRing = KEYS) -> Encoded:
    return encode_task(full(b'j[[1,"two"],{"k":3}]'), keys=keys)


def flips(text: str) -> list[str]:
    return [text[:at] + chr(ord(char) ^ 1) + text[at + 1 :] for at, char in enumerate(text)]


def refused(made: Encoded) -> None:
    with pytest.raises(MessageDecodeError):
        read(made, keys=KEYS)


def test_m6_every_flipped_byte_of_the_body_is_refused() -> None:
    made = signed()
    for at in range(len(made.body)):
        for bit in range(8):
            body = bytearray(made.body)
            body[at] ^= 1 << bit
            refused(made._replace(body=bytes(body)))


def test_m6_every_flipped_byte_of_the_headers_is_refused() -> None:
    made = signed()
    text = json.dumps(made.headers)
    tried = 0
    for changed in flips(text):
        try:
            headers = json.loads(changed)
        except ValueError:
            continue
        if headers != made.headers:
            tried += 1
            refused(made._replace(headers=headers))
    assert tried > 300


def test_m6_every_changed_property_is_refused() -> None:
    made = signed()
    for name, value in made.properties.items():
        for other in flips(value) if isinstance(value, str) else [value + 1, 0, None]:
            refused(made._replace(properties={**made.properties, name: other}))
    for other in flips(made.content_type):
        refused(made._replace(content_type=other))
    refused(made._replace(content_encoding="latin-1"))


def test_m6_a_header_taken_or_put_in_is_refused() -> None:
    made = signed()
    for name in made.headers:
        refused(made._replace(headers={k: v for k, v in made.headers.items() if k != name}))
    refused(made._replace(headers={**made.headers, "more": 1}))
    refused(made._replace(headers={**made.headers, "flowq-signature": "1.new.zz"}))
    refused(encode_task(full()))


def test_m6_parts_do_not_slide_into_each_other() -> None:
    made = signed()
    moved = made._replace(body=made.body[1:], content_encoding=made.content_encoding + "[")
    refused(moved)


def test_m6_every_flipped_byte_of_a_sealed_message_is_refused() -> None:
    seal = Seal(KEYS, "nodes", "store")
    made = seal.close(b"\x91body")
    assert seal.open(made) == b"\x91body"
    for at in range(len(made)):
        for bit in range(8):
            changed = bytearray(made)
            changed[at] ^= 1 << bit
            with pytest.raises(MessageDecodeError):
                seal.open(bytes(changed))
    for cut in range(len(made)):
        with pytest.raises(MessageDecodeError):
            seal.open(made[:cut])


def test_m6_a_seal_is_for_one_kind_of_one_store() -> None:
    made = Seal(KEYS, "nodes", "store").close(b"x")
    for other in (Seal(KEYS, "reports", "store"), Seal(KEYS, "nodes", "elsewhere")):
        with pytest.raises(MessageDecodeError, match="does not fit"):
            other.open(made)
    with pytest.raises(MessageDecodeError, match="not signed"):
        Seal(KEYS, "nodes", "store").open(b"x")
    with pytest.raises(MessageDecodeError, match="unknown key 'new'"):
        Seal(KeyRing({"old": "o" * 32}), "nodes", "store").open(made)
    with pytest.raises(MessageDecodeError, match="not set in this process"):
        UNSEALED.open(made)
    old = Seal(KeyRing({"old": "o" * 32}), "nodes", "store").close(b"y")
    assert Seal(KEYS, "nodes", "store").open(old) == b"y"


def test_keys_are_changed_one_after_the_other() -> None:
    old, new = KeyRing({"old": "o" * 32}), KeyRing({"new": "n" * 32})
    assert read(signed(old), keys=KEYS).task == "proj.add"
    assert signed().headers["flowq-signature"].startswith("1.new.")
    with pytest.raises(MessageDecodeError, match="unknown key 'old'"):
        read(signed(old), keys=new)
    with pytest.raises(MessageDecodeError, match="does not fit"):
        read(signed(new), keys=KeyRing({"new": "x" * 32}))
    assert read(signed()).task == "proj.add"  # who has no keys does not look


def test_what_a_broker_adds_spoils_no_signature_and_reaches_no_task() -> None:
    made = signed()
    headers = {**made.headers, "x-death": [{"queue": "q"}], "redelivered": True}
    message = read(made._replace(headers=headers), keys=KEYS)
    assert message.headers == {"who": "me", "x-tenant": "a"}
    plain_one = encode_task(TaskMessage(task="t", id="i"), keys=KEYS)
    added = plain_one._replace(properties={**plain_one.properties, "priority": 0})
    assert read(added, keys=KEYS).priority == 0


@pytest.mark.parametrize("keys", [{"": "x" * 32}, {"a.b": "x" * 32}, {"a": "short"}, {"a": 7}, {}])
def test_bad_keys_are_refused(keys: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="message_signing_keys"):
        KeyRing(keys)


def test_secrets_are_not_shown() -> None:
    conf = Settings()
    assert KeyRing.of(conf.message_signing_keys) is None
    conf.update({"message_signing_keys": {"a": "canary" * 4}})
    assert "canary" not in repr(KeyRing.of(conf.message_signing_keys))
    assert not any("canary" in repr(row.value) for row in conf.show())
    with pytest.raises(ImproperlyConfigured) as caught:
        conf.update({"message_signing_keys": "canary"})
    assert "canary" not in str(caught.value)
