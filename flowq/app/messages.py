"""Between calls, tasks and Celery's messages: what a client sends, what a worker takes."""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from flowq.app.binding import REPR, AppBinder, moment_of
from flowq.app.options import check_message
from flowq.app.sentevents import SentEvents
from flowq.app.taskresults import TaskResults
from flowq.broker.codec import Item
from flowq.broker.connection import Broker, BrokerOptions
from flowq.broker.delivery import Delivery
from flowq.broker.messages import TaskMessage, iso
from flowq.broker.protocol2 import decode_task, encode_task
from flowq.broker.routes import Call
from flowq.broker.signing import KeyRing
from flowq.core.graph import Spec
from flowq.errors import MessageDecodeError
from flowq.payload import DEFAULT_ACCEPT, decode_args
from flowq.worker.baretask import Policy

if TYPE_CHECKING:
    from flowq.app.base import Flowq

_pack = msgspec.msgpack.Encoder(enc_hook=str).encode


def reprs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """How the arguments of a call are shown to those who do not decode them."""
    return {"argsrepr": repr(args)[:REPR], "kwargsrepr": repr(dict(kwargs))[:REPR]}


class Sent(NamedTuple):
    """One bare task that was published."""

    id: str
    spec: Spec
    frame: bytes


class Sender:
    """Publishes bare tasks of an app. Safe from any thread, and after a fork.

    Args:
        app: Its settings name the broker, and where each task goes.
        results: Says where replies go, if the backend works by replies.
        patience: Seconds in which the broker has to answer; none: as the settings say.
    """

    def __init__(self, app: Flowq, results: TaskResults, patience: float | None = None) -> None:
        self._app, self._results, self._patience = app, results, patience
        self._binder = AppBinder(app, bare=True)
        self._accept = frozenset((*DEFAULT_ACCEPT, *app.conf.accept_content))
        self._lock = threading.Lock()
        self._origin = f"gen{os.getpid()}@{socket.gethostname()}"
        self._keys = KeyRing.of(app.conf.message_signing_keys)
        self._events = SentEvents(app, self._origin)
        self._broker: Broker | None = None
        self._pid = os.getpid()

    def send(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Sent:
        """Publish a call; returns when the broker has it.

        Raises:
            BrokerError: It was not accepted in time.
            UnserialisableArgument: An argument cannot travel.
            UnknownQueue: It was sent to a queue that there is not.
        """
        spec = self._binder.spec(name, options, known=name in self._app.tasks)
        frame = self._binder.encode(args, kwargs, spec)
        message = self._message(name, frame, spec, {**reprs(args, kwargs), **options})
        if not spec.ignore_result:
            own = self._results.about_to_send(message.id, name)
            message.reply_to = options.get("reply_to") or own.reply_to
        self.publish(message, options=options)
        return Sent(message.id, spec, frame)

    def forward(self, name: str, frame: bytes, options: Mapping[str, Any]) -> str:
        """Publish the call of a pool child, which encoded the arguments; gives its id.

        Nobody waits for the outcome here: it goes where the child's own caller looks.

        Raises:
            BrokerError: It was not accepted in time.
            UnknownQueue: It was sent to a queue that there is not.
        """
        spec = self._binder.spec(name, options, known=name in self._app.tasks)
        message = self._message(name, frame, spec, options)
        if spec.ignore_result:
            message.reply_to = None
        self.publish(message, options=options)
        return message.id

    def _message(
        self,
        name: str,
        frame: bytes,
        spec: Spec,
        options: Mapping[str, Any],
    ) -> TaskMessage:
        get = options.get
        task_id = str(get("task_id") or uuid.uuid4())
        late = {"expires": get("expires") or spec.expires or None}
        expires = moment_of(late, "expires", "expires")
        eta = moment_of(options, "eta", "countdown")
        return TaskMessage(
            task=name,
            id=task_id,
            frame=frame,
            root_id=get("root_id") or task_id,
            parent_id=get("parent_id"),
            group=get("group_id"),
            group_index=get("group_index"),
            retries=int(get("retries") or 0),
            eta=None if eta is None else iso(eta),
            expires=None if expires is None else iso(expires),
            timelimit=(spec.time_limit, spec.soft_time_limit),
            shadow=get("shadow"),
            origin=self._origin,
            argsrepr=str(get("argsrepr") or ""),
            kwargsrepr=str(get("kwargsrepr") or ""),
            ignore_result=spec.ignore_result,
            stamps=dict(get("stamps") or {}),
            stamped_headers=get("stamped_headers"),
            headers=dict(get("headers") or {}),
            reply_to=get("reply_to"),
            priority=get("priority"),
        )

    def publish(
        self,
        message: TaskMessage,
        queue: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Publish a message, to a queue or as the routes say.

        Raises:
            BrokerError: It was not accepted in time.
            UnknownQueue: It was sent to a queue that there is not.
            CanvasError: An option of the message is of the wrong type or value.
        """
        app, given = self._app, dict(options or {})
        if queue is not None:
            given["queue"] = queue
        task = app.tasks.get(message.task)
        for key in ("queue", "exchange", "routing_key"):
            if given.get(key) is None and getattr(task, key, None) and not given.get("queue"):
                given[key] = getattr(task, key)
        if message.priority is not None:
            given["priority"] = message.priority
        check_message(message.task, given)
        asked = {k: given[k] for k in _ROUTING if given.get(k) is not None}
        router = app.router
        call = self._call(message, task, given) if router.by_call else None
        route = router.route(message.task, asked, call)
        if route.priority is not None and route.priority != message.priority:
            message = msgspec.structs.replace(message, priority=route.priority)  # it is signed too
        compression = given.get("compression") or app.conf.task_compression
        encoded = encode_task(message, compression=compression, keys=self._keys)
        with self._lock:
            broker = self._opened()
            broker.publish(
                encoded,
                exchange=route.exchange,
                routing_key=route.routing_key,
                queue=route.queue,
                priority=route.priority,
                delivery_mode=route.delivery_mode,
                options=broker.options.with_retry(given.get("retry"), given.get("retry_policy")),
            )
        self._events.tell(message, route)

    def _call(self, message: TaskMessage, task: Any, options: Mapping[str, Any]) -> Call:
        """A call as functions in `task_routes` are told of it; foreign content is not read."""
        try:
            args, kwargs = decode_args(message.frame, self._accept)
        except MessageDecodeError:
            args, kwargs = [], {}
        return Call(message.task, tuple(args), kwargs, options, task)

    def _opened(self) -> Broker:
        from flowq.app.serving import broker_urls

        if self._broker is None or self._pid != os.getpid():
            self._pid = os.getpid()
            urls = self._app.conf.broker_write_url or broker_urls(self._app)
            options, patience = BrokerOptions.of(self._app.conf), self._patience
            if patience is not None:
                options = msgspec.structs.replace(
                    options, timeout=patience, connect_timeout=patience
                )
            self._broker = Broker(urls, options)
        return self._broker

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        self._events.close()
        with self._lock:
            if self._broker is not None:
                self._broker.close()
                self._broker = None


_ROUTING = (
    "queue", "exchange", "exchange_type", "routing_key", "priority", "delivery_mode",
)  # fmt: skip


class Converter:
    """What a worker needs to know of an app's tasks and of messages: `worker.bare.Conversion`.

    Args:
        app: Its tasks are looked up at each message.
    """

    def __init__(self, app: Flowq) -> None:
        self._app, self._binder = app, AppBinder(app, bare=True)
        self._accept = tuple(app.conf.accept_content)
        self._max_bytes = int(app.conf.max_payload_bytes)
        self._keys = KeyRing.of(app.conf.message_signing_keys)

    def decode(self, delivery: Delivery) -> TaskMessage:
        """Read a message.

        Raises:
            MessageDecodeError: It cannot be read, is not signed, or is of a kind that is refused.
        """
        return decode_task(
            delivery.body,
            delivery.headers,
            delivery.properties,
            delivery.content_type,
            delivery.content_encoding,
            accept=self._accept,
            max_bytes=self._max_bytes,
            keys=self._keys,
        )

    def item(self, message: TaskMessage, delivery: Delivery) -> tuple[Spec, Item]:
        """The task's options, and the item that a pool runs.

        Raises:
            NotRegistered: There is no such task here.
            MessageDecodeError: A time in it is none.
        """
        hard, soft = message.timelimit or (None, None)
        options = {
            "queue": delivery.queue,
            "time_limit": hard,
            "soft_time_limit": soft,
            "ignore_result": message.ignore_result,
            "priority": message.priority,
        }
        spec = self._binder.spec(message.task, options)
        item = Item(0, 0, 1, 0, message.retries or 0, message.frame, [], id=message.id)
        item.priority = spec.priority
        item.expires_at = message.expires_at or 0.0
        info = {**delivery.delivery_info, "redelivered": delivery.redelivered}
        item.request = _pack(message.request(info))
        return spec, item

    def local_item(self, message: TaskMessage) -> tuple[Spec, Item]:
        """The same for something that this worker runs by itself; nothing is recorded of it.

        Raises:
            NotRegistered: There is no such task here.
        """
        spec = self._binder.spec(message.task, {"ignore_result": True})
        item = Item(0, 0, 1, 0, 0, message.frame, [], id=message.id)
        item.request = _pack(message.request({}))
        return spec, item

    def policy(self, name: str) -> Policy:
        """How a task is acknowledged and stored."""
        task, conf = self._app.tasks[name], self._app.conf

        def either(attribute: str) -> bool:
            own = getattr(task, attribute, None)
            return bool(conf[f"task_{attribute}"] if own is None else own)

        throws = task.throws or ()
        return Policy(
            acks_late=either("acks_late"),
            reject_on_worker_lost=either("reject_on_worker_lost"),
            acks_on_failure=either("acks_on_failure_or_timeout"),
            store_errors=either("store_errors_even_if_ignored"),
            throws=throws if isinstance(throws, tuple) else (throws,),
        )
