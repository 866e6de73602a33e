"""What a canvas compiles to: specs, nodes, edges. Plain values that travel as msgpack.

A graph is written once at submission; a fragment (what `replace` and `expand` splice into a
live run) is a graph too, with its indexes counted from zero.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec


class Kind(IntEnum):
    """What a node is."""

    TASK = 0  #: runs in a worker
    JOIN = 1  #: gathers its members' results; needs no worker
    PASS = 2  #: was replaced by a fragment; takes that fragment's outcome


class On(IntEnum):
    """Which end of the parent an edge waits for."""

    SUCCESS = 0
    FAILURE = 1
    ALWAYS = 2


class Bind(IntEnum):
    """How the parent's result reaches the child's arguments."""

    NONE = 0  #: not at all, order only
    PREPEND = 1  #: before the positional arguments
    ITEM = 2  #: as one item of a join's list
    TEMPLATE = 3  #: at a place inside the arguments


class Spec(msgspec.Struct, frozen=True, array_like=True, gc=False, omit_defaults=False):
    """Options frozen at compile time, shared by all nodes that have the same.

    Times are seconds. `priority`: larger goes first.
    """

    task: str
    queue: str = "celery"
    priority: int = 0
    serializer: str = "json"
    time_limit: float | None = None
    soft_time_limit: float | None = None
    max_crashes: int = 5
    max_retries: int | None = None
    ignore_result: bool = False
    track_started: bool = False
    compression: str | None = None
    headers: bytes = b""  #: JSON of custom headers and stamps; empty for none
    rate: float = 0.0  #: starts a second that each worker allows; 0 for no limit
    expires: float = 0.0  #: seconds from readiness within which it must begin; 0 for ever
    global_rate: float = 0.0  #: starts a second in the whole fleet; 0 for no limit

    foreign: bool = False  #: run by Celery's own workers

    argsrepr: str = ""  #: shown instead of the positional arguments; empty: they are shown
    kwargsrepr: str = ""  #: likewise, of the keyword arguments

    @property
    def is_rated(self) -> bool:
        """Whether it may begin only so often."""
        return bool(self.rate or self.global_rate)


class Node(msgspec.Struct, array_like=True, gc=False):
    """One node as compiled; its position in `Graph.nodes` is its index."""

    spec: int  #: index into `Graph.specs`; -1 for joins and passes
    kind: Kind
    name: str  #: unique in the run, the same at each compile
    path: str  #: place in the canvas; the tree can be rebuilt from it
    need: int = 1  #: hits at which it fires; -1: once everything has ended
    unmet: int = 0  #: in-edges not yet resolved
    args: bytes = b""  #: frame of [args, kwargs]
    eta: float = 0.0  #: seconds to wait once unblocked, or an epoch time if over 1e9
    expires: float = 0.0  #: likewise, until which it must have begun; 0 for never
    alias: str | None = None  #: task id chosen by the caller or by freeze()
    retries: int = 0  #: retries spent before it became a node (a bare task's)


class Edge(msgspec.Struct, array_like=True, gc=False):
    """One dependency; `slot` orders a child's inputs and tells parallel edges apart."""

    parent: int
    child: int
    slot: int
    on: On = On.SUCCESS
    bind: Bind = Bind.PREPEND
    path: bytes = b""  #: JSON list of keys and indexes into [args, kwargs]; TEMPLATE only


class Graph(msgspec.Struct, array_like=True):
    """A compiled canvas."""

    specs: list[Spec]
    nodes: list[Node]
    edges: list[Edge]
    results: list[int]  #: nodes whose values are the run's; more than one: a list

    def encode(self) -> bytes:
        """Bytes that `decode_graph` reads back."""
        return _ENCODER.encode(self)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER: Any = msgspec.msgpack.Decoder(Graph)
_SPEC: Any = msgspec.msgpack.Decoder(Spec)


def decode_graph(data: bytes) -> Graph:
    """Read back what `Graph.encode` wrote.

    Raises:
        msgspec.DecodeError: The bytes are not a graph.
    """
    return _DECODER.decode(data)  # type: ignore[no-any-return]


def decode_spec(data: bytes) -> Spec:
    """Read a spec as the store holds it.

    Raises:
        msgspec.DecodeError: The bytes are not a spec.
    """
    return _SPEC.decode(data)  # type: ignore[no-any-return]
