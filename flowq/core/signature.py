"""`Signature`: one call of a task, as an inert value; the base of every canvas value.

A dict in Celery's own form (task, args, kwargs, options, subtask_type, immutable), so it
survives ``json.dumps``. What composing and reviving mean is in `composing` and `dictform`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from flowq.errors import CanvasError

JOIN_RULES = ("all", "any", "always")


def at_least(n: int) -> str:
    """Name the join rule that fires once `n` members have succeeded.

    Raises:
        CanvasError: `n` is not a whole number of at least 1.
    """
    if not isinstance(n, int) or n < 1:
        raise CanvasError(f"at_least({n!r}) needs a whole number of at least 1")
    return f"at_least:{n}"


def check_rule(rule: str, count: int = 0) -> str:
    """Return a join rule unchanged.

    Args:
        rule: The rule.
        count: How many it joins; 0: that is not known yet.

    Raises:
        CanvasError: It is none of all, any, always, at_least(n), or wants more than there are.
    """
    if rule in JOIN_RULES:
        return rule
    if isinstance(rule, str) and rule.startswith("at_least:"):
        least = int(rule[9:]) if rule[9:].isdigit() else 0
        if least > count > 0:
            raise CanvasError(f"at_least({least}) of {count} can never be: give at most {count}")
        if least:
            return rule
    raise CanvasError(f"unknown join rule {rule!r}: use 'all', 'any', 'always' or at_least(n)")


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
    #: What ``|`` and `from_dict` do, and what takes a part in; set by `core.canvas`, which knows
    #: the whole family.
    _compose: ClassVar[Any]
    _revive: ClassVar[Any]
    _member: ClassVar[Any]

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
        made: Signature = cls._revive(cls._family, data)
        return made

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
                merged[key] = list(as_list(merged[key]))
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
        items = self.options[key] = list(as_list(self.options.get(key)))
        if value not in items:
            items.append(value)
        return value

    def link(self, callback: Signature) -> Signature:
        """Run `callback` with the result once this has succeeded; returns `callback`.

        Raises:
            CanvasError: It is neither a signature nor a task.
        """
        self.append_to_list_option("link", self._linked(callback, "link"))
        return callback

    def link_error(self, errback: Signature) -> Signature:
        """Run `errback` if this fails; returns `errback`.

        Raises:
            CanvasError: It is neither a signature nor a task.
        """
        self.append_to_list_option("link_error", self._linked(errback, "link_error"))
        return errback

    def _linked(self, value: Any, where: str) -> Any:
        """A callback as it is kept: a dict form stays one."""
        return value if isinstance(value, Mapping) else self._member(self._family, value, where)

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
        for callback in as_list(self.options.get("link")):
            value = callback if isinstance(callback, Signature) else self.from_dict(callback)
            found.extend(value.flatten_links())
        return found

    # -- composing -----------------------------------------------------------------------

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Signature):  # not NotImplemented: dicts would merge
            if isinstance(other, Mapping) or not hasattr(other, "s"):
                raise TypeError(f"cannot chain {short(self)} with {short(other)}: use a signature")
            other = self._member(self._family, other, "|")
        return self._compose(self, other)

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
        """Show the call as Python would write it, with the texts chosen for its arguments."""
        all_args, all_kwargs = self.get("args") or (), self["kwargs"]
        if args or kwargs:
            all_args, all_kwargs, _ = self._merge(args, kwargs)
        hidden, named = self.options.get("argsrepr"), self.options.get("kwargsrepr")
        parts = [str(hidden)] if hidden else [short(a) for a in all_args]
        if named:
            parts.append(str(named))
        elif all_kwargs:
            parts += [f"{k}={short(v)}" for k, v in sorted(all_kwargs.items())]
        return f"{self.task}({', '.join(parts)})"

    def __repr__(self) -> str:
        return self.reprcall()


def bare_clone(value: Any, options: Mapping[str, Any]) -> Any:
    """Copy a composite with its parts shared and options merged; the caller copies the parts."""
    copy = value.__class__.__new__(value.__class__)
    dict.__init__(copy, value)
    copy["options"] = {**value.options, **options}
    for key in ("link", "link_error"):
        if key in copy["options"]:
            copy["options"][key] = list(as_list(copy["options"][key]))
    return copy


def _rebuild(cls: type[Signature], data: dict[str, Any]) -> Signature:
    value = cls.__new__(cls)
    dict.__init__(value, data)
    return value


def as_list(value: Any) -> list[Any]:
    """A list option as a list: None is empty, one value is a list of one."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple | set) else [value]


def repr_of(value: Any) -> str:
    """The repr of a part; dots where the canvas is nested too deeply to be shown."""
    try:
        return repr(value)
    except RecursionError:
        return "..."


def short(value: Any, limit: int = 60) -> str:
    """A repr of at most `limit` characters that never raises."""
    try:
        text = repr(value)
    except Exception as exc:  # a user's repr may raise; showing must not
        text = f"<unprintable {type(value).__name__}: {type(exc).__name__}>"
    return text if len(text) <= limit else text[: limit - 3] + "..."
