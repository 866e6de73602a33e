"""The processes of a fleet, put together from an app's settings: worker and coordinator.

Everything is made here and handed over; the parts know no settings.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import msgspec

from flowq import __version__
from flowq.app.binding import per_second
from flowq.app.celerynodes import CeleryNodes
from flowq.app.celeryworkers import CeleryWorkers
from flowq.app.durable import Answers, DurableRuns
from flowq.app.following import Sequels
from flowq.app.messages import Converter, Sender
from flowq.app.place import url_of
from flowq.app.pools import make_worker
from flowq.app.taskresults import TaskResults
from flowq.backends import opening
from flowq.backends.disabled import NoResults
from flowq.broker.codec import Bundle, Report
from flowq.broker.connection import Broker, BrokerOptions
from flowq.broker.consumer import Consumer
from flowq.broker.events import EventSender
from flowq.broker.mailbox import Mailbox
from flowq.broker.queues import worker_direct
from flowq.broker.sideline import Access
from flowq.broker.signing import KeyRing, Seal
from flowq.config import mask_url
from flowq.coordinator import Fence
from flowq.coordinator.leases import Leases, ensure_lanes
from flowq.coordinator.service import CoordinatorService
from flowq.coordinator.view import RunView
from flowq.errors import BrokerError, ImproperlyConfigured, StoreUnavailable
from flowq.store import Store
from flowq.store.members import living, store_id
from flowq.store.rows import MemberRow
from flowq.worker import tasklog
from flowq.worker.announcing import Announcer
from flowq.worker.autoscale import Autoscaler
from flowq.worker.bare import BareTasks
from flowq.worker.baretask import Held
from flowq.worker.control import dispatch
from flowq.worker.narrator import Narrator
from flowq.worker.reporting import Reporting
from flowq.worker.service import Nodes, WorkerService
from flowq.worker.steering import Steering
from flowq.worker.worker import Worker

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.worker.livelog import Logs

log = logging.getLogger("flowq")

#: A coordinator waits that long (seconds) for the broker, and leaves it alone so long after that.
_PATIENCE, _AWAY = 1.0, 2.0

T = TypeVar("T")
Changed = Callable[[list[int], list[RunView]], None]


def broker_urls(app: Flowq) -> list[str]:
    """The broker's URLs, the first one tried first.

    Raises:
        ImproperlyConfigured: None is set, or one that reaches no other process.
    """
    found = app.conf.broker_url
    urls = found.split(";") if isinstance(found, str) else list(found or ())
    if not urls or urls[0].startswith("memory:"):
        raise ImproperlyConfigured(
            "a fleet needs a broker that other processes reach; name it with --broker, as in "
            "--broker redis://localhost or pyamqp://guest@localhost//"
        )
    return urls


def open_results(app: Flowq) -> TaskResults:
    """The result backends of bare tasks, as the settings and the tasks name them."""
    conf = app.conf
    if str(conf.result_backend or "").startswith(("memory:", "cache+memory:")):
        return TaskResults(app, NoResults("no other process reaches a backend in memory"))
    urls = str(conf.broker_url or "").split(";")
    default = opening.open_results(str(conf.result_backend or ""), conf, broker_urls=urls)
    return TaskResults(app, default)


def _seal(app: Flowq, kind: str, store_id: str) -> Seal:
    """What goes on messages between coordinators and workers, as the settings say."""
    return Seal(KeyRing.of(app.conf.message_signing_keys), kind, store_id)


def make_coordinator(
    app: Flowq,
    store: Store,
    *,
    name: str,
    leases: Leases | None = None,
    fences: Sequence[Fence] = (),
    on_change: Changed = lambda changed, ended: None,
) -> CoordinatorService:
    """A coordinator of a store that is open."""
    from flowq.app.recording import Outcomes

    urls, known = broker_urls(app), store_id(store)
    broker = Postman(urls, BrokerOptions.of(app.conf), known, _seal(app, "nodes", known))
    results = open_results(app)
    outcomes = Outcomes(store)

    def close() -> None:
        broker.close()
        results.close()

    def changed(runs: list[int], ended: list[RunView]) -> None:
        for view in ended:
            if view.to_backend:
                outcomes.to_backend(results, view)
        on_change(runs, ended)

    nodes = CeleryNodes(app, store, results, CeleryWorkers(app))
    broker.celery = nodes
    service = CoordinatorService(
        store,
        opening.open_lane_reader(
            str(app.conf.result_backend or ""),
            broker_urls=urls,
            store=store,
            store_id=known,
            options=app.conf,
            seal=_seal(app, "reports", known),
        ),
        publish=broker.publish,
        depth=broker.depth,
        tend=broker.tend,
        on_close=close,
        store_id=known,
        leases=leases,
        fences=fences,
        name=name,
        inline_bytes=int(app.conf.inline_payload_bytes),
        clock=app.clock.forward,
        on_change=changed,
    )
    nodes.attach(service)
    service.companions.append(nodes)
    return service


class Postman:
    """Publishes a coordinator's bundles. A broker that is away costs it no time.

    After a failure every call fails at once for a moment: the coordinator has a lease to keep.

    Args:
        urls: The broker's.
        options: Of the connection.
        known: Name of the store.
        seal: Goes on the bundles.
    """

    def __init__(self, urls: Sequence[str], options: BrokerOptions, known: str, seal: Seal) -> None:
        short = msgspec.structs.replace(options, timeout=_PATIENCE, connect_timeout=_PATIENCE)
        self._broker, self._known = Broker(urls, short, tended=True, seal=seal), known
        self._not_before, self._why = 0.0, ""
        #: Sends nodes of Celery's workers.
        self.celery: CeleryNodes | None = None

    def publish(self, bundle: Bundle) -> None:
        """Put a bundle on its queue.

        Raises:
            BrokerError: It is not there.
        """
        rest: Bundle | None = bundle
        if self.celery is not None and any(spec.foreign for spec in bundle.specs):
            celery = self.celery
            rest = self._try(lambda: celery.publish(bundle))
        if rest is not None:
            ours = rest
            self._try(lambda: self._broker.publish_bundle(ours, self._known))

    def depth(self, queue: str) -> int | None:
        """How many bundles wait on a queue; None if there is no such queue.

        Raises:
            BrokerError: The broker is away.
        """
        return self._try(lambda: self._broker.depth(queue, self._known))

    def tend(self) -> None:
        """Keep the connection alive; to be called every few seconds. Raises nothing."""
        self._broker.tend()

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        self._broker.close()

    def _try(self, call: Callable[[], T]) -> T:
        now = time.monotonic()
        if now < self._not_before:
            raise BrokerError(self._why)
        try:
            return call()
        except BrokerError as exc:
            self._not_before, self._why = time.monotonic() + _AWAY, str(exc)
            raise


def open_coordinator(app: Flowq, name: str) -> CoordinatorService:
    """A coordinator that shares the lanes of the store with others.

    Raises:
        StoreError: The store cannot be used.
        ImproperlyConfigured: The settings name no broker.
    """
    broker_urls(app)
    store = open_store(app)
    ensure_lanes(store)
    seconds = float(app.conf.coordinator_lease)
    leases = Leases(store, f"{name}-{uuid.uuid4().hex[:8]}", seconds=seconds)
    return make_coordinator(app, store, name=name, leases=leases)


def open_store(app: Flowq) -> Store:
    """The store of an app, made or checked.

    Raises:
        StoreError: It cannot be used; the text says why.
    """
    conf = app.conf
    store = Store(url_of(conf), synchronous=str(conf.sqlite_synchronous).upper())
    store.inline_bytes = int(conf.inline_payload_bytes)
    store.make_folder()
    if store.ensure():
        log.info("made a new store: %s", mask_url(store.url))
    return store


class Serving:
    """A worker in the making.

    Args:
        app: Whose tasks it runs.
        name: Its node name, like ``celery@host``.
        queues: Names of the queues to serve; none: those of `task_queues`, else the default one.
        exclude: Names of queues not to serve.
        autoscale: (most, least) slots; None for a fixed number.
        with_coordinator: Whether it is a coordinator, too.
    """

    def __init__(
        self,
        app: Flowq,
        name: str,
        *,
        queues: Sequence[str] = (),
        exclude: Sequence[str] = (),
        autoscale: tuple[int, int] | None = None,
        with_coordinator: bool = False,
    ) -> None:
        self.app, self.name, self._autoscale = app, name, autoscale
        self._with_coordinator = with_coordinator
        self._urls = broker_urls(app)
        app.load()
        app.router.select(queues)
        app.router.deselect(exclude)
        if app.conf.worker_direct:
            app.router.select_add(worker_direct(name))
        self.queues = [spec.name for spec in app.router.selection()]
        self._worker: Worker | None = None

    @property
    def hands(self) -> int:
        """Slots of its pool; 0 before it is open."""
        return self._worker.hands if self._worker is not None else 0

    def open(self, logs: Logs | None = None) -> WorkerService:
        """Start the pool, and make the loop; the broker is connected to by and by.

        Args:
            logs: How this process logs: what bare tasks write goes there. None: it goes nowhere.

        Raises:
            StoreError: The store that was named cannot be used.
            ImproperlyConfigured: A setting is wrong.
        """
        app, conf = self.app, self.app.conf
        store = self._store()
        durable = DurableRuns(app, store) if store is not None else None
        results = open_results(app)
        sender = Sender(app, results)
        worker, _ = make_worker(
            app,
            answer=Answers(sender, durable, app._engine).answer,
            first=self._autoscale[1] if self._autoscale else None,
            logs=logs,
        )
        self._worker = worker
        known = store_id(store) if store is not None else None
        converter = Converter(app)
        bare = BareTasks(
            worker.offer,
            converter,
            results,
            sender,
            durable=durable,
            max_crashes=int(conf.max_crashes),
            hostname=self.name,
        )
        sequels = Sequels(app, bare, converter, sender, results, durable)
        bare.following = sequels.following()
        worker.begun = bare.begun
        service = WorkerService(
            worker,
            Consumer(
                conf.broker_read_url or self._urls,
                BrokerOptions.of(conf),
                app.router,
                queues=self.queues,
                store_id=known,
            ),
            bare,
            nodes=self._nodes(store, known, worker) if store is not None and known else None,
            prefetch=lambda: int(conf.worker_prefetch_multiplier) * worker.hands,
            grace=conf.worker_shutdown_timeout,
            soft=float(conf.worker_soft_shutdown_timeout),
        )
        if self._with_coordinator and store is not None:
            service.companions.append(open_coordinator(app, f"coordinator of {self.name}"))
        self._attach(service)
        return service

    def _attach(self, service: WorkerService) -> None:
        """Remote control, events, and what resizes the pool."""
        app, conf = self.app, self.app.conf
        access = Access.of(conf)
        tasks = bool(conf.worker_send_task_events)
        sender = EventSender.of(conf, self.name, clock=app.clock, version=__version__, tasks=tasks)
        narrator = Narrator(sender, service.worker)
        service.on_taken = narrator.taken

        def of_bare(event: str, held: Held, report: Report | None) -> None:
            tasklog.of_bare(held, report)
            narrator.bare(event, held, report)

        def of_node(report: Report) -> None:
            if report.kind in tasklog.WORSE:
                tasklog.of_node(report)
            narrator.reported(report)

        service.bare.listener, service.on_report = of_bare, of_node
        service.companions.append(narrator)
        scaler = self._scaler(service)
        steering = Steering(
            service,
            app,
            self.name,
            narrator=narrator,
            per_second=per_second,
            pool=str(conf.worker_pool or "prefork"),
            broker={"urls": [mask_url(url) for url in self._urls]},
            autoscaler=scaler,
        )
        narrator.start()
        if conf.worker_enable_remote_control:
            service.mailbox = Mailbox(
                self.name,
                lambda method, arguments: dispatch(steering, method, arguments),
                access,
                clock=app.clock,
                post=service.errands,
                namespace=str(conf.control_exchange),
                queue_ttl=float(conf.control_queue_ttl),
                queue_expires=float(conf.control_queue_expires),
            )
            service.mailbox.start()

    def _scaler(self, service: WorkerService) -> Autoscaler | None:
        if self._autoscale is None:
            return None
        most, least = self._autoscale

        scaler = Autoscaler(
            service.worker, most, least, changed=lambda hands: service.announce_queues()
        )
        service.companions.append(scaler)
        return scaler

    def _store(self) -> Store | None:
        """The store; None where none was named and none can be made: bare tasks need none."""
        try:
            return open_store(self.app)
        except StoreUnavailable as exc:
            if self.app.conf.store_url or self._with_coordinator:
                raise
            log.warning("%s; this worker runs bare tasks only", exc)
            return None

    def _nodes(self, store: Store, known: str, worker: Worker) -> Nodes:
        conf = self.app.conf
        self._warn_of_namesakes(store)
        reporting = Reporting(
            opening.open_lane_writer(
                str(conf.result_backend or ""),
                broker_urls=self._urls,
                store=store,
                store_id=known,
                options=conf,
                seal=_seal(self.app, "reports", known),
            ),
            store,
            inline_bytes=int(conf.inline_payload_bytes),
        )
        row = MemberRow(
            uuid.uuid4().hex, self.name, socket.gethostname(), os.getpid(), list(self.queues),
            self.hands, 0.0, "running", "worker", b"",
        )  # fmt: skip
        announcer = Announcer(
            store,
            row,
            held=lambda: worker.held() | reporting.keys(),
            every=float(conf.worker_heartbeat_interval),
            lease=float(conf.worker_lost_after),
        )
        return Nodes(store, known, reporting, announcer, _seal(self.app, "nodes", known))

    def _warn_of_namesakes(self, store: Store) -> None:
        for row in living(store, "worker"):
            if row.name == self.name:
                log.warning(
                    "another worker is called %s (process %s on %s): commands reach both; give "
                    "one of them another name with -n",
                    self.name, row.pid, row.host,
                )  # fmt: skip

    def purge(self) -> None:
        """Throw away the bare tasks that wait in its queues."""
        broker = Broker(self._urls, BrokerOptions.of(self.app.conf))
        for name in self.queues:
            count = broker.purge(name)
            log.warning("purged %d message(s) from queue %s", count, name)
        broker.close()

    def banner(self) -> str:
        """What it is, in a few lines."""
        conf = self.app.conf
        backend = mask_url(str(conf.result_backend)) if conf.result_backend else "none"
        lines = [
            ("app", self.app.main or "-"),
            ("broker", mask_url(self._urls[0])),
            ("backend", backend),
            ("store", mask_url(url_of(conf))),
            ("pool", f"{self.hands} ({conf.worker_pool or 'prefork'})"),
            ("queues", ", ".join(self.queues)),
            ("tasks", ", ".join(sorted(n for n in self.app.tasks if not n.startswith("celery.")))),
        ]
        text = "".join(f"  {key:<8} {value}\n" for key, value in lines)
        return f"{self.name} flowq {__version__}\n{text}".rstrip()


def expand(text: str, name: str = "") -> str:
    """Replace %h (host), %n (name before the @), %d (domain), %p (whole name), %i, %I, %%."""
    host = socket.gethostname()
    short, _, place = name.partition("@")
    domain = host.partition(".")[2]
    values = {"h": place or host, "n": short, "d": domain, "p": name, "i": "0", "I": "", "%": "%"}
    out, rest = "", text
    while rest:
        before, mark, rest = rest.partition("%")
        out += before
        if mark:
            out += values.get(rest[:1], f"%{rest[:1]}")
            rest = rest[1:]
    return out
