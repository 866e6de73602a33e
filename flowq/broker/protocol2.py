"""Celery's message protocol 2 as bytes: encode and decode. Protocol 1 is decoded too. Pure.

Arguments are cut out of the body and passed on as they came, in a payload frame, so that only the
process that runs the task decodes them. A JSON body that the fast decoder does not take (NaN, lone
surrogates) goes through the standard library's.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from flowq.broker.inflate import deflate, inflate
from flowq.broker.messages import (
    BROKER_HEADERS,
    COMPRESSION,
    NO_ARGS,
    PROTOCOL_HEADERS,
    SIGNATURE,
    Encoded,
    TaskMessage,
    header_table,
    moment,
)
from flowq.broker.signing import KeyRing
from flowq.errors import ContentDisallowed, DecodeError, EncodeError, MessageDecodeError

__all__ = ["NO_ARGS", "Encoded", "TaskMessage", "decode_task", "encode_task"]

#: A larger body is refused, compressed or not.
MAX_BYTES: Final = 64 * 1024 * 1024

_MIMES: Final = {
    "application/json": "json",
    "application/x-msgpack": "msgpack",
    "application/x-yaml": "yaml",
    "application/x-python-serialize": "pickle",
}
#: Tag of a frame -> content type and encoding of the message.
_CONTENT: Final = {
    "j": ("application/json", "utf-8"),
    "m": ("application/x-msgpack", "binary"),
    "y": ("application/x-yaml", "utf-8"),
    "p": ("application/x-python-serialize", "binary"),
}
_TEXTS: Final = frozenset(
    ("latin-1", "latin1", "iso-8859-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
)
_UTF8: Final = frozenset(("utf-8", "utf8", "us-ascii", "ascii", "binary", ""))
_PAIR: Final = b"\x92"
_TRIPLE: Final = b"\x93"


class _Embed(msgspec.Struct):
    """The third part of a body."""

    callbacks: list[Any] | None = None
    errbacks: list[Any] | None = None
    chain: list[Any] | None = None
    chord: Any = None


_Parts = tuple[msgspec.Raw, msgspec.Raw, _Embed | None]
_json_body: Any = msgspec.json.Decoder(_Parts)
_msgpack_body: Any = msgspec.msgpack.Decoder(_Parts)
_msgpack_any = msgspec.msgpack.Decoder().decode
_pack = msgspec.msgpack.Encoder().encode
_NO_EMBED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_NO_EMBED_JSON: Final = json.dumps(_NO_EMBED, separators=(",", ":")).encode()
_NO_EMBED_MSGPACK: Final = _pack(_NO_EMBED)
_dump = json.JSONEncoder(separators=(",", ":")).encode


def encode_task(
    message: TaskMessage, *, compression: str | None = None, keys: KeyRing | None = None
) -> Encoded:
    """Make a message that a Celery worker reads.

    Args:
        message: Its frame decides the content type.
        compression: gzip, bzip2, lzma, zstd or brotli; None: not compressed.
        keys: Sign with the first of them.

    Raises:
        EncodeError: An embedded signature is not plain data, the frame is no pair of arguments,
            the compression is unknown, or a header of the user's has a name of the protocol.
    """
    tag = message.frame[:1].decode("latin-1")
    content = _CONTENT.get(tag)
    if content is None:
        raise EncodeError(f"a frame with tag {tag!r} cannot travel as the arguments of a task")
    body = _body(tag, message)
    headers = header_table(message)
    if compression is not None:
        body, headers[COMPRESSION] = deflate(body, compression)
    properties: dict[str, Any] = {
        "correlation_id": message.correlation_id or message.id,
        "reply_to": message.reply_to or "",
    }
    if message.priority is not None:
        properties["priority"] = message.priority
    if keys is not None:
        headers[SIGNATURE] = keys.sign(body, headers, properties, *content)
    return Encoded(body, headers, properties, *content)


def _body(tag: str, message: TaskMessage) -> bytes:
    plain = (
        message.callbacks is None
        and message.errbacks is None
        and message.chain is None
        and message.chord is None
    )
    try:
        embed = _NO_EMBED if plain else _embed_of(message, tag)
    except RecursionError as exc:
        raise EncodeError("an embedded signature contains itself or is nested too deeply") from exc
    pair = message.frame[1:]
    if tag == "j":
        if pair[:2] != b"[[" or pair[-1:] != b"]":
            raise EncodeError("a JSON frame is not a pair of arguments")
        return b"%b,%b]" % (pair[:-1], _NO_EMBED_JSON if plain else _embed_json(embed))
    if tag == "m":
        if pair[:1] != _PAIR:
            raise EncodeError("a msgpack frame is not a pair of arguments")
        return _TRIPLE + pair[1:] + (_NO_EMBED_MSGPACK if plain else _embed_msgpack(embed))
    try:
        args, kwargs = pickle.loads(pair) if tag == "p" else _yaml_load(pair)
        whole = (list(args), kwargs, embed)
        return pickle.dumps(whole, protocol=4) if tag == "p" else _yaml_dump(whole)
    except Exception as exc:  # user classes may raise anything
        raise EncodeError(f"cannot encode the body of {message.task}: {exc}") from exc


def _embed_of(message: TaskMessage, tag: str) -> dict[str, Any]:
    embed = {name: getattr(message, name) for name in _NO_EMBED}
    return embed if tag == "j" else _plain(embed)


def _plain(value: Any) -> Any:
    """Dicts and lists without classes of their own, which another program may not have."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _embed_json(embed: dict[str, Any]) -> bytes:
    try:
        return _dump(embed).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise EncodeError(f"an embedded signature is not plain JSON data: {exc}") from exc


def _embed_msgpack(embed: dict[str, Any]) -> bytes:
    try:
        return _pack(embed)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise EncodeError(f"an embedded signature is not plain msgpack data: {exc}") from exc


def decode_task(
    body: bytes | str,
    headers: Mapping[str, Any] | None,
    properties: Mapping[str, Any] | None,
    content_type: str | None,
    content_encoding: str | None,
    *,
    accept: Collection[str] = ("json",),
    max_bytes: int = MAX_BYTES,
    keys: KeyRing | None = None,
) -> TaskMessage:
    """Read a message as the broker delivered it, still compressed.

    Size, signature and content type are checked in this order, before anything is inflated or
    parsed.

    Args:
        body: As it came.
        headers: All of them.
        properties: reply_to, correlation_id and priority are read.
        content_type: A MIME type.
        content_encoding: Character set of a text body.
        accept: Serializers that may be read, by name or MIME type; pickle only if named.
        max_bytes: Most bytes of the body, as it came and inflated.
        keys: Every message must be signed with one of them; None: signatures are not looked at.

    Raises:
        ContentDisallowed: The content type is not in `accept`.
        MessageDecodeError: Anything else is wrong with it; nothing else is ever raised.
    """
    headers, properties = headers or {}, properties or {}
    if not isinstance(headers, Mapping) or not isinstance(properties, Mapping):
        raise MessageDecodeError("a message has headers or properties that are no table")
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body
    if not isinstance(raw, bytes):
        raise MessageDecodeError(f"the body of a message is a {type(raw).__name__}, not bytes")
    if len(raw) > max_bytes:
        raise MessageDecodeError(
            f"a message of {len(raw):,} bytes is over the limit of {max_bytes:,}"
        )
    content_type, encoding = content_type or "", content_encoding or ""
    if keys is not None:
        keys.verify(raw, headers, properties, content_type, encoding)
    name = _accepted(content_type, accept)
    method = headers.get(COMPRESSION)
    if method is not None:
        if not isinstance(method, str):
            raise MessageDecodeError("the compression header of a message is no text")
        raw = inflate(raw, method, max_bytes)
    message = _read(name, _as_utf8(raw, encoding, name), headers)
    _finish(message, headers, properties, signed=keys is not None)
    return message


def _accepted(content_type: object, accept: Collection[str]) -> str:
    name = _MIMES.get(content_type) if isinstance(content_type, str) else None
    if name is not None and (name in accept or content_type in accept):
        return name
    raise ContentDisallowed(
        f"a message is {name or str(content_type)[:80] or 'of no content type'!r}, but only"
        f" {', '.join(sorted(accept)) or 'nothing'} is accepted; add it to accept_content if you"
        " trust its sender"
    )


def _as_utf8(raw: bytes, encoding: object, name: str) -> bytes:
    if name in ("pickle", "msgpack"):
        return raw
    known = str(encoding).lower()
    if known in _UTF8:
        return raw
    if known not in _TEXTS:
        raise MessageDecodeError(f"a message has the unknown character set {known[:40]!r}")
    try:
        return raw.decode(known).encode()
    except UnicodeError as exc:
        raise MessageDecodeError(f"a message is not {known} text: {exc}") from exc


def _read(name: str, raw: bytes, headers: Mapping[str, Any]) -> TaskMessage:
    if name == "json" and raw[:1] == b"[":
        try:
            args, kwargs, embed = _json_body.decode(raw)
        except (msgspec.MsgspecError, RecursionError):
            return _from_value("j", _json_value(raw), headers)
        one, two = bytes(args), bytes(kwargs)
        if one[:1] == b"[" and two[:1] == b"{":
            return _message(headers, b"j[%b,%b]" % (one, two), embed)
        raise MessageDecodeError("the arguments in a message are not a list and a mapping")
    if name == "msgpack" and raw[:1] == _TRIPLE:
        return _read_msgpack(raw, headers)
    if name == "json":
        return _from_value("j", _json_value(raw), headers)
    return _from_value(name[0], _value(name, raw), headers)


def _read_msgpack(raw: bytes, headers: Mapping[str, Any]) -> TaskMessage:
    try:
        args, kwargs, embed = _msgpack_body.decode(raw)
    except (msgspec.MsgspecError, RecursionError) as exc:
        raise DecodeError(f"a msgpack message cannot be read: {exc}") from exc
    one, two = bytes(args), bytes(kwargs)
    is_list = one[0] in (0xDC, 0xDD) or one[0] & 0xF0 == 0x90
    if is_list and (two[0] in (0xDE, 0xDF) or two[0] & 0xF0 == 0x80):
        return _message(headers, b"m" + _PAIR + one + two, embed)
    raise MessageDecodeError("the arguments in a message are not a list and a mapping")


def _json_value(raw: bytes) -> Any:
    """By the standard library: typed values stay in their envelopes."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise DecodeError(f"a JSON message cannot be read: {str(exc)[:200]}") from exc


def _value(name: str, raw: bytes) -> Any:
    try:
        if name == "msgpack":
            return _msgpack_any(raw)
        return pickle.loads(raw) if name == "pickle" else _yaml_load(raw)
    except Exception as exc:  # yaml and pickle raise anything
        reason = f"{type(exc).__name__}: {str(exc)[:200]}"
        raise DecodeError(f"a {name} message cannot be read: {reason}") from exc


def _from_value(tag: str, value: Any, headers: Mapping[str, Any]) -> TaskMessage:
    """A message of a decoded body: the triple of protocol 2, or the dict of protocol 1."""
    pair: list[Any]
    if isinstance(value, dict):
        fields = {**value, **headers} if "task" in headers else dict(value)
        if fields.get("group") is None and "taskset" in value:
            fields["group"] = value["taskset"]
        embed: Any = {name: value.get(name) for name in ("callbacks", "errbacks", "chord")}
        pair = [value.get("args", []), value.get("kwargs", {})]
    elif isinstance(value, (list, tuple)) and len(value) == 3:
        fields, pair, embed = dict(headers), [value[0], value[1]], value[2]
    else:
        raise MessageDecodeError("the body of a message is neither of protocol 2 nor of protocol 1")
    if not isinstance(pair[0], (list, tuple)) or not isinstance(pair[1], dict):
        raise MessageDecodeError("the arguments in a message are not a list and a mapping")
    pair[0] = list(pair[0])
    try:
        parsed = msgspec.convert({} if embed is None else embed, _Embed)
        frame = tag.encode() + _pair(tag, pair)
    except Exception as exc:  # what a pickle or a yaml document holds may be of any class
        raise MessageDecodeError(f"a message cannot be taken apart: {str(exc)[:200]}") from exc
    return _message(fields, frame, parsed)


def _pair(tag: str, pair: list[Any]) -> bytes:
    if tag == "j":
        return _dump(pair).encode()
    if tag == "m":
        return _pack(pair)
    return pickle.dumps(pair, protocol=4) if tag == "p" else _yaml_dump(pair)


def _message(fields: Mapping[str, Any], frame: bytes, embed: _Embed | None) -> TaskMessage:
    if "task" not in fields or "id" not in fields:
        raise MessageDecodeError("a message names no task or no id: it is not a task message")
    try:
        message = msgspec.convert(fields, TaskMessage)
    except (msgspec.MsgspecError, TypeError, RecursionError) as exc:
        raise MessageDecodeError(f"a header of a message is wrong: {str(exc)[:200]}") from exc
    message.frame = frame
    if embed is None:
        message.callbacks = message.errbacks = message.chain = message.chord = None
    else:
        message.callbacks, message.errbacks = embed.callbacks, embed.errbacks
        message.chain, message.chord = embed.chain, embed.chord
    return message


def _finish(
    message: TaskMessage,
    headers: Mapping[str, Any],
    properties: Mapping[str, Any],
    *,
    signed: bool,
) -> None:
    """Check what types alone do not say, and add what does not stand in the body."""
    if not (message.task.isprintable() and message.id.isprintable()):
        raise MessageDecodeError("the task name or the id of a message has control characters")
    if message.eta is not None:
        moment(message.eta, "eta")
    if message.expires is not None:
        moment(message.expires, "expires")
    own = {key: headers[key] for key in headers if key not in PROTOCOL_HEADERS}
    if signed and own:
        own = {key: value for key, value in own.items() if key not in BROKER_HEADERS}
    message.headers = own
    reply_to, correlation = properties.get("reply_to"), properties.get("correlation_id")
    priority = properties.get("priority")
    message.reply_to = reply_to if isinstance(reply_to, str) and reply_to else None
    message.correlation_id = correlation if isinstance(correlation, str) else None
    message.priority = priority if type(priority) is int else None


def _yaml_load(raw: bytes) -> Any:
    import yaml

    return yaml.safe_load(raw)


def _yaml_dump(value: Any) -> bytes:
    import yaml

    return bytes(yaml.safe_dump(value, allow_unicode=True, encoding="utf-8"))
