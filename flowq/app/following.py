"""What a worker does about canvases embedded in the messages of bare tasks: its side in the app."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flowq.app.durable import DurableRuns
from flowq.app.messages import Converter, Sender
from flowq.app.taskresults import TaskResults
from flowq.backends import ResultRequest, ResultStore, TaskMeta
from flowq.broker.codec import Input
from flowq.broker.messages import TaskMessage
from flowq.core.graph import Bind
from flowq.errors import BackendUnavailable, CanvasError
from flowq.payload import decode
from flowq.worker.bare import BareTasks
from flowq.worker.chords import Joined, Part, RedisChords
from flowq.worker.embeds import Following, Inline, Rules, Stored
from flowq.worker.plan import takes_error
from flowq.worker.sending import Submission

if TYPE_CHECKING:
    from flowq.app.base import Flowq


class Sequels:
    """Sends, counts and records in the name of an app's worker.

    Args:
        app: Whose tasks these are.
        bare: Runs errbacks here.
        converter: Makes items of them.
        sender: Publishes.
        results: Where outcomes go.
        durable: Submits canvases; None where there is no store.
    """

    def __init__(
        self,
        app: Flowq,
        bare: BareTasks,
        converter: Converter,
        sender: Sender,
        results: TaskResults,
        durable: DurableRuns | None,
    ) -> None:
        self._app, self._bare, self._converter = app, bare, converter
        self._sender, self._results, self._durable = sender, results, durable
        self._accept = tuple(app.conf.result_accept_content or app.conf.accept_content)

    def following(self) -> Following:
        """What a worker does about what its messages ask for besides."""
        return Following(
            send=lambda what: self._sender.publish(what.message, options=what.options),
            store=self._store,
            inline=self._inline,
            submit=self._submit,
            chords=_chords(self._app, self._results.default, self._accept),
            rules=Rules(
                defaults=self._defaults,
                takes_error=self._takes_error,
                accept=self._accept,
                inherit_priority=bool(self._app.conf.task_inherit_parent_priority),
            ),
        )

    def _defaults(self, name: str) -> Mapping[str, Any]:
        task = self._app.tasks.get(name)
        return {} if task is None else task.exec_options()

    def _takes_error(self, name: str) -> bool | None:
        task = self._app.tasks.get(name)
        return None if task is None else takes_error(task)

    def _store(self, what: Stored) -> None:
        meta = TaskMeta(what.state, what.frame, time.time(), what.task)
        request = ResultRequest(
            name=what.task, group_id=what.group or "", parent_id=what.parent_id or ""
        )
        self._results.store(what.task_id, meta, request)

    def _inline(self, call: Inline) -> None:
        message = TaskMessage(
            task=call.task,
            id=f"{call.id}-{uuid.uuid4().hex[:8]}",
            frame=call.frame,
            root_id=call.root_id,
            parent_id=call.parent_id,
            ignore_result=True,
        )
        spec, item = self._converter.local_item(message)
        item.inputs = [Input(-1, Bind.PREPEND, None, call.error)]
        self._bare.call(message, spec, item)

    def _submit(self, what: Submission) -> None:
        if self._durable is None or not self._durable.is_ready:
            raise CanvasError(
                "a callback is a canvas that only a coordinator can run: give the worker a store, "
                "and start flowq coordinator on it"
            )
        first = [decode(frame, self._accept) for frame in what.first]
        self._durable.submit_canvas(what.canvas, first)


class _Guarded:
    """Chord counters whose failures are ours: a Redis that is away is tried again.

    Args:
        chords: What counts.
        lost: What its client raises when Redis is away.
    """

    def __init__(self, chords: RedisChords, lost: type[Exception]) -> None:
        self._chords, self._lost = chords, lost

    def begin(self, group: str, size: int, shape: list[Any] | None = None) -> None:
        self._do(lambda: self._chords.begin(group, size, shape))

    def count(self, part: Part) -> Joined | None:
        return self._do(lambda: self._chords.count(part))  # type: ignore[no-any-return]

    def done(self, chord: Joined) -> bool:
        return self._do(lambda: self._chords.done(chord))  # type: ignore[no-any-return]

    def _do(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except self._lost as exc:
            raise BackendUnavailable(f"cannot count a chord in Redis: {exc}") from exc


def _chords(app: Flowq, results: ResultStore, accept: tuple[str, ...]) -> Any:
    """Counters of chords, where the result backend is a Redis."""
    if not str(app.conf.result_backend or "").startswith(("redis:", "rediss:", "redis+socket:")):
        return None
    import redis

    from flowq.backends.redis import RedisResults

    assert isinstance(results, RedisResults)
    expires = app.conf.result_expires
    chords = RedisChords(
        results.client,
        prefix=results.prefix,
        expires=expires.total_seconds() if expires else 0,
        ordered=bool(app.conf.result_backend_transport_options.get("result_chord_ordered", True)),
        accept=accept,
    )
    return _Guarded(chords, redis.RedisError)
