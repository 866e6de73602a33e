"""The client of a fleet: it submits and reads; workers and coordinators elsewhere do the rest.

With a store of its own (none was named: a file), the program that submits is the coordinator, in a
thread, for as long as it lives; workers share the file. With a store that was named, any number
of ``flowq coordinator`` processes advance the runs, and a client only writes to the store.
"""

from __future__ import annotations

import atexit
import os
import random
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.app import serving
from flowq.app.celerynodes import id_at_celery
from flowq.app.client import Client
from flowq.app.lanes import LaneLock
from flowq.app.messages import Sender
from flowq.app.place import is_default
from flowq.coordinator import Fence
from flowq.coordinator.leases import ensure_lanes
from flowq.coordinator.loop import CoordinatorLoop
from flowq.store import NewRun
from flowq.store.members import living

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.coordinator.view import RunView
    from flowq.core.graph import Graph

#: A client's runs go to one lane for so long (seconds), then to another: runs submitted together
#: share a coordinator's commits, and all coordinators get some.
LANE_SECONDS = 1.0


class FleetEngine(Client):
    """Submits to a fleet.

    Args:
        app: Whose runs these are; its settings name broker, backend and store.
    """

    def __init__(self, app: Flowq) -> None:
        self._backends = serving.open_results(app)
        super().__init__(app, self._backends)
        self._pid = os.getpid()
        #: Whether this process is the coordinator of its own runs.
        self._here = is_default(app.conf)
        self._lane_lock: LaneLock | None = None
        self._loop: CoordinatorLoop | None = None
        self._thread: threading.Thread | None = None
        self._lanes: list[int] = []
        self._next_lane = 0.0
        self._sender: Sender | None = None

    # -- starting ------------------------------------------------------------------------

    def start(self, *, work: bool = True) -> None:
        """Make sure that runs submitted from now on are advanced. Repeatable."""
        if self.early is not None:  # made for a pool of this process, which there is none of
            self.early.drop()
            self.early = None
        if self._here:
            if self._thread is None:
                with self._lock:
                    if self._thread is None:
                        self._start_coordinator()
            return
        now = time.monotonic()
        if now >= self._next_lane:
            if not self._lanes:
                self._lanes = ensure_lanes(self.open())
                self._say_if_nobody_is_there()
            self.lane_id = random.choice(self._lanes)
            self._next_lane = now + LANE_SECONDS

    def _start_coordinator(self) -> None:
        self.store.make_folder()
        self._lane_lock = LaneLock(self.store, self.owner)
        store = self.open()
        self.lane_id = store.make_lane(
            str(self.app.main or ""), "embedded", self.owner, str(self._lane_lock.path)
        )
        service = serving.make_coordinator(
            self.app,
            store,
            name=str(self.app.main or "flowq"),
            fences=[Fence(self.lane_id, self.owner, 1)],
            on_change=self._changed,
        )
        self._loop = CoordinatorLoop(service)
        self._thread = threading.Thread(
            target=self._main, args=(self._loop,), name="flowq-coordinator", daemon=True
        )
        atexit.register(self.close)
        self._thread.start()
        self._say_if_nobody_is_there()

    def _main(self, loop: CoordinatorLoop) -> None:
        try:
            loop.run()
        except BaseException as exc:
            self.failure = exc
            self._waiters.wake_all()

    def _say_if_nobody_is_there(self) -> None:
        if self.app.celery_app is None and not living(self.store, "worker"):
            self.notify("no worker lives at this store, so nodes wait: start one with flowq worker")
        if not self._here and not living(self.store, "coordinator"):
            self.notify(
                "no coordinator lives at this store, so runs wait: start one with flowq "
                "coordinator, or flowq worker --with-coordinator"
            )

    @property
    def is_started(self) -> bool:
        """Whether a submission needs nothing made in the store first."""
        return self._thread is not None if self._here else bool(self._lanes)

    @property
    def works_here(self) -> bool:
        """Whether this process coordinates its own runs."""
        return self._thread is not None

    # -- submitting ----------------------------------------------------------------------

    def submitted(self) -> None:
        """Wake the coordinator if it is in this process; others look for themselves."""
        if self._loop is not None:
            self._loop.ring()

    def _admit(self, new: NewRun, graph: Graph) -> tuple[int, str]:
        run_id, uid, _ = self.store.submit(new, graph)
        self.submitted()
        return run_id, uid

    @property
    def sender(self) -> Sender:
        """What publishes bare tasks; made at the first use."""
        with self._lock:
            if self._sender is None:
                self._sender = Sender(self.app, self._backends)
            return self._sender

    def send_bare(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> str:
        """Publish one task as a message of its own; its outcome is in the result backend.

        Raises:
            BrokerError: It was not accepted within a few seconds; it may be sent again.
        """
        sent = self.sender.send(name, args, kwargs, options)
        self.outcomes.sent(sent.id, name, sent.spec, sent.frame)
        return sent.id

    def _revoke_bare(self, task_id: str, terminate: bool, signal: Any) -> None:
        self.app.control.tell_revoked([task_id], terminate=terminate, signal=signal)

    def _kill(self, place: tuple[int, int], task_id: str, signal: Any) -> None:
        if self.app.celery_app is not None:
            task_id = id_at_celery(self.open(), *place)
        self.app.control.tell_revoked([task_id], terminate=True, signal=signal)

    # -- what the coordinator here says ----------------------------------------------------

    def _changed(self, changed: list[int], ended: list[RunView]) -> None:
        for view in ended:
            self._waiters.wake(view.run_id)
        for listener in list(self._listeners):
            listener(changed)

    # -- closing -------------------------------------------------------------------------

    def close(self, grace: float = 0.0) -> None:
        """Stop coordinating, and close what is open. A second call does nothing."""
        if os.getpid() != self._pid:
            return  # a fork's copy: all of it is still the parent's
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and self._loop is not None:
            atexit.unregister(self.close)
            self._loop.stop()
            thread.join()
            self._loop = None
            store, lane = self.store, self.lane_id
            try:
                store.write(lambda cursor: cursor.execute(store.sql.lane_delete_idle, (lane,)))
            except errors.StoreUnavailable as exc:
                self.notify(str(exc))
        if self._lane_lock is not None:
            self._lane_lock.release()
        if self._sender is not None:
            self._sender.close()
        self._backends.close()
        self.store.close()
