"""Results in the form that Celery's result backends hold: JSON, exceptions as three fields."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from typing import Any, Final

import msgspec

from flowq.errors import DecodeError, EncodeError
from flowq.payload.failure import ErrorInfo, decode_error, encode_info
from flowq.payload.frames import DEFAULT_ACCEPT, NONE, decode
from flowq.payload.plain import from_json, to_json

_MESSAGE_CHARS: Final = 8 * 1024
_TRACEBACK_CHARS: Final = 64 * 1024
_OURS: Final = "flowq.errors"
_THEIRS: Final = "celery.exceptions"
#: Exceptions that both sides have under the same name; theirs are looked up in one module.
_SHARED: Final = frozenset(
    (
        "ChordError", "Ignore", "ImproperlyConfigured", "MaxRetriesExceededError", "NotRegistered",
        "Reject", "Retry", "SoftTimeLimitExceeded", "TaskError", "TaskRevokedError",
        "TimeLimitExceeded", "TimeoutError", "WorkerLostError",
    )
)  # fmt: skip


def to_record(frame: bytes, accept: Collection[str] = DEFAULT_ACCEPT) -> bytes:
    """The JSON that stands for a result or an error in a record of Celery's.

    A frame that is JSON already goes over as it is; an empty one, a result that nobody was to
    read, is null.

    Raises:
        ContentDisallowed: The frame is of a type that is not in `accept`.
        DecodeError: The frame is broken.
        EncodeError: Its value has no JSON form.
    """
    if frame[:1] == b"j":
        return frame[1:]
    if not frame:
        return NONE[1:]
    if frame[:1] == b"e":
        return to_json(error_fields(frame), "the error")
    return to_json(decode(frame, accept), "the result")


def from_record(value: bytes, *, failed: bool) -> bytes:
    """The frame of what a record of Celery's holds as result.

    Args:
        value: JSON.
        failed: Whether it is the error of a task. Whatever is wrong with one, a frame is made.
    """
    if not failed:
        return b"j" + value
    try:
        found = from_json(value)
    except DecodeError:
        found = value.decode("utf-8", "replace")
    return error_frame(found)


def error_fields(frame: bytes) -> dict[str, Any]:
    """The three fields that stand for an error in a record.

    Raises:
        DecodeError: The frame is not that of an error.
    """
    info = decode_error(frame)
    message = [info.message] if info.args is None else from_json(info.args)
    shared = info.module == _OURS and info.type in _SHARED
    module = _THEIRS if shared else info.module
    return {"exc_type": info.type, "exc_message": message, "exc_module": module}


def error_frame(value: Any, *, traceback: str = "", node_id: str = "", task: str = "") -> bytes:
    """The frame of the error in a record; a frame is made whatever is wrong with it.

    Args:
        value: The three fields; anything else becomes a RemoteError of its text.
        traceback, node_id, task: What the record says besides.
    """
    kind = value.get("exc_type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind.isprintable():
        given, module = value.get("exc_message", ""), value.get("exc_module")
        args = list(given) if isinstance(given, list | tuple) else [given]
    else:
        kind, module, args = "RemoteError", _OURS, [str(value)]
    if module in (_THEIRS, "billiard.exceptions") and kind in _SHARED:
        module = _OURS
    info = ErrorInfo(
        type=_clean(kind),
        module=_clean(module) if isinstance(module, str) else "builtins",
        message=_clean(_text(args)),
        traceback=_clean(traceback, _TRACEBACK_CHARS),
        node_id=_clean(node_id),
        task=_clean(task),
    )
    with contextlib.suppress(EncodeError):  # NaN, say; the text stays
        info.args = to_json(args)
    return encode_info(info)


def describe(frame: bytes) -> str:
    """An error frame as Python shows an exception: ``ValueError('x')``."""
    info = decode_error(frame)
    args: Any = [info.message] if info.args is None else from_json(info.args)
    return f"{info.type}({', '.join(map(repr, args))})"


def split_part(raw: bytes) -> tuple[str, str, bytes]:
    """Task id, state and result JSON of one part of a chord as it stands in Redis.

    Raises:
        DecodeError: It is none.
    """
    try:
        _, task_id, state, result = _part(raw)
        return task_id, state, bytes(result)
    except (msgspec.MsgspecError, RecursionError):
        return _split_by_library(raw)  # NaN and lone surrogates


def _split_by_library(raw: bytes) -> tuple[str, str, bytes]:
    try:
        _, task_id, state, value = json.loads(raw)
        return str(task_id), str(state), json.dumps(value).encode()
    except (ValueError, TypeError, RecursionError) as exc:
        raise DecodeError(f"a part of a chord cannot be read: {str(exc)[:200]}") from exc


_part: Any = msgspec.json.Decoder(tuple[int, str, str, msgspec.Raw]).decode


def _text(args: list[Any]) -> str:
    """What ``str`` gives for an exception of these arguments."""
    return str(args[0]) if len(args) == 1 else str(tuple(args)) if args else ""


def _clean(text: str, limit: int = _MESSAGE_CHARS) -> str:
    """Cut, and without lone surrogates, which UTF-8 has no form for."""
    return text[:limit].encode("utf-8", "replace").decode("utf-8")
