"""The canvas: signatures and their compositions, as inert values.

Every value is a dict in Celery's own form (task, args, kwargs, options, subtask_type,
immutable), so it survives ``json.dumps`` and arrives from Celery unchanged. A value knows no
app, no broker, no clock: the app layer subclasses these classes and adds ``delay`` and its
kin. Operators build their results through ``_family``, a table from ``subtask_type`` to
class, so that composing public values gives public values.

Rules of ``|`` follow Celery 5.7 with two differences made on purpose: a
one-member group stays a group (the next task always gets a list), and nested groups keep
their textual order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from flowq.core.composing import chain_append, compose
from flowq.core.dictform import (
    as_member,
    is_many,
    is_signature_dict,
    revive,
    signature_of,
)
from flowq.core.signature import (
    Signature,
    as_list,
    at_least,
    bare_clone,
    check_rule,
    repr_of,
    short,
)
from flowq.errors import CanvasError

__all__ = [
    "EXPAND",
    "MAP",
    "STARMAP",
    "Signature",
    "at_least",
    "chain",
    "check_rule",
    "chord",
    "chunks",
    "expand",
    "group",
    "is_signature_dict",
    "maybe_signature",
    "members",
    "signature",
    "xmap",
    "xstarmap",
]

#: Names of the built-in tasks behind map, starmap and the rest, as Celery calls them.
MAP, STARMAP, EXPAND = "celery.map", "celery.starmap", "flowq.expand"


class chain(Signature):
    """Tasks one after another, each given the result of the one before.

    ``chain(a, b)``, ``chain([a, b])`` and ``a | b`` are the same. Chains inside flatten; empty
    ones vanish; a group followed by anything becomes a chord.
    """

    subtask_type: ClassVar[str | None] = "chain"

    def __init__(self, *tasks: Any, **options: Any) -> None:
        members: Iterable[Any] = tasks
        if len(tasks) == 1 and not isinstance(tasks[0], Signature) and is_many(tasks[0]):
            members = tasks[0]
        super().__init__("celery.chain", (), {}, options)
        flat: list[Signature] = []
        for task in members:
            chain_append(flat, as_member(self._family, task, "chain"))
        self["kwargs"] = {"tasks": flat}

    @property
    def tasks(self) -> list[Signature]:
        """Elements in order."""
        return self.kwargs["tasks"]  # type: ignore[no-any-return]

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Self:
        """Copy with copied elements; call-time arguments go to the first element."""
        copy: Self = bare_clone(self, options)
        tasks = [task.clone() for task in self.tasks]
        copy["kwargs"] = {**self.kwargs, "tasks": tasks}
        if (args or kwargs) and tasks and not self.immutable:
            tasks[0] = tasks[0].clone(args, kwargs)
        return copy

    def unchain_tasks(self) -> list[Signature]:
        """Elements as copies, each carrying the chain's errbacks."""
        tasks = [task.clone() for task in self.tasks]
        for errback in as_list(self.options.get("link_error")):
            for task in tasks:
                task.link_error(errback)
        return tasks

    def set_immutable(self, immutable: bool) -> None:
        """Make the first element ignore what a parent adds."""
        self["immutable"] = immutable
        for task in self.tasks[:1]:
            task.set_immutable(immutable)

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return bool(self.tasks)

    def __getitem__(self, key: Any) -> Any:
        return self.tasks[key] if isinstance(key, int | slice) else dict.__getitem__(self, key)

    def __repr__(self) -> str:
        return " | ".join(repr_of(t) for t in self.tasks) if self.tasks else "chain()"


class group(Signature):
    """Tasks side by side; the value is the list of their results in textual order.

    Takes signatures, one iterable or generator of them (consumed once, here), or a dict form.
    `join` says when what follows may run: ``"all"`` (default), ``"any"``, ``at_least(n)`` or
    ``"always"`` (errors are passed as values).
    """

    subtask_type: ClassVar[str | None] = "group"

    def __init__(self, *tasks: Any, join: str = "all", **options: Any) -> None:
        members: Iterable[Any] = tasks
        if len(tasks) == 1:
            only = tasks[0]
            if isinstance(only, group):
                members = only.tasks
            elif not isinstance(only, Signature) and is_many(only):
                members = only
        family = self._family
        made = [as_member(family, task, "group") for task in members]
        if join != "all":
            options["join"] = check_rule(join, len(made))
        super().__init__("celery.group", (), {}, options)
        self["kwargs"] = {"tasks": made}

    @property
    def tasks(self) -> list[Signature]:
        """Members in textual order, nested groups not yet flattened."""
        return self.kwargs["tasks"]  # type: ignore[no-any-return]

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Self:
        """Copy with copied members; call-time arguments go to every mutable member."""
        copy: Self = bare_clone(self, options)
        give = () if self.immutable else args
        copy["kwargs"] = {
            **self.kwargs,
            "tasks": [task.clone(give, None if self.immutable else kwargs) for task in self.tasks],
        }
        return copy

    def set_immutable(self, immutable: bool) -> None:
        """Make every member ignore what a parent adds."""
        self["immutable"] = immutable
        for task in self.tasks:
            task.set_immutable(immutable)

    def link(self, callback: Signature) -> Signature:
        """Run `callback` with the list of results once all members have succeeded.

        Celery links the first member only; that surprise is left out on purpose.
        """
        return super().link(callback)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Give the members rising countdowns, in seconds, and return this group."""
        delay = start
        for task in self.tasks:
            task.set(countdown=delay)
            delay += step
            if stop is not None and delay >= stop:
                delay = start
        return self

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, key: Any) -> Any:
        return self.tasks[key] if isinstance(key, int | slice) else dict.__getitem__(self, key)

    def __repr__(self) -> str:
        tasks = self.tasks
        shown = ", ".join(repr_of(t) for t in tasks[:8])
        more = f", ... {len(tasks) - 8} more" if len(tasks) > 8 else ""
        rule = self.options.get("join")
        return f"group({shown}{more}{f', join={rule!r}' if rule else ''})"


class chord(Signature):
    """A group whose list of results goes to a body: ``chord(header, body)``."""

    subtask_type: ClassVar[str | None] = "chord"

    def __init__(
        self,
        header: Any = (),
        body: Any = None,
        task: Any = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        join: str = "all",
        **options: Any,
    ) -> None:
        super().__init__("celery.chord", tuple(args), {}, options)
        family = self._family
        if not isinstance(header, group):
            if isinstance(header, Mapping) and not isinstance(header, Signature):
                header = revive(family, header)
            if isinstance(header, Signature) and not isinstance(header, group):
                header = [header]
            header = header if isinstance(header, group) else family["group"](header)
        if join != "all":
            header = header.clone(join=check_rule(join, len(header.tasks)))
        self["kwargs"] = {
            "header": header,
            "body": None if body is None else as_member(family, body, "chord"),
            "kwargs": dict(kwargs or {}),
        }

    @property
    def tasks(self) -> group:
        """The header, as a group."""
        return self.kwargs["header"]  # type: ignore[no-any-return]

    header = tasks

    @property
    def body(self) -> Signature | None:
        """What receives the list of the header's results."""
        return self.kwargs["body"]  # type: ignore[no-any-return]

    @body.setter
    def body(self, value: Signature) -> None:
        self.kwargs["body"] = value

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Self:
        """Copy; call-time arguments go to the header's members."""
        copy: Self = bare_clone(self, options)
        body = self.body
        copy["kwargs"] = {
            **self.kwargs,
            "header": self.tasks.clone(args, kwargs) if not self.immutable else self.tasks.clone(),
            "body": None if body is None else body.clone(),
        }
        return copy

    def link(self, callback: Signature) -> Signature:
        """Link to the body; returns `callback`."""
        self._need_body().link(callback)
        return callback

    def link_error(self, errback: Signature) -> Signature:
        """Run `errback` once if the header or the body fails; returns `errback`."""
        return super().link_error(errback)

    def set_immutable(self, immutable: bool) -> None:
        """Make the header's members ignore what a parent adds."""
        self["immutable"] = immutable
        self.tasks.set_immutable(immutable)

    def _need_body(self) -> Signature:
        if self.body is None:
            raise CanvasError("this chord has no body yet: call chord(header)(body)")
        return self.body

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        tasks = self.tasks.tasks
        shown = ", ".join(repr_of(t) for t in tasks[:8])
        more = f", ... {len(tasks) - 8} more" if len(tasks) > 8 else ""
        return f"chord([{shown}{more}], {repr_of(self.body)})"


class _OverItems(Signature):
    """One task over the items of an iterable."""

    _task_name: ClassVar[str] = ""

    def __init__(self, task: Any = None, it: Any = (), **options: Any) -> None:
        super().__init__(self._task_name, (), {}, options)
        inner = signature_of(self._family, task)
        self["kwargs"] = {"task": inner, "it": list(it)}
        self["immutable"] = True

    def __repr__(self) -> str:
        kind = "map" if self.subtask_type == "xmap" else "starmap"
        hidden = self.options.get("argsrepr") or self.options.get("kwargsrepr")
        return f"{self.kwargs['task']['task']}.{kind}({hidden or short(self.kwargs['it'])})"


class xmap(_OverItems):
    """One node that calls a task for each item and returns the list of results."""

    subtask_type: ClassVar[str | None] = "xmap"
    _task_name: ClassVar[str] = MAP


class xstarmap(_OverItems):
    """Like `xmap`, each item being a list of positional arguments."""

    subtask_type: ClassVar[str | None] = "xstarmap"
    _task_name: ClassVar[str] = STARMAP


class chunks(Signature):
    """A group of `xstarmap` nodes of `n` items each; inside a chain it passes the values on."""

    subtask_type: ClassVar[str | None] = "chunks"

    def __init__(self, task: Any = None, it: Any = (), n: int = 1, **options: Any) -> None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise CanvasError(f"chunks() needs a size of at least 1, not {n!r}")
        super().__init__("celery.chunks", (), {}, options)
        inner = signature_of(self._family, task)
        self["kwargs"] = {"task": inner, "it": list(it), "n": n}
        self["immutable"] = True

    def group(self) -> Any:
        """The group of `xstarmap` nodes that this stands for."""
        it, n = self.kwargs["it"], self.kwargs["n"]
        make = self._class("xstarmap")
        parts = [make(self.kwargs["task"], it[i : i + n]) for i in range(0, len(it), n)]
        return self._class("group")(parts, **self.options)

    def __len__(self) -> int:
        count: int = len(self.kwargs["it"])
        return -(-count // int(self.kwargs["n"]))

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        count, n = len(self.kwargs["it"]), self.kwargs["n"]
        return f"{self.kwargs['task']['task']}.chunks({count} items, {n})"


class expand(Signature):
    """Fan out at run time: run `body` for each item of the list that arrives.

    ``list_files.s() | expand(parse.s()) | report.s()``. The value is the list of results, in
    order; an empty list gives ``[]``. `body` may be any canvas, also another expand. `join`
    is the rule of the group that grows.
    """

    subtask_type: ClassVar[str | None] = "expand"

    def __init__(self, body: Any = None, join: str = "all", **options: Any) -> None:
        super().__init__(EXPAND, (), {}, options)
        self["kwargs"] = {"body": as_member(self._family, body, "expand"), "join": check_rule(join)}

    @property
    def body(self) -> Signature:
        """What runs for each item."""
        return self.kwargs["body"]  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"expand({repr_of(self.body)})"


Signature._family.update(  # the one table that the operators build from
    {
        "task": Signature,
        "chain": chain,
        "group": group,
        "chord": chord,
        "xmap": xmap,
        "xstarmap": xstarmap,
        "chunks": chunks,
        "expand": expand,
    }
)
Signature._compose = staticmethod(compose)
Signature._revive = staticmethod(revive)
Signature._member = staticmethod(as_member)


def signature(varies: Any, *args: Any, **kwargs: Any) -> Signature:
    """Make a signature from a name, a task or a dict; a canvas comes back as a copy."""
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies)
    return Signature._family["task"](varies, *args, **kwargs)


def maybe_signature(value: Any) -> Any:
    """A signature for a signature's dict form, anything else unchanged."""
    if isinstance(value, Signature) or not is_signature_dict(value):
        return value
    return Signature.from_dict(value)


def members(value: Signature) -> Iterator[Signature]:
    """Direct parts of a composite, callbacks and errbacks excluded; none for a task."""
    if isinstance(value, chain | group):
        yield from value.tasks
    elif isinstance(value, chord):
        yield value.tasks
        if value.body is not None:
            yield value.body
    elif isinstance(value, expand):
        yield value.body
