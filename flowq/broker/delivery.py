"""Messages as they go out and come in, without kombu's decoding.

kombu's own message class inflates a compressed body when it is made, however large it gets. Here a
body stays the bytes that arrived; `headers["compression"]` says what they are.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

log = logging.getLogger("flowq.broker")


@dataclass(slots=True)
class Outgoing:
    """An encoded message, ready to be published. Anything with these attributes will do."""

    body: bytes | str
    headers: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)
    content_type: str = "application/json"
    content_encoding: str = "utf-8"


class Settler(Protocol):
    """What acknowledges the messages of one connection."""

    def settle(self, tag: Any, ack: bool, requeue: bool) -> None:
        """Tell the broker; nothing when the connection is gone."""
        ...


class Delivery:
    """One message taken from the broker.

    Node bundles are settled when they are taken; for them `ack` and `reject` do nothing. A bare
    task stays the broker's until one of them is called; when the connection is lost before, the
    broker delivers it again.
    """

    __slots__ = (
        "_settler", "_tag", "body", "content_encoding", "content_type", "delivery_info", "headers",
        "is_node", "properties", "queue",
    )  # fmt: skip

    def __init__(
        self,
        queue: str,
        body: bytes,
        *,
        is_node: bool,
        headers: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
        content_type: str | None = None,
        content_encoding: str | None = None,
        delivery_info: dict[str, Any] | None = None,
        settler: Settler | None = None,
        tag: Any = None,
    ) -> None:
        #: Name of the task queue, for bundles as well.
        self.queue = queue
        #: As it arrived: still compressed if `headers["compression"]` says so.
        self.body = body
        self.is_node = is_node
        self.headers = headers or {}
        self.properties = properties or {}
        self.content_type = content_type
        self.content_encoding = content_encoding
        self.delivery_info = delivery_info or {}
        self._settler, self._tag = settler, tag

    @property
    def redelivered(self) -> bool:
        """Whether the broker says that it was delivered before."""
        return bool(self.delivery_info.get("redelivered") or self.headers.get("redelivered"))

    def ack(self) -> None:
        """Tell the broker that it is done with. A second call does nothing."""
        self._settle(True, False)

    def reject(self, requeue: bool = False) -> None:
        """Drop it, or give it back to the queue. Nothing after `ack` or another `reject`."""
        self._settle(False, requeue)

    def _settle(self, ack: bool, requeue: bool) -> None:
        settler, self._settler = self._settler, None
        if settler is not None:
            settler.settle(self._tag, ack, requeue)

    def __repr__(self) -> str:
        kind = "bundle" if self.is_node else "task"
        return f"<Delivery of a {kind} from {self.queue}, {len(self.body)} bytes>"


class RawMessage:
    """A message of kombu's virtual transports, as much of it as their bookkeeping needs."""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **_: Any) -> None:
        self._raw = payload
        self.channel = channel
        self.properties: dict[str, Any] = payload["properties"]
        self.delivery_tag = self.properties["delivery_tag"]
        self.delivery_info: dict[str, Any] = self.properties.get("delivery_info") or {}
        self.delivery_info.setdefault("exchange", "")
        self.delivery_info.setdefault("routing_key", "")
        self.headers: dict[str, Any] = payload.get("headers") or {}
        body = payload.get("body") or b""
        body = channel.decode_body(body, self.properties.get("body_encoding"))
        self.body: bytes = body.encode() if isinstance(body, str) else bytes(body)

    def serializable(self) -> dict[str, Any]:
        """The payload again, for a queue that gets it back."""
        return self._raw

    def delivery(self, queue: str, settler: Settler | None) -> Delivery:
        """The same as a delivery of a bare task."""
        return Delivery(
            queue,
            self.body,
            is_node=False,
            headers=self.headers,
            properties=self.properties,
            content_type=self._raw.get("content-type"),
            content_encoding=self._raw.get("content-encoding"),
            delivery_info=self.delivery_info,
            settler=settler,
            tag=self.delivery_tag,
        )


def unreadable(queue: str, payload: Any, exc: BaseException) -> None:
    """Say that a message is no message at all; it is dropped."""
    log.error(
        "dropped what was in queue %s but is no message (%s: %s): %.200r",
        queue, type(exc).__name__, exc, payload,
    )  # fmt: skip
