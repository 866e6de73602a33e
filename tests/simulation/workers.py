"""Simulated workers: they take bundles, do what `play` says, and report; nothing of flowq runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from flowq.backends.recorded import Recorded
from flowq.broker.codec import Bundle, Item, Report, ReportKind
from flowq.core import canvas as cv
from flowq.core.compiler import compile_canvas
from flowq.core.graph import Bind, Kind, On, Spec
from flowq.core.ids import split_node_id
from flowq.core.states import State
from flowq.errors import TimeLimitExceeded
from flowq.payload import decode, decode_args, decode_error, encode, encode_args, encode_error
from tests.canvases import play
from tests.driver import put
from tests.oracle import error

if TYPE_CHECKING:
    from tests.simulation.world import World

Key = tuple[int, int, int]
#: Deaths that the world may cause to one node, on top of those in its script.
DEATHS = 2


class Binder:
    """Freezes what the simulation needs: two queues, the priority; arguments are JSON."""

    by_call = False

    def spec(self, task: str, options: Any, *_: Any) -> Spec:
        queue = "celery" if task == "work.do" else "other"
        rate = 1.0 if task == "work.größe" else 0.0
        return Spec(task, queue=queue, priority=options.get("priority", 0), rate=rate)

    def encode(self, args: Any, kwargs: Any, spec: Spec) -> bytes:
        return encode_args(list(args), json.loads(json.dumps(kwargs)))


class Worker:
    """One worker: `hands` items begun at a time, the rest of its bundles waits."""

    def __init__(self, world: World, hands: int) -> None:
        self.world, self.hands = world, hands
        self.waiting: list[tuple[Bundle, Item]] = []
        self.running: list[tuple[Bundle, Item, float]] = []
        self.held: set[Key] = set()

    def take(self, bundle: Bundle) -> None:
        """Take a bundle; items that are held already are dropped."""
        for item in bundle.items:
            key = (item.run, item.idx, item.attempt)
            if key not in self.held:
                self.held.add(key)
                self.waiting.append((bundle, item))

    @property
    def free(self) -> bool:
        return len(self.running) < self.hands and not self.waiting

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def act(self) -> None:
        """Begin or end one item."""
        world, rng = self.world, self.world.rng
        if (
            self.waiting
            and len(self.running) < self.hands
            and (not self.running or rng.random() < 0.5)
        ):
            bundle, item = self.waiting.pop(0)
            self.running.append((bundle, item, world.now))
            world.executions[item.run, item.idx] += 1
            if rng.random() < 0.4 and not _told(item).endswith("expire"):
                began = Report(item.run, item.idx, item.attempt, ReportKind.STARTED, world.now)
                world.report(bundle.lane, began)
        elif self.running:
            bundle, item, began = self.running.pop(rng.randrange(len(self.running)))
            self.held.discard((item.run, item.idx, item.attempt))
            for report in self.end(bundle, item, began):
                world.report(bundle.lane, report)

    def end(self, bundle: Bundle, item: Item, began: float) -> list[Report]:
        """What the worker says of an item that it ran."""
        world = self.world
        task = bundle.specs[item.spec].task
        args, kwargs = world.arguments(item)
        act = play(task, args, kwargs)
        world.noises[item.run, item.idx] = act.noise
        made = Report(item.run, item.idx, item.attempt, ReportKind.SUCCESS, began, world.now)
        if world.rng.random() < 0.05:
            made.log = [(1, "said\n")]
        if item.attempt <= len(act.noise):
            return self.noise(made, act.noise[item.attempt - 1], encode_args(args, kwargs))
        if act.kind in ("revoke", "revoke_early"):
            world.person(item.run, "revoke", str(item.idx).encode())
            return []
        if act.kind == "ok":
            made.frame = encode(act.value)
        elif act.kind == "ignore":
            made.kind = ReportKind.IGNORED
        elif act.kind == "replace":
            made.kind = ReportKind.EXTEND
            made.frame = compile_canvas(act.value, Binder()).encode()
        elif act.value == "lost":
            made.kind, made.extra = ReportKind.LOST, "SIGKILL"
        elif act.value == "expire":
            made.kind = ReportKind.EXPIRED
        else:
            made.kind = ReportKind.FAILURE
            failure = TimeLimitExceeded("slow") if act.value == "timeout" else ValueError(act.value)
            made.frame = encode_error(failure, node_id=world.node_id(item.run, item.idx))
        return [made]

    def noise(self, made: Report, kind: str, full: bytes) -> list[Report]:
        rng = self.world.rng
        if kind == "retry":
            made.kind, made.extra = ReportKind.RETRY, rng.choice([0.0, 1.0, 30.0])
            made.frame = encode_error(ValueError("again"), node_id="")
            if rng.random() < 0.3:
                made.args = full  # what it was called with, its parents' values included
        elif kind == "lost":
            made.kind, made.extra = ReportKind.LOST, "SIGSEGV"
        else:
            made.kind = ReportKind.RETURNED
        return [made]

    # -- dying ------------------------------------------------------------------------------

    def child_dies(self) -> None:
        """The child that runs an item is killed; its parent reports it."""
        if not self.running:
            return
        bundle, item, began = self.running[0]
        if not self.world.may_die(item.run, item.idx):
            return
        self.running.pop(0)
        self.held.discard((item.run, item.idx, item.attempt))
        report = Report(
            item.run, item.idx, item.attempt, ReportKind.LOST, began, self.world.now,
            extra="SIGKILL",
        )  # fmt: skip
        self.world.report(bundle.lane, report)

    def drain(self) -> None:
        """Hand back what has not begun."""
        for bundle, item in self.waiting:
            self.held.discard((item.run, item.idx, item.attempt))
            report = Report(item.run, item.idx, item.attempt, ReportKind.RETURNED)
            self.world.report(bundle.lane, report)
        self.waiting.clear()

    def vanish(self) -> None:
        """The whole worker is gone; nobody reports anything."""
        self.waiting.clear()
        self.running.clear()
        self.held.clear()


class Arguments:
    """Fills argument templates as a worker does, and turns errors into paths."""

    def __init__(self, world: World) -> None:
        self.world = world

    def of(self, item: Item) -> tuple[list[Any], dict[str, Any]]:
        recorded = Recorded(self.world.client)
        args, kwargs = decode_args(recorded.whole(item.args) if item.args else b"j[[],{}]")
        both: list[Any] = [args, kwargs]
        front = []
        table = self.world.checker.tables[item.run]
        if len(item.inputs) > len(table.ins[item.idx]):
            raise AssertionError("S19: more inputs than edges")
        for each in item.inputs:
            value = self.value(item.run, each.parent, recorded.whole(each.frame))
            if each.bind == Bind.TEMPLATE:
                put(each.path or [], both, value)
            elif each.bind == Bind.PREPEND:
                front.append(value)
        return [*front, *both[0]], both[1]

    def value(self, run: int, index: int, frame: bytes) -> Any:
        """A node's value or error as the oracle has it."""
        table = self.world.checker.tables[run]
        node = table.nodes[index]
        if frame[:1] == b"e":
            return error(self.failed(run, index, frame))
        if node.kind == Kind.PASS:
            return self.value(run, table.tail(index), frame)
        if node.kind == Kind.JOIN and frame[:1] == b"l":
            frames = decode_list(frame)
            members = [edge[0] for edge in table.ins[index] if edge[3] == Bind.ITEM]
            if node.need >= 0:
                members = [m for m in members if table.nodes[m].state is State.SUCCESS]
            if len(members) == len(frames):
                return [self.value(run, m, f) for m, f in zip(members, frames, strict=True)]
            return [self.plain(run, each) for each in frames]
        return decode(frame)

    def plain(self, run: int, frame: bytes) -> Any:
        """A value whose node is not known: some members of a partial join."""
        if frame[:1] == b"l":
            return [self.plain(run, each) for each in decode_list(frame)]
        return error(self.told(run, frame)) if frame[:1] == b"e" else decode(frame)

    def told(self, run: int, frame: bytes) -> str:
        """Path of the node that an error frame names; a chord's body stands for its join."""
        info = decode_error(frame)
        table = self.world.checker.tables[run]
        node = split_node_id(info.node_id)[1]
        if info.type == "ChordError" and table.nodes[node].kind != Kind.JOIN:
            node = next(parent for parent, _, on, _ in table.ins[node] if on == On.SUCCESS)
        return table.nodes[node].path

    def failed(self, run: int, index: int, frame: bytes) -> str | None:
        """Path of the node that an error frame is about; it must be one that led to it."""
        table = self.world.checker.tables[run]
        node = table.nodes[index]
        if node.state not in (State.FAILURE, State.SKIPPED, State.REVOKED):
            return self.told(run, frame)  # it failed before; a person has it tried again
        ended = node.state in (State.FAILURE, State.REVOKED)
        root = index if ended else node.cause
        told = split_node_id(decode_error(frame).node_id)[1]
        chain, at = [index], index
        while table.nodes[at].cause not in (-1, at) and table.nodes[at].cause not in chain:
            at = table.nodes[at].cause
            chain.append(at)
        bodies = [
            child
            for each in chain
            if table.nodes[each].kind == Kind.JOIN
            for child, on, _ in table.outs[each]
            if on == On.SUCCESS
        ]
        if told not in chain + bodies and node.state in (State.FAILURE, State.SKIPPED):
            raise AssertionError(f"an error of node {index} tells of node {told}, not of {chain}")
        return table.nodes[root].path if root >= 0 else None


def decode_list(frame: bytes) -> list[bytes]:
    import msgspec

    found: list[bytes] = msgspec.msgpack.decode(frame[1:])
    return found


def _told(item: Item) -> str:
    args, kwargs = decode_args(item.args) if item.args[:1] == b"j" else ([], {})
    return str(kwargs.get("do", next((a for a in args if str(a).startswith("do=")), "")))


assert cv.EXPAND  # `play` knows it
