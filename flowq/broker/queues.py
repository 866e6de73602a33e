"""Queues, and which of them a task goes to. Pure: no broker is asked.

Names and meaning are Celery's: `task_queues`, `task_default_queue`, `task_routes`, `-Q`, `-X`.
kombu's `Queue` and `Exchange` are accepted and, for convenience, exported from here.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from flowq.broker.routes import Call, answer_of, routing
from flowq.errors import ImproperlyConfigured, UnknownQueue

#: Options of a queue that Celery knows, and that change nothing here.
_ACCEPTED = frozenset((
    "name", "queue", "binding_key", "arguments", "binding_arguments", "consumer_arguments",
    "max_priority", "no_ack", "expires", "message_ttl", "max_length", "max_length_bytes",
    "passive", "on_declared", "bindings", "exchange_type",
))  # fmt: skip
_EXCHANGE_TYPES = ("direct", "topic", "fanout", "headers")
#: What the names of queues of single workers end in.
_DIRECT_SUFFIX = ".dq"


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """One queue of bare tasks, and how it is bound.

    A queue on a direct exchange is published to through the default exchange, as Celery does.
    """

    name: str
    exchange: str = ""
    exchange_type: str = "direct"
    routing_key: str = ""
    durable: bool = True
    auto_delete: bool = False
    exclusive: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    exchange_durable: bool = True
    exchange_auto_delete: bool = False
    exchange_arguments: Mapping[str, Any] = field(default_factory=dict)
    #: Further (exchange, exchange type, routing key) whose messages it gets.
    bindings: tuple[tuple[str, str, str], ...] = ()
    #: The name under which users know it, when that is not its own: of broadcast queues.
    alias: str | None = None
    #: Every consumer has a queue of its own, and every message goes to all of them.
    broadcast: bool = False
    #: 1: in memory, 2: on disk, None: as `task_default_delivery_mode` says.
    delivery_mode: int | None = None
    #: Neither declared nor bound: it is there already.
    no_declare: bool = False

    @property
    def quorum(self) -> bool:
        """Whether it is a quorum queue of RabbitMQ."""
        return self.arguments.get("x-queue-type") == "quorum"

    @property
    def target(self) -> tuple[str, str]:
        """Exchange and routing key that reach it."""
        if self.exchange_type == "direct":
            return "", self.name
        return self.exchange, self.routing_key

    def described(self) -> dict[str, Any]:
        """The form in which `inspect active_queues` shows it."""
        return {
            "name": self.name,
            "exchange": {
                "name": self.exchange,
                "type": self.exchange_type,
                "arguments": dict(self.exchange_arguments) or None,
                "durable": self.exchange_durable,
                "passive": False,
                "auto_delete": self.exchange_auto_delete,
                "delivery_mode": self.delivery_mode,
                "no_declare": False,
            },
            "routing_key": self.routing_key,
            "queue_arguments": dict(self.arguments) or None,
            "binding_arguments": None,
            "consumer_arguments": None,
            "durable": self.durable,
            "exclusive": self.exclusive,
            "auto_delete": self.auto_delete,
            "no_ack": False,
            "alias": self.alias,
            "bindings": [],
            "no_declare": self.no_declare or None,
            "expires": None,
            "message_ttl": None,
            "max_length": None,
            "max_length_bytes": None,
            "max_priority": self.arguments.get("x-max-priority"),
        }


@dataclass(frozen=True, slots=True)
class Route:
    """Where one task goes. `queue` is None when only an exchange was named."""

    exchange: str
    routing_key: str
    queue: QueueSpec | None = None
    priority: int | None = None
    delivery_mode: int = 2


def Broadcast(
    name: str, queue: str | None = None, *, unique: bool = False, **more: Any
) -> QueueSpec:
    """A queue of which every worker has a copy: each message goes to all of them.

    Args:
        name: What tasks are routed to.
        queue: Name of this process's copy; none: a random one.
        unique: Add a random part to `queue`.
    """
    own = f"{queue or 'bcast'}.{uuid.uuid4()}" if unique or not queue else queue
    more.setdefault("auto_delete", True)
    return QueueSpec(own, name, "fanout", alias=name, broadcast=True, **more)


def worker_direct(hostname: str | QueueSpec) -> QueueSpec:
    """The queue that one worker alone consumes from, where `worker_direct` is on.

    Name and binding are Celery's (`celery.utils.nodenames.worker_direct`).

    Args:
        hostname: Name of the worker, as `w1@host`; a queue is given back as it is.
    """
    if isinstance(hostname, QueueSpec):
        return hostname
    return QueueSpec(hostname + _DIRECT_SUFFIX, "C.dq2", "direct", hostname)


def __getattr__(name: str) -> Any:
    if name in ("Queue", "Exchange"):
        return getattr(import_module("kombu"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class Router:
    """The queues there are, and the way of each task to one.

    Args:
        conf: Settings, or a mapping with some of them.

    Raises:
        ImproperlyConfigured: A queue or route cannot be read.
    """

    def __init__(self, conf: Mapping[str, Any]) -> None:
        self._conf = conf
        self.default_queue: str = self._get("task_default_queue", "celery")
        self._create = self._get("task_create_missing_queues", True)
        self._queues: dict[str, QueueSpec] = {}
        self._aliases: dict[str, str] = {}
        self._selected: list[str] | None = None
        self._deselected: set[str] = set()
        given = self._get("task_queues")
        for spec in self._given_queues(given) if given else (self._default_spec(),):
            self.add(spec)
        self._defaults = list(self._queues)
        self._routes = [routing(route) for route in _as_list(self._get("task_routes"))]
        #: Whether some route depends on more of a call than the task's name.
        self.by_call = any(route.by_call for route in self._routes)

    def _get(self, name: str, default: Any = None) -> Any:
        value = self._conf.get(name)
        return default if value is None else value

    # -- queues

    @property
    def names(self) -> list[str]:
        """Names of all queues known."""
        return list(self._queues)

    def queue(self, name: str) -> QueueSpec:
        """The queue of that name or alias; made if it is missing and that is allowed.

        Raises:
            UnknownQueue: It is not in `task_queues`, and `task_create_missing_queues` is off.
        """
        found = self._queues.get(self._aliases.get(name, name))
        if found is None:
            if not self._create:
                raise UnknownQueue(
                    f"there is no queue {name!r}: task_queues has "
                    f"{', '.join(sorted(self._aliases or self._queues)) or 'none'}, and "
                    f"task_create_missing_queues is off; add it there, or correct the name"
                )
            found = self.add(self._missing(name))
        return found

    def add(self, queue: Any, **options: Any) -> QueueSpec:
        """Make a queue known: a `QueueSpec`, a kombu Queue, or a name with options."""
        spec = self._complete(_spec(queue, options))
        self._queues[spec.name] = spec
        if spec.alias:
            self._aliases[spec.alias] = spec.name
        return spec

    def select(self, names: str | Iterable[str] | None) -> None:
        """Consume only from these (-Q); None and the empty text change nothing."""
        chosen = _names(names)
        if chosen:
            self._selected = list(dict.fromkeys(self.queue(name).name for name in chosen))

    def deselect(self, names: str | Iterable[str] | None) -> None:
        """Do not consume from these (-X); names that are not known are taken as they are."""
        self._deselected |= {self._aliases.get(name, name) for name in _names(names)}

    def select_add(self, queue: QueueSpec) -> None:
        """Make a queue known, and consume from it beside those that were chosen."""
        name = self.add(queue).name
        chosen = self._defaults if self._selected is None else self._selected
        self._selected = list(dict.fromkeys((*chosen, name)))

    def selection(self) -> list[QueueSpec]:
        """The queues to consume from: all of `task_queues`, or what -Q and -X leave."""
        chosen = self._defaults if self._selected is None else self._selected
        return [self._queues[name] for name in chosen if name not in self._deselected]

    def _default_spec(self) -> QueueSpec:
        arguments = {}
        if self._get("task_default_queue_type") == "quorum":
            arguments["x-queue-type"] = "quorum"
        return QueueSpec(
            self.default_queue,
            self._get("task_default_exchange", self.default_queue),
            self._get("task_default_exchange_type", "direct"),
            self._get("task_default_routing_key", self.default_queue),
            arguments=arguments,
        )

    def _missing(self, name: str) -> QueueSpec:
        if name == self.default_queue:
            return self._default_spec()
        if "@" in name and name.endswith(_DIRECT_SUFFIX):
            return worker_direct(name.removesuffix(_DIRECT_SUFFIX))
        arguments: dict[str, Any] = {}
        kind = self._get("task_create_missing_queue_type", "classic")
        if kind == "quorum":
            arguments["x-queue-type"] = "quorum"
        kind = self._get("task_create_missing_queue_exchange_type", "direct")
        return QueueSpec(name, name, kind, name, arguments=arguments)

    def _given_queues(self, given: Any) -> Iterable[QueueSpec]:
        if isinstance(given, Mapping):
            for name, options in given.items():
                yield _spec(name, options) if isinstance(options, Mapping) else _spec(options, {})
            return
        for each in _as_list(given):
            yield _spec(each, {})

    def _complete(self, spec: QueueSpec) -> QueueSpec:
        """Fill in what the settings say where the queue says nothing."""
        exchange, kind = spec.exchange, spec.exchange_type
        if not exchange:
            exchange = self._get("task_default_exchange", self.default_queue)
            kind = self._get("task_default_exchange_type", "direct")
        if kind not in _EXCHANGE_TYPES:
            raise ImproperlyConfigured(
                f"queue {spec.name}: an exchange is one of {', '.join(_EXCHANGE_TYPES)}, not {kind}"
            )
        arguments = dict(spec.arguments)
        highest = self._get("task_queue_max_priority")
        if highest is not None and not spec.quorum:
            arguments.setdefault("x-max-priority", highest)
        key = spec.routing_key
        if not key and kind != "fanout":
            key = self._get("task_default_routing_key", spec.name)
        return replace(
            spec, exchange=exchange, exchange_type=kind, routing_key=key, arguments=arguments
        )

    # -- routes

    def route(
        self,
        task: str,
        options: Mapping[str, Any] | None = None,
        call: Call | None = None,
    ) -> Route:
        """Where a task goes: the call's own options win over `task_routes`, then the default.

        Args:
            task: Name of the task.
            options: Of the call: queue, exchange, routing_key, priority, ...
            call: For routers that are functions; none: they are told of name and options only.

        Raises:
            UnknownQueue: A queue is named that there is not.
            ImproperlyConfigured: A router answered what is no route.
        """
        own = {name: value for name, value in (options or {}).items() if value is not None}
        found: Mapping[str, Any] = {}
        if self._routes:
            call = call or Call(task, options=own)
        for route in self._routes:
            found = answer_of(route.ask(call), task)  # type: ignore[arg-type]
            if found:
                break
        return self._resolved({**found, **own})

    def _resolved(self, options: dict[str, Any]) -> Route:
        queue, exchange = options.pop("queue", None), options.pop("exchange", None)
        key = options.pop("routing_key", None)
        kind = options.pop("exchange_type", None)
        exchange = getattr(exchange, "name", exchange)
        spec: QueueSpec | None = None
        if queue is not None:
            spec = self.queue(queue) if isinstance(queue, str) else self.add(queue)
        elif exchange is None:
            spec = self.queue(self.default_queue)
        if spec is None:
            target = (exchange, key or self._get("task_default_routing_key", self.default_queue))
        elif (not exchange or not key) and (kind or spec.exchange_type) == "direct":
            target = ("", spec.name)
        else:
            target = (exchange or spec.exchange, key or spec.routing_key)
        mode = options.pop("delivery_mode", None) or (spec and spec.delivery_mode)
        return Route(
            *target,
            spec,
            options.pop("priority", None),
            _delivery_mode(mode or self._get("task_default_delivery_mode", 2)),
        )


def _spec(queue: Any, options: Mapping[str, Any]) -> QueueSpec:
    if isinstance(queue, QueueSpec):
        return queue
    if isinstance(queue, str):
        return _from_options(queue, dict(options))
    if hasattr(queue, "queue_arguments") and hasattr(queue, "exchange"):
        return _from_kombu(queue)
    raise ImproperlyConfigured(
        f"a queue is a name, a mapping of options, a QueueSpec or a kombu Queue, not {queue!r}"
    )


def _from_options(name: str, options: dict[str, Any]) -> QueueSpec:
    """A queue from Celery's mapping of options."""
    exchange = options.pop("exchange", None)
    key = options.pop("routing_key", None) or options.pop("binding_key", None)
    arguments = _arguments(name, options)
    if options.get("max_priority") is not None:
        arguments["x-max-priority"] = options.pop("max_priority")
    known = {
        "exchange_type": getattr(exchange, "type", None) or options.pop("exchange_type", None),
        "durable": options.pop("queue_durable", options.pop("durable", None)),
        "auto_delete": options.pop("queue_auto_delete", options.pop("auto_delete", None)),
        "exclusive": options.pop("exclusive", None),
        "exchange_durable": options.pop("exchange_durable", None),
        "exchange_auto_delete": options.pop("exchange_auto_delete", None),
        "alias": options.pop("alias", None),
        "delivery_mode": options.pop("delivery_mode", None),
        "no_declare": options.pop("no_declare", None),
        "exchange_arguments": options.pop("exchange_arguments", None),
    }
    for option in options:
        if option not in _ACCEPTED:
            raise ImproperlyConfigured(
                f"queue {name}: there is no option {option!r}; a queue has exchange, "
                "exchange_type, routing_key, durable, auto_delete, queue_arguments and the like"
            )
    return QueueSpec(
        name,
        getattr(exchange, "name", exchange) or "",
        routing_key=key or name,
        arguments=arguments,
        **{name: value for name, value in known.items() if value is not None},
    )


def _arguments(name: str, options: dict[str, Any]) -> dict[str, Any]:
    given = [options.pop(key, None) for key in ("queue_arguments", "arguments")]
    found = given[0] or given[1] or {}
    if not isinstance(found, Mapping):
        raise ImproperlyConfigured(f"queue {name}: its arguments are a mapping, not {found!r}")
    return dict(found)


def _from_kombu(queue: Any) -> QueueSpec:
    exchange = queue.exchange
    arguments = dict(queue.queue_arguments or {})
    for option, argument, scale in (
        ("max_priority", "x-max-priority", 1),
        ("max_length", "x-max-length", 1),
        ("max_length_bytes", "x-max-length-bytes", 1),
        ("expires", "x-expires", 1000),
        ("message_ttl", "x-message-ttl", 1000),
    ):
        value = getattr(queue, option, None)
        if value is not None:
            arguments[argument] = int(value * scale)
    return QueueSpec(
        queue.name,
        exchange.name if exchange is not None else "",
        (exchange.type if exchange is not None else None) or "direct",
        queue.routing_key or "",
        durable=bool(queue.durable),
        auto_delete=bool(queue.auto_delete),
        exclusive=bool(queue.exclusive),
        arguments=arguments,
        exchange_durable=exchange is None or bool(exchange.durable),
        exchange_auto_delete=exchange is not None and bool(exchange.auto_delete),
        exchange_arguments=dict((exchange is not None and exchange.arguments) or {}),
        bindings=tuple(
            (bound.exchange.name, bound.exchange.type, bound.routing_key or "")
            for bound in queue.bindings or ()
        ),
        alias=queue.alias,
        broadcast=any(base.__name__ == "Broadcast" for base in type(queue).__mro__),
        delivery_mode=_mode_or_none(exchange),
        no_declare=bool(queue.no_declare),
    )


def _mode_or_none(exchange: Any) -> int | None:
    mode = getattr(exchange, "delivery_mode", None)
    return None if mode is None else _delivery_mode(mode)


def _delivery_mode(mode: Any) -> int:
    return {"transient": 1, "persistent": 2}.get(mode, mode)  # type: ignore[no-any-return]


def _as_list(value: Any) -> list[Any]:
    """A list of routers or queues from one or several."""
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return list(value)
    return [value]


def _names(names: str | Iterable[str] | None) -> list[str]:
    if isinstance(names, str):
        names = names.split(",")
    return [name.strip() for name in names or () if name.strip()]
