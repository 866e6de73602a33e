"""The engine inside a pool child: no store, no broker; what it needs it asks its parent for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol
from uuid import UUID

import msgspec

from flowq import errors, payload
from flowq.app import current
from flowq.core.graph import Kind, decode_graph
from flowq.core.ids import node_id
from flowq.store import NewRun, Store


def prepare() -> None:
    """Called once in the zygote: apps of its children use this engine."""
    current.set_engine_factory(ChildEngine)


def compile_fragment(canvas: Any) -> bytes:
    """Compile what replaces a node; called in the process that ran it.

    Raises:
        CanvasError: The canvas cannot be compiled; the node fails with it.
    """
    from flowq.app.submission import compile_for

    app = getattr(canvas, "app", None) or current.get_current()
    return compile_for(app, canvas).encode()


class ChildRun:
    """A run submitted inside a task: its ids, nothing more; nobody may wait for it there."""

    def __init__(self, uid: str, result_id: str, is_group: bool) -> None:
        self.id = self.uid = uid
        self.result_id, self.result_is_group = result_id, is_group

    def __repr__(self) -> str:
        return f"<Run {self.id}>"


class ChildEngine:
    """Submits through the parent. Reading and waiting are refused: a task must not wait."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def submit(
        self,
        canvas: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        **about: Any,
    ) -> ChildRun:
        """Compile here, have the parent store it."""
        from flowq.app.submission import compile_for, new_run
        from flowq.worker import request, uplink

        if about.pop("session", None) is not None:
            raise errors.ImproperlyConfigured("session= needs a store, which pool children lack")
        graph = compile_for(self.app, canvas, args, kwargs)
        new = new_run(self.app, 0, canvas, graph, **about)
        context = request.current()
        parent = getattr(context, "id", None)
        body = msgspec.msgpack.encode((new, graph.encode(), parent))
        answer = msgspec.msgpack.decode(uplink.ask("submit", body))
        return ChildRun(answer[0], answer[1], answer[2])

    def send_bare(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> str:
        """Have the parent send a single task: from a bare task on a fleet a message, as a client's.

        From a node, or in one process, it becomes a run, so that it is not lost.
        """
        from flowq.app.canvas import Signature
        from flowq.worker import request

        keep = {k: v for k, v in options.items() if v is not None}
        context = request.current()
        if not getattr(context, "run", 0):
            sent = self._as_message(name, args, kwargs, keep, context)
            if sent:
                return sent
        return self.submit(Signature(name, args, dict(kwargs), keep)).result_id

    def _as_message(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: dict[str, Any],
        context: Any,
    ) -> str:
        """Have the parent publish a call; gives its id, nothing where messages lead nowhere."""
        from flowq.app.messages import reprs
        from flowq.worker import uplink

        conf = self.app.conf
        serializer = str(options.get("serializer") or conf.task_serializer or "json")
        limit = int(conf.max_payload_bytes)
        frame = payload.encode_args(args, dict(kwargs), serializer, max_bytes=limit)
        given = {**reprs(args, kwargs), "reply_to": getattr(context, "reply_to", None), **options}
        for key in ("queue", "exchange"):  # kombu's objects stay here, their names go
            if given.get(key) is not None:
                given[key] = str(getattr(given[key], "name", given[key]))
        given["serializer"] = serializer
        body = msgspec.msgpack.encode((name, frame, payload.encode(given)))
        return uplink.ask("send", body).decode()

    def lookup(self, *args: Any, **kwargs: Any) -> None:
        """Refused."""
        raise errors.WrongState(
            "results cannot be read or changed inside a task that a pool child runs: pass them on "
            "as arguments, or use the pool threads"
        )

    wait = run = runs = forget = revoke = lookup

    def close(self) -> None:
        """Nothing to close."""


class Host(Protocol):
    """What stores for its children: an engine, or a worker of a fleet."""

    @property
    def store(self) -> Store: ...

    def lane_for(self, parent_run: int | None) -> int: ...

    def submitted(self) -> None: ...


def answer(host: Host, what: str, body: bytes) -> bytes:
    """The parent's side of what a child asks for.

    Raises:
        WrongState: Not something that may be asked.
    """
    if what == "send":
        return b""  # there is no broker: the child submits a run
    if what != "submit":
        raise errors.WrongState(f"a task asked for {what!r}, which is not known here")
    new, data, parent = msgspec.msgpack.decode(body, type=tuple[NewRun, bytes, str | None])
    graph = decode_graph(data)
    place = host.store.locate(parent) if parent else None
    if place is not None:
        new.parent_run, new.parent_node = place
    new.lane_id = host.lane_for(new.parent_run)
    _, uid, _ = host.store.submit(new, graph)
    host.submitted()
    result = graph.results[0]
    is_group = graph.nodes[result].kind is Kind.JOIN
    return msgspec.msgpack.encode((uid, node_id(UUID(uid), result), is_group))
