"""`ResultSet` and `GroupResult`: several results, read together and in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

from flowq import errors
from flowq.app import current
from flowq.app.asyncresult import AsyncResult, Result, run_of
from flowq.app.outcome import FAILED
from flowq.app.waiting import assert_will_not_block, outcome_in_loop
from flowq.core.ids import is_node_id

if TYPE_CHECKING:
    from flowq.app.base import Flowq


class ResultSet(Result):
    """Results to be read together, in order."""

    def __init__(self, results: Iterable[Any] | None = None, app: Flowq | None = None) -> None:
        self.app = app if app is not None else current.get_current()
        self._results: list[Any] | None = list(results or ())

    @property
    def results(self) -> list[Any]:
        """The results in order."""
        assert self._results is not None
        return self._results

    children = property(lambda self: self.results, doc="The same as `results`.")
    supports_native_join = True

    def add(self, result: Any) -> None:
        """Add a result, once."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Take a result (or its id) out; KeyError when it is not in."""
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(str(result)) from None

    def discard(self, result: Any) -> None:
        """Take a result out if it is in."""
        if result in self.results:
            self.results.remove(result)

    def update(self, results: Iterable[Any]) -> None:
        """Add several."""
        for result in results:
            self.add(result)

    def clear(self) -> None:
        """Take all out."""
        self.results.clear()

    def ready(self) -> bool:
        """Whether all have ended."""
        return all(r.ready() for r in self.results)

    def successful(self) -> bool:
        """Whether all ended in SUCCESS."""
        return all(r.successful() for r in self.results)

    def failed(self) -> bool:
        """Whether one ended in FAILURE."""
        return any(r.failed() for r in self.results)

    def waiting(self) -> bool:
        """Whether one has not ended."""
        return any(not r.ready() for r in self.results)

    def completed_count(self) -> int:
        """How many ended in SUCCESS."""
        return sum(1 for r in self.results if r.successful())

    def maybe_throw(self, callback: Any = None, propagate: bool = True) -> None:
        """Raise the first error in order, of those that have failed."""
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[Any]:
        """Wait for all and return their values in order, or raise the first error in order.

        `timeout` is for the whole; the rest as ``AsyncResult.get``.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        end = None if timeout is None else time.monotonic() + timeout
        values = []
        for result in self.results:
            left = None if end is None else max(0.0, end - time.monotonic())
            value = result.get(
                timeout=left,
                propagate=propagate,
                interval=interval,
                on_message=on_message,
                on_interval=on_interval,
                disable_sync_subtasks=False,
            )
            if callback is not None:
                callback(getattr(result, "id", None) or "", value)
            values.append(value)
        return values

    join = get
    join_native = get

    def iter_native(
        self, timeout: float | None = None, **kwargs: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Pairs of (id, recorded state as a dict) in order, each as soon as it has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        for result in self.results:
            left = None if end is None else max(0.0, end - time.monotonic())
            value = result.get(timeout=left, propagate=False)
            yield result.id, {"task_id": result.id, "status": result.state, "result": value}

    def __await__(self) -> Generator[Any, None, list[Any]]:
        return self._in_loop().__await__()

    async def _in_loop(self) -> list[Any]:
        return [await result for result in self.results]

    def forget(self) -> None:
        """Drop the recorded results of bare tasks, see ``AsyncResult.forget``."""
        for result in self.results:
            result.forget()

    def revoke(self, connection: Any = None, **kwargs: Any) -> None:
        """Ask for none of them to run; arguments as ``AsyncResult.revoke``."""
        for result in self.results:
            result.revoke(connection, **kwargs)

    def as_tuple(self) -> Any:
        """Plain data, as of a group without an id."""
        return (None, None), [r.as_tuple() for r in self.results]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, key: Any) -> Any:
        return self.results[key]

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResultSet) and other.results == self.results

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        shown = ", ".join(str(r) for r in self.results[:8])
        return f"<{type(self).__name__}: [{shown}{', ...' if len(self.results) > 8 else ''}]>"


class GroupResult(ResultSet):
    """The results of a group. Its id is that of the join behind it.

    Without `results` the members are looked up by the id when they are asked for.
    """

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Any] | None = None,
        parent: Any = None,
        app: Flowq | None = None,
        run: Any = None,
    ) -> None:
        super().__init__(results, app=app)
        self.id = id
        self._parent = parent
        self._run = run
        if results is None and id is not None:
            self._results = None

    @property
    def results(self) -> list[Any]:
        """The members' results in textual order."""
        if self._results is None:
            outcome = self._engine().lookup(self.id)
            if outcome is None:
                raise errors.UnknownId(f"no group has the id {self.id}; check it with `flowq list`")
            members = outcome.members or ()
            self._results = [AsyncResult(member, app=self.app) for member in members]
        return self._results

    @property
    def parent(self) -> Any:
        """The result that the members waited for, or None."""
        if self._parent is None and self.id and self._on_store():
            first = next(iter(self.results), None)
            self._parent = None if first is None else first.parent
        return self._parent

    @parent.setter
    def parent(self, value: Any) -> None:
        self._parent = value

    @property
    def run(self) -> Any:
        """The Run it is part of."""
        if self._run is None and self.id:
            uid = run_of(AsyncResult(self.id, app=self.app))
            self._run = None if uid is None else self.app.run(uid)
        return self._run

    def _on_store(self) -> bool:
        """Whether members are nodes of a run, and not results that eager calls left."""
        return self._results is None or any(type(r) is AsyncResult for r in self._results)

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[[dict[str, Any]], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[Any]:
        """Wait for the group and return its values in order, or raise the first error in order.

        A group with a join rule gives the values that the rule lets through. The arguments are
        those of ``ResultSet.get``; one of those that look at members makes it ask for each of them.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        each = not propagate or callback or on_message or on_interval
        if not each and self._lone():
            whole = AsyncResult(str(self.id), app=self.app)
            try:
                value: list[Any] = whole.get(
                    timeout=timeout, follow_parents=False, disable_sync_subtasks=False
                )
            except errors.ChordError as error:
                raise self.first_error(error) from None
            return value
        return super().get(
            timeout=timeout,
            propagate=propagate,
            interval=interval,
            callback=callback,
            on_message=on_message,
            disable_sync_subtasks=False,
            on_interval=on_interval,
        )

    join = get
    join_native = get

    def first_error(self, instead: Exception) -> Exception:
        """What the first member in order that failed raised, every member having ended.

        `instead` is for a group none of whose members failed; it comes back then.
        """
        for result in self.results:
            if result.state in FAILED:
                try:
                    result.get(disable_sync_subtasks=False)
                except Exception as error:
                    return error
        return instead

    def _lone(self) -> bool:
        """Whether one look at the join answers for all members."""
        return self.id is not None and (
            is_node_id(self.id) or (self._on_store() and self._engine().lookup(self.id) is not None)
        )

    async def _in_loop(self) -> list[Any]:
        if not self._lone():
            return await super()._in_loop()
        assert_will_not_block()
        await outcome_in_loop(self._engine(), str(self.id))
        return self.get(disable_sync_subtasks=False)

    def save(self, backend: Any = None) -> Self:
        """Does nothing: a group is in the store from its submission."""
        return self

    def delete(self, backend: Any = None) -> None:
        """Drop what is recorded of it; nodes stay with their run, see ``AsyncResult.forget``."""
        if self.id:
            self._engine().forget(self.id)

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: Flowq | None = None) -> Any:
        """The GroupResult of an id, or None when nobody knows it."""
        app = app if app is not None else current.get_current()
        outcome = app._engine().lookup(id)
        return None if outcome is None else cls(id, app=app)

    def as_tuple(self) -> Any:
        """``((id, parent), [member, ...])``, nested."""
        parent = self._parent
        head = (self.id, parent.as_tuple() if parent is not None else None)
        return head, [r.as_tuple() for r in self.results]

    def as_list(self) -> list[str]:
        """Ids of the group and of its members."""
        return [str(self.id), *(i for r in self.results for i in r.as_list())]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return str(self.id)

    def __repr__(self) -> str:
        if self._results is None:
            return f"<GroupResult: {self.id}>"
        return f"<GroupResult: {self.id} {super().__repr__()[14:-1]}>"
