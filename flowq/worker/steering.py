"""A fleet's worker as remote control sees it: `Controlled`, over the loop and its parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from flowq.broker.codec import Bundle, Item
from flowq.broker.messages import TaskMessage
from flowq.core.graph import Spec
from flowq.errors import FlowqError, WrongState
from flowq.payload import decode_args
from flowq.worker.autoscale import Autoscaler
from flowq.worker.baretask import Held as BareHeld
from flowq.worker.call import id_of
from flowq.worker.controlled import Held, Stats
from flowq.worker.narrator import Narrator
from flowq.worker.pool import Doing, Target, signal_number
from flowq.worker.service import WorkerService
from flowq.worker.shown import chosen

_SHOWN: Final = 1024


class Steering:
    """Implements `worker.controlled.Controlled`; every method runs in the worker's loop.

    Args:
        service: The loop.
        app: Whose tasks it runs.
        hostname: Node name.
        narrator: Sends its events.
        per_second: Reads a rate limit, as a task names it.
        pool: Name of the pool.
        broker: What `inspect stats` says of the broker.
        autoscaler: Resizes the pool, if anything does.
    """

    def __init__(
        self,
        service: WorkerService,
        app: Any,
        hostname: str,
        *,
        narrator: Narrator,
        per_second: Callable[[Any, str], float],
        pool: str,
        broker: Mapping[str, Any],
        autoscaler: Autoscaler | None = None,
    ) -> None:
        self._service, self._app, self._hostname = service, app, hostname
        self._narrator, self._per_second = narrator, per_second
        self._pool, self._broker, self._autoscaler = pool, broker, autoscaler
        self._began = time.monotonic()

    @property
    def hostname(self) -> str:
        """Node name."""
        return self._hostname

    @property
    def app(self) -> Any:
        """The app."""
        return self._app

    # -- looking -------------------------------------------------------------------------

    def active(self) -> Iterable[Held]:
        """Tasks that run now."""
        return [self._running(doing) for doing in self._service.worker.active()]

    def reserved(self) -> Iterable[Held]:
        """Tasks that were taken and have not begun."""
        return [self._held(*entry) for entry in self._service.worker.reserved()]

    def scheduled(self) -> Iterable[Held]:
        """Bare tasks that wait here for their time."""
        found = []
        for due, bare in self._service.bare.scheduled():
            held = _hide(self._described(bare.queue, bare.message.task, bare.item), bare.message)
            held.eta = datetime.fromtimestamp(due, UTC).isoformat()
            held.acknowledged = bare.acked
            found.append(held)
        return found

    def _running(self, doing: Doing) -> Held:
        held = self._held(doing.bundle, doing.item)
        held.time_start, held.worker_pid = doing.began, doing.pid
        return held

    def _held(self, bundle: Bundle, item: Item) -> Held:
        spec = bundle.specs[item.spec]
        held = self._described(bundle.queue, spec.task, item)
        held.id = id_of(bundle, item)
        bare = self._service.bare.tasks.get(item.id) if not item.run else None
        held.acknowledged = bare.acked if bare is not None else True
        return _hide(held, bare.message if bare is not None else spec)

    def _described(self, queue: str, name: str, item: Item) -> Held:
        args, kwargs = _arguments(item)
        info = {
            "exchange": "",
            "routing_key": queue,
            "priority": item.priority,
            "redelivered": False,
        }
        return Held(item.id, name, args, kwargs, delivery_info=info, priority=item.priority)

    def revoked(self) -> Collection[str]:
        """Ids that will not be run here."""
        return self._service.bare.revoked()

    def stats(self) -> Stats:
        """Figures of this moment."""
        info = self._service.worker.pool.info()
        conf = self._app.conf
        scaler = self._autoscaler
        return Stats(
            total=dict(self._service.taken),
            uptime=time.monotonic() - self._began,
            pool=self._pool,
            concurrency=int(info["max-concurrency"]),
            processes=list(info["processes"]),
            prefetch=self._service.prefetch,
            max_tasks_per_child=conf.worker_max_tasks_per_child,
            soft_time_limit=conf.task_soft_time_limit,
            time_limit=conf.task_time_limit,
            autoscale=scaler.bounds if scaler is not None else None,
            broker=self._broker,
        )

    def active_queues(self) -> Iterable[Mapping[str, Any]]:
        """The queues that are consumed from."""
        return [spec.described() for spec in self._service.consumer.active()]

    # -- changing ------------------------------------------------------------------------

    def add_consumer(
        self, queue: str, exchange: str | None, exchange_type: str | None, routing_key: str | None
    ) -> None:
        """Consume from a queue too, nodes and bare tasks."""
        given = {
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
        }
        options = {key: value for key, value in given.items() if value}
        self._service.consumer.add_queue(queue, **options)
        self._service.announce_queues()

    def cancel_consumer(self, queue: str) -> None:
        """Consume from a queue no more."""
        self._service.consumer.cancel_queue(queue)
        self._service.announce_queues()

    def rate_limit(self, task: str, rate: str | float | None) -> None:
        """Set the rate limit of a task here."""
        self._service.worker.limit_rate(task, self._per_second(rate, task))

    def time_limit(self, task: str, hard: float | None, soft: float | None) -> None:
        """Set the time limits of a task here, for what is taken from now on."""
        self._service.worker.limit_time(task, hard, soft)

    def grow(self, n: int) -> None:
        """Add slots to the pool."""
        self._refuse_if_scaled()
        self._service.worker.grow(n)
        self._service.announce_queues()

    def shrink(self, n: int) -> None:
        """Take slots from the pool."""
        self._refuse_if_scaled()
        self._service.worker.shrink(n)
        self._service.announce_queues()

    def _refuse_if_scaled(self) -> None:
        if self._autoscaler is not None:
            raise WrongState("this worker scales itself: use autoscale MAX MIN")

    def autoscale(self, most: int | None, least: int | None) -> tuple[int, int]:
        """Set the bounds of the pool and return those in force."""
        if self._autoscaler is None:
            raise WrongState("this worker was started without --autoscale")
        return self._autoscaler.limit(most, least)

    def revoke(
        self, ids: Collection[str], terminate: bool, signal: str | int | None
    ) -> Iterable[str]:
        """Do not run these; with `terminate` end those that run, and return their ids."""
        service = self._service
        service.bare.revoke(ids)
        for task_id in ids:
            service.worker.revoke_task(task_id)
        return self._terminate(lambda held: held.id in ids, signal) if terminate else []

    def revoke_stamped(
        self, stamps: Mapping[str, Collection[str]], terminate: bool, signal: str | int | None
    ) -> Iterable[str]:
        """The same for tasks that have one of the stamps."""

        def has_stamp(bare: BareHeld) -> bool:
            own = bare.message.stamps or {}
            return any(_common(own.get(key), wanted) for key, wanted in stamps.items())

        ids = [held.item.id for held in self._service.bare.tasks.values() if has_stamp(held)]
        return self.revoke(ids, terminate, signal)

    def _terminate(self, wanted: Callable[[Held], bool], signal: str | int | None) -> list[str]:
        ended = []
        signal_number(signal)  # refuses what is none before anything happens
        for doing in self._service.worker.active():
            held = self._held(doing.bundle, doing.item)
            if wanted(held):
                item = doing.item
                target: Target = (item.run, item.idx) if item.run else item.id
                if not item.run:
                    self._service.bare.terminate(item.id)
                self._service.worker.kill(target, signal)
                ended.append(held.id)
        return ended

    def shutdown(self) -> None:
        """Begin a warm shutdown."""
        self._service.stop("warm")

    def events(self, on: bool) -> bool:
        """Send task events, or do not."""
        return self._narrator.switch(on)

    def beat(self) -> None:
        """Send a heartbeat event now."""
        self._narrator.beat()


def _common(own: Any, wanted: Collection[str]) -> bool:
    values = own if isinstance(own, list | tuple | set) else [own]
    return any(value in wanted for value in values)


def _hide(held: Held, call: TaskMessage | Spec) -> Held:
    """Put the texts that the caller chose in the place of the arguments."""
    if isinstance(call, Spec):
        args, kwargs = call.argsrepr, call.kwargsrepr
    else:
        args, kwargs = chosen(call)
        held.argsrepr, held.kwargsrepr = call.argsrepr, call.kwargsrepr
    if args:
        held.args = held.argsrepr = args
    if kwargs:
        held.kwargs = held.kwargsrepr = kwargs
    return held


def _arguments(item: Item) -> tuple[Any, Any]:
    """Arguments as values where they are plain; a template's gaps are not filled."""
    try:
        args, kwargs = decode_args(item.args, ("json", "msgpack"))
    except FlowqError as exc:
        return f"({str(exc)[:_SHOWN]})", {}
    return args, kwargs
