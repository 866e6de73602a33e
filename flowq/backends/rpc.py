"""Results as replies: sent to the client that sent the task, and stored nowhere.

The client reads its queue in a thread of its own, from the first task it sends. What came in is
remembered there, a bounded number of outcomes, so that it may be read more than once; nobody else
can read it at all.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Protocol

from flowq.backends import OnMessage, ResultRequest, TaskMeta
from flowq.backends.options import BackendOptions
from flowq.backends.outage import Outage
from flowq.backends.records import CONTENT_TYPES, Records
from flowq.backends.waiting import READY, Deadline, Told
from flowq.broker.amqp import Reach
from flowq.broker.replies import ReplyReader, ReplySender
from flowq.errors import BackendUnavailable, BrokerError, MessageDecodeError, ResultNotHere

log = logging.getLogger("flowq.backends")

#: Outcomes, and ids of tasks that are out, remembered in a client.
_OUTCOMES, _EXPECTED = 10_000, 100_000
#: States of one task kept for who waits later.
_UNHEARD = 100
_SLICE = 0.5

Came = TaskMeta | BackendUnavailable
Box = SimpleQueue[Came]


class Taker(Protocol):
    """What takes replies: a box, or anything that can be put into."""

    def put(self, item: Came) -> None:
        """Take one; called in the thread that reads replies, it must not wait."""
        ...


class _Hint:
    """Takes replies, and says only that there was one."""

    def __init__(self, task_id: str, heard: Callable[[str], None]) -> None:
        self._task_id, self._heard = task_id, heard

    def put(self, item: Came) -> None:
        """Take a reply."""
        self._heard(self._task_id)


class RpcResults:
    """Contract: `backends.ResultStore`. Only the client that sent a task can read its result.

    Args:
        reach: The broker.
        options: Of results.
    """

    def __init__(self, reach: Reach, options: BackendOptions) -> None:
        self._reach, self._options = reach, options
        self._records = Records(options)
        self._sender: ReplySender | None = None
        self._client: _Client | None = None
        self._lock, self._pid = threading.Lock(), os.getpid()

    @property
    def reply_to(self) -> str | None:
        """The queue of this client's replies, which is there when this returns.

        Raises:
            BackendUnavailable: The broker cannot be reached.
        """
        return self._opened().ready()

    # -- the worker's side ---------------------------------------------------------------

    def store(self, task_id: str, meta: TaskMeta, request: ResultRequest | None = None) -> None:
        """Send a state to the client that asked for it; nothing where none did."""
        if request is None or not request.reply_to:
            return
        if self._sender is None:
            self._sender = ReplySender(self._reach, persistent=self._options.persistent)
        record = self._records.whole(task_id, meta, request)
        content_type, encoding = CONTENT_TYPES[self._options.serializer]
        key = request.correlation_id or task_id
        try:
            self._sender.send(request.reply_to, key, record, content_type, encoding)
        except BrokerError as exc:
            raise BackendUnavailable(f"a result waits to be sent: {exc}") from exc

    # -- the client's side ---------------------------------------------------------------

    def expect(self, task_id: str) -> None:
        """As `ResultStore.expect`."""
        self._opened().expect(task_id)

    def load(self, task_id: str) -> TaskMeta | None:
        """As `ResultStore.load`; None for a task that this client did not send."""
        client = self._client
        return None if client is None or self._pid != os.getpid() else client.load(task_id)

    def wait(
        self, task_id: str, timeout: float | None, on_message: OnMessage | None = None
    ) -> TaskMeta | None:
        """As `ResultStore.wait`.

        Raises:
            ResultNotHere: This client did not send the task, or forgot its result.
        """
        return self._opened().wait(task_id, timeout, on_message)

    def load_many(self, ids: Iterable[str]) -> dict[str, TaskMeta]:
        """As `WatchedResults.load_many`; asks nobody."""
        found = {task_id: self.load(task_id) for task_id in ids}
        return {task_id: meta for task_id, meta in found.items() if meta is not None}

    def watch(self, task_id: str, heard: Callable[[str], None]) -> None:
        """As `WatchedResults.watch`."""
        self._opened().watch(task_id, heard)

    def unwatch(self, task_id: str) -> None:
        """As `WatchedResults.unwatch`."""
        self._opened().unwatch(task_id)

    def forget(self, task_id: str) -> None:
        """As `ResultStore.forget`."""
        self._opened().forget(task_id)

    def close(self) -> None:
        """As `ResultStore.close`; the reply queue goes."""
        with self._lock:
            client, self._client = self._client, None
            sender, self._sender = self._sender, None
        if client is not None and self._pid == os.getpid():
            client.close()
        if sender is not None:
            sender.close()

    def _opened(self) -> _Client:
        with self._lock:
            if self._client is None or self._pid != os.getpid():  # a fork is a client of its own
                self._client = _Client(self._reach, self._options, self._records)
                self._pid = os.getpid()
            return self._client


class _Client:
    """One client's queue, what came in, and who waits. Safe from any thread."""

    def __init__(self, reach: Reach, options: BackendOptions, records: Records) -> None:
        self._options, self._records = options, records
        self._reader = ReplyReader(
            reach,
            str(uuid.uuid4()),
            self._reply,
            persistent=options.persistent,
            expires=options.expires,
        )
        self._metas: OrderedDict[str, TaskMeta] = OrderedDict()
        #: What came in of a task while nobody waited for it.
        self._unheard: dict[str, list[TaskMeta]] = {}
        self._expected: OrderedDict[str, None] = OrderedDict()
        self._boxes: dict[str, list[Taker]] = {}
        self._hints: dict[str, _Hint] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._first, self._failed = threading.Event(), ""
        self._closed = False
        self._outage = Outage("waiting for results stands still")

    def ready(self) -> str:
        """The queue's name, once it was made."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="flowq-replies", daemon=True)
                self._thread.start()
        if not self._first.wait(self._options.patience):
            raise BackendUnavailable(self._failed or "the reply queue could not be made in time")
        return self._reader.name

    def expect(self, task_id: str) -> None:
        """Remember that a task is out."""
        with self._lock:
            self._expected[task_id] = None
            if len(self._expected) > _EXPECTED:
                self._expected.popitem(last=False)

    def load(self, task_id: str) -> TaskMeta | None:
        """What came in last."""
        with self._lock:
            return self._metas.get(task_id)

    def watch(self, task_id: str, heard: Callable[[str], None]) -> None:
        """Have each reply for a task heard of, and what came before."""
        with self._lock:
            if task_id not in self._hints:
                self._hints[task_id] = hint = _Hint(task_id, heard)
                self._boxes.setdefault(task_id, []).append(hint)
        heard(task_id)

    def unwatch(self, task_id: str) -> None:
        """End that."""
        with self._lock:
            hint = self._hints.pop(task_id, None)
            if hint is not None:
                self._drop(task_id, hint)

    def _drop(self, task_id: str, box: Taker) -> None:
        boxes = self._boxes[task_id]
        boxes.remove(box)
        if not boxes:
            del self._boxes[task_id]

    def forget(self, task_id: str) -> None:
        """Forget a task."""
        with self._lock:
            self._metas.pop(task_id, None)
            self._unheard.pop(task_id, None)
            self._expected.pop(task_id, None)

    def wait(
        self, task_id: str, timeout: float | None, on_message: OnMessage | None
    ) -> TaskMeta | None:
        """Block until its last reply has come."""
        deadline, told = Deadline(timeout), Told(on_message)
        box: Box = SimpleQueue()
        with self._lock:
            meta = self._metas.get(task_id)
            if meta is None and task_id not in self._expected:
                raise ResultNotHere(
                    f"the result of task {task_id} is not here: rpc:// sends it to the client that "
                    "sent the task, once; use redis:// or db+ to read results elsewhere"
                )
            self._boxes.setdefault(task_id, []).append(box)
            earlier = self._unheard.pop(task_id, [])
        try:
            for each in earlier:
                told.final(each)
            while not told.final(meta):
                try:
                    item = box.get(timeout=deadline.left())
                except Empty:
                    if deadline.passed:
                        return None
                    continue
                if isinstance(item, BackendUnavailable):
                    raise item
                meta = item
            return meta
        finally:
            with self._lock:
                self._drop(task_id, box)

    def close(self) -> None:
        """End the thread; waiters get an error."""
        self._closed = True
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(5.0)
        self._tell(BackendUnavailable("the results of this client were closed"))

    # -- the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            try:
                if self._reader.is_connected:
                    self._reader.drain(_SLICE)
                elif self._outage.wait:
                    time.sleep(min(self._outage.wait, _SLICE))
                else:
                    self._reader.connect()
                    self._outage.over()
                    self._first.set()
            except BrokerError as exc:
                self._failed = str(exc)
                self._outage.failed(exc)
                if time.monotonic() - self._outage.since >= self._options.patience:
                    self._tell(BackendUnavailable(str(exc)))
            except Exception as exc:
                log.exception("reading replies failed; it begins anew")
                self._reader.drop()
                self._outage.failed(exc)
        self._reader.close()

    def _reply(self, task_id: str, content_type: str, body: bytes) -> None:
        try:
            meta = self._records.of_message(body, content_type)
        except MessageDecodeError as exc:
            log.error("a reply for task %s was dropped: %s", task_id, exc)
            return
        with self._lock:
            known = self._metas.get(task_id)
            if known is not None and known.state == "SUCCESS":
                return
            self._metas[task_id] = meta
            self._metas.move_to_end(task_id)
            if meta.state in READY:
                self._expected.pop(task_id, None)
            while len(self._metas) > _OUTCOMES:
                self._unheard.pop(self._metas.popitem(last=False)[0], None)
            boxes = list(self._boxes.get(task_id, ()))
            if not boxes:
                earlier = self._unheard.setdefault(task_id, [])
                del earlier[: 1 - _UNHEARD]
                earlier.append(meta)
        for box in boxes:
            box.put(meta)

    def _tell(self, error: BackendUnavailable) -> None:
        with self._lock:
            boxes = [box for each in self._boxes.values() for box in each]
        for box in boxes:
            box.put(error)
