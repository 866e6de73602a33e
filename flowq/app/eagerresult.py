"""`EagerResult`: what a call that ran in this process left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.app.asyncresult import AsyncResult
from flowq.app.groupresult import GroupResult
from flowq.app.outcome import FAILED

if TYPE_CHECKING:
    from flowq.app.base import Flowq


class EagerResult(AsyncResult):
    """The result of a call that ran in this process."""

    def __init__(
        self,
        id: str,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
        app: Flowq | None = None,
        parent: Any = None,
        original: EagerResult | None = None,
    ) -> None:
        super().__init__(id, task_name=name, app=app, parent=parent)
        self._ret_value = ret_value
        self._state = state
        self._traceback = traceback
        #: The result that failed in the place of this one, which never ran.
        self.original = original

    @property
    def state(self) -> str:
        """How it ended."""
        return self._state

    status = state

    @property
    def result(self) -> Any:
        """The value or the exception."""
        return self._ret_value

    info = result

    @property
    def traceback(self) -> str | None:
        """Text of the traceback of what failed."""
        return self._traceback

    @property
    def parent(self) -> Any:
        """The eager result before it, or None."""
        return self._parent

    @parent.setter
    def parent(self, value: Any) -> None:
        self._parent = value

    name = property(lambda self: self._name, doc="Name of the task.")
    children = property(lambda self: [], doc="None: what followed ran within the call.")
    run = property(lambda self: None, doc="None: nothing was stored.")
    date_done = property(lambda self: None, doc="Not recorded.")

    @property
    def error(self) -> Exception:
        """What failed in the first place: not a join's error but that of its member."""
        if self.original is not None:
            return self.original.error
        error = self._ret_value
        return error if isinstance(error, Exception) else errors.TaskSkipped(str(error))

    def exists(self) -> bool:
        """True: it is here."""
        return True

    def get(  # type: ignore[override]
        self,
        timeout: float | None = None,
        propagate: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        **_: Any,
    ) -> Any:
        """Return the value, or raise what the task raised."""
        if propagate and self._state != "SUCCESS":
            error = self._ret_value
            raise error if isinstance(error, Exception) else errors.TaskSkipped(str(error))
        if callback is not None:
            callback(self.id, self._ret_value)
        return self._ret_value

    def maybe_throw(self, propagate: bool = True, callback: Any = None) -> Any:
        """Raise the error of what failed; else return the value."""
        if self._state in FAILED:
            return self.get(propagate=propagate)
        return self._ret_value

    maybe_reraise = maybe_throw

    async def _in_loop(self) -> Any:
        return self.get()

    def forget(self) -> None:
        """Does nothing: nothing was stored."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Does nothing: it has ended."""

    def __reduce__(self) -> Any:
        return _rebuild_eager, (self.id, self._ret_value, self._state, self._traceback, self._name)

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"


def _rebuild_eager(*args: Any) -> EagerResult:
    return EagerResult(*args)


class EagerGroupResult(GroupResult):
    """The results of a group that ran in this process, joined by its rule."""

    def __init__(
        self,
        id: str,
        results: list[Any],
        value: Any,
        *,
        failed: bool = False,
        app: Flowq | None = None,
    ) -> None:
        super().__init__(id, results, app=app)
        self._joined = value
        self._failed = failed

    parent = property(
        lambda self: self._parent,
        lambda self, value: setattr(self, "_parent", value),
        doc="The eager result before it, or None.",
    )
    run = property(lambda self: None, doc="None: nothing was stored.")

    def get(  # type: ignore[override]
        self, timeout: float | None = None, propagate: bool = True, **kwargs: Any
    ) -> Any:
        """Return the list that the group's rule gives, or raise the error of its first member."""
        if kwargs.get("callback") or not propagate:
            return super().get(propagate=propagate, callback=kwargs.get("callback"))
        if self._failed:
            raise self._joined
        return self._joined

    join = get  # type: ignore[assignment]
    join_native = get  # type: ignore[assignment]

    def maybe_throw(self, callback: Any = None, propagate: bool = True) -> None:
        """Raise the error of the first member that failed, where the rule did not forgive it."""
        if self._failed and propagate:
            raise self._joined

    maybe_reraise = maybe_throw

    async def _in_loop(self) -> Any:
        return self.get()
