"""What reading the store gives: plain records. Times are epoch seconds of the store's clock."""

from __future__ import annotations

from typing import Any

import msgspec


class RunRow(msgspec.Struct):
    """One run, as listed."""

    id: int
    uid: str
    app: str
    name: str
    target: str | None
    title: str
    state: str
    priority: int
    generation: int
    node_count: int
    open_count: int
    result_nodes: list[int]
    submitted_at: float
    started_at: float | None
    finished_at: float | None
    rerun_of: int | None
    lane_id: int
    version: int
    code_hash: str | None
    tags: dict[str, str] = {}


class NodeRow(msgspec.Struct):
    """One node, with what its story says about times and the last error."""

    idx: int
    name: str
    path: str
    kind: str  #: task | join | pass
    task: str
    state: str
    generation: int
    attempt: int
    retries: int
    crashes: int
    unmet: int
    cause: int | None
    queue: str
    meta: dict[str, Any] | None
    need: int
    began_at: float | None = None
    ended_at: float | None = None
    error: str | None = None


class EdgeRow(msgspec.Struct):
    """One dependency."""

    parent: int
    child: int
    slot: int
    on: str
    bind: str


class TransitionRow(msgspec.Struct):
    """One line of a node's story."""

    seq: int
    idx: int
    generation: int
    attempt: int
    before: str
    after: str
    cause: str
    at: float
    began_at: float | None
    ended_at: float | None
    detail: bytes | None


class LogRow(msgspec.Struct):
    """One piece of what a task wrote."""

    idx: int
    attempt: int
    seq: int
    at: float
    stream: int  #: 1 stdout, 2 stderr, 3 logging
    text: str


class LaneRow(msgspec.Struct):
    """One lane: whose runs these are."""

    id: int
    app: str
    kind: str
    owner: str
    epoch: int
    liveness: str | None


class MemberRow(msgspec.Struct):
    """One live process of a fleet, as it announces itself; a lapsed one is dead or cut off."""

    id: str  #: made anew at each start
    name: str
    host: str
    pid: int
    queues: list[str]
    slots: int
    expires_at: float  #: on the store's lease clock
    state: str  #: running | draining
    kind: str  #: worker | coordinator
    held: bytes  #: msgpack of the attempts that a worker has: [[run, node, attempt], ...]


ON_NAMES = ("success", "failure", "always")
BIND_NAMES = ("none", "prepend", "item", "template")
KIND_NAMES = ("task", "join", "pass")
