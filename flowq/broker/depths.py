"""How much waits on queues, without taking any of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from flowq.broker.sideline import Access


@dataclass(frozen=True, slots=True)
class Depth:
    """One queue as the broker has it now."""

    name: str
    #: None if the broker has no such queue.
    messages: int | None
    #: None where the broker does not know: on Redis and in memory.
    consumers: int | None = None


def depths(access: Access, names: Iterable[str]) -> list[Depth]:
    """What waits on queues, in the order given.

    Messages that a consumer has taken and not acknowledged are not among it.

    Raises:
        BrokerError: The broker cannot be reached, or failed.
    """
    found = []
    with access.opened() as connection:
        counts = connection.transport.driver_type == "amqp"
        for name in names:
            channel = connection.channel()  # RabbitMQ closes it when there is no such queue
            try:
                told = channel.queue_declare(queue=name, passive=True)
            except connection.channel_errors:
                found.append(Depth(name, None if counts else 0))
                continue
            consumers = int(told.consumer_count) if counts else None
            found.append(Depth(name, int(told.message_count), consumers))
            channel.close()
    return found
