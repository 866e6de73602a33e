"""Plain data: what JSON and msgpack bodies may hold, and the one sentence when they may not.

Dates, times, timedeltas, Decimals, UUIDs and bytes travel as ``{"__type__": t, "__value__": v}``,
kombu's form, so that a Celery client reads them. A user's own dict of exactly these two keys
would be mistaken for one; it travels as type ``dict`` with its items as pairs.

The C encoder of the standard library is used for JSON because it refuses what it does not know;
msgspec would turn sets and dataclasses into lists and dicts without a word. Its decoder is
faster, so it reads what holds no ``__type__``.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from flowq.errors import DecodeError, EncodeError

_TYPE: Final = "__type__"
_VALUE: Final = "__value__"
_ENVELOPE: Final = frozenset((_TYPE, _VALUE))
_MARK: Final = b'"__type__"'
#: Deeper values are refused by our own walks; the C encoder has a limit of its own.
_MAX_DEPTH: Final = 500
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def _bytes_envelope(value: bytes) -> dict[str, Any]:
    try:
        return {_TYPE: "bytes", _VALUE: value.decode("utf-8")}
    except UnicodeDecodeError:
        return {_TYPE: "base64", _VALUE: base64.b64encode(value).decode("ascii")}


def _envelope(value: object) -> dict[str, Any]:
    """Wrap a value of a known type that JSON lacks; TypeError for any other."""
    if isinstance(value, datetime):
        return {_TYPE: "datetime", _VALUE: value.isoformat()}
    if isinstance(value, date):
        return {_TYPE: "date", _VALUE: value.isoformat()}
    if isinstance(value, time):
        return {_TYPE: "time", _VALUE: value.isoformat()}
    if isinstance(value, timedelta):
        return {_TYPE: "timedelta", _VALUE: [value.days, value.seconds, value.microseconds]}
    if isinstance(value, Decimal):
        return {_TYPE: "decimal", _VALUE: str(value)}
    if isinstance(value, UUID):
        return {_TYPE: "uuid", _VALUE: {"hex": value.hex}}
    if isinstance(value, bytes):
        return _bytes_envelope(value)
    raise TypeError(type(value).__qualname__)


def _default(value: object) -> Any:
    reducer = getattr(value, "__json__", None)
    if reducer is not None and not isinstance(value, type):
        return reducer()
    return _envelope(value)


_OPENERS: Final[dict[str, Callable[[Any], Any]]] = {
    "bytes": lambda v: v.encode("utf-8"),
    "base64": lambda v: base64.b64decode(v.encode("ascii")),
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda v: timedelta(v[0], v[1], v[2]),
    "decimal": Decimal,
    "uuid": lambda v: UUID(hex=v["hex"]),
    "dict": dict,
}


def _open(value: dict[str, Any]) -> Any:
    if len(value) == 2 and value.keys() == _ENVELOPE:
        opener = _OPENERS.get(value[_TYPE]) if isinstance(value[_TYPE], str) else None
        if opener is None:
            raise ValueError(f"unknown __type__ {value[_TYPE]!r}")
        return opener(value[_VALUE])
    return value


def _json_encoder(*, allow_nan: bool = False) -> Callable[[object], str]:
    """The standard library's encoder, its C part built once instead of at each call."""
    make = getattr(json.encoder, "c_make_encoder", None)
    text = getattr(json.encoder, "c_encode_basestring", None)
    if make is None or text is None:
        slow = json.JSONEncoder(
            allow_nan=allow_nan, ensure_ascii=False, separators=(",", ":"), default=_default
        )
        return slow.encode
    pieces = make(None, _default, text, None, ":", ",", False, False, allow_nan)
    join = "".join
    return lambda value: join(pieces(value, 0))


_encode_json = _json_encoder()
_encode_wire = _json_encoder(allow_nan=True)
_decode_json = msgspec.json.Decoder().decode
_encode_msgpack = msgspec.msgpack.Encoder().encode
_decode_msgpack = msgspec.msgpack.Decoder().decode


def to_json(value: object, where: str = "value") -> bytes:
    """Encode a value as compact UTF-8 JSON; tuples become lists, keys become text.

    Raises:
        EncodeError: Something in it is not plain data; the text names its place.
    """
    try:
        body = _utf8(_encode_json(value))
        if _MARK in body and _holds_envelope(value, 0):
            body = _utf8(_encode_json(_escape(value, 0)))
    except Exception as exc:  # a user's __json__ may raise anything
        raise EncodeError(explain(value, where, "json", exc)) from exc
    return body


def to_wire_json(value: object, where: str = "value") -> bytes:
    """Encode a value of which parts may be in envelopes already, as a decoded message has them.

    What `to_json` would escape, a dict that looks like an envelope, is one here; and NaN, which
    it would refuse, is passed on.

    Raises:
        EncodeError: Something in it is not plain data; the text names its place.
    """
    try:
        return _utf8(_encode_wire(value))
    except Exception as exc:  # a user's __json__ may raise anything
        raise EncodeError(explain(value, where, "json", exc)) from exc


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates: legal in JSON, but only as escapes
        return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode("utf-8")


def from_json(body: bytes) -> Any:
    """Decode JSON, opening the envelopes; any Python number and text comes back as it was.

    Raises:
        DecodeError: `body` is not JSON, or holds an envelope of an unknown type.
    """
    try:
        if _MARK not in body:
            try:
                return _decode_json(body)
            except (msgspec.DecodeError, RecursionError):
                # lone surrogates and 1e400 are for the standard library
                return json.loads(body, object_hook=_open)
        return json.loads(body, object_hook=_open)
    except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, RecursionError) as exc:
        raise DecodeError(f"a JSON payload cannot be read: {exc}") from exc


def to_msgpack(value: object, where: str = "value") -> bytes:
    """Encode a value as msgpack, with the same types as JSON, bytes and NaN as they are.

    Raises:
        EncodeError: Something in it is not plain data, or an integer needs over 64 bits.
    """
    try:
        return _encode_msgpack(_pack(value, 0))
    except Exception as exc:  # a user's __json__ may raise anything
        raise EncodeError(explain(value, where, "msgpack", exc)) from exc


def from_msgpack(body: bytes) -> Any:
    """Decode msgpack, opening the envelopes.

    Raises:
        DecodeError: `body` is not msgpack, or holds an envelope of an unknown type.
    """
    try:
        value = _decode_msgpack(body)
        return _unpack(value) if b"__type__" in body else value
    except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, RecursionError) as exc:
        raise DecodeError(f"a msgpack payload cannot be read: {exc}") from exc


def _holds_envelope(value: object, depth: int) -> bool:
    """Whether a user's own dict looks like an envelope."""
    if depth > _MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        if len(value) == 2 and value.keys() == _ENVELOPE:
            return True
        return any(_holds_envelope(item, depth + 1) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds_envelope(item, depth + 1) for item in value)
    return False


def _escape(value: object, depth: int) -> object:
    if depth > _MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        items = {key: _escape(item, depth + 1) for key, item in value.items()}
        if len(items) == 2 and items.keys() == _ENVELOPE:
            return {_TYPE: "dict", _VALUE: [[key, item] for key, item in items.items()]}
        return items
    if isinstance(value, (list, tuple)):
        return [_escape(item, depth + 1) for item in value]
    return value


def _pack(value: object, depth: int) -> object:
    """Rebuild a value from what msgpack has; msgspec alone would let sets and objects through."""
    if depth > _MAX_DEPTH:
        raise RecursionError
    if value is None or isinstance(value, (bool, bytes)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, dict):
        items = {_pack_key(key): _pack(item, depth + 1) for key, item in value.items()}
        if len(items) == 2 and items.keys() == _ENVELOPE:
            return {_TYPE: "dict", _VALUE: [[key, item] for key, item in items.items()]}
        return items
    if isinstance(value, (list, tuple)):
        return [_pack(item, depth + 1) for item in value]
    return _default(value)


def _pack_key(key: object) -> object:
    if key is None or isinstance(key, (str, int, float, bytes)):
        return key
    raise TypeError("key")


def _unpack(value: Any) -> Any:
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    if isinstance(value, dict):
        return _open({key: _unpack(item) for key, item in value.items()})
    return value


def explain(value: object, where: str, serializer: str, exc: BaseException) -> str:
    """Say in one sentence which part of a value cannot travel and what to pass instead."""
    if isinstance(exc, RecursionError) or "Circular" in str(exc):
        return f"cannot serialise {where}: it contains itself or is nested too deeply; flatten it"
    for place, part in _parts(value, where, 0):
        remedy = _remedy(part, serializer)
        if remedy is not None:
            named = type(part.key if isinstance(part, _Key) else part).__qualname__
            return f"cannot serialise {place}: {named} is not {serializer} data; {remedy}"
    return f"cannot serialise {where} with {serializer}: {exc}"


class _Key:
    """A dict key that has no text form, as found by `_parts`."""

    def __init__(self, key: object) -> None:
        self.key = key


def _parts(value: object, place: str, depth: int) -> Iterator[tuple[str, object]]:
    """Every leaf of a value with its place, in order."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, dict):
        for key, item in value.items():
            if key is not None and not isinstance(key, (str, int, float)):
                yield f"the key {key!r} of {place}", _Key(key)
            yield from _parts(item, f"{place}[{key!r}]", depth + 1)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _parts(item, f"{place}[{number}]", depth + 1)
    else:
        yield place, value


def _remedy(part: object, serializer: str) -> str | None:
    """What to pass instead of one leaf; None when the leaf is fine."""
    if part is None or isinstance(part, (str, bool)):
        return None
    if isinstance(part, float):
        finite = serializer != "json" or math.isfinite(part)
        return None if finite else "pass None or a text instead of NaN and Infinity"
    if isinstance(part, int):
        fits = serializer == "json" or -(2**63) <= part < 2**64
        return None if fits else "pass integers over 64 bits as text, or use serializer='json'"
    if isinstance(part, _Key):
        return "use text keys, or a list of pairs"
    try:
        _default(part)
    except Exception:  # a user's __json__ may raise anything
        return _instead(part)
    return None


def _instead(part: object) -> str:
    if isinstance(part, (set, frozenset)):
        return "pass a list, e.g. sorted(...)"
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        return "pass dataclasses.asdict(...)"
    if isinstance(part, BaseException):
        return "pass its text"
    if hasattr(part, "__fspath__"):
        return "pass str(...)"
    if hasattr(part, "tolist"):
        return "pass .tolist() or .item()"
    if hasattr(part, "pk") or hasattr(part, "id") or hasattr(part, "__mapper__"):
        return "pass its id and load it inside the task"
    if hasattr(part, "__next__"):
        return "pass list(...)"
    if hasattr(part, "value") and hasattr(type(part), "__members__"):
        return "pass its .value"
    if hasattr(part, "read"):
        return "pass its path"
    return (
        "pass an id, a path or plain data (dict, list, str, numbers), or name serializer='pickle'"
    )
