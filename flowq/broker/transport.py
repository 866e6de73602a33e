"""Bundles over kombu: the in-process transport of the embedded engine.

Queue names carry the store's id, because kombu's memory queues are shared by every app of a
process. kombu's own consumer polls with a sleep; here the engine rings when something was
published and takes messages one by one without waiting.
"""

from __future__ import annotations

from typing import Any

from flowq.broker.codec import NODE_CONTENT_TYPE, Bundle, decode_bundle, encode_bundle
from flowq.errors import BrokerError


class MemoryTransport:
    """Publishes and takes bundles within this process; for one thread.

    Args:
        store_id: Keeps the queues of different stores apart.
    """

    def __init__(self, store_id: str) -> None:
        self._store_id = store_id
        self._channel: Any = None
        self._declared: set[str] = set()
        self._sizes: dict[str, int] = {}

    def publish(self, bundle: Bundle) -> None:
        """Put a bundle on its queue.

        Raises:
            BrokerError: kombu refused; the cause is chained.
        """
        channel, name = self._open(), self._name(bundle.queue)
        if name not in self._declared:
            channel.queue_declare(name)
            self._declared.add(name)
        first = bundle.items[0]
        try:
            message = channel.prepare_message(
                encode_bundle(bundle),
                priority=first.priority,
                content_type=NODE_CONTENT_TYPE,
                content_encoding="binary",
            )
            channel.basic_publish(message, "", name)
        except Exception as exc:
            raise BrokerError(f"cannot publish to queue {bundle.queue}: {exc}") from exc
        self._sizes[name] = self._sizes.get(name, 0) + 1

    def take(self, limit: int) -> list[Bundle]:
        """At most `limit` bundles, from all queues in turn; empty if there are none."""
        found: list[Bundle] = []
        for name, size in self._sizes.items():
            while size and len(found) < limit:
                message = self._open().basic_get(name, no_ack=True)
                if message is None:
                    size = 0
                    break
                size -= 1
                found.append(decode_bundle(message.body))
            self._sizes[name] = size
        return found

    @property
    def waiting(self) -> int:
        """Messages published and not yet taken."""
        return sum(self._sizes.values())

    def close(self) -> None:
        """Delete the queues. A second call does nothing."""
        if self._channel is not None:
            for name in self._declared:
                self._channel.queue_delete(name)
            self._channel.connection.client.close()
            self._channel = None

    def _open(self) -> Any:
        if self._channel is None:
            from kombu import Connection

            channel = Connection("memory://").channel()
            channel.body_encoding = None  # bytes stay bytes inside one process
            self._channel = channel
        return self._channel

    def _name(self, queue: str) -> str:
        return f"{self._store_id}.{queue}.nodes"
