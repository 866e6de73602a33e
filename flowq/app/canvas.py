"""The public canvas: the core's values with Celery's verbs on them.

Each verb is a thin call: `apply_async` and `delay` submit, `apply` runs here. What the options of a
composition reach is decided by the compiler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from flowq import errors
from flowq.app import current
from flowq.app.calling import OF_RUN, new_id, send, submit_canvas
from flowq.app.display import Shown
from flowq.app.oncommit import OnCommit
from flowq.core import canvas as core

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.app.task import Task

#: Kind -> public class; the operators of the core build from it.
FAMILY: dict[str, type[core.Signature]] = {}


class _Callable(OnCommit, Shown, core.Signature):
    """What every public canvas value can do."""

    _family: ClassVar[dict[str, type[core.Signature]]] = FAMILY
    _app: Flowq | None = None

    def __init__(self, *args: Any, app: Flowq | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if app is not None:
            self._app = app

    @property
    def app(self) -> Flowq:
        """The app it was made with, else that of its first part, else the current one."""
        found = _app_of(self)
        return found if found is not None else current.get_current()

    @property
    def type(self) -> Task:
        """The task itself; raises errors.NotRegistered."""
        return self.app.tasks[self["task"]]  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], app: Flowq | None = None) -> Any:
        """Rebuild any canvas from Celery's dict form."""
        value = super().from_dict(data)
        if app is not None:
            value._app = app  # type: ignore[attr-defined]
        return value

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Self:
        """Copy, with call-time arguments merged in front; the original stays as it is."""
        copy = super().clone(args, kwargs, **options)
        if self._app is not None:
            copy._app = self._app
        return copy

    partial = clone

    # -- sending ----------------------------------------------------------------------------

    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Submit it with these arguments and return its result object."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Submit it and return its result object, whose `.run` is the run.

        Args:
            args: Prepended to the stored arguments; what they reach depends on the kind.
            kwargs: Merged over the stored keyword arguments.
            options: As ``Task.apply_async``; what they reach depends on the kind. `run_name`,
                `tags`
                and `idempotency_key` are those of the run.
        """
        app = self.app
        if app.conf.task_always_eager:
            return self.apply(tuple(args or ()), kwargs, **options)
        changed = args or kwargs or options or not OF_RUN.isdisjoint(self.options)
        canvas = self.clone(tuple(args or ()), kwargs, **options) if changed else self
        return submit_canvas(app, canvas)

    def _canvas_for(self, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        return self.clone(tuple(args or ()), dict(kwargs or {}), **options)

    def __invert__(self) -> Any:
        """``~sig``: send it and wait for its value."""
        return self.apply_async().get()

    # -- running here -----------------------------------------------------------------------

    def apply(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> Any:
        """Run it in this process, at once, and return its result object.

        `throw`: raise the error of what failed; None: as `task_eager_propagates` says.
        """
        from flowq.app.eagercanvas import apply_canvas

        app = self.app
        result = apply_canvas(app, self.clone((), None, **options), tuple(args), dict(kwargs or {}))
        if throw if throw is not None else app.conf.task_eager_propagates:
            result.maybe_throw()
        return result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Submit it, as Celery does for compositions."""
        return self.apply_async(args, kwargs)

    # -- ids --------------------------------------------------------------------------------

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Choose ids before sending, on this very value, and return the result object.

        Repeating: ids that were chosen stay.
        """
        options = self.options
        task_id = options.setdefault("task_id", _id or new_id())
        extra = (("root_id", root_id), ("parent_id", parent_id), ("group_id", group_id))
        for key, value in (*extra, ("chord", chord), ("group_index", group_index)):
            if value is not None:
                options[key] = value
        return self.app.AsyncResult(task_id, task_name=self.get("task"))

    _freeze = freeze


class Signature(_Callable):
    """One call of a task, to be made later; ``add.s(2, 2)`` makes one."""

    def __init__(self, task: Any = None, *args: Any, app: Flowq | None = None, **kw: Any) -> None:
        if app is None and not isinstance(task, str | dict):
            app = getattr(task, "__dict__", {}).get("app")
        super().__init__(task, *args, app=app, **kw)

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Send the task; see `Task.apply_async`."""
        app = self.app
        merged, named, all_options = self._merge(tuple(args or ()), kwargs, options)
        task = app.tasks.get(self["task"])
        if task is None:
            return send(app, self["task"], merged, named, all_options)
        return task.apply_async(merged, named, **all_options)

    def apply(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> Any:
        """Run the task in this process as a worker would; see `Task.apply`."""
        merged, named, all_options = self._merge(tuple(args or ()), kwargs, options)
        return self.type.apply(merged, named, throw=throw, **all_options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body in this process, now, as a plain call."""
        merged, named, _ = self._merge(args, kwargs)
        return self.type(*merged, **named)


class chain(_Callable, core.chain):
    """Tasks one after another, each given the result before it: ``a | b`` or chain(a, b)."""

    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """Submit it; an empty chain does nothing and gives None."""
        if not self.tasks:
            return None
        return super().apply_async(args, kwargs, **options)

    def _canvas_for(self, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        return super()._canvas_for(args, kwargs, options) if self.tasks else None

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Run it in this process; an empty chain gives None."""
        return super().apply(*args, **kwargs) if self.tasks else None

    def run(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """The same as `apply_async`."""
        return self.apply_async(args, kwargs, **options)

    def freeze(
        self, _id: str | None = None, *args: Any, parent_id: str | None = None, **kwargs: Any
    ) -> Any:
        """Choose the ids of all elements; the last one's is the chain's."""
        if _id or self.options.get("task_id"):
            self.tasks[-1].options.setdefault("task_id", _id or self.options["task_id"])
        previous: Any = None
        for task in self.tasks:
            before = parent_id if previous is None else previous.id
            result = task.freeze(None, *args, parent_id=before, **kwargs)  # type: ignore[attr-defined]
            _first(result).parent = previous
            previous = result
        if previous is not None and self.tasks[-1].get("subtask_type") != "group":
            self.options["task_id"] = previous.id
        return previous

    _freeze = freeze


class group(_Callable, core.group):
    """Tasks side by side; the value is the list of their results in textual order."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Submit it with these arguments for every member."""
        return self.apply_async(args, **options)

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Choose the group's id and those of its members; returns the GroupResult."""
        gid = self.options.setdefault("task_id", _id or new_id())
        results = [
            task.freeze(  # type: ignore[attr-defined]
                None, gid, chord, root_id, parent_id, i
            )
            for i, task in enumerate(self.tasks)
        ]
        return self.app.GroupResult(gid, results)

    _freeze = freeze


class chord(_Callable, core.chord):
    """A group whose list of results goes to a body: chord(header, body), chord(header)(body)."""

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Submit it, with a body where it has none yet."""
        return self._with(body).apply_async(**options)

    def apply_async(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        body: Any = None,
        **options: Any,
    ) -> Any:
        """Submit it; an empty header runs the body with an empty list."""
        kwargs = dict(kwargs or {})
        body = kwargs.pop("body", None) or body
        if body is not None:
            return self._with(body).apply_async(args, kwargs, **options)
        return super().apply_async(args, kwargs, **options)

    run = apply_async

    def _with(self, body: Any) -> Self:
        if body is None:
            return self
        copy = self.clone()
        copy.body = signature(body, app=self._app)
        return copy

    def freeze(
        self, _id: str | None = None, *args: Any, root_id: str | None = None, **kwargs: Any
    ) -> Any:
        """Choose the ids of header and body; the body's is the chord's."""
        _id = _id or self.options.get("task_id")
        header = self.tasks.freeze(  # type: ignore[attr-defined]
            root_id=root_id, parent_id=kwargs.pop("parent_id", None)
        )
        result = self._need_body().freeze(_id, *args, root_id=root_id, **kwargs)  # type: ignore[attr-defined]
        _first(result).parent = header
        self.options["task_id"] = result.id
        return result

    _freeze = freeze


class _Loop(_Callable):
    """A built-in task that calls another one for each item."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it in this process, now."""
        merged, named, _ = self._merge(args, kwargs)
        return self.type(*merged, **named)

    def apply(
        self,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Any,
    ) -> Any:
        """Run it in this process and return its result object."""
        merged, named, all_options = self._merge(tuple(args or ()), kwargs, options)
        return self.type.apply(merged, named, throw=throw, **all_options)


class xmap(_Loop, core.xmap):
    """One node that calls a task for each item and returns the list of results."""


class xstarmap(_Loop, core.xstarmap):
    """Like `xmap`, each item being a sequence of positional arguments."""


class chunks(_Callable, core.chunks):
    """A group of `xstarmap` nodes of `n` items each."""

    def __call__(self, **options: Any) -> Any:
        """Submit it."""
        return self.apply_async(**options)

    def apply_chunks(self, **options: Any) -> Any:
        """Submit it as the group that it stands for."""
        return self.group().apply_async(**options)


class expand(_Loop, core.expand):
    """Fan out at run time: ``files.s() | expand(parse.s()) | report.s()``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it in this process and return the list."""
        return self.apply(args, kwargs).get(disable_sync_subtasks=False)


FAMILY.update(
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


def signature(varies: Any, *args: Any, app: Flowq | None = None, **kwargs: Any) -> Any:
    """Make a signature from a name, a task or a dict; a canvas comes back as a copy."""
    if isinstance(varies, _Callable):
        value: Any = varies.clone()
        if app is not None and _app_of(value) is None:
            value._app = app
        return value
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies, app=app)
    return Signature(varies, *args, app=app, **kwargs)


def maybe_signature(value: Any, app: Flowq | None = None, clone: bool = False) -> Any:
    """A signature for a signature's dict form; anything else unchanged."""
    if isinstance(value, _Callable):
        return value.clone() if clone else value
    if isinstance(value, core.Signature) or core.is_signature_dict(value):
        return Signature.from_dict(value, app=app)
    return value


def ready_to_replace(app: Flowq, sig: Any) -> Any:
    """Check what was given to ``self.replace`` and return a copy as a public value."""
    value = maybe_signature(sig, app)
    if not isinstance(value, core.Signature):
        hint = "; did you forget .s()?" if callable(sig) else ""
        raise errors.CanvasError(f"replace() takes a signature or a canvas, not {sig!r}{hint}")
    if isinstance(value, core.chain) and not value.tasks:
        raise errors.ImproperlyConfigured("replace() needs something to run: this chain is empty")
    if "chord" in value.options:
        raise errors.ImproperlyConfigured(
            "replace() cannot take a signature that belongs to another chord; give it a fresh one"
        )
    return signature(value, app=app)


def _app_of(sig: Any) -> Flowq | None:
    seen = 0
    while sig is not None and seen < 100:
        if getattr(sig, "_app", None) is not None:
            return sig._app  # type: ignore[no-any-return]
        inner = sig["kwargs"].get("task")
        sig = inner if isinstance(inner, core.Signature) else next(core.members(sig), None)
        seen += 1
    return None


def _first(result: Any) -> Any:
    """The result at the start of an element: walk up its parents."""
    while result._parent is not None:
        result = result._parent
    return result
