"""Messages between coordinator and workers: structs and their bytes. Pure.

A `Bundle` carries node attempts to a worker, on a queue of its own (`node_queue`); a `Report`
carries what became of one attempt back, on the update lane. Both are versioned msgpack arrays: a
field may be added at the end with a default, and then old readers still read.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

from flowq.core.graph import Spec
from flowq.errors import MessageDecodeError

VERSION = 1
#: Of a message that is a bundle.
NODE_CONTENT_TYPE = "application/x-flowq-bundle"


class Input(msgspec.Struct, array_like=True, gc=False):
    """One parent's recorded result on its way into arguments."""

    parent: int
    bind: int
    path: list[Any] | None
    frame: bytes


class Item(msgspec.Struct, array_like=True):
    """One attempt of one node. A bare task has run 0 and its own id."""

    run: int
    idx: int
    attempt: int
    spec: int
    retries: int
    args: bytes
    inputs: list[Input]
    group: int = -1
    group_index: int = -1
    id: str = ""
    priority: int = 0
    crashes: int = 0
    name: str = ""
    expires_at: float = 0.0
    #: msgpack of what else a bare task's request shows: root_id, parent_id, reply_to, headers, ...
    request: bytes = b""


class Bundle(msgspec.Struct, array_like=True):
    """One message: attempts that share a queue."""

    v: int
    store_id: str
    lane: int
    outbox_id: int
    clock: int
    queue: str
    runs: dict[int, bytes]
    specs: list[Spec]
    items: list[Item]


class ReportKind(IntEnum):
    """What a worker can say about an attempt."""

    STARTED = 0
    SUCCESS = 1
    FAILURE = 2
    RETRY = 3
    LOST = 4
    IGNORED = 5
    RETURNED = 6
    EXPIRED = 7
    EXTEND = 8
    PROGRESS = 9
    LOG = 10
    REVOKED = 11  #: a bare task that was revoked before it began


#: Kinds of report that do not end their item.
ON_THE_WAY = frozenset((ReportKind.STARTED, ReportKind.PROGRESS, ReportKind.LOG))


class Report(msgspec.Struct, array_like=True):
    """What became of one attempt. Times are epoch seconds, 0.0 where there is none.

    `frame` = the result, the error, or the compiled fragment; `extra` = the delay of a retry
    or return in seconds, or what ended a lost process; `args` = new arguments of a retry, or the
    canvas that replaces a bare task, as JSON; `extra` says why that is missing. Of a bare task that
    ended, `args` = JSON of the result tuples of what it sent; empty for none.
    """

    run: int
    idx: int
    attempt: int
    kind: int
    began: float = 0.0
    ended: float = 0.0
    frame: bytes = b""
    extra: float | int | str | None = None
    log: list[tuple[int, str]] | None = None
    id: str = ""
    args: bytes = b""


def node_queue(queue: str, store_id: str) -> str:
    """Name, on the broker, of the queue that carries a store's bundles for a task queue."""
    return f"{queue}.nodes.{store_id}"


_encoder = msgspec.msgpack.Encoder()
_bundles: Any = msgspec.msgpack.Decoder(Bundle)
_reports: Any = msgspec.msgpack.Decoder(list[Report])

encode_bundle = _encoder.encode
encode_reports = _encoder.encode


def decode_bundle(data: bytes) -> Bundle:
    """Read a bundle.

    Raises:
        MessageDecodeError: The bytes are not a bundle of a version this code knows.
    """
    try:
        bundle: Bundle = _bundles.decode(data)
    except msgspec.MsgspecError as exc:
        raise MessageDecodeError(f"a message on a node queue is not a bundle: {exc}") from exc
    if bundle.v > VERSION:
        raise MessageDecodeError(
            f"a message of version {bundle.v} needs a newer flowq (this one reads {VERSION})"
        )
    return bundle


def decode_reports(data: bytes) -> list[Report]:
    """Read a batch of reports.

    Raises:
        MessageDecodeError: The bytes are not reports.
    """
    try:
        return _reports.decode(data)  # type: ignore[no-any-return]
    except msgspec.MsgspecError as exc:
        raise MessageDecodeError(f"an update record cannot be read: {exc}") from exc
