"""Tags and doors of frames: encode and decode, references, previews."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection
from typing import Any, Final

import msgspec

from flowq.errors import ContentDisallowed, DecodeError, EncodeError, FlowqError
from flowq.payload.failure import decode_error, rebuild
from flowq.payload.plain import from_json, from_msgpack, to_json, to_msgpack

#: A frame of more bytes than this is refused.
MAX_BYTES: Final = 64 * 1024 * 1024
#: The frame of None.
NONE: Final = b"jnull"
#: What is decoded unless a setting names more.
DEFAULT_ACCEPT: Final = ("json", "msgpack")
#: Bytes of the hash in a reference frame.
_HASH_BYTES: Final = 32

_NAMES: Final = {106: "json", 109: "msgpack", 112: "pickle", 121: "yaml"}
_LIST: Final = 108
_ERROR: Final = 101
_REFERENCE: Final = 114
_OTHER: Final = 120

_encode_list = msgspec.msgpack.Encoder().encode
_decode_list = msgspec.msgpack.Decoder(list[bytes]).decode


def encode(
    value: object, serializer: str = "json", *, max_bytes: int = MAX_BYTES, where: str = "value"
) -> bytes:
    """Make the frame of a value.

    Args:
        value: Plain data; with ``serializer="pickle"`` anything that pickles. JSON keeps its
            own habits: tuples come back as lists, the keys of a dict as text.
        serializer: json, msgpack, yaml or pickle.
        max_bytes: A larger frame is refused.
        where: What the error calls the value.

    Raises:
        EncodeError: It cannot be serialised, or is too large; the text says what to pass.
    """
    if serializer == "json":
        kind = type(value)
        if value is None:
            return NONE
        if kind is int and -(2**63) <= value < 2**63:  # type: ignore[operator]
            return b"j%d" % value  # type: ignore[str-format]
        frame = b"j" + to_json(value, where)
    elif serializer == "msgpack":
        frame = b"m" + to_msgpack(value, where)
    elif serializer == "pickle":
        frame = b"p" + _to_pickle(value, where)
    elif serializer == "yaml":
        frame = b"y" + _to_yaml(value, where)
    else:
        known = "json, msgpack, yaml and pickle"
        raise EncodeError(f"unknown serializer {serializer!r}; there are {known}")
    if len(frame) > max_bytes:
        raise EncodeError(
            f"{where} takes {len(frame):,} bytes, over the limit of {max_bytes:,};"
            " store it elsewhere and pass its path or id"
        )
    return frame


def encode_args(
    args: tuple[object, ...] | list[object],
    kwargs: dict[str, object],
    serializer: str = "json",
    *,
    max_bytes: int = MAX_BYTES,
) -> bytes:
    """Make the frame of ``[args, kwargs]``, the argument template of a node.

    Raises:
        EncodeError: As `encode`; the text names the argument.
    """
    try:
        return encode([args, kwargs], serializer, max_bytes=max_bytes, where="arguments")
    except EncodeError as whole:
        for number, value in enumerate(args):
            encode(value, serializer, max_bytes=max_bytes, where=f"args[{number}]")
        for name, value in kwargs.items():
            encode(value, serializer, max_bytes=max_bytes, where=f"kwargs[{name!r}]")
        raise whole


def encode_list(frames: list[bytes]) -> bytes:
    """Make one frame of many, the value of a join; decodes as a list of their values."""
    return b"l" + _encode_list(frames)


def decode(
    frame: bytes,
    accept: Collection[str] = DEFAULT_ACCEPT,
    allowed: Callable[[str], bool] | None = None,
) -> Any:
    """Give the value of a frame.

    Args:
        frame: Of any tag; a list frame gives a list, an error frame an exception object.
        accept: Serializers that may be used; pickle only when named here.
        allowed: Whose exception classes may be rebuilt, see `rebuild`.

    Raises:
        ContentDisallowed: The content type is not in `accept`.
        DecodeError: The bytes are not what the tag says, or a reference was not resolved.
    """
    if not frame:
        raise DecodeError("an empty frame holds no value")
    tag = frame[0]
    if tag == _LIST:
        return [decode(part, accept, allowed) for part in _split(frame)]
    if tag == _ERROR:
        return rebuild(decode_error(frame), allowed)
    if tag == _REFERENCE:
        raise DecodeError(f"payload {frame[1:].hex()[:16]} was not fetched before it was read")
    if tag == _OTHER:
        raise ContentDisallowed("a payload of a foreign content type cannot be read here")
    name = _NAMES.get(tag)
    if name is None:
        raise DecodeError(f"unknown payload tag {frame[:1]!r}")
    if name not in accept:
        raise ContentDisallowed(
            f"a payload is {name}, but only {', '.join(accept) or 'nothing'} is accepted;"
            f" add {name!r} to accept_content if you trust its sender"
        )
    return _DECODERS[tag](frame[1:])


def decode_args(
    frame: bytes,
    accept: Collection[str] = DEFAULT_ACCEPT,
    allowed: Callable[[str], bool] | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """Give the arguments of an `encode_args` frame, as a list and a dict of the caller's own.

    Raises:
        ContentDisallowed: As `decode`.
        DecodeError: As `decode`, or the value is no pair of list and dict.
    """
    value = decode(frame, accept, allowed)
    try:
        args, kwargs = value
    except (TypeError, ValueError):
        args = kwargs = None
    if type(args) is tuple:
        args = list(args)
    if type(args) is not list or type(kwargs) is not dict:
        raise DecodeError("an arguments payload is not a pair of list and dict")
    return args, kwargs


def is_error(frame: bytes) -> bool:
    """Whether a frame holds an exception."""
    return frame[:1] == b"e"


def reference(digest: bytes) -> bytes:
    """Make the frame that stands for the payload row of this 32-byte hash."""
    if len(digest) != _HASH_BYTES:
        raise ValueError(f"a payload hash has {_HASH_BYTES} bytes, not {len(digest)}")
    return b"r" + digest


def references(frame: bytes) -> list[bytes]:
    """Hashes of the payload rows that a frame needs, in order; most frames need none."""
    if frame[:1] == b"r":
        return [frame[1:]]
    if frame[:1] != b"l":
        return []
    return [digest for part in _split(frame) for digest in references(part)]


def resolve(frame: bytes, fetch: Callable[[bytes], bytes]) -> bytes:
    """Put the payloads that `fetch` gives for their hashes in place of the references."""
    if frame[:1] == b"r":
        return resolve(fetch(frame[1:]), fetch)
    if frame[:1] != b"l" or not references(frame):
        return frame
    return encode_list([resolve(part, fetch) for part in _split(frame)])


def frame_repr(frame: bytes, limit: int = 200) -> str:
    """Show a frame as one line of at most `limit` characters; never raises, runs no pickle."""
    try:
        text = _preview(frame, limit)
    except Exception as exc:  # a preview must not break a listing
        text = f"<unreadable: {type(exc).__name__}>"
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: max(limit - 3, 0)] + "..."


def _preview(frame: bytes, limit: int) -> str:
    tag = frame[:1]
    if tag in (b"j", b"y"):
        return frame[1 : 4 * limit + 1].decode("utf-8", "ignore")
    if tag == b"m":
        large = len(frame) > MAX_BYTES // 64
        return f"<msgpack, {len(frame):,} bytes>" if large else repr(from_msgpack(frame[1:]))
    if tag == b"l":
        parts = _split(frame)
        shown = [frame_repr(part, limit) for part in parts[: limit // 3 + 1]]
        return f"[{', '.join(shown)}]"
    if tag == b"e":
        info = decode_error(frame)
        return f"{info.type}: {info.message}" if info.message else info.type
    if tag == b"r":
        return f"<payload {frame[1:].hex()[:16]}>"
    if not frame:
        return ""
    return f"<{_NAMES.get(frame[0], 'other')}, {len(frame):,} bytes>"


def _split(frame: bytes) -> list[bytes]:
    try:
        return _decode_list(frame[1:])
    except msgspec.DecodeError as exc:
        raise DecodeError(f"a list payload cannot be read: {exc}") from exc


def _to_pickle(value: object, where: str) -> bytes:
    try:
        return pickle.dumps(value, protocol=4)
    except Exception as exc:
        raise EncodeError(f"cannot pickle {where}: {exc}; pass plain data instead") from exc


def _from_pickle(body: bytes) -> Any:
    try:
        return pickle.loads(body)
    except Exception as exc:
        raise DecodeError(f"a pickle payload cannot be read: {exc}") from exc


def _yaml(error: type[FlowqError]) -> Any:
    """PyYAML, which is installed only where somebody wants it.

    Raises:
        FlowqError: It is not there; of the class `error`.
    """
    try:
        import yaml
    except ImportError:
        raise error("the serializer yaml needs PyYAML: pip install flowq[yaml]") from None
    return yaml


def _to_yaml(value: object, where: str) -> bytes:
    yaml = _yaml(EncodeError)
    try:
        return bytes(yaml.safe_dump(value, allow_unicode=True, encoding="utf-8"))
    except yaml.YAMLError as exc:
        raise EncodeError(f"cannot serialise {where} with yaml: {exc}; pass plain data") from exc


def _from_yaml(body: bytes) -> Any:
    yaml = _yaml(DecodeError)
    try:
        return yaml.safe_load(body)
    except yaml.YAMLError as exc:
        raise DecodeError(f"a yaml payload cannot be read: {exc}") from exc


_DECODERS: Final[dict[int, Callable[[bytes], Any]]] = {
    106: from_json,
    109: from_msgpack,
    112: _from_pickle,
    121: _from_yaml,
}
