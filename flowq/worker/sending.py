"""Signatures become messages: what a worker sends in the name of a bare task that ended.

The same canvases that a run would compile are here sent as Celery sends them, because workers of
both kinds may take part in one: a chain travels inside its first message, a chord is counted in
Redis by whoever ends a header task. Values inside signatures stay as their message had them.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from flowq.broker.messages import PROTOCOL_HEADERS, TaskMessage, iso, moment
from flowq.core.canvas import Signature
from flowq.core.composing import chain_append
from flowq.core.signature import as_list
from flowq.errors import CanvasError, FlowqError
from flowq.payload import DEFAULT_ACCEPT, decode, encode_args
from flowq.payload.plain import from_json, from_msgpack, to_wire_json

_MEMBERSHIP: Final = ("chord", "group_id", "group_index")
_NAMESPACE: Final = uuid.UUID("6f5a3f0e-55f6-4d0c-9a51-3a1c7b0b9f6e")
_INHERITED: Final = (*_MEMBERSHIP, "chain")
#: Options of a composite that are about itself; the others are handed to its parts.
_OWN: Final = frozenset((*_INHERITED, "task_id", "link", "link_error", "root_id", "parent_id"))
_SIMPLE: Final = frozenset((None, "task", "xmap", "xstarmap"))
_CONTENT: Final = {b"j": "json", b"m": "msgpack", b"y": "yaml", b"p": "pickle"}


class Send(msgspec.Struct):
    """A message to publish, and what its signature says about where and how."""

    message: TaskMessage
    #: queue, exchange, routing_key, compression, delivery_mode, ... as apply_async takes them.
    options: dict[str, Any]


class Counter(msgspec.Struct):
    """A chord whose parts are to be counted; to be set up before its header is sent."""

    group: str
    size: int
    #: Celery's tuple form of a header whose results are nested; None for a flat one.
    shape: list[Any] | None = None


class Submission(msgspec.Struct):
    """A canvas that only flowq knows, to be submitted as a run."""

    canvas: dict[str, Any]
    #: Frames of the values that come before its own arguments.
    first: list[bytes]
    root_id: str | None
    parent_id: str | None


def no_defaults(_name: str) -> Mapping[str, Any]:
    """Options of a task that nothing is known of."""
    return {}


class Composer:
    """Collects messages.

    Args:
        content: Serializer of the message that the signatures came in.
        root_id, parent_id: What is sent says that it comes from there.
        priority: For what names none; None: the queue's default.
        defaults: Options of a task by its name, under those of the signature.
        accept: Serializers that values may be in.
        clock: Epoch seconds, for countdowns.
        seed: What ids are derived from, for what has none: who composes the same again, because
            a message came twice, sends the same ids again.
    """

    def __init__(
        self,
        content: str = "json",
        *,
        root_id: str | None = None,
        parent_id: str | None = None,
        priority: int | None = None,
        defaults: Callable[[str], Mapping[str, Any]] = no_defaults,
        accept: Collection[str] = DEFAULT_ACCEPT,
        clock: Callable[[], float] = time.time,
        seed: str = "",
    ) -> None:
        self._content = content
        self._seed, self._made = seed or str(uuid.uuid4()), 0
        self._root_id, self._parent_id = root_id, parent_id
        self._priority = priority
        self._defaults, self._accept, self._clock = defaults, accept, clock
        self.counters: list[Counter] = []
        self.sends: list[Send] = []
        self.submissions: list[Submission] = []

    def _new_id(self) -> str:
        self._made += 1
        return derived_id(f"{self._seed} {self._made}")

    def _give_id(self, sig: Any) -> str:
        """Choose the id of what ends a signature, unless it has one."""
        chosen: str = end_of(sig).options.setdefault("task_id", self._new_id())
        return chosen

    def add(
        self,
        signature: Mapping[str, Any],
        first: list[bytes],
        chain: list[Any] | None = None,
    ) -> None:
        """Add what a signature asks for.

        Args:
            signature: Of any kind, in dict form.
            first: Frames of the values that come before its own arguments.
            chain: What follows it, the next one last.

        Raises:
            CanvasError: It is not a sound signature.
            DecodeError, EncodeError, ContentDisallowed: Its arguments cannot be put together.
        """
        try:
            self._add(Signature.from_dict(signature), first, {"chain": chain} if chain else {})
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as exc:
            if isinstance(exc, FlowqError):
                raise
            raise CanvasError(f"an embedded signature is not sound: {exc!r}") from exc

    def _add(self, sig: Any, first: list[bytes], extra: dict[str, Any]) -> None:
        kind = sig.get("subtask_type")
        if kind in _SIMPLE:
            self._task(sig, first, extra)
        elif kind == "chain":
            self._chain(sig, [] if sig.immutable else first, extra)
        elif kind in ("group", "chunks"):
            self._group(_grouped(sig), [] if sig.immutable else first, extra)
        elif kind == "chord":
            self._chord(sig, [] if sig.immutable else first, extra)
        else:
            canvas = {**sig, "options": {**sig.options, **extra}}
            given = [] if sig.immutable else first
            self.submissions.append(Submission(canvas, given, self._root_id, self._parent_id))

    # -- one task -------------------------------------------------------------------------------

    def _task(self, sig: Any, first: list[bytes], extra: dict[str, Any]) -> None:
        own = sig.options
        if own.get("chord"):  # its place in a chord was fixed when it was frozen
            extra = {k: v for k, v in extra.items() if k not in _MEMBERSHIP}
        chain = [*(extra.pop("chain", None) or []), *(own.get("chain") or [])]
        given = {**self._defaults(sig.task), **own, **extra}
        given = {name: value for name, value in given.items() if value is not None}
        serializer = given.pop("serializer", None) or self._content
        whole_first = (
            [] if sig.immutable or sig.get("subtask_type") in ("xmap", "xstarmap") else first
        )
        message = TaskMessage(
            task=str(sig.task),
            id=str(given.pop("task_id", None) or self._new_id()),
            frame=self._arguments(sig, whole_first, serializer),
            callbacks=as_list(given.pop("link", None)) or None,
            errbacks=as_list(given.pop("link_error", None)) or None,
            chain=chain or None,
            chord=given.pop("chord", None),
        )
        given.pop("chain", None)
        self._fill(message, given)
        self.sends.append(Send(message, given))

    def _fill(self, message: TaskMessage, given: dict[str, Any]) -> None:
        """Take out of options what the message carries; what is left is for the router."""
        root, parent = given.pop("root_id", None), given.pop("parent_id", None)
        message.root_id = self._root_id or root or message.id
        message.parent_id = self._parent_id or parent
        message.group = given.pop("group_id", None)
        message.group_index = given.pop("group_index", None)
        countdown, eta = given.pop("countdown", None), given.pop("eta", None)
        message.eta = self._time(countdown if eta is None else eta) if countdown or eta else None
        message.expires = self._time(given.pop("expires", None))
        limits = (given.pop("time_limit", None), given.pop("soft_time_limit", None))
        message.timelimit = None if limits == (None, None) else limits
        for name in ("shadow", "reply_to", "origin", "argsrepr", "kwargsrepr", "ignore_result"):
            setattr(message, name, given.pop(name, None))
        message.retries = given.pop("retries", 0)
        message.replaced_task_nesting = given.pop("replaced_task_nesting", 0)
        message.priority = given.pop("priority", self._priority)
        _stamp(message, given)
        headers = given.pop("headers", None) or {}
        message.headers = {k: v for k, v in headers.items() if k not in PROTOCOL_HEADERS}

    def _time(self, value: Any) -> str | None:
        """ISO form of a moment, or of so many seconds from now."""
        if value is None:
            return None
        if isinstance(value, dict):
            value = from_json(to_wire_json(value))
        try:
            if isinstance(value, int | float):
                value = datetime.fromtimestamp(self._clock(), UTC) + timedelta(seconds=value)
            text = iso(value) if isinstance(value, datetime) else str(value)
            moment(text, "eta or expires")
        except (OverflowError, ValueError) as exc:
            raise CanvasError(f"an embedded signature has no sound eta or expires: {exc}") from exc
        return text

    def _arguments(self, sig: Any, first: list[bytes], serializer: str) -> bytes:
        args, kwargs = list(sig.args), dict(sig.kwargs)
        if serializer == self._content == "json" and all(f[:1] == b"j" for f in first):
            parts = [frame[1:] for frame in first]
            if args:
                parts.append(to_wire_json(args, "args")[1:-1])
            return b"j[[%b],%b]" % (b",".join(parts), to_wire_json(kwargs, "kwargs"))
        if self._content == "json":
            args, kwargs = from_json(to_wire_json([args, kwargs]))
        elif self._content == "msgpack":
            args, kwargs = from_msgpack(msgspec.msgpack.encode([args, kwargs]))
        values = [decode(frame, self._accept) for frame in first]
        return encode_args([*values, *args], kwargs, serializer)

    # -- composites -----------------------------------------------------------------------------

    def _chain(self, sig: Any, first: list[bytes], extra: dict[str, Any]) -> None:
        tasks = flat_chain(sig)
        if not tasks:
            return
        inherited = _inherited(sig, extra)
        rest = list(inherited.pop("chain", None) or [])
        for task in tasks:
            self._give_id(task)
        if inherited and rest:
            rest[0] = {**rest[0], "options": {**inherited, **(rest[0].get("options") or {})}}
        elif inherited:
            tasks[-1]["options"] = {**inherited, **tasks[-1].options}
        own = {k: v for k, v in sig.options.items() if k not in _OWN}
        head = tasks[0].clone(sig.args)
        head["options"] = {**own, **head["options"]}
        follow = [*rest, *reversed(tasks[1:])]
        self._add(head, first, {"chain": follow} if follow else {})

    def _group(self, sig: Any, first: list[bytes], extra: dict[str, Any]) -> None:
        members = flat_members(sig)
        inherited = _inherited(sig, extra)
        if not inherited.get("chord"):
            inherited["group_id"] = sig.options.get("task_id") or self._new_id()
        own = {k: v for k, v in sig.options.items() if k not in _OWN and k != "join"}
        for callback in as_list(sig.options.get("link"))[: 1 if members else 0]:
            members[0].link(callback)
        for index, member in enumerate(members):
            for errback in as_list(sig.options.get("link_error")):
                member.link_error(errback)
            member["options"] = {**own, **member.options}
            place = inherited if inherited.get("chord") else {**inherited, "group_index": index}
            self._add(member.clone(sig.args), first, dict(place))

    def _chord(self, sig: Any, first: list[bytes], extra: dict[str, Any]) -> None:
        if sig.body is None:
            self._group(sig.tasks, first, extra)
            return
        body = sig.body.clone((), sig.kwargs.get("kwargs") or {})
        own = {k: v for k, v in sig.options.items() if k not in _OWN and k != "join"}
        later = {k: v for k, v in own.items() if k not in ("countdown", "eta")}
        inherited = _inherited(sig, extra)
        chain = [*(inherited.pop("chain", None) or []), *(body.options.get("chain") or [])]
        body["options"] = {**later, **inherited, **body.options}
        if chain:
            body.options["chain"] = chain
        for name, link in (("link", body.link), ("link_error", body.link_error)):
            for callback in as_list(sig.options.get(name)):
                link(callback)
        self._give_id(body)
        members = flat_members(sig.tasks)
        if not members:
            self._add(body, [b"j[]"], {})
            return
        group_id = str(sig.tasks.options.get("task_id") or self._new_id())
        size, shape = self._mark_all(members, group_id, body)
        nested = any(leaf[1] is not None for leaf in shape)
        form = [[group_id, None], shape] if nested else None
        self.counters.append(Counter(group_id, size, form))
        for member in members:
            member["options"] = {**own, **member.options}
            self._add(member.clone(sig.args), first, {})

    def _mark_all(self, members: list[Any], group_id: str, body: Any) -> tuple[int, list[Any]]:
        """Give the members of a header their places; how many, and Celery's form of them."""
        places = itertools.count()
        shape = [self._mark(member, group_id, body, places) for member in members]
        return next(places), shape

    def _mark(self, sig: Any, group_id: str, body: Any, places: Iterator[int]) -> list[Any]:
        """Mark the tasks whose end counts, in textual order."""
        kind = sig.get("subtask_type")
        if kind == "chain":
            sig["kwargs"] = {**sig.kwargs, "tasks": flat_chain(sig)}
            sig["options"] = {k: v for k, v in sig.options.items() if k not in _LINKS}
            return self._mark(sig.kwargs["tasks"][-1], group_id, body, places)
        if kind == "group":
            members = flat_members(sig)
            sig["kwargs"] = {"tasks": members}
            gid = sig.options.setdefault("task_id", self._new_id())
            return [[gid, None], [self._mark(m, group_id, body, places) for m in members]]
        if kind == "chord" and sig.body is not None:
            return self._mark(sig.body, group_id, body, places)
        task_id = self._give_id(sig)
        sig.options.update(chord=body, group_id=group_id, group_index=next(places))
        return [[task_id, None], None]


_LINKS: Final = ("link", "link_error", "task_id")


def _inherited(sig: Any, extra: dict[str, Any]) -> dict[str, Any]:
    """Chain and place in a group that a composite hands to what ends it."""
    own = {k: sig.options[k] for k in _INHERITED if sig.options.get(k) is not None}
    return {**own, **extra}


def _grouped(sig: Any) -> Any:
    return sig.group() if sig.get("subtask_type") == "chunks" else sig


def flat_chain(sig: Any) -> list[Any]:
    """Elements of a chain as they run: flattened, groups made chords, with the chain's links."""
    tasks: list[Any] = []
    for task in sig.tasks:
        chain_append(tasks, task.clone())
    if tasks:
        for callback in as_list(sig.options.get("link")):
            tasks[-1].link(callback)
        for errback in as_list(sig.options.get("link_error")):
            for task in tasks:
                task.link_error(errback)
        if sig.options.get("task_id") and tasks[-1].get("subtask_type") in _SIMPLE:
            tasks[-1].options.setdefault("task_id", sig.options["task_id"])
    return tasks


def flat_members(sig: Any) -> list[Any]:
    """Members of a group, those of groups in it among them, as copies in textual order."""
    found: list[Any] = []
    for member in sig.tasks:
        if member.get("subtask_type") in ("group", "chunks"):
            found.extend(flat_members(_grouped(member)))
        elif member.get("subtask_type") != "chain" or member.tasks:
            found.append(member.clone())
    return found


def derived_id(seed: str) -> str:
    """An id that is the same each time for the same text."""
    return str(uuid.uuid5(_NAMESPACE, seed.encode("utf-8", "replace").decode()))


def end_of(sig: Any) -> Any:
    """The part of a signature whose id is the id of its result."""
    kind = sig.get("subtask_type")
    if kind == "chord" and sig.body is not None:
        return end_of(sig.body)
    if kind == "chain" and sig.tasks:
        return end_of(sig.tasks[-1])
    return sig


def end_id(sig: Any) -> str:
    """The id of a signature's result; empty if it has none yet."""
    return str(end_of(sig).options.get("task_id") or "")


def _stamp(message: TaskMessage, given: dict[str, Any]) -> None:
    stamps = dict(given.pop("stamps", None) or {})
    names = given.pop("stamped_headers", None)
    if names is None and stamps:
        names = list(stamps)
    for name in names or ():
        if name in given:
            stamps[name] = given.pop(name)
    message.stamped_headers, message.stamps = names, stamps or None


def content_of(frame: bytes) -> str:
    """Serializer of a frame of arguments."""
    return _CONTENT.get(frame[:1], "json")
