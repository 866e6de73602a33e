"""Frames: what goes in comes out, and what cannot travel is refused by name."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowq import errors
from flowq.payload import (
    decode,
    decode_args,
    decode_error,
    encode,
    encode_args,
    encode_error,
    encode_list,
    frame_repr,
    is_error,
    rebuild,
    reference,
    references,
    resolve,
)

_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.binary(max_size=20)
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=2))))
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
_KEYS = st.text(max_size=8) | st.sampled_from(["__type__", "__value__"])
VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(VALUES, st.sampled_from(["json", "msgpack"]))
def test_plain_data_comes_back_as_it_was(value: object, serializer: str) -> None:
    assert decode(encode(value, serializer)) == value


@settings(deadline=None)
@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_of_any_size_survive_json(value: object) -> None:
    assert decode(encode(value)) == value


@settings(deadline=None)
@given(st.text(st.characters()))
def test_any_text_survives_json_lone_surrogates_included(value: str) -> None:
    assert decode(encode(value)) == value.encode("utf-16", "surrogatepass").decode(
        "utf-16", "surrogatepass"
    )


def test_a_dict_that_looks_like_an_envelope_comes_back_unchanged() -> None:
    tricky = {"__type__": "datetime", "__value__": {"__type__": "uuid", "__value__": 3}}
    assert decode(encode([tricky])) == [tricky]
    assert decode(encode([tricky], "msgpack")) == [tricky]


def test_kombu_reads_our_dates_and_we_read_kombus() -> None:
    kombu_json = pytest.importorskip("kombu.utils.json")
    value = {
        "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "hour": time(3, 4),
        "price": Decimal("1.10"),
        "id": UUID(int=7),
        "raw": b"\xff\x00",
        "text": b"abc",
    }
    assert kombu_json.loads(encode(value)[1:]) == value
    assert decode(b"j" + kombu_json.dumps(value).encode()) == value


def test_tuples_become_lists_and_keys_become_text_in_json() -> None:
    assert decode(encode({"pair": (1, 2), 3: "three"})) == {"pair": [1, 2], "3": "three"}


@dataclasses.dataclass
class Point:
    x: int


class Model:
    id = 7


@pytest.mark.parametrize(
    ("value", "place", "kind", "remedy"),
    [
        ({"rows": [1, {2, 3}]}, "value['rows'][1]", "set", "sorted"),
        ([Point(1)], "value[0]", "Point", "asdict"),
        (Model(), "value", "Model", "its id"),
        (ValueError("x"), "value", "ValueError", "text"),
        ((n for n in "ab"), "value", "generator", "list("),
        ({(1, 2): 3}, "(1, 2)", "tuple", "text keys"),
        (object(), "value", "object", "plain data"),
    ],
)
@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_a_refusal_names_place_type_and_remedy(
    value: object, place: str, kind: str, remedy: str, serializer: str
) -> None:
    with pytest.raises(errors.EncodeError) as caught:
        encode(value, serializer)
    text = str(caught.value)
    assert place in text
    assert kind in text
    assert remedy in text


def test_nan_is_refused_in_json_and_travels_in_msgpack() -> None:
    with pytest.raises(errors.EncodeError, match=r"value\['a'\].*NaN"):
        encode({"a": math.nan})
    assert math.isnan(decode(encode(math.nan, "msgpack")))


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (loop, deep):
        for serializer in ("json", "msgpack"):
            with pytest.raises(errors.EncodeError, match="nested too deeply"):
                encode(value, serializer)


def test_arguments_are_named_in_a_refusal() -> None:
    with pytest.raises(errors.EncodeError, match=r"args\[1\]\['k'\].*set"):
        encode_args((1, {"k": {2}}), {})
    with pytest.raises(errors.EncodeError, match=r"kwargs\['when'\].*object"):
        encode_args((1,), {"when": object()})


def test_arguments_come_back_as_list_and_dict() -> None:
    assert decode_args(encode_args((1, "a"), {"b": 2})) == ([1, "a"], {"b": 2})
    with pytest.raises(errors.DecodeError, match="pair"):
        decode_args(encode([1, 2, 3]))


def test_a_frame_over_the_limit_is_refused() -> None:
    with pytest.raises(errors.EncodeError, match=r"over the limit of 100"):
        encode("x" * 200, max_bytes=100)


def test_pickle_is_read_only_when_it_is_named() -> None:
    frame = encode({1, 2}, "pickle")
    with pytest.raises(errors.ContentDisallowed, match="accept_content"):
        decode(frame)
    assert decode(frame, ("pickle",)) == {1, 2}
    with pytest.raises(errors.ContentDisallowed, match="json"):
        decode(encode(1), ("msgpack",))


def test_yaml_goes_there_and_back() -> None:
    pytest.importorskip("yaml")
    assert decode(encode({"a": [1, "é"]}, "yaml"), ("yaml",)) == {"a": [1, "é"]}


def test_an_unknown_serializer_is_refused() -> None:
    with pytest.raises(errors.EncodeError, match="unknown serializer 'xml'"):
        encode(1, "xml")


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_broken_frames_raise_only_our_errors(data: bytes) -> None:
    with contextlib.suppress(errors.MessageDecodeError):
        decode(data, ("json", "msgpack"))
    assert len(frame_repr(data, 40)) <= 40


def test_lists_of_frames_decode_as_lists_errors_as_exceptions() -> None:
    frame = encode_list([encode(1), encode_list([encode("a")]), encode_error(KeyError("k"))])
    first, second, third = decode(frame)
    assert (first, second) == (1, ["a"])
    assert isinstance(third, KeyError)


def test_references_are_found_and_resolved_at_any_depth() -> None:
    digest = bytes(range(32))
    frame = encode_list([encode(1), encode_list([reference(digest)])])
    assert references(frame) == [digest]
    with pytest.raises(errors.DecodeError, match="not fetched"):
        decode(frame)
    whole = resolve(frame, {digest: encode("big")}.__getitem__)
    assert decode(whole) == [1, ["big"]]
    assert resolve(encode(1), dict[bytes, bytes]().__getitem__) == encode(1)


# -- exceptions -----------------------------------------------------------------------------


class OwnError(Exception):
    """Belongs to this module."""


class Awkward(Exception):
    def __init__(self, a: int, *, b: int) -> None:
        super().__init__("awkward")


def _caught(exc: Exception) -> Exception:
    try:
        raise exc
    except Exception as caught:
        return caught


def test_a_builtin_exception_comes_back_with_type_args_and_cause() -> None:
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer", 3) from inner
    except ValueError as exc:
        frame = encode_error(exc, node_id="n", task="t")
    assert is_error(frame)
    info = decode_error(frame)
    assert (info.node_id, info.task, info.message) == ("n", "t", "('outer', 3)")
    assert "test_a_builtin_exception" in info.traceback
    exc = decode(frame)
    assert type(exc) is ValueError
    assert exc.args == ("outer", 3)
    assert type(exc.__cause__) is KeyError


def test_a_class_is_used_only_when_its_module_is_allowed() -> None:
    info = decode_error(encode_error(_caught(OwnError("x"))))
    stranger = rebuild(info)
    assert isinstance(stranger, errors.RemoteError)
    assert type(stranger).__name__ == "OwnError"
    assert type(rebuild(info)) is type(stranger)
    assert type(rebuild(info, lambda module: module == __name__)) is OwnError


def test_nothing_but_exceptions_is_ever_built() -> None:
    info = decode_error(encode_error(_caught(ValueError("rm -rf"))))
    for module, name in (("builtins", "eval"), ("os", "system"), ("builtins", "SystemExit")):
        info.module, info.type = module, name
        assert isinstance(rebuild(info, lambda _: True), errors.RemoteError)


def test_an_exception_that_cannot_be_rebuilt_keeps_its_name_and_text() -> None:
    exc = rebuild(decode_error(encode_error(_caught(Awkward(1, b=2)))), lambda _: True)
    assert isinstance(exc, errors.RemoteError)
    assert type(exc).__name__ == "Awkward"
    assert str(exc) == "awkward"


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_encoding_an_error_never_fails() -> None:
    loop = _caught(ValueError("a"))
    loop.__cause__ = loop
    long = _caught(ValueError("x" * 1_000_000))
    for exc in (Rude(), loop, long, ValueError(object()), ValueError("\ud800"), SystemExit(3)):
        frame = encode_error(exc)
        assert len(frame) < 300_000
        assert isinstance(decode(frame), Exception)


# -- previews -------------------------------------------------------------------------------


def test_previews_are_short_and_read_well() -> None:
    assert frame_repr(encode({"a": 1})) == '{"a":1}'
    assert frame_repr(encode([1, b"x"], "msgpack")) == "[1, b'x']"
    assert frame_repr(encode_error(_caught(ValueError("no")))) == "ValueError: no"
    assert frame_repr(encode_list([encode(1), encode("b")])) == '[1, "b"]'
    assert frame_repr(reference(bytes(32))) == "<payload 0000000000000000>"
    assert frame_repr(encode({1}, "pickle")).startswith("<pickle")
    assert frame_repr(b"") == ""
    assert len(frame_repr(encode("x" * 1000), 50)) == 50


def test_without_pyyaml_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    for error, call in (
        (errors.EncodeError, lambda: encode([1], "yaml")),
        (errors.DecodeError, lambda: decode(b"y[1]", ("yaml",))),
    ):
        with pytest.raises(error, match=r"needs PyYAML: pip install flowq\[yaml\]"):
            call()
