"""Celery's dict form: recognising it, and making values of it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flowq.core.signature import Signature, as_list, short
from flowq.errors import CanvasError


def is_signature_dict(value: Any) -> bool:
    """Whether a value has the keys of a signature in dict form."""
    return isinstance(value, Mapping) and "task" in value and "kwargs" in value


def revive(family: dict[str, type[Signature]], data: Mapping[str, Any]) -> Signature:
    """Rebuild any canvas from Celery's dict form.

    Raises:
        CanvasError: The dict is not a signature, or of an unknown type.
    """
    if not is_signature_dict(data):
        raise CanvasError(
            f"not a signature: {short(dict(data) if isinstance(data, Mapping) else data)}"
        )
    kind = data.get("subtask_type") or "task"
    if kind == "task" and data["task"] == "celery.chunks":  # Celery's own says no more than that
        kind = "chunks"
    cls = family.get(kind)
    if cls is None:
        raise CanvasError(f"unknown canvas type {kind!r}")
    value = cls.__new__(cls)
    dict.__init__(value, data)
    value["args"] = tuple(data.get("args") or ())
    value["options"] = _revive_links(family, dict(data.get("options") or {}))
    value.setdefault("immutable", False)
    value["subtask_type"] = None if kind == "task" else kind
    value["kwargs"] = _revive_kwargs(family, kind, dict(data.get("kwargs") or {}))
    return value


def _revive_kwargs(
    family: dict[str, type[Signature]], kind: str, kwargs: dict[str, Any]
) -> dict[str, Any]:
    if kind in ("chain", "group"):
        kwargs["tasks"] = [as_value(family, t) for t in kwargs.get("tasks", ())]
    elif kind == "chord":
        header = kwargs.get("header")
        if not isinstance(header, Signature) or header.subtask_type != "group":
            is_dict = isinstance(header, Mapping)
            header = revive(family, header) if is_dict else family["group"](header or ())  # type: ignore[arg-type]
        body = kwargs.get("body")
        kwargs.update(header=header, body=None if body is None else as_value(family, body))
        kwargs.setdefault("kwargs", {})
    elif kind in ("xmap", "xstarmap", "chunks"):
        kwargs["task"] = as_value(family, kwargs["task"])
    elif kind == "expand":
        kwargs["body"] = as_value(family, kwargs["body"])
        kwargs.setdefault("join", "all")
    return kwargs


def _revive_links(family: dict[str, type[Signature]], options: dict[str, Any]) -> dict[str, Any]:
    for key in ("link", "link_error"):
        if options.get(key):
            options[key] = [as_value(family, item) for item in as_list(options[key])]
    return options


def as_member(family: dict[str, type[Signature]], item: Any, where: str) -> Signature:
    """One part of a composite; a task stands for its call without arguments, ``task.s()``.

    Raises:
        CanvasError: It is no signature; a forgotten ``.s()`` is guessed.
    """
    if isinstance(item, Signature):
        return item
    if is_signature_dict(item):
        return revive(family, item)
    if is_task(item):
        return item.s()  # type: ignore[no-any-return]
    hint = " (did you forget .s()?)" if callable(item) else ""
    raise CanvasError(f"{where}() takes signatures, not {short(item)}{hint}")


def signature_of(family: dict[str, type[Signature]], task: Any) -> Signature:
    """A signature for what map, starmap and chunks were given: a task, a name or a value."""
    if isinstance(task, Signature):
        return task
    if is_signature_dict(task):
        return revive(family, task)
    return family["task"](task)


def is_many(value: Any) -> bool:
    """Whether a value is an iterable of parts and not one part."""
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def as_value(family: dict[str, type[Signature]], item: Any) -> Signature:
    """A value of a family as it is, a dict form revived, a task as ``task.s()``."""
    if isinstance(item, Signature):
        return item
    return item.s() if is_task(item) else revive(family, item)


def is_task(value: Any) -> bool:
    """Whether a value is a task, which makes signatures, and not one itself."""
    return (
        isinstance(getattr(value, "name", None), str)
        and callable(getattr(value, "s", None))
        and not isinstance(value, Mapping | type)
    )
