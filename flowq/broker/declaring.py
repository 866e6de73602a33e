"""`QueueSpec` to kombu's entities, and kombu's entities to a broker."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kombu import Connection, Exchange, Queue
from kombu.entity import binding

from flowq.broker.options import BrokerOptions
from flowq.broker.queues import QueueSpec
from flowq.errors import ImproperlyConfigured

#: A node queue that nobody reads, writes or declares for so long is removed by RabbitMQ.
NODE_QUEUE_EXPIRES = 86_400_000
NODE_PRIORITY = 9


def connection(url: str, options: BrokerOptions, **transport_options: Any) -> Any:
    """A kombu Connection to one URL; nothing is opened yet."""
    tls = options.use_ssl
    if not tls and url.startswith("rediss:") and "ssl_cert_reqs" not in url:
        # kombu would check no certificate; who wants that has to say so
        tls = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return Connection(
        url,
        connect_timeout=options.connect_timeout,
        login_method=options.login_method,
        ssl=tls,
        transport_options=with_folders(url, {**transport_options, **options.transport_options}),
    )


def with_folders(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Transport options with the folders of `filesystem://`, which are made if they are missing.

    Who names none gets folders beside the default store, for every process started in one folder.

    Raises:
        ImproperlyConfigured: A folder cannot be made.
    """
    found = dict(options)
    if not url.startswith("filesystem:"):
        return found
    one = found.get("data_folder_in") or found.get("data_folder_out")
    one = one or str(Path.cwd() / ".flowq" / "messages")
    for name, default in (
        ("data_folder_in", one),
        ("data_folder_out", one),
        ("control_folder", str(Path(one).parent / "control")),
    ):
        folder = found[name] = found.get(name) or default
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ImproperlyConfigured(
                f"the broker filesystem:// cannot use the folder {folder}: {exc.strerror}; name "
                f"another in broker_transport_options, as {name}"
            ) from exc
    return found


def entity(spec: QueueSpec) -> Any:
    """The kombu Queue of a spec."""
    return Queue(
        spec.name,
        _exchange(spec.exchange, spec.exchange_type, spec) if spec.exchange else None,
        spec.routing_key,
        durable=spec.durable,
        auto_delete=spec.auto_delete,
        exclusive=spec.exclusive,
        queue_arguments=dict(spec.arguments) or None,
        bindings=[binding(Exchange(name, type=kind), key) for name, kind, key in spec.bindings],
    )


def _exchange(name: str, kind: str, spec: QueueSpec) -> Any:
    return Exchange(
        name,
        type=kind,
        durable=spec.exchange_durable,
        auto_delete=spec.exchange_auto_delete,
        arguments=dict(spec.exchange_arguments) or None,
    )


def declare(channel: Any, spec: QueueSpec) -> None:
    """Make exchange, queue and bindings, unless the spec says that they are there."""
    if not spec.no_declare:
        entity(spec).bind(channel).declare()


def node_arguments() -> dict[str, Any]:
    """Arguments of a node queue on RabbitMQ."""
    return {"x-max-priority": NODE_PRIORITY, "x-expires": NODE_QUEUE_EXPIRES}


def node_priority(priority: int) -> int:
    """An item's priority as one of the ten that brokers know."""
    return max(0, min(priority, NODE_PRIORITY))
