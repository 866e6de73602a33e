"""`Run`: one run of a canvas, from any process that can open its store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flowq import errors, payload
from flowq.app.display import ShownLive
from flowq.backends.recorded import Recorded
from flowq.core.graph import Kind
from flowq.core.ids import node_id_of
from flowq.core.states import RUN_TERMINAL, RunState, State

if TYPE_CHECKING:
    from flowq.app.client import Client
    from flowq.store.rows import NodeRow, RunRow

_PAGE = 1000


class Run(ShownLive):
    """One run. All of it is read from the store at each use; nothing is cached but its ids.

    Args:
        engine: Of the app it is looked at with.
        run_id: Integer key in the store.
        uid: Public id.
        kind: Kind of its result node, where the caller knows it.
        result: Indexes of its result nodes, likewise.
    """

    def __init__(
        self,
        engine: Client,
        run_id: int,
        uid: str,
        kind: Kind | None = None,
        result: list[int] | None = None,
    ) -> None:
        self._engine, self.run_id, self.id = engine, run_id, uid
        self._kind = kind
        self._results = result

    # -- what it is ----------------------------------------------------------------------

    @property
    def uid(self) -> str:
        """The same as `id`."""
        return self.id

    @property
    def row(self) -> RunRow:
        """All that the store lists about it; raises UnknownId once it was pruned."""
        return self._engine.open().run_by_id(self.run_id)

    @property
    def name(self) -> str:
        """Name in lists."""
        return self.row.name

    @property
    def state(self) -> RunState:
        """State now."""
        store = self._engine.open()
        row = store.one(store.sql.run_state, (self.run_id,))
        if row is None:
            raise errors.UnknownId(f"run {self.id} was pruned")
        return RunState(row[0])

    @property
    def tags(self) -> dict[str, str]:
        """Tags given at submission."""
        return self.row.tags

    @property
    def nodes(self) -> list[NodeRow]:
        """Its nodes in order, as they are now."""
        return self._engine.open().nodes(self.run_id)

    def counts(self) -> dict[str, int]:
        """How many nodes are in each state that occurs."""
        return self._engine.open().counts(self.run_id)

    def __getitem__(self, key: str | int) -> RunNode:
        """One node by name, id or index; raises UnknownId."""
        store = self._engine.open()
        return RunNode(self, store.find_node(self.run_id, str(key)))

    @property
    def result_node(self) -> int:
        """Index of the (first) node whose value is the run's."""
        if self._results is None:
            self._results = self.row.result_nodes
        return self._results[0]

    @property
    def result_id(self) -> str:
        """Id of that node."""
        return node_id_of(self.id, self.result_node)

    @property
    def result_is_group(self) -> bool:
        """Whether that node gathers a group."""
        if self._kind is None:
            store = self._engine.open()
            row = store.one(store.sql.node_one, (self.run_id, self.result_node))
            self._kind = Kind(row[0]) if row else Kind.TASK
        return self._kind is Kind.JOIN

    # -- waiting -------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it has ended; False if `timeout` seconds passed before. Repeatable.

        Raises:
            RuntimeError: Called inside a task.
        """
        self._not_in_task()
        return self._engine.wait_run(self.run_id, timeout)

    def result(self, timeout: float | None = None) -> Any:
        """Block until it has ended and return its value. Repeatable.

        Raises:
            TimeoutError: `timeout` seconds have passed; the run goes on.
            RunFailed: It ended in FAILURE; the first error is the cause of this one.
            RunCancelled: It was cancelled.
        """
        if not self.wait(timeout):
            raise errors.TimeoutError(f"run {self.id} has not ended within {timeout:g} s")
        return self._value()

    def _value(self) -> Any:
        state = self.state
        if state is RunState.CANCELLED:
            raise errors.RunCancelled(f"run {self.id} was cancelled")
        results = self.row.result_nodes
        if state is RunState.FAILURE:
            raise self._failure(results)
        recorded = Recorded(self._engine.open())
        values = []
        for idx in results:
            frame = recorded.value(self.run_id, idx)
            values.append(None if frame is None else self._decode(frame))
        return values[0] if len(values) == 1 else values

    def _failure(self, results: list[int]) -> errors.RunFailed:
        store = self._engine.open()
        recorded = Recorded(store)
        for idx in results:
            row = store.one(store.sql.node_one, (self.run_id, idx))
            if row is None or row[1] in (State.SUCCESS,):
                continue
            root = self._root(idx)
            error = self.rebuild(recorded.error(self.run_id, root))
            name = store.one(store.sql.node_place, (self.run_id, root))
            made = errors.RunFailed(
                f"run {self.id} failed at {name[0] if name else root}: "
                f"{type(error).__name__}: {error}"
            )
            made.__cause__ = error
            return made
        return errors.RunFailed(f"run {self.id} failed")

    def _root(self, idx: int) -> int:
        """The node a failure came from: causes are followed to their end."""
        store = self._engine.open()
        for _ in range(1000):
            row = store.one(store.sql.node_one, (self.run_id, idx))
            if row is None or row[2] in (-1, idx):
                return idx
            idx = int(row[2])
        return idx

    def _decode(self, frame: bytes) -> Any:
        accept = tuple(self._engine.app.conf.accept_content)
        return payload.decode(frame, accept)

    def rebuild(self, frame: bytes) -> Exception:
        """The exception that an error frame tells of."""
        return payload.rebuild(payload.decode_error(frame), self._engine.app.defines_module)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._awaited().__await__()

    async def _awaited(self) -> Any:
        import asyncio  # takes longer to import than all of flowq's own modules here

        while not await asyncio.to_thread(self._engine.wait_run, self.run_id, 1.0):
            continue
        return self._value()

    def _not_in_task(self) -> None:
        from flowq.app.waiting import assert_will_not_block

        assert_will_not_block()

    # -- changing ------------------------------------------------------------------------

    def cancel(self) -> None:
        """Cancel: what has not ended is REVOKED. An ended run stays as it is."""
        self._engine.act(self.run_id, "cancel")

    def pause(self) -> None:
        """Dispatch nothing more; what runs is finished. Paused already: nothing changes."""
        self._only(RunState.RUNNING, RunState.PAUSED, doing="pause")
        self._engine.act(self.run_id, "pause")

    def unpause(self) -> None:
        """Go on after `pause`. Not paused: nothing changes."""
        self._only(RunState.RUNNING, RunState.PAUSED, doing="unpause")
        self._engine.act(self.run_id, "unpause")

    def resume(self) -> Run:
        """Go on in this process with a run whose own process has ended.

        Raises:
            WrongState: It has ended, or its process lives.
            NotRegistered: A task of it is not defined here.
        """
        self._engine.resume(self.run_id)
        return self

    def retry(self) -> Run:
        """Run what failed, and what was skipped because of it, again in this very run.

        Raises:
            WrongState: It has not ended, or nothing failed.
        """
        if self.state not in RUN_TERMINAL:
            raise errors.WrongState(f"run {self.id} has not ended: nothing to retry yet")
        counts = self.counts()
        if not counts.get("FAILURE") and not counts.get("REVOKED"):
            raise errors.WrongState(f"run {self.id} has no failed node: flowq rerun runs it anew")
        for (name,) in self._engine.open().rows(self._engine.store.sql.spec_tasks, (self.run_id,)):
            self._engine.app.check_known(name)
        generation = self.row.generation
        self._engine.act(self.run_id, "retry")
        self._engine.wait_generation(self.run_id, generation + 1)
        return self

    def rerun(self, from_: str | None = None) -> Run:
        """A new run of the same graph; with `from_`, results of what is not behind that node
        are reused, without it nothing is. Both stay linked."""
        from flowq.app.rerun import rerun

        return rerun(self._engine, self, from_)

    def _only(self, *states: RunState, doing: str) -> None:
        state = self.state
        if state not in states:
            raise errors.WrongState(f"cannot {doing} run {self.id}: it is {state}")

    # -- following -----------------------------------------------------------------------

    def events(self, follow: bool = False, after: int = 0) -> Iterator[dict[str, Any]]:
        """What happened, in commit order, from line `after` on; `follow` waits for more.

        Each is a dict: seq, node, name, before, after, cause, attempt, at (aware UTC).
        """
        names: dict[int, str] = {}
        while True:
            ended = self.state in RUN_TERMINAL
            rows = self._engine.open().transitions(self.run_id, after, _PAGE)
            for row in rows:
                if row.idx not in names:
                    names.update((n.idx, n.name) for n in self.nodes)
                after = row.seq
                yield {
                    "seq": row.seq,
                    "node": row.idx,
                    "name": names.get(row.idx, str(row.idx)),
                    "before": row.before,
                    "after": row.after,
                    "cause": row.cause,
                    "attempt": row.attempt,
                    "at": datetime.fromtimestamp(row.at, UTC),
                }
            if not rows:
                if ended or not follow:
                    return
                self._engine.wait_run(self.run_id, 0.1)

    def _events_after(self, after: int) -> list[dict[str, Any]]:
        return list(self.events(after=after))

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        import asyncio

        after = 0
        while True:
            ended = self.state in RUN_TERMINAL
            found = await asyncio.to_thread(self._events_after, after)
            for event in found:
                after = event["seq"]
                yield event
            if ended and not found:
                return
            await asyncio.sleep(0.05)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        try:
            return f"<Run {self.name} {self.id} {self.state}>"
        except Exception as exc:  # a repr must not raise
            return f"<Run {self.id}: {type(exc).__name__}>"


class RunNode:
    """One node of a run, read at each use.

    Args:
        run: Its run.
        idx: Its index.
    """

    def __init__(self, run: Run, idx: int) -> None:
        self.run, self.idx = run, idx

    @property
    def id(self) -> str:
        """Its id, which `AsyncResult` takes."""
        return node_id_of(self.run.id, self.idx)

    @property
    def row(self) -> NodeRow:
        """All that the store lists about it."""
        return self.run.nodes[self.idx]

    @property
    def state(self) -> State:
        """State now."""
        return State(self.row.state)

    @property
    def result(self) -> Any:
        """Its recorded value; None unless it is SUCCESS."""
        frame = Recorded(self.run._engine.open()).value(self.run.run_id, self.idx)
        return None if frame is None else self.run._decode(frame)

    @property
    def error(self) -> Exception | None:
        """Its exception; None if it did not fail."""
        if self.state is not State.FAILURE:
            return None
        recorded = Recorded(self.run._engine.open())
        return self.run.rebuild(recorded.error(self.run.run_id, self.idx))

    @property
    def traceback(self) -> str:
        """Text of the traceback; empty if it did not fail."""
        if self.state is not State.FAILURE:
            return ""
        recorded = Recorded(self.run._engine.open())
        return payload.decode_error(recorded.error(self.run.run_id, self.idx)).traceback

    @property
    def args(self) -> tuple[list[Any], dict[str, Any]]:
        """Its stored arguments, without what parents add."""
        store = self.run._engine.open()
        row = store.one(store.sql.node_arg, (self.run.run_id, self.idx))
        if row is None or not row[0]:
            return [], {}
        frame = Recorded(store).whole(bytes(row[0]))
        return payload.decode_args(frame, tuple(self.run._engine.app.conf.accept_content))

    @property
    def logs(self) -> str:
        """What its attempts wrote, in order."""
        rows = self.run._engine.open().logs(self.run.run_id, self.idx)
        return "".join(row.text for row in rows)

    def __repr__(self) -> str:
        row = self.row
        return f"<{row.kind} {row.name} {row.state}>"
