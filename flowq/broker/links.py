"""What a publishing connection to a broker of any kind can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from flowq.broker.options import BrokerOptions, kind_of
from flowq.broker.queues import QueueSpec


class Message(Protocol):
    """What can be published: proto-2 messages that are encoded, or `delivery.Outgoing`."""

    @property
    def body(self) -> bytes | str: ...
    @property
    def headers(self) -> Mapping[str, Any]: ...
    @property
    def properties(self) -> Mapping[str, Any]: ...
    @property
    def content_type(self) -> str: ...
    @property
    def content_encoding(self) -> str: ...


def sent_properties(message: Message, priority: int | None, delivery_mode: int) -> dict[str, Any]:
    """A message's properties, with what the call adds; a priority of the call wins."""
    found = {name: value for name, value in message.properties.items() if value is not None}
    found.pop("delivery_info", None)
    found["delivery_mode"] = delivery_mode
    if priority is not None or "priority" not in found:
        found["priority"] = priority or 0
    return found


class Unroutable(Exception):
    """Raised by a link when no queue is bound to where a message was sent."""


class Blocked(Exception):
    """Raised by a link when the broker takes no messages for now."""


class Link(Protocol):
    """One open publishing connection.

    Methods raise one of `lost` when the connection is of no more use, `Unroutable` or `Blocked`.
    """

    #: What its methods raise when the connection broke.
    lost: tuple[type[BaseException], ...]

    def declare(self, spec: QueueSpec) -> None: ...

    def publish(
        self,
        message: Message,
        exchange: str,
        routing_key: str,
        spec: QueueSpec | None,
        priority: int | None,
        delivery_mode: int,
        timeout: float,
    ) -> None: ...

    def publish_nodes(self, messages: Sequence[tuple[str, int, bytes]], timeout: float) -> None:
        """Put (node queue, priority, bytes) where consumers of the queue find them."""
        ...

    def depth(self, name: str) -> int | None: ...

    def purge(self, name: str, *, node: bool) -> int: ...

    def ping(self) -> None: ...

    def tend(self) -> None: ...

    def close(self, *, gently: bool) -> None: ...


def open_link(url: str, options: BrokerOptions, *, tended: bool) -> Link:
    """Connect to a URL for publishing.

    Args:
        url: Of a kind that `kind_of` knows.
        options: Of the broker.
        tended: Whether `tend` will be called every few seconds; if so, heartbeats are agreed.
    """
    kind = kind_of(url)
    if kind == "rabbit":
        from flowq.broker.rabbit import RabbitLink

        return RabbitLink(url, options, heartbeat=options.heartbeat if tended else 0.0)
    if kind == "redis":
        from flowq.broker.redislists import RedisLink

        return RedisLink(url, options)
    from flowq.broker.polled import PolledLink

    return PolledLink(url, options)
