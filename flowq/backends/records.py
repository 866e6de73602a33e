"""Result records in Celery's form: what a stock Celery client reads, and writes for us to read.

A record is a mapping: status, result, traceback, children, date_done, task_id, then group_id and
parent_id where there are any, then name, args, kwargs, worker, retries and queue if they are kept.
An error is ``{exc_type, exc_message, exc_module}``, its message the list of its arguments. A JSON
result goes in and out as the bytes it is; nothing is decoded on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from flowq import errors
from flowq.backends import ResultRequest, TaskMeta
from flowq.backends.options import BackendOptions
from flowq.backends.squeezing import check, squeeze, stretch
from flowq.backends.waiting import READY
from flowq.payload import decode, decode_error, encode, encode_error
from flowq.payload.foreign import error_fields, error_frame
from flowq.payload.plain import from_json, to_json

#: The result of these is an error.
_ERRORS: Final = frozenset(("FAILURE", "RETRY", "REVOKED", "IGNORED", "REJECTED"))
#: Serializer -> (content type, content encoding) of a message.
CONTENT_TYPES: Final = {
    "json": ("application/json", "utf-8"),
    "msgpack": ("application/x-msgpack", "binary"),
    "pickle": ("application/x-python-serialize", "binary"),
    "yaml": ("application/x-yaml", "utf-8"),
}
_SERIALIZERS: Final = {mime: name for name, (mime, _) in CONTENT_TYPES.items()}
_EVERYTHING: Final = ("json", "msgpack", "pickle", "yaml")


class _Json(msgspec.Struct):
    """A JSON record, its value left as it is."""

    status: str
    result: msgspec.Raw = msgspec.Raw(b"null")
    traceback: Any = None
    children: Any = None
    date_done: Any = None
    group_id: Any = None
    parent_id: Any = None
    name: Any = None
    args: Any = None
    kwargs: Any = None
    worker: Any = None
    retries: Any = None
    queue: Any = None
    task_id: Any = None


_read_json = msgspec.json.Decoder(_Json).decode


class Records:
    """Writes and reads records as the options say.

    Args:
        options: Serializer, compression, what is accepted, and whether more is kept.
    """

    def __init__(self, options: BackendOptions) -> None:
        self._options = options
        check(options.compression)
        if options.serializer not in _EVERYTHING:
            raise errors.ImproperlyConfigured(
                f"result_serializer={options.serializer!r}: use json, msgpack, yaml or pickle"
            )

    # -- writing -------------------------------------------------------------------------

    def fields(self, task_id: str, meta: TaskMeta, request: ResultRequest | None) -> dict[str, Any]:
        """A record whose result is still to be put in, see `result`."""
        record: dict[str, Any] = {
            "status": meta.state,
            "result": None,
            "traceback": _traceback(meta),
            "children": request.children if request else None,
            "date_done": _date(meta),
        }
        if request is not None:
            if request.group_id:
                record["group_id"] = request.group_id
            if request.parent_id:
                record["parent_id"] = request.parent_id
            if self._options.extended:
                for name in ("args", "kwargs", "worker", "retries", "queue"):
                    record[name] = getattr(request, name)
                record["name"] = request.name or meta.name or None
        record["task_id"] = task_id
        return record

    def result(self, meta: TaskMeta) -> Any:
        """The value a record carries; a `msgspec.Raw` where JSON goes in as it is."""
        if meta.state in _ERRORS:
            return _error_form(meta.frame)
        if meta.meta:
            found = from_json(meta.meta)
            return found.get("meta") if isinstance(found, dict) else found
        if not meta.frame:
            return None
        if meta.frame[:1] == b"j" and self._options.serializer == "json":
            return msgspec.Raw(meta.frame[1:])
        return decode(meta.frame, _EVERYTHING)  # it comes from a child of our own

    def encode(self, task_id: str, meta: TaskMeta, request: ResultRequest | None) -> bytes:
        """The record as bytes, compressed if the options say so.

        Raises:
            EncodeError: The value cannot be written with the serializer.
        """
        return self.packed(self.whole(task_id, meta, request))

    def whole(self, task_id: str, meta: TaskMeta, request: ResultRequest | None) -> bytes:
        """The record as bytes, never compressed; errors as `encode`."""
        record = self.fields(task_id, meta, request)
        record["result"] = self.result(meta)
        return self.dumps(record)

    def packed(self, body: bytes) -> bytes:
        """Bytes compressed, if the options say so."""
        return squeeze(body, self._options.compression) if self._options.compression else body

    def dumps(self, value: Any) -> bytes:
        """A value in the serializer's form, without a frame's tag."""
        if self._options.serializer != "json":
            return encode(value, self._options.serializer, where="result")[1:]
        raw = value.get("result") if isinstance(value, dict) else None
        if not isinstance(raw, msgspec.Raw):
            return to_json(value, "result")
        rest = {name: item for name, item in value.items() if name not in ("status", "result")}
        first = to_json({"status": value["status"]})[:-1]
        return b"".join((first, b',"result":', bytes(raw), b",", to_json(rest, "result")[1:]))

    # -- reading -------------------------------------------------------------------------

    def decode(self, body: bytes) -> TaskMeta:
        """What a record says.

        Raises:
            MessageDecodeError: It is no record, or its content type is not accepted.
        """
        return self._decode(stretch(body), self._options.serializer)

    def of_message(self, body: bytes, content_type: str) -> TaskMeta:
        """What a record in a message says, whichever serializer its sender chose.

        Raises:
            MessageDecodeError: It is no record, or its content type is not accepted.
        """
        serializer = _SERIALIZERS.get(content_type)
        if serializer is None or serializer not in {"json", *self._options.accept}:
            raise errors.ContentDisallowed(f"a result of type {content_type} is not accepted")
        return self._decode(body, serializer)

    def _decode(self, body: bytes, serializer: str) -> TaskMeta:
        found = _quickly(body) if serializer == "json" else None
        if found is not None:
            return self._of_json(found)
        record = self.loads(body, serializer)
        if not isinstance(record, dict) or "status" not in record:
            raise errors.MessageDecodeError("a result record is no mapping with a status")
        return self.of_fields(record)

    def is_success(self, body: bytes) -> bool:
        """Whether bytes are the record of a SUCCESS; False for what cannot be read."""
        try:
            return self.decode(body).state == "SUCCESS"
        except errors.MessageDecodeError:
            return False

    def loads(self, body: bytes, serializer: str = "") -> Any:
        """A value out of a serializer's form; none named: the one of the options.

        Raises:
            MessageDecodeError: The bytes are none, or its content type is not accepted.
        """
        serializer = serializer or self._options.serializer
        if serializer == "json":
            return from_json(bytes(body))
        tags = {"msgpack": b"m", "pickle": b"p", "yaml": b"y"}
        return decode(tags[serializer] + bytes(body), self._options.accept)

    def _of_json(self, found: _Json) -> TaskMeta:
        raw = bytes(found.result)
        record = {name: getattr(found, name) for name in _Json.__struct_fields__}
        if found.status == "SUCCESS":
            return _meta(record, b"j" + raw)
        record["result"] = from_json(raw)
        return self.of_fields(record)

    def of_fields(self, record: Mapping[str, Any]) -> TaskMeta:
        """What a decoded record says."""
        status, value = str(record["status"]), record.get("result")
        if status == "SUCCESS":
            return _meta(record, self._frame(value))
        if status in _ERRORS:
            return _meta(record, _error_frame(value, record))
        found = _meta(record, b"")
        if value is not None:
            found.meta = to_json({"state": status, "meta": value}, "meta")
        return found

    def _frame(self, value: Any) -> bytes:
        return encode(value, self._options.serializer)


def _traceback(meta: TaskMeta) -> str | None:
    if meta.frame[:1] != b"e":
        return None
    return decode_error(meta.frame).traceback or None


def _date(meta: TaskMeta) -> str | None:
    if meta.state not in READY:
        return None
    at = (
        datetime.now(UTC) if meta.date_done is None else datetime.fromtimestamp(meta.date_done, UTC)
    )
    return at.isoformat()


def moment(value: Any) -> float | None:
    """Epoch seconds of a record's date: a text or a datetime, UTC where it names no zone."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def _meta(record: Mapping[str, Any], frame: bytes) -> TaskMeta:
    names = ("args", "kwargs", "worker", "retries", "queue", "children", "group_id", "parent_id")
    extra = {name: record[name] for name in names if record.get(name) is not None}
    return TaskMeta(
        str(record["status"]),
        frame,
        moment(record.get("date_done")),
        str(record.get("name") or ""),
        extra=extra or None,
    )


def _error_form(frame: bytes) -> dict[str, Any] | None:
    """An error frame in Celery's form."""
    if not frame:
        return None
    if frame[:1] != b"e":
        return {"exc_type": "Exception", "exc_message": ["unknown"], "exc_module": "builtins"}
    return error_fields(frame)


def _error_frame(value: Any, record: Mapping[str, Any]) -> bytes:
    """An error frame of what a record has for it."""
    text = str(record.get("traceback") or "")
    task, task_id = str(record.get("name") or ""), str(record.get("task_id") or "")
    if isinstance(value, BaseException):
        return encode_error(value, node_id=task_id, task=task, traceback=text)
    return error_frame(value, traceback=text, node_id=task_id, task=task)


def _quickly(body: bytes) -> _Json | None:
    """A record in JSON; None for lone surrogates and the like, which the standard library reads."""
    try:
        found: _Json = _read_json(body)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return found
