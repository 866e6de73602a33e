"""`Consumer`: taking messages without ever blocking, through every outage of the broker."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import flowq.broker.library  # noqa: F401 - before threads
from flowq.broker.bell import Bell
from flowq.broker.delivery import Delivery
from flowq.broker.options import Addresses, BrokerOptions, kind_of
from flowq.broker.queues import QueueSpec, Router
from flowq.core.masking import mask_url
from flowq.errors import BrokerError

__all__ = ["Consumer", "Delivery"]

_log = logging.getLogger("flowq.broker")

#: Most seconds between two attempts to connect.
LONGEST_WAIT = 8.0


class Source(Protocol):
    """One consuming connection; its methods raise one of `lost` when it broke."""

    lost: tuple[type[BaseException], ...]

    def open(self, queues: Iterable[QueueSpec]) -> None: ...

    def follow(self, queues: Iterable[QueueSpec]) -> None: ...

    def handles(self) -> list[int]: ...

    def timeout(self) -> float: ...

    def take(self, nodes: int, tasks: int) -> list[Delivery]: ...

    def close(self, *, gently: bool) -> None: ...


def make_source(
    url: str, options: BrokerOptions, store_id: str | None, kept: dict[str, Any]
) -> Source:
    """A consuming connection of the kind that serves a URL; not yet open.

    `kept` is what one connection of a consumer leaves to the next.
    """
    kind = kind_of(url)
    if kind == "rabbit":
        from flowq.broker.rabbitsource import RabbitSource

        return RabbitSource(url, options, store_id)
    if kind == "redis":
        from flowq.broker.redissource import RedisSource
        from flowq.broker.redisunacked import Unacked

        return RedisSource(url, options, store_id, kept.setdefault("unacked", Unacked()))
    from flowq.broker.polled import PolledSource

    return PolledSource(url, options, store_id)


class Consumer:
    """Takes bundles and bare tasks; for one thread, which polls `handles()` between two takes.

    Connecting happens on a thread of its own, so that `take` never waits for a broker that is
    away. After an outage it connects again, to the next URL if there are several, declares the
    queues again and goes on. Until it was connected once, each attempt that fails is a line in the
    log; an outage later on is one warning, and one line when it is over.

    Args:
        broker_urls: One URL, several separated by `;`, or a list.
        options: Of the connection.
        router: Knows the queues by name.
        queues: Names of those to consume from.
        store_id: Whose bundles are taken, from each queue's companion; None: bare tasks only.

    Raises:
        ImproperlyConfigured: No URL, or of no known kind.
        UnknownQueue: A name is not known and may not be made.
    """

    def __init__(
        self,
        broker_urls: str | Sequence[str],
        options: BrokerOptions,
        router: Router,
        *,
        queues: Iterable[str],
        store_id: str | None,
    ) -> None:
        self._addresses = Addresses(broker_urls, options.failover_strategy)
        self._options, self._router, self._store_id = options, router, store_id
        self._queues = {spec.name: spec for spec in map(router.queue, queues)}
        self._source: Source | None = None
        self._opening: _Opening | None = None
        self._bell = Bell()
        self._kept: dict[str, Any] = {}
        self._failures = 0
        self._retry_at = 0.0
        self._outage_since: float | None = None
        self._was_connected = False
        #: Called once, when messages are taken for the first time.
        self.on_ready: Callable[[], None] = lambda: None
        self._paused = self._closed = False

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._source is not None

    @property
    def url(self) -> str:
        """The URL in use or tried next, with its password masked."""
        return mask_url(self._addresses.current)

    # -- the loop

    def handles(self) -> list[int]:
        """Descriptors that become readable when `take` may find something."""
        own = [self._bell.fileno()]
        return own if self._source is None else own + self._source.handles()

    def timeout(self) -> float:
        """Most seconds to wait on the handles before the next `take`."""
        if self._source is not None:
            return self._source.timeout()
        if self._opening is not None:
            return 1.0
        return max(0.0, min(1.0, self._retry_at - time.monotonic()))

    def take(self, nodes: int, tasks: int) -> list[Delivery]:
        """What has arrived: at most so many bundles and bare tasks. Never blocks.

        To be called often, also without room (0, 0): it is what keeps the connection alive.

        Raises:
            BrokerError: It cannot be reached, and the options say that it is not tried again.
        """
        if self._closed:
            return []
        self._bell.still()
        if self._source is None and not self._connect():
            return []
        source = self._source
        assert source is not None
        if self._paused:
            nodes = tasks = 0
        try:
            return source.take(nodes if self._store_id is not None else 0, tasks)
        except source.lost as exc:
            self._lost(exc)
        except Exception as exc:  # a fault of ours must not end the worker: begin anew
            _log.exception("taking messages from %s failed", self.url)
            self._lost(exc)
        return []

    # -- queues

    def active(self) -> list[QueueSpec]:
        """The queues it consumes from."""
        return list(self._queues.values())

    def add_queue(self, name: str, **options: Any) -> QueueSpec:
        """Consume from one more; with options it is made as they say.

        Raises:
            UnknownQueue: It is not known and may not be made.
        """
        spec = self._router.add(name, **options) if options else self._router.queue(name)
        if spec.name not in self._queues:
            self._queues[spec.name] = spec
            self._follow()
        return spec

    def cancel_queue(self, name: str) -> bool:
        """Consume from it no longer; whether it was one of them. What was taken stays taken."""
        for spec in self.active():
            if name in (spec.name, spec.alias):
                del self._queues[spec.name]
                self._follow()
                return True
        return False

    def _follow(self) -> None:
        source = self._source
        if source is not None:
            try:
                source.follow(self.active())
            except source.lost as exc:
                self._lost(exc)

    def pause(self) -> None:
        """Take nothing more, but stay connected, so that messages can be acknowledged."""
        self._paused = True

    def resume(self) -> None:
        """Take again."""
        self._paused = False

    def close(self) -> None:
        """Give back what was not acknowledged, and close. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._opening is not None:
            self._opening.abandon()
        if self._source is not None:
            self._source.close(gently=True)
            self._source = None
        self._bell.close()

    # -- connecting

    def _connect(self) -> bool:
        """Whether there is a connection now; starts making one when it is time."""
        if self._opening is None:
            if time.monotonic() >= self._retry_at:
                self._opening = _Opening(self, self._addresses.current, self.active())
            return False
        if not self._opening.done:
            return False
        opening, self._opening = self._opening, None
        if opening.failed is not None:
            self._failed(opening.failed)
            return False
        self._source = opening.source
        self._came_back(opening.queues)
        return self._source is not None

    def _came_back(self, queues: list[QueueSpec]) -> None:
        if self._outage_since is not None:
            seconds = time.monotonic() - self._outage_since
            what = "is back" if self._was_connected else "is there"
            _log.warning("the broker %s %s after %.1f s", self.url, what, seconds)
        self._outage_since, self._failures = None, 0
        if queues != self.active():  # changed while it was being opened
            self._follow()
        if not self._was_connected:
            self._was_connected = True
            self.on_ready()

    def _lost(self, exc: BaseException) -> None:
        source, self._source = self._source, None
        if source is not None:
            with suppress(Exception):
                source.close(gently=False)
        self._failed(exc, "lost")

    def _failed(self, exc: BaseException, what: str = "cannot connect to") -> None:
        now, failed, first = time.monotonic(), self.url, self._outage_since is None
        if first:
            self._outage_since = now
        self._failures += 1
        if len(self._addresses.urls) > 1:
            self._addresses.advance()
        rounds = (self._failures - 1) // len(self._addresses.urls)
        delay = self._options.delay_of_round(rounds, LONGEST_WAIT)
        self._retry_at = now + delay
        text = mask_url(" ".join(str(exc).split()) or type(exc).__name__)
        self._give_up(failed, what, text, exc)
        if not self._was_connected:
            _log.error("%s the broker %s (%s); trying again in %.1f s", what, failed, text, delay)
        elif first:
            _log.warning("%s the broker %s (%s); trying again until it is back", what, failed, text)

    def _give_up(self, url: str, what: str, text: str, exc: BaseException) -> None:
        """Raise if it is not to be tried again: `lost` at once, else once every URL has failed."""
        options = self._options
        again = options.reconnect if self._was_connected else options.reconnect_at_start
        if not again and self._failures >= len(self._addresses.urls):
            name = "" if self._was_connected else "_on_startup"
            raise BrokerError(
                f"{what} the broker {url} ({text}), and broker_connection_retry{name} is off"
            ) from exc


class _Opening:
    """A connection in the making, on its own thread."""

    def __init__(self, consumer: Consumer, url: str, queues: list[QueueSpec]) -> None:
        self.queues = queues
        self.source: Source | None = make_source(
            url, consumer._options, consumer._store_id, consumer._kept
        )
        self.failed: BaseException | None = None
        self.done = False
        self._bell = consumer._bell
        self._lock = threading.Lock()
        self._abandoned = False
        threading.Thread(target=self._open, name="flowq-connect", daemon=True).start()

    def _open(self) -> None:
        source = self.source
        assert source is not None
        try:
            source.open(self.queues)
        except Exception as exc:  # drivers raise what they like when they cannot connect
            with suppress(Exception):
                source.close(gently=False)
            self.failed = exc
        with self._lock:
            self.done = True
            if not self._abandoned:
                self._bell.ring()
                return
        if self.failed is None:
            source.close(gently=True)

    def abandon(self) -> None:
        """The consumer is closed: close what was opened."""
        with self._lock:
            self._abandoned = True
            if self.done and self.failed is None and self.source is not None:
                self.source.close(gently=True)
