"""`Broker`: publishing, in bounded time, over whichever of its URLs answers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import flowq.broker.library  # noqa: F401 - before threads
from flowq.broker.codec import Bundle, encode_bundle, node_queue
from flowq.broker.links import Blocked, Link, Message, Unroutable, open_link
from flowq.broker.options import Addresses, BrokerOptions
from flowq.broker.queues import QueueSpec
from flowq.broker.signing import UNSEALED, Seal
from flowq.core.masking import mask_url
from flowq.errors import BrokerError

__all__ = ["Broker", "BrokerOptions"]

_T = TypeVar("_T")
_DEFAULTS = BrokerOptions()
#: Errors of drivers that say that the login, or the vhost, is refused.
_LOGIN = {"AccessRefused", "NotAllowed", "AuthenticationError"}


class Broker:
    """A publishing connection, opened at first use; for one thread.

    Every method ends within `options.timeout` seconds, whatever the broker does: connecting,
    failing over and waiting between attempts included.

    Args:
        urls: One URL, several separated by `;`, or a list: each is tried when the one before fails.
        options: Of the connection.
        tended: Whether `tend` is called every few seconds. Then heartbeats are agreed on AMQP.
        seal: Goes on bundles.

    Raises:
        ImproperlyConfigured: No URL, or of no known kind.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        options: BrokerOptions = _DEFAULTS,
        *,
        tended: bool = False,
        seal: Seal = UNSEALED,
    ) -> None:
        self.options = options
        self._addresses = Addresses(urls, options.failover_strategy)
        self._tended, self._seal = tended, seal
        self._link: Link | None = None
        self._pid = os.getpid()

    @property
    def url(self) -> str:
        """The URL in use, with its password masked."""
        return mask_url(self._addresses.current)

    # -- tasks

    def publish(
        self,
        message: Message,
        *,
        exchange: str = "",
        routing_key: str,
        queue: QueueSpec | None = None,
        priority: int | None = None,
        delivery_mode: int = 2,
        timeout: float | None = None,
        options: BrokerOptions | None = None,
    ) -> None:
        """Publish a bare task; returns when the broker has it.

        Args:
            message: Encoded.
            exchange: Where to; the empty one leads to the queue named by the routing key.
            routing_key: With which key.
            queue: Declared at first, and again when the broker has lost it.
            priority: As the broker understands it.
            delivery_mode: 2: survives a restart of RabbitMQ.
            timeout: Most seconds; None: those of the options.
            options: What to do when the connection is lost; none: the connection's own.

        Raises:
            BrokerError: It could not be delivered in time, or no queue takes it. When the
                connection broke while the broker's answer was outstanding, the message may have
                arrived all the same.
        """

        def publish(link: Link, left: float) -> None:
            link.publish(message, exchange, routing_key, queue, priority, delivery_mode, left)

        self._do("publish a task", publish, timeout, options)

    def declare(self, queue: QueueSpec) -> None:
        """Make a queue, its exchange and bindings; again if they were there.

        Raises:
            BrokerError: The broker cannot be reached or refuses.
        """
        self._do(f"declare queue {queue.name}", lambda link, _: link.declare(queue))

    # -- bundles

    def publish_bundle(self, bundle: Bundle, store_id: str) -> None:
        """Put a bundle on its node queue: transient, and on AMQP unconfirmed.

        Raises:
            BrokerError: The broker cannot be reached, or takes nothing.
        """
        self.publish_bundles((bundle,), store_id)

    def publish_bundles(self, bundles: Iterable[Bundle], store_id: str) -> None:
        """The same for several, in one round trip.

        Raises:
            BrokerError: As above. Some of them may have been published.
        """
        messages = [
            (
                node_queue(bundle.queue, store_id),
                bundle.items[0].priority if bundle.items else 0,
                self._seal.close(encode_bundle(bundle)),
            )
            for bundle in bundles
        ]
        if messages:
            self._do("publish nodes", lambda link, left: link.publish_nodes(messages, left))

    def depth(self, queue: str, store_id: str) -> int | None:
        """Bundles that wait on a queue; None if there is no such queue on the broker.

        Raises:
            BrokerError: The broker cannot be reached.
        """
        name = node_queue(queue, store_id)
        return self._do("look at a queue", lambda link, _: link.depth(name))

    # -- both

    def purge(self, queue: str, store_id: str | None = None) -> int:
        """Remove the bare tasks that wait on a queue, or with `store_id` that store's bundles.

        Returns how many. Bundles come back by themselves, as the store knows them.

        Raises:
            BrokerError: The broker cannot be reached.
        """
        name = queue if store_id is None else node_queue(queue, store_id)
        node = store_id is not None
        return self._do("purge a queue", lambda link, _: link.purge(name, node=node))

    def check(self) -> None:
        """Ask the broker for an answer.

        Raises:
            BrokerError: It gives none; one sentence says why.
        """
        self._do("reach the broker", lambda link, _: link.ping())

    def tend(self) -> None:
        """Handle what the broker sent meanwhile, and send heartbeats. Never raises.

        A connection that is found dead is dropped; the next call opens another.
        """
        if self._link is None:
            return
        try:
            self._link.tend()
        except self._link.lost:
            self._drop()

    def close(self) -> None:
        """Close the connection. A second call does nothing; a later publish opens another."""
        link, self._link = self._link, None
        if link is not None:
            link.close(gently=True)

    # -- attempts

    def _do(
        self,
        what: str,
        action: Callable[[Link, float], _T],
        timeout: float | None = None,
        options: BrokerOptions | None = None,
    ) -> _T:
        options = options or self.options
        deadline = time.monotonic() + (options.timeout if timeout is None else timeout)
        attempt = 0
        while True:
            attempt += 1
            try:
                link = self._open(deadline)
                try:
                    return action(link, deadline - time.monotonic())
                except Unroutable as exc:
                    raise BrokerError(f"cannot {what} on {self.url}: {exc}") from exc
                except Blocked as exc:
                    self._drop()
                    raise BrokerError(f"cannot {what} on {self.url}: {exc}") from exc
                except link.lost as exc:
                    self._drop()
                    raise _Lost(exc) from exc
            except _Lost as lost:
                wait = options.delay(attempt)
                often = options.max_retries is not None and attempt > options.max_retries
                late = time.monotonic() + wait >= deadline
                if often or late or not options.retry or _hopeless(lost.cause):
                    raise BrokerError(_sentence(what, self.url, lost.cause)) from lost.cause
                time.sleep(wait)

    def _open(self, deadline: float) -> Link:
        if self._pid != os.getpid():  # the socket is the parent's, it is not ours to close
            self._link, self._pid = None, os.getpid()
        if self._link is not None:
            return self._link
        failed: BaseException | None = None
        for url in self._addresses.turn():
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                self._link = open_link(url, _within(self.options, left), tended=self._tended)
            except BrokerError:
                raise
            except Exception as exc:  # drivers raise what they like when they cannot connect
                failed = exc
            else:
                return self._link
        raise _Lost(failed or TimeoutError("no answer in time"))

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close(gently=False)


class _Lost(Exception):
    """An attempt that failed for want of a connection."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


def _within(options: BrokerOptions, left: float) -> BrokerOptions:
    """The options with a connect timeout that fits into what time is left."""
    if options.connect_timeout <= left:
        return options
    import msgspec

    return msgspec.structs.replace(options, connect_timeout=max(left, 0.05))


def _hopeless(cause: BaseException) -> bool:
    """Whether another attempt would end the same way."""
    seen: BaseException | None = cause
    while seen is not None:
        if any(kind.__name__ in _LOGIN for kind in type(seen).__mro__):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _sentence(what: str, url: str, cause: BaseException) -> str:
    text = mask_url(" ".join(str(cause).split()) or type(cause).__name__)
    if _hopeless(cause):
        return f"cannot {what}: {url} refuses the login ({text}); correct user name and password"
    goal = "" if what == "reach the broker" else f"{what}: cannot "
    return f"cannot {goal}reach the broker {url} ({text}); start it, or name another (broker_url)"
