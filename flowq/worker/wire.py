"""Messages between a parent, its zygote and its pool children.

On a stream socket: four bytes of length, one byte of kind, a msgpack body. Both sides have their
encoders built once.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final

import msgspec

from flowq.broker.codec import Bundle, Report
from flowq.worker.livelog import Logs

_HEAD: Final = struct.Struct("<IB")
#: More than this and the allocator would map memory for each of many small messages.
_CHUNK: Final = 64 * 1024


class Kind(IntEnum):
    """What a message is."""

    # parent -> child
    PART = 1  #: (part number, list of bundles)
    DEFINE = 2  #: a blob of definitions, also parent -> zygote
    REPLY = 3  #: (number of the question, ok, bytes)
    # child -> parent
    REPORTS = 10  #: list of reports, in the order in which they came about
    RETURNED = 11  #: (part number, index of the first item that was not begun)
    ASK = 12  #: (number of the question, name, bytes)
    # parent -> zygote
    SETUP = 20  #: a `Setup`
    FORK = 21  #: number of a slot; the child's socket comes with it
    KILL = 22  #: (pid of a child, number of a signal)
    # zygote -> parent
    READY = 30  #: tasks are loaded; list of (task name or "", what is wrong)
    FORKED = 31  #: (slot, pid)
    EXITED = 32  #: (pid, wait status)


class Setup(msgspec.Struct, array_like=True):
    """What a zygote needs to make children that can run the parent's tasks."""

    sys_path: list[str]
    cwd: str
    #: What `Definitions.blob` holds; b"" for no tasks at all.
    definitions: bytes
    hostname: str = ""
    accept: tuple[str, ...] = ("json", "msgpack")
    #: "module:function" that compiles a canvas for replace(); "" for none.
    compile_fragment: str = ""
    #: "module:function" called in the zygote before anything of the user's is loaded, so that
    #: every child inherits what it sets; "" for none.
    init: str = ""
    #: Level for an unconfigured root logger in children.
    log_level: int | None = None
    max_bytes: int = 64 * 1024 * 1024
    #: A child ends after that many items, or after one that left it with more KiB of memory; what
    #: it had not begun goes back, and another takes its place. 0 for no limit.
    max_tasks: int = 0
    max_memory: int = 0
    #: Number of descriptors that come with it, to be held open.
    keep: int = 0
    #: Characters kept of what an attempt writes; 0: nothing is kept.
    log_size: int = 64 * 1024
    #: How children log, if they are to write to the worker's log what bare tasks say.
    logs: Logs | None = None
    #: Environment variables to set before anything of the user's is loaded.
    environ: dict[str, str] = {}


def message(kind: Kind, body: bytes = b"") -> bytes:
    """Make one message."""
    return _HEAD.pack(len(body), kind) + body


class Inbox:
    """Cuts a stream of bytes into messages."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Give the messages that are whole now, as (kind, body)."""
        held = self._data
        held += data
        size = _HEAD.size
        start, end = 0, len(held)
        while end - start >= size:
            length, kind = _HEAD.unpack_from(held, start)
            stop = start + size + length
            if stop > end:
                break
            yield kind, bytes(held[start + size : stop])
            start = stop
        del held[:start]


def receive(sock: socket.socket) -> bytes:
    """Read what is there, waiting on a blocking socket; b"" when the other side is gone."""
    try:
        return sock.recv(_CHUNK)
    except ConnectionError:
        return b""


encode: Final = msgspec.msgpack.Encoder().encode
decode_part: Final = msgspec.msgpack.Decoder(tuple[int, list[Bundle]]).decode
decode_reports: Final = msgspec.msgpack.Decoder(list[Report]).decode
decode_pair: Final = msgspec.msgpack.Decoder(tuple[int, int]).decode
decode_ask: Final = msgspec.msgpack.Decoder(tuple[int, str, bytes]).decode
decode_reply: Final = msgspec.msgpack.Decoder(tuple[int, bool, bytes]).decode
decode_setup: Final = msgspec.msgpack.Decoder(Setup).decode
decode_any: Final[Any] = msgspec.msgpack.Decoder().decode
