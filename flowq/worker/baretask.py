"""A bare task as a worker holds it, and what is asked of the app about it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from flowq.broker.codec import Item, Report
from flowq.broker.delivery import Delivery
from flowq.broker.messages import TaskMessage
from flowq.core.graph import Spec


class Policy(msgspec.Struct, frozen=True):
    """What a task says about acknowledging and storing."""

    acks_late: bool = False
    reject_on_worker_lost: bool = False
    acks_on_failure: bool = True
    store_errors: bool = False
    #: Exceptions that are no surprise.
    throws: tuple[type[BaseException], ...] = ()


class Conversion(Protocol):
    """What the app knows of messages and tasks."""

    def decode(self, delivery: Delivery) -> TaskMessage: ...
    def item(self, message: TaskMessage, delivery: Delivery) -> tuple[Spec, Item]: ...
    def policy(self, task: str) -> Policy: ...


class Durable(Protocol):
    """Makes runs of what has to wait, or to be put in the place of a task."""

    @property
    def is_ready(self) -> bool: ...
    def wait(self, held: Held, delay: float, report: Report | None) -> None: ...
    def replace(self, held: Held, report: Report) -> None: ...


class Sending(Protocol):
    """Publishes messages of tasks."""

    def publish(self, message: TaskMessage, queue: str | None = None) -> None: ...


class Held:
    """One bare task of this worker."""

    __slots__ = ("acked", "deliveries", "item", "message", "policy", "queue", "refused", "spec")

    def __init__(
        self,
        message: TaskMessage,
        spec: Spec,
        item: Item,
        policy: Policy,
        delivery: Delivery | None = None,
    ) -> None:
        self.message, self.spec, self.item, self.policy = message, spec, item, policy
        self.queue = delivery.queue if delivery is not None else spec.queue
        #: More than one where the broker delivered it again meanwhile; none for an errback that
        #: is called here.
        self.deliveries = [] if delivery is None else [delivery]
        self.acked = False
        #: Whether it cannot run here, which was said already.
        self.refused = False

    def ack(self) -> None:
        """Acknowledge. A second call does nothing."""
        if not self.acked:
            self.acked = True
            for delivery in self.deliveries:
                delivery.ack()

    def reject(self, requeue: bool) -> None:
        """Refuse what was not acknowledged yet."""
        if not self.acked:
            self.acked = True
            for delivery in self.deliveries:
                delivery.reject(requeue)
