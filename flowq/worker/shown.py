"""What is shown of a call's arguments: the text that its caller chose, where there is one.

A caller hides secrets with `argsrepr` and `kwargsrepr`. A node has them in its spec, and only
where they were chosen. A message of Celery's always has both, so what they say is compared with the
values; only `inspect` and what becomes a run ask for that, never what merely runs.
"""

from __future__ import annotations

from typing import Any

from flowq.broker.messages import TaskMessage
from flowq.core.graph import Spec
from flowq.errors import FlowqError
from flowq.payload import decode_args, frame_repr

#: What senders write differently for the same values: lists and tuples, spaces.
_LOOSE = str.maketrans("", "", "()[], ")


def of_call(frame: bytes, args: str, kwargs: str, limit: int) -> tuple[str, str]:
    """Two texts for a call's arguments: those that were chosen, else what its frame holds."""
    if not args and not kwargs:
        return frame_repr(frame, limit), "{}"
    if args and kwargs:
        return args[:limit], kwargs[:limit]
    try:
        positional, named = decode_args(frame, ("json", "msgpack"))
    except FlowqError:
        return args[:limit] or "...", kwargs[:limit] or "..."
    return args[:limit] or repr(positional)[:limit], kwargs[:limit] or repr(named)[:limit]


def chosen(message: TaskMessage) -> tuple[str, str]:
    """`argsrepr` and `kwargsrepr` of a message where they hide the values; else empty texts."""
    try:
        args, kwargs = decode_args(message.frame, ("json", "msgpack"))
    except FlowqError:
        return message.argsrepr or "", message.kwargsrepr or ""
    return _hiding(message.argsrepr, args), _hiding(message.kwargsrepr, kwargs)


def _hiding(text: str | None, value: Any) -> str:
    if not text:
        return ""
    # a text that differs anywhere is shown as it came: where it hides something nobody can know
    return "" if text.translate(_LOOSE) == repr(value).translate(_LOOSE) else text


def with_chosen(spec: Spec, args: str, kwargs: str) -> dict[str, str]:
    """Fields of a spec for chosen texts; nothing where it has its own, or none was chosen."""
    found = {"argsrepr": spec.argsrepr or args, "kwargsrepr": spec.kwargsrepr or kwargs}
    return {key: text for key, text in found.items() if text}
