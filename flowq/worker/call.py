"""What a task is called with: its arguments filled in, and the request it sees.

The request of a node is made for every item and read by few, so what needs work (ids above all)
is computed when it is first read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

import msgspec

from flowq import errors
from flowq.broker.codec import Bundle, Item, Report, ReportKind
from flowq.core.ids import node_id
from flowq.payload import decode, decode_args, decode_error, encode, rebuild
from flowq.payload.failure import ErrorInfo
from flowq.worker.request import Context

if TYPE_CHECKING:
    from flowq.core.graph import Spec

_EMPTY = b"j[[],{}]"
_PREPEND = 1
_TEMPLATE = 3

T = TypeVar("T")


class _Lazy(Generic[T]):
    """A field computed at its first reading, then an ordinary attribute."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        value = self._compute(instance)
        instance.__dict__[self._name] = value
        return value


class NodeContext(Context):
    """The request of an item that a worker runs."""

    called_directly = False

    bundle: Bundle
    item: Item
    spec: Spec
    #: Epoch seconds.
    began: float
    #: Takes a report that does not wait for the end; None when nobody listens.
    emit: Callable[[Report], None] | None

    def __init__(
        self,
        bundle: Bundle,
        item: Item,
        spec: Spec,
        hostname: str,
        began: float,
        emit: Callable[[Report], None] | None,
    ) -> None:
        fields = self.__dict__
        fields["bundle"] = bundle
        fields["item"] = item
        fields["spec"] = spec
        fields["began"] = began
        fields["emit"] = emit
        fields["task"] = spec.task
        fields["retries"] = item.retries
        fields["attempt"] = item.attempt
        fields["hostname"] = hostname

    def report_progress(self, state: str | None, meta: Any) -> None:
        """Send what update_state() says to the parent; without one it is dropped.

        Raises:
            errors.EncodeError: `meta` is not plain data.
        """
        if self.emit is None:
            return
        frame = encode({"state": state, "meta": meta}, where="the state's meta")
        self.emit(report(self.item, ReportKind.PROGRESS, frame))

    id = _Lazy(lambda self: id_of(self.bundle, self.item))
    #: What the message of a bare task said; nothing for nodes.
    asked = _Lazy(lambda self: _asked(self.item))
    correlation_id = _Lazy(lambda self: self.asked.get("correlation_id") or self.id)
    run = _Lazy(lambda self: self.item.run)
    node = _Lazy(lambda self: self.item.idx)
    run_id = _Lazy(lambda self: _run_id(self.bundle, self.item))
    root_id = _Lazy(lambda self: self.asked.get("root_id") or self.run_id or self.id)
    parent_id = _Lazy(
        lambda self: self.asked.get("parent_id") or _parent_id(self.bundle, self.item)
    )
    group = _Lazy(
        lambda self: self.asked.get("group") or _node(self.bundle, self.item, self.item.group)
    )
    group_index = _Lazy(lambda self: self.asked.get("group_index", _or_none(self.item.group_index)))
    node_name = _Lazy(lambda self: self.item.name or None)
    ignore_result = _Lazy(lambda self: self.spec.ignore_result)
    timelimit = _Lazy(lambda self: (self.spec.time_limit, self.spec.soft_time_limit))
    delivery_info = _Lazy(
        lambda self: self.asked.get("delivery_info") or _delivery_info(self.bundle, self.item)
    )
    headers = _Lazy(lambda self: self.asked.get("headers") or _headers(self.spec))
    stamps = _Lazy(lambda self: self.asked.get("stamps") or (self.headers or {}).get("stamps"))
    stamped_headers = _Lazy(
        lambda self: (
            self.asked.get("stamped_headers") or (self.headers or {}).get("stamped_headers")
        )
    )
    argsrepr = _Lazy(
        lambda self: self.asked.get("argsrepr") or self.spec.argsrepr or repr(self.args)
    )
    kwargsrepr = _Lazy(
        lambda self: self.asked.get("kwargsrepr") or self.spec.kwargsrepr or repr(self.kwargs)
    )
    reply_to = _Lazy(lambda self: self.asked.get("reply_to"))
    origin = _Lazy(lambda self: self.asked.get("origin"))
    eta = _Lazy(lambda self: self.asked.get("eta"))
    expires = _Lazy(lambda self: self.asked.get("expires"))
    callbacks = _Lazy(lambda self: self.asked.get("callbacks"))
    errbacks = _Lazy(lambda self: self.asked.get("errbacks"))
    chain = _Lazy(lambda self: self.asked.get("chain"))
    chord = _Lazy(lambda self: self.asked.get("chord"))


_unpack = msgspec.msgpack.Decoder(dict[str, Any]).decode


def _asked(item: Item) -> dict[str, Any]:
    return _unpack(item.request) if item.request else {}


def id_of(bundle: Bundle, item: Item) -> str:
    """Public id of an item's node, or of the bare task."""
    return item.id or node_id(UUID(bytes=bundle.runs[item.run]), item.idx)


def _run_id(bundle: Bundle, item: Item) -> str | None:
    uid = bundle.runs.get(item.run)
    return None if uid is None else str(UUID(bytes=uid))


def _node(bundle: Bundle, item: Item, index: int) -> str | None:
    if index < 0 or item.run not in bundle.runs:
        return None
    return node_id(UUID(bytes=bundle.runs[item.run]), index)


def _parent_id(bundle: Bundle, item: Item) -> str | None:
    return _node(bundle, item, item.inputs[0].parent) if item.inputs else None


def _or_none(number: int) -> int | None:
    return None if number < 0 else number


def _delivery_info(bundle: Bundle, item: Item) -> dict[str, Any]:
    return {
        "exchange": "",
        "routing_key": bundle.queue,
        "priority": item.priority,
        "redelivered": item.attempt > 1,
    }


def _headers(spec: Spec) -> dict[str, Any] | None:
    given: Any = spec.headers
    if not given:
        return None
    return dict(given) if isinstance(given, dict) else dict(json.loads(given))


def report(item: Item, kind: ReportKind, frame: bytes = b"", began: float = 0.0) -> Report:
    """A report on an item that has not ended."""
    return Report(item.run, item.idx, item.attempt, kind, began, 0.0, frame, id=item.id)


class Call:
    """Arguments of one item, filled in; `failed` is set for an errback."""

    __slots__ = ("args", "failed", "kwargs")

    def __init__(self, args: list[Any], kwargs: dict[str, Any], failed: ErrorInfo | None) -> None:
        self.args, self.kwargs, self.failed = args, kwargs, failed


def fill(item: Item, accept: Collection[str], allowed: Callable[[str], bool] | None = None) -> Call:
    """Put parents' results into an item's argument template.

    Raises:
        errors.DecodeError: A frame is broken, or a place named by an input does not exist.
        errors.ContentDisallowed: A frame is of a type that is not accepted.
    """
    if item.args == _EMPTY:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
    else:
        args, kwargs = decode_args(item.args, accept, allowed)
    if not item.inputs:
        return Call(args, kwargs, None)
    first: list[Any] = []
    failed: ErrorInfo | None = None
    for given in item.inputs:
        if given.bind == _PREPEND:
            if given.frame[:1] == b"e":
                failed = failed or decode_error(given.frame)
            else:
                first.append(decode(given.frame, accept, allowed))
        elif given.bind == _TEMPLATE:
            value = decode(given.frame, accept, allowed)
            args, kwargs = _put([args, kwargs], given.path, value)
    return Call(first + args if first else args, kwargs, failed)


def _put(template: list[Any], path: Any, value: Any) -> tuple[list[Any], dict[str, Any]]:
    """Set the value at a place inside ``[args, kwargs]``."""
    if isinstance(path, bytes):
        path = json.loads(path)
    try:
        target: Any = template
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value
    except (LookupError, TypeError) as exc:
        raise errors.DecodeError(f"the arguments have no place {path!r} for a result") from exc
    return template[0], template[1]


def error_arguments(
    call: Call, takes_error: bool, allowed: Callable[[str], bool] | None
) -> list[Any]:
    """Arguments of an errback: ``(request, exc, traceback)`` or ``(failed id,)`` come first."""
    info = call.failed
    assert info is not None
    if not takes_error:
        return [info.node_id, *call.args]
    request = Context(id=info.node_id, task=info.task, called_directly=False)
    return [request, rebuild(info, allowed), info.traceback or None, *call.args]
