"""What follows when a bare task has ended: its callbacks, the rest of its chain, its chord.

The functions here are pure: they say what is to be done (`FollowUp`). `Following` does it, in an
order that loses nothing: messages are sent before the task's own result is stored, parts of
chords are counted after.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import msgspec

from flowq.broker.messages import TaskMessage
from flowq.core.canvas import Signature
from flowq.core.signature import as_list
from flowq.errors import CanvasError, ChordError, EncodeError, FlowqError, MessageDecodeError
from flowq.payload import DEFAULT_ACCEPT, decode_error, encode_error
from flowq.payload.failure import encode_info
from flowq.payload.plain import to_wire_json
from flowq.worker.chords import Joined, Part, RedisChords
from flowq.worker.sending import (
    Composer,
    Counter,
    Send,
    Submission,
    content_of,
    derived_id,
    end_id,
    end_of,
    no_defaults,
)

_log = logging.getLogger("flowq.worker")

_SOUND: Final = (MessageDecodeError, EncodeError, CanvasError)


class Stored(msgspec.Struct):
    """An outcome to record for a task that will never run."""

    task_id: str
    task: str
    state: str
    frame: bytes
    group: str | None = None
    parent_id: str | None = None


class Inline(msgspec.Struct):
    """An errback of the new style, to be called here with (request, exc, traceback) first."""

    task: str
    id: str
    #: Its own arguments, as a frame of ``[args, kwargs]``.
    frame: bytes
    #: The error; the request shows the node_id and task in it.
    error: bytes
    root_id: str | None
    parent_id: str | None


class FollowUp(msgspec.Struct):
    """What is to be done, in this order; the task's own result is stored after the submissions."""

    counters: list[Counter] = msgspec.field(default_factory=list)
    sends: list[Send] = msgspec.field(default_factory=list)
    submissions: list[Submission] = msgspec.field(default_factory=list)
    stores: list[Stored] = msgspec.field(default_factory=list)
    parts: list[Part] = msgspec.field(default_factory=list)
    #: Errbacks; they may look at the results.
    late: list[Send] = msgspec.field(default_factory=list)
    inline: list[Inline] = msgspec.field(default_factory=list)

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__struct_fields__)


class Rules(msgspec.Struct):
    """What a worker knows that messages do not say."""

    #: Options of a task by its name, under those of a signature.
    defaults: Callable[[str], Mapping[str, Any]] = no_defaults
    #: Whether an errback takes (request, exc, traceback); None for a task unknown here.
    takes_error: Callable[[str], bool | None] = lambda _name: None
    #: Serializers that results may be in.
    accept: Collection[str] = DEFAULT_ACCEPT
    #: ``task_inherit_parent_priority``.
    inherit_priority: bool = False


def has_embeds(message: TaskMessage) -> bool:
    """Whether anything follows the end of a task; most messages carry nothing."""
    return bool(message.callbacks or message.errbacks or message.chain or message.chord)


def succeeded(message: TaskMessage, frame: bytes, rules: Rules) -> FollowUp:
    """What follows a success.

    Args:
        message: The task's.
        frame: Its result.
        rules: Of this worker.

    Raises:
        CanvasError: An embedded signature is not sound. The task counts as failed then.
        MessageDecodeError, EncodeError: Likewise, arguments cannot be put together.
    """
    found = FollowUp()
    if message.callbacks or message.chain:
        composer = _composer(message, rules, message.root_id or message.id, message.id, message.id)
        for callback in message.callbacks or ():
            composer.add(callback, [frame])
        if message.chain:
            *rest, following = message.chain
            composer.add(following, [frame], chain=rest)
        _take(found, composer)
    _own_part(found, message, "SUCCESS", frame)
    return found


def failed(message: TaskMessage, error: bytes, rules: Rules, *, state: str = "FAILURE") -> FollowUp:
    """What follows a failure, or (`state` REVOKED) a task that was revoked or had expired.

    Its errbacks run after a failure only; what is left of its chain ends with the same error.
    Signatures that are not sound are logged and left out, so that the rest still ends.
    """
    found = FollowUp()
    walk = _Walk(found, message, rules, error, state)
    _own_part(found, message, state, error)
    for element in reversed(message.chain or ()):
        walk.end(element)
    if state == "FAILURE":
        info = decode_error(error)
        info.node_id, info.task = message.id, message.task
        walk.errbacks(message.errbacks, encode_info(info), message.id)
    return found


def replaced(message: TaskMessage, canvas: Mapping[str, Any], rules: Rules) -> FollowUp:
    """What follows a task that ended by ``self.replace(canvas)``.

    The canvas takes its place: the result has the task's id, and callbacks, errbacks, the rest of
    the chain and the place in a chord move over. A group is gathered to one list first. Nothing
    is recorded for the task itself, whose id ends with the canvas.

    Raises:
        CanvasError: The canvas is not sound, is empty, or is only known to runs of flowq.
        MessageDecodeError, EncodeError: Its arguments cannot be put together.
    """
    sig: Any = Signature.from_dict(json.loads(to_wire_json(canvas, "the canvas")))
    last = sig.tasks[-1] if sig.get("subtask_type") == "chain" and sig.tasks else sig
    if last.get("subtask_type") in ("group", "chunks"):
        sig = sig | Signature("celery.accumulate", (), {"index": 0})
    end = end_of(sig)
    if end.get("subtask_type") in ("chain", "chord", "expand"):
        raise CanvasError(
            "a bare task can be replaced by tasks, chains, groups and chords only; a durable one "
            "(durable=True, app.submit) by any canvas"
        )
    end.options["task_id"] = message.id
    if message.reply_to:
        end.options["reply_to"] = message.reply_to
    given = {
        "link": [*as_list(sig.options.get("link")), *(message.callbacks or ())],
        "link_error": [*as_list(sig.options.get("link_error")), *(message.errbacks or ())],
        "chord": message.chord,
        "group_id": message.group,
        "group_index": message.group_index,
        "replaced_task_nesting": (message.replaced_task_nesting or 0) + 1,
    }
    sig["options"] = {**sig.options, **{k: v for k, v in given.items() if v not in (None, [])}}
    composer = _composer(
        message, rules, message.root_id or message.id, message.parent_id, f"{message.id} replaced"
    )
    composer.add(sig, [], chain=message.chain)
    found = FollowUp()
    _take(found, composer)
    return found


def joined(chord: Joined, rules: Rules) -> FollowUp:
    """What follows the last part of a chord: its body, or the body's failure.

    Raises:
        CanvasError, MessageDecodeError, EncodeError: The body cannot be sent; see `unjoinable`.
    """
    part = chord.part
    found = FollowUp()
    if chord.error:
        return unjoinable(chord, rules)
    composer = Composer(
        part.content,
        root_id=part.root_id,
        parent_id=part.task_id,
        defaults=rules.defaults,
        accept=rules.accept,
        seed=part.group,
    )
    composer.add(part.body, [chord.frame])
    _take(found, composer)
    return found


def unjoinable(chord: Joined, rules: Rules) -> FollowUp:
    """What follows a chord that failed: its body ends with the error, the errbacks run.

    The members of a group as body end with what the header task raised.
    """
    part = chord.part
    found = FollowUp()
    message = TaskMessage(
        task="chord", id=part.task_id, root_id=part.root_id, frame=_EMPTY[part.content]
    )
    kind = part.body.get("subtask_type") if isinstance(part.body, Mapping) else None
    error = chord.cause if kind == "group" else chord.error
    _Walk(found, message, rules, error, "FAILURE").end(part.body, with_errbacks=True)
    return found


_EMPTY: Final = {"json": b"j", "msgpack": b"m", "yaml": b"y", "pickle": b"p"}


def _composer(
    message: TaskMessage, rules: Rules, root: str | None, parent: str | None, seed: str
) -> Composer:
    return Composer(
        content_of(message.frame),
        root_id=root,
        parent_id=parent,
        priority=message.priority if rules.inherit_priority else None,
        defaults=rules.defaults,
        accept=rules.accept,
        seed=seed,
    )


def _take(found: FollowUp, composer: Composer) -> None:
    found.counters += composer.counters
    found.sends += composer.sends
    found.submissions += composer.submissions


def _own_part(found: FollowUp, message: TaskMessage, state: str, frame: bytes) -> None:
    if message.chord and message.group:
        found.parts.append(
            Part(
                group=message.group,
                task_id=message.id,
                state=state,
                frame=frame,
                body=message.chord,
                index=message.group_index,
                root_id=message.root_id,
                content=content_of(message.frame),
            )
        )


class _Walk:
    """Ends signatures that will never run, with one error."""

    def __init__(
        self, found: FollowUp, message: TaskMessage, rules: Rules, error: bytes, state: str
    ) -> None:
        self._found, self._message, self._rules = found, message, rules
        self._error, self._state = error, state
        self._called = 0

    def end(self, value: Any, *, with_errbacks: bool = False, counts: bool = True) -> None:
        """End all that a signature would have run.

        Args:
            value: Of any kind, in dict form.
            with_errbacks: Call the errbacks too.
            counts: Its ends are parts of chords; not so for the header of a chord that ends.
        """
        try:
            self._end(Signature.from_dict(value), with_errbacks, counts)
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as exc:
            _log.error("an embedded signature is not sound and was left out: %r", exc)

    def _end(self, sig: Any, with_errbacks: bool, counts: bool) -> None:
        kind = sig.get("subtask_type")
        chain = sig.options.get("chain") or ()
        if kind in ("chain", "group"):
            for part in sig.tasks:
                self._end(part, with_errbacks and kind == "group", counts)
            if with_errbacks:
                self.errbacks(sig.options.get("link_error"), self._error, end_id(sig))
        elif kind == "chord":
            for part in sig.tasks.tasks:
                self._end(part, False, False)
            if sig.body is not None:
                self._end(sig.body, with_errbacks, counts)
            if with_errbacks:
                self.errbacks(sig.options.get("link_error"), self._error, end_id(sig))
        else:
            self._task(sig, with_errbacks, counts)
        for element in reversed(chain):
            self.end(element, counts=counts)

    def _task(self, sig: Any, with_errbacks: bool, counts: bool) -> None:
        options = sig.options
        task_id = str(options.get("task_id") or "")
        group = str(options.get("group_id") or "") or None
        if with_errbacks and not task_id:
            task_id = derived_id(f"{self._message.id} unnamed")
        if not task_id:
            return
        parent = options.get("parent_id")
        self._found.stores.append(
            Stored(task_id, str(sig.task), self._state, self._error, group, parent)
        )
        if counts and options.get("chord") and group:
            part = Part(group, task_id, self._state, self._error, options["chord"])
            index = options.get("group_index")
            part.index = index if isinstance(index, int) else None
            part.root_id = self._message.root_id
            part.content = content_of(self._message.frame)
            self._found.parts.append(part)
        if with_errbacks:
            info = decode_error(self._error)
            info.node_id, info.task = task_id, str(sig.task)
            self.errbacks(options.get("link_error"), encode_info(info), task_id)

    def errbacks(self, value: Any, error: bytes, failed_id: str) -> None:
        """Call errbacks of the new style, send those of the old with the failed id."""
        root = self._message.root_id or failed_id
        for errback in as_list(value):
            try:
                self._errback(Signature.from_dict(errback), error, failed_id, root)
            except _SOUND as exc:
                _log.error("an errback of %s cannot be called: %s", failed_id, exc)
            except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as exc:
                _log.error("an errback of %s is not sound: %r", failed_id, exc)

    def _errback(self, sig: Any, error: bytes, failed_id: str, root: str) -> None:
        self._called += 1
        seed = f"{failed_id} errback {self._called}"
        composer = _composer(self._message, self._rules, root, failed_id, seed)
        plain = sig.get("subtask_type") is None and not sig.immutable
        if not plain or not self._rules.takes_error(sig.task):
            composer.add(sig, [b"j" + msgspec.json.encode(failed_id)])
            self._found.late += composer.sends
            composer.sends = []
            _take(self._found, composer)
            return
        composer.add(sig, [])
        message = composer.sends[0].message
        self._found.inline.append(
            Inline(sig.task, message.id, message.frame, error, root, failed_id)
        )


class Following:
    """Does what a `FollowUp` says.

    Args:
        send: Publishes a message; raises BrokerError when it was not taken.
        store: Records an outcome.
        inline: Runs an errback here.
        submit: Submits a canvas as a run.
        chords: Counts; None: this worker has no Redis result backend, and chords of bare tasks
            cannot be counted.
        rules: Of this worker.
    """

    def __init__(
        self,
        *,
        send: Callable[[Send], None],
        store: Callable[[Stored], None],
        inline: Callable[[Inline], None],
        submit: Callable[[Submission], None],
        chords: RedisChords | None,
        rules: Rules,
    ) -> None:
        self._send, self._store, self._inline, self._submit = send, store, inline, submit
        self._chords, self.rules = chords, rules

    def begin(self, found: FollowUp) -> None:
        """Send what is to be sent; to be called before the task's own result is stored.

        Repeating: sends again. Whatever `send`, `submit` and Redis raise comes through.
        """
        for counter in found.counters:
            if self._chords is None:
                raise CanvasError(
                    "a chord of bare tasks needs a Redis result backend; submit it as a run instead"
                )
            self._chords.begin(counter.group, counter.size, counter.shape)
        for send in found.sends:
            self._send(send)
        for submission in found.submissions:
            self._submit(submission)

    def finish(self, found: FollowUp) -> None:
        """Record and count what ended with the task; to be called after its result is stored.

        Chords that are complete now are followed up, and what ends with them, and so on.
        Repeating: a part counts once, a body is sent once unless its claim ran out.
        """
        for stored in found.stores:
            self._store(stored)
        for part in found.parts:
            if self._chords is None:
                _log.error("the chord %s cannot be counted without a Redis backend", part.group)
                continue
            chord = self._chords.count(part)
            if chord is not None:
                self._join(self._chords, chord)
        for send in found.late:
            self._send(send)
        for call in found.inline:
            self._inline(call)

    def _join(self, chords: RedisChords, chord: Joined) -> None:
        try:
            found = joined(chord, self.rules)
        except _SOUND as exc:
            _log.error("the body of the chord %s cannot be sent: %s", chord.part.group, exc)
            found = unjoinable(_with_error(chord, exc), self.rules)
        self.begin(found)
        self.finish(found)
        if not chords.done(chord):
            _log.warning("the claim on the chord %s ran out meanwhile", chord.part.group)


def _with_error(chord: Joined, exc: FlowqError) -> Joined:
    error = encode_error(ChordError(f"Callback error: {exc!r}"))
    return msgspec.structs.replace(chord, error=error, cause=error)
