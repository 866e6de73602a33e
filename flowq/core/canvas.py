"""The canvas: signatures and their compositions, as inert values.

Every value is a dict in Celery's own form (task, args, kwargs, options, subtask_type,
immutable), so it survives ``json.dumps`` and arrives from Celery unchanged. A value knows no
app, no broker, no clock: the app layer subclasses these classes and adds ``delay`` and its
kin. Operators build their results through ``_family``, a table from ``subtask_type`` to
class, so that composing public values gives public values.

Rules of ``|`` follow Celery 5.7 (CELERY.md, 2.2) with two differences made on purpose: a
one-member group stays a group (the next task always gets a list), and nested groups keep
their textual order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from flowq.errors import CanvasError

#: Names of the built-in tasks behind map, starmap and the rest, as Celery calls them.
MAP, STARMAP, EXPAND = "celery.map", "celery.starmap", "flowq.expand"

JOIN_RULES = ("all", "any", "always")


def at_least(n: int) -> str:
    """Name the join rule that fires once `n` members have succeeded.

    Raises:
        CanvasError: `n` is not a whole number of at least 1.
    """
    if not isinstance(n, int) or n < 1:
        raise CanvasError(f"at_least({n!r}) needs a whole number of at least 1")
    return f"at_least:{n}"


class Signature(dict[str, Any]):
    """One call of a task, to be made later: name, arguments, options.

    Args:
        task: Task name, an object with a ``name``, or a dict in Celery's form.
        args: Positional arguments; a parent's result is prepended unless `immutable`.
        kwargs: Keyword arguments.
        options: What ``apply_async`` takes (queue, countdown, link, task_id ...).
        immutable: Ignore what a parent or a call adds to the arguments.
    """

    subtask_type: ClassVar[str | None] = None
    _family: ClassVar[dict[str, type[Signature]]] = {}

    def __init__(
        self,
        task: Any = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        **extra: Any,
    ) -> None:
        if isinstance(task, dict):
            super().__init__(task)
            return
        merged = {**(options or {}), **extra} if options or extra else {}
        super().__init__(
            task=getattr(task, "name", task),
            args=tuple(args or ()),
            kwargs=dict(kwargs) if kwargs else {},
            options=merged,
            subtask_type=subtask_type or self.subtask_type,
            immutable=immutable,
        )

    # -- reading -------------------------------------------------------------------------

    @property
    def task(self) -> str:
        """Name of the task."""
        return self["task"]  # type: ignore[no-any-return]

    @property
    def name(self) -> str:
        """Name of the task, as Celery calls it."""
        return self["task"]  # type: ignore[no-any-return]

    @property
    def args(self) -> tuple[Any, ...]:
        """Positional arguments stored so far."""
        return tuple(self.get("args") or ())

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments stored so far."""
        return self["kwargs"]  # type: ignore[no-any-return]

    @property
    def options(self) -> dict[str, Any]:
        """Options stored so far."""
        return self["options"]  # type: ignore[no-any-return]

    @property
    def immutable(self) -> bool:
        """Whether incoming arguments are ignored."""
        return bool(self.get("immutable"))

    @property
    def id(self) -> str | None:
        """Task id chosen by ``freeze`` or the caller, else None."""
        return self.options.get("task_id")

    # -- making others -------------------------------------------------------------------

    def _class(self, kind: str) -> type[Any]:
        return self._family[kind]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], app: Any = None) -> Signature:
        """Rebuild any canvas from Celery's dict form.

        Raises:
            CanvasError: The dict is not a signature.
        """
        return _from_dict(cls._family, data)

    def clone(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Copy, with call-time arguments merged in front; the original stays as it is."""
        new_args, new_kwargs, new_options = self._merge(args, kwargs, options)
        copy = self.__class__.__new__(self.__class__)
        dict.__init__(copy, self)
        copy["args"], copy["kwargs"], copy["options"] = new_args, new_kwargs, new_options
        return copy

    partial = clone

    def _merge(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        merged = {**self.options, **options} if options else dict(self.options)
        for key in ("link", "link_error"):
            if key in merged:
                merged[key] = list(_aslist(merged[key]))
        if self.immutable:
            return self.args, dict(self.kwargs), merged
        return (
            tuple(args) + self.args if args else self.args,
            {**self.kwargs, **kwargs} if kwargs else dict(self.kwargs),
            merged,
        )

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Copy with arguments, keyword arguments or options exchanged (not merged)."""
        copy = self.clone()
        if args is not None:
            copy["args"] = tuple(args)
        if kwargs is not None:
            copy["kwargs"] = dict(kwargs)
        if options is not None:
            copy["options"] = dict(options)
        return copy

    # -- changing in place, as Celery ----------------------------------------------------

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Set options on this very value and return it."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Say whether incoming arguments are ignored."""
        self["immutable"] = immutable

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Add to a list option; an equal value is kept once."""
        items = self.options[key] = list(_aslist(self.options.get(key)))
        if value not in items:
            items.append(value)
        return value

    def link(self, callback: Signature) -> Signature:
        """Run `callback` with the result once this has succeeded; returns `callback`."""
        self.append_to_list_option("link", callback)
        return callback

    def link_error(self, errback: Signature) -> Signature:
        """Run `errback` if this fails; returns `errback`."""
        self.append_to_list_option("link_error", errback)
        return errback

    def on_error(self, errback: Signature) -> Self:
        """Like ``link_error``, but returns this value, for chaining calls."""
        self.link_error(errback)
        return self

    def stamp(self, **headers: Any) -> Self:
        """Put stamps (headers that travel along the canvas and are stored) on this value."""
        stamps = self.options.setdefault("stamps", {})
        stamps.update(headers)
        return self

    def flatten_links(self) -> list[Signature]:
        """List this value and all callbacks linked below it, depth first."""
        found = [self]
        for callback in _aslist(self.options.get("link")):
            found.extend(_asvalue(self._family, callback).flatten_links())
        return found

    # -- composing -----------------------------------------------------------------------

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Signature):
            return NotImplemented
        return _join(self, other)

    def __copy__(self) -> Self:
        return self.clone()

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature:
        memo[id(self)] = self
        return self.clone()

    def __reduce__(self) -> Any:
        return _rebuild, (self.__class__, dict(self))

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __eq__(self, other: object) -> bool:
        return dict.__eq__(self, other) if isinstance(other, dict) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other

    # -- showing -------------------------------------------------------------------------

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """Show the call as Python would write it."""
        all_args, all_kwargs, _ = self._merge(args, kwargs)
        parts = [_short(a) for a in all_args]
        parts += [f"{k}={_short(v)}" for k, v in sorted(all_kwargs.items())]
        return f"{self.task}({', '.join(parts)})"

    def __repr__(self) -> str:
        return self.reprcall()


class _Composite(Signature):
    """What chain, group and chord share: members as values, whatever dict form they came in."""

    def _values(self, items: Any) -> list[Signature]:
        return [_asvalue(self._family, item) for item in items]


class chain(_Composite):
    """Tasks one after another, each given the result of the one before.

    ``chain(a, b)``, ``chain([a, b])`` and ``a | b`` are the same. Chains inside flatten; empty
    ones vanish; a group followed by anything becomes a chord.
    """

    subtask_type: ClassVar[str | None] = "chain"

    def __init__(self, *tasks: Any, **options: Any) -> None:
        members: Iterable[Any] = tasks
        if len(tasks) == 1 and not isinstance(tasks[0], Signature) and _is_many(tasks[0]):
            members = tasks[0]
        super().__init__("celery.chain", (), {}, options)
        flat: list[Signature] = []
        for task in members:
            _chain_append(flat, _member(self._family, task, "chain"))
        self["kwargs"] = {"tasks": flat}

    @property
    def tasks(self) -> list[Signature]:
        """Elements in order."""
        return self.kwargs["tasks"]  # type: ignore[no-any-return]

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Self:
        """Copy with copied elements; call-time arguments go to the first element."""
        copy: Self = _bare_clone(self, options)
        tasks = [task.clone() for task in self.tasks]
        copy["kwargs"] = {**self.kwargs, "tasks": tasks}
        if (args or kwargs) and tasks and not self.immutable:
            tasks[0] = tasks[0].clone(args, kwargs)
        return copy

    def unchain_tasks(self) -> list[Signature]:
        """Elements as copies, each carrying the chain's errbacks."""
        tasks = [task.clone() for task in self.tasks]
        for errback in _aslist(self.options.get("link_error")):
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
        return " | ".join(repr(t) for t in self.tasks) if self.tasks else "chain()"


class group(_Composite):
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
            elif not isinstance(only, Signature) and _is_many(only):
                members = only
        if join != "all":
            options["join"] = check_rule(join)
        super().__init__("celery.group", (), {}, options)
        family = self._family
        self["kwargs"] = {"tasks": [_member(family, task, "group") for task in members]}

    @property
    def tasks(self) -> list[Signature]:
        """Members in textual order, nested groups not yet flattened."""
        return self.kwargs["tasks"]  # type: ignore[no-any-return]

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Self:
        """Copy with copied members; call-time arguments go to every mutable member."""
        copy: Self = _bare_clone(self, options)
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
        shown = ", ".join(repr(t) for t in tasks[:8])
        more = f", ... {len(tasks) - 8} more" if len(tasks) > 8 else ""
        rule = self.options.get("join")
        return f"group({shown}{more}{f', join={rule!r}' if rule else ''})"


class chord(_Composite):
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
                header = _from_dict(family, header)
            if isinstance(header, Signature) and not isinstance(header, group):
                header = [header]
            header = header if isinstance(header, group) else family["group"](header)
        if join != "all":
            header = header.clone(join=check_rule(join))
        self["kwargs"] = {
            "header": header,
            "body": None if body is None else _member(family, body, "chord"),
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
        copy: Self = _bare_clone(self, options)
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
        shown = ", ".join(repr(t) for t in tasks[:8])
        more = f", ... {len(tasks) - 8} more" if len(tasks) > 8 else ""
        return f"chord([{shown}{more}], {self.body!r})"


class _OverItems(Signature):
    """One task over the items of an iterable."""

    _task_name: ClassVar[str] = ""

    def __init__(self, task: Any = None, it: Any = (), **options: Any) -> None:
        super().__init__(self._task_name, (), {}, options)
        inner = _signature_of(self._family, task)
        self["kwargs"] = {"task": inner, "it": list(it)}
        self["immutable"] = True

    def __repr__(self) -> str:
        kind = "map" if self.subtask_type == "xmap" else "starmap"
        return f"{self.kwargs['task']['task']}.{kind}({_short(self.kwargs['it'])})"


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
        inner = _signature_of(self._family, task)
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
        self["kwargs"] = {"body": _member(self._family, body, "expand"), "join": check_rule(join)}

    @property
    def body(self) -> Signature:
        """What runs for each item."""
        return self.kwargs["body"]  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"expand({self.body!r})"


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


# --- composing -------------------------------------------------------------------------------


def _join(left: Signature, right: Signature) -> Signature:
    """Apply the upgrade table of ``|``; neither operand is changed."""
    make: dict[str, Any] = dict(left._family)
    if isinstance(left, chain):
        merged: Signature = _bare_clone(left, {})
        flat = [task.clone() for task in left.tasks]
        _chain_append(flat, right)
        merged["kwargs"] = {"tasks": flat}
        return merged
    joined: Signature
    if isinstance(left, chord | group) and not isinstance(right, chain):
        flat = [left.clone()]
        _chain_append(flat, right)
        joined = flat[0] if len(flat) == 1 else make["chain"](*flat)
    elif isinstance(left, group):
        joined = make["chord"](left.clone(), right.clone()) if right else left
    elif isinstance(left, chord):
        joined = _extend_body(left, right) if right else left
    else:
        joined = make["chain"](left, right)
    return joined


def _chain_append(flat: list[Signature], item: Signature) -> None:
    """Add one element to a chain under construction, upgrading what stands before it."""
    if isinstance(item, chain):
        if not item:
            return
        head, *rest = _pushed_down(item)
        _chain_append(flat, head)
        for task in rest:
            _chain_append(flat, task)
        return
    if isinstance(item, chunks):
        item = item.group()
    if flat and isinstance(item, group) and not item.tasks:
        return  # an empty group inside a chain hands the value on (Celery 5.7)
    last = flat[-1] if flat else None
    if isinstance(last, group) and not isinstance(last, chunks):
        flat[-1] = last._class("chord")(last, item, **_without(last.options, "join"))
    elif isinstance(last, chord):
        flat[-1] = _extend_body(last, item)
    else:
        flat.append(item)


def _pushed_down(item: chain) -> list[Signature]:
    """Elements of a chain that dissolves into another: its options move onto them."""
    tasks = [task.clone() for task in item.tasks]
    options = dict(item.options)
    for errback in _aslist(options.pop("link_error", None)):
        for task in tasks:
            task.link_error(errback)
    for callback in _aslist(options.pop("link", None)):
        tasks[-1].link(callback)
    if "task_id" in options:
        tasks[-1].set(task_id=options.pop("task_id"))
    for key in ("root_id", "parent_id", "group_id", "chord"):
        options.pop(key, None)
    if options:
        tasks[0].set(**{**options, **tasks[0].options})
    return tasks


def _extend_body(left: chord, right: Signature) -> chord:
    copy = left.clone()
    copy.body = right.clone() if copy.body is None else _join(copy.body, right)
    return copy


# --- small pieces ----------------------------------------------------------------------------


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


def is_signature_dict(value: Any) -> bool:
    """Whether a value has the keys of a signature in dict form."""
    return isinstance(value, Mapping) and "task" in value and "kwargs" in value


def check_rule(rule: str) -> str:
    """Return a join rule unchanged.

    Raises:
        CanvasError: It is none of all, any, always, at_least(n).
    """
    if rule in JOIN_RULES or (
        isinstance(rule, str) and rule.startswith("at_least:") and rule[9:].isdigit()
    ):
        return rule
    raise CanvasError(f"unknown join rule {rule!r}: use 'all', 'any', 'always' or at_least(n)")


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


def _from_dict(family: dict[str, type[Signature]], data: Mapping[str, Any]) -> Signature:
    if not is_signature_dict(data):
        raise CanvasError(f"not a signature: {_short(dict(data) if data else data)}")
    kind = data.get("subtask_type") or "task"
    cls = family.get(kind)
    if cls is None:
        raise CanvasError(f"unknown canvas type {kind!r}")
    value = cls.__new__(cls)
    dict.__init__(value, data)
    value["args"] = tuple(data.get("args") or ())
    value["options"] = _revive_links(family, dict(data.get("options") or {}))
    value.setdefault("immutable", False)
    value.setdefault("subtask_type", None)
    value["kwargs"] = _revive_kwargs(family, kind, dict(data.get("kwargs") or {}))
    return value


def _revive_kwargs(
    family: dict[str, type[Signature]], kind: str, kwargs: dict[str, Any]
) -> dict[str, Any]:
    if kind in ("chain", "group"):
        kwargs["tasks"] = [_asvalue(family, t) for t in kwargs.get("tasks", ())]
    elif kind == "chord":
        header = kwargs.get("header")
        if not isinstance(header, group):
            is_dict = isinstance(header, Mapping)
            header = _from_dict(family, header) if is_dict else family["group"](header or ())  # type: ignore[arg-type]
        body = kwargs.get("body")
        kwargs.update(header=header, body=None if body is None else _asvalue(family, body))
        kwargs.setdefault("kwargs", {})
    elif kind in ("xmap", "xstarmap", "chunks"):
        kwargs["task"] = _asvalue(family, kwargs["task"])
    elif kind == "expand":
        kwargs["body"] = _asvalue(family, kwargs["body"])
        kwargs.setdefault("join", "all")
    return kwargs


def _revive_links(family: dict[str, type[Signature]], options: dict[str, Any]) -> dict[str, Any]:
    for key in ("link", "link_error"):
        if options.get(key):
            options[key] = [_asvalue(family, item) for item in _aslist(options[key])]
    return options


def _asvalue(family: dict[str, type[Signature]], item: Any) -> Signature:
    return item if isinstance(item, Signature) else _from_dict(family, item)


def _member(family: dict[str, type[Signature]], item: Any, where: str) -> Signature:
    if isinstance(item, Signature):
        return item
    if is_signature_dict(item):
        return _from_dict(family, item)
    hint = " (did you forget .s()?)" if callable(item) else ""
    raise CanvasError(f"{where}() takes signatures, not {_short(item)}{hint}")


def _signature_of(family: dict[str, type[Signature]], task: Any) -> Signature:
    """A signature for what map, starmap and chunks were given: a task, a name or a value."""
    if isinstance(task, Signature):
        return task
    if is_signature_dict(task):
        return _from_dict(family, task)
    return family["task"](task)


def _bare_clone(value: Any, options: Mapping[str, Any]) -> Any:
    copy = value.__class__.__new__(value.__class__)
    dict.__init__(copy, value)
    copy["options"] = {**value.options, **options}
    for key in ("link", "link_error"):
        if key in copy["options"]:
            copy["options"][key] = list(_aslist(copy["options"][key]))
    return copy


def _rebuild(cls: type[Signature], data: dict[str, Any]) -> Signature:
    value = cls.__new__(cls)
    dict.__init__(value, data)
    return value


def _aslist(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple | set) else [value]


def _without(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in names}


def _is_many(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)


def _short(value: Any, limit: int = 60) -> str:
    try:
        text = repr(value)
    except Exception as exc:  # a user's repr may raise; showing must not
        text = f"<unprintable {type(value).__name__}: {type(exc).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."
