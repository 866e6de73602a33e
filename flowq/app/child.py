"""The engine inside a pool child: no store, no broker; what it needs it asks its parent for."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

import msgspec

from flowq import errors, payload
from flowq.app import current
from flowq.app.outcome import Outcome
from flowq.core.graph import Kind, decode_graph
from flowq.core.ids import node_id
from flowq.core.states import RunState
from flowq.store import NewRun, Store

if TYPE_CHECKING:
    from flowq.app.client import Client
    from flowq.app.run import Run

#: A task that waits looks again after so many seconds, then less and less often.
_FIRST_PAUSE: Final = 0.005
_LONGEST_PAUSE: Final = 0.25
#: Ids of messages that are remembered.
_KEPT: Final = 10_000


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
    """A run as a task in a pool child sees it: its ids and its state."""

    def __init__(self, uid: str, result_id: str, is_group: bool) -> None:
        self.id = self.uid = uid
        self.result_id, self.result_is_group = result_id, is_group

    @property
    def state(self) -> RunState:
        """State now.

        Raises:
            FlowqError: It was pruned.
        """
        return RunState(_ask("run_state", self.id))

    def __repr__(self) -> str:
        return f"<Run {self.id}>"


class ChildEngine:
    """Submits, reads and revokes through the parent.

    It is asked again and again while a task waits, for its answer has to come at once: it is busy
    with other children too.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        #: Bare tasks sent from here that may have left no trace yet: id -> name of the task.
        self._sent: OrderedDict[str, str] = OrderedDict()

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
                self._sent[sent] = name
                if len(self._sent) > _KEPT:
                    self._sent.popitem(last=False)
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

    def lookup(self, task_id: str) -> Outcome | None:
        """What is known of a node or bare task now; None for an unknown id."""
        told = _ask("lookup", task_id)
        if told is None:
            name = self._sent.get(task_id)
            return None if name is None else Outcome("PENDING", name=name)
        return msgspec.convert(told, Outcome)

    def wait(
        self,
        task_id: str,
        timeout: float | None,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> Outcome:
        """Block until a node or bare task has ended; the slot of the waiting task stays taken.

        Raises:
            UnknownId: Nobody knows the id.
            TimeoutError: `timeout` seconds have passed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_PAUSE
        while True:
            found = self.lookup(task_id)
            if found is None:
                raise errors.UnknownId(f"no node and no task has the id {task_id}")
            if on_outcome is not None:
                on_outcome(found)
            if found.final:
                return found
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0.0:
                    raise errors.TimeoutError(f"{task_id} has not ended within {timeout:g} s")
                pause = min(pause, left)
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def run(self, ref: str) -> ChildRun:
        """A run by id, prefix, ``@last`` or name."""
        return ChildRun(*_ask("run", ref))

    def forget(self, task_id: str) -> None:
        """As `Client.forget`."""
        _ask("forget", task_id)

    def revoke(self, task_id: str, terminate: bool = False, signal: Any = None) -> None:
        """As `Client.revoke`."""
        _ask("revoke", task_id, terminate, signal)

    def runs(self, **filters: Any) -> None:
        """Refused."""
        raise errors.WrongState(
            "runs cannot be listed inside a task that a pool child runs: use the pool threads"
        )

    def close(self) -> None:
        """Nothing to close."""


def _ask(what: str, *arguments: Any) -> Any:
    """Ask the parent, who has store and results."""
    from flowq.worker import uplink

    return msgspec.msgpack.decode(uplink.ask(what, msgspec.msgpack.encode(arguments)))


class Host(Protocol):
    """What stores for its children: an engine, or a worker of a fleet."""

    @property
    def store(self) -> Store: ...

    def lane_for(self, parent_run: int | None) -> int: ...

    def submitted(self) -> None: ...


def answer(host: Host | None, what: str, body: bytes, client: Callable[[], Client]) -> bytes:
    """The parent's side of what a child asks for.

    Args:
        host: Stores what is submitted; None: nobody does.
        what: Name of the question.
        body: What goes with it.
        client: Gives who reads and revokes.

    Raises:
        WrongState: Not something that may be asked.
    """
    if what == "send":
        return b""  # there is no broker: the child submits a run
    if what == "submit":
        if host is None:
            raise errors.WrongState("this worker has no store, so its tasks cannot submit runs")
        return _submitted(host, body)
    found = _ANSWERS.get(what)
    if found is None:
        raise errors.WrongState(f"a task asked for {what!r}, which is not known here")
    told = found(client(), *msgspec.msgpack.decode(body))
    return msgspec.msgpack.encode(told, enc_hook=str)


_ANSWERS: dict[str, Callable[..., Any]] = {
    "lookup": lambda client, task_id: client.lookup(task_id),
    "forget": lambda client, task_id: client.forget(task_id),
    "revoke": lambda client, *how: client.revoke(*how),
    "run": lambda client, ref: _shown(client.run(ref)),
    "run_state": lambda client, uid: client.run(uid).state.value,
}


def _shown(run: Run) -> tuple[str, str, bool]:
    return run.id, run.result_id, run.result_is_group


def _submitted(host: Host, body: bytes) -> bytes:
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
