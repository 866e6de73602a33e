"""Connections beside the worker's own: how they are opened, and a thread that keeps one.

Remote control and events have a connection and a thread each, so that neither a slow broker nor
many inspectors hold up the loop that runs tasks.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import flowq.broker.library  # noqa: F401 - before threads
from flowq.broker.options import Addresses, BrokerOptions, kind_of
from flowq.core.masking import mask_url
from flowq.errors import BrokerError

log = logging.getLogger("flowq.broker")

#: Seconds for which a thread waits for messages before it looks whether it is to end.
TICK = 0.5
#: Seconds between two looks at a Redis subscription, which may be dead without a sign of it, and
#: between the signs of life that are asked of it.
_HEALTH = 5.0
#: Most seconds between two heartbeats of AMQP: a worker that is cut off is to notice soon.
_HEARTBEAT = 30.0
#: Seconds before the second try to connect, and the most between two.
_FIRST, _MOST = 0.5, 15.0
_DEFAULTS = BrokerOptions()


class Clock(Protocol):
    """A Lamport clock."""

    value: int

    def forward(self) -> int: ...

    def adjust(self, other: int) -> int: ...


class Access:
    """How a broker is reached.

    Args:
        urls: One URL, several separated by `;`, or a list; the next is tried when one is silent.
        options: Of the connections.

    Raises:
        ImproperlyConfigured: No URL, or one of a kind that is not known.
    """

    def __init__(self, urls: str | Sequence[str], options: BrokerOptions = _DEFAULTS) -> None:
        self.urls = Addresses(urls, options.failover_strategy).urls
        self.options = options

    @classmethod
    def of(cls, conf: Mapping[str, Any], url: str | None = None) -> Access:
        """Read it from settings (Celery's names).

        Args:
            conf: The settings.
            url: Broker to use in place of the one they name.

        Raises:
            ImproperlyConfigured: No broker is named.
        """
        return cls(url or conf["broker_url"] or (), BrokerOptions.of(conf))

    def prepared(self) -> Any:
        """A kombu connection that is not open yet."""
        from kombu import Connection

        options, transport = self.options, dict(self.options.transport_options)
        if self.is_redis:
            transport.setdefault("socket_connect_timeout", options.connect_timeout)
            transport.setdefault("socket_keepalive", True)
            transport.setdefault("health_check_interval", int(2 * _HEALTH))
        from flowq.broker.declaring import with_folders

        return Connection(
            ";".join(self.urls),
            transport_options=with_folders(self.urls[0], transport),
            heartbeat=min(options.heartbeat, _HEARTBEAT),
            connect_timeout=options.connect_timeout,
            ssl=options.use_ssl,
            login_method=options.login_method,
            failover_strategy=options.failover_strategy,
        )

    def open(self) -> Any:
        """An open kombu connection; every URL is tried once.

        Raises:
            BrokerError: None of them can be reached.
        """
        connection = self.prepared()
        try:
            if len(self.urls) > 1:
                connection.ensure_connection(
                    max_retries=len(self.urls) - 1, interval_start=0, interval_step=0
                )
            else:
                connection.connect()
        except Exception as exc:
            connection.close()
            raise BrokerError(f"{self} cannot be reached: {exc}") from exc
        return connection

    @contextlib.contextmanager
    def opened(self) -> Iterator[Any]:
        """An open connection for a `with` statement; what goes wrong in it is a BrokerError.

        Raises:
            BrokerError: The broker cannot be reached, or failed.
        """
        connection = self.open()
        failures = connection.connection_errors + connection.channel_errors
        try:
            yield connection
        except failures as exc:
            raise BrokerError(f"{self} failed: {exc}") from exc
        finally:
            close(connection)

    def __str__(self) -> str:
        return f"the broker at {mask_url(';'.join(self.urls))}"

    @property
    def is_redis(self) -> bool:
        """Whether kombu's Redis transport serves it."""
        return kind_of(self.urls[0]) == "redis"


def open_channel(connection: Any) -> Any:
    """A channel that inflates no messages: commands and events are never compressed."""
    channel = connection.channel()
    made = channel.Message

    class Plain(made):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if _headers(args[0] if args else kwargs["payload"]).pop("compression", None):
                log.warning("a compressed message is taken as it is, and will not be understood")
            super().__init__(*args, **kwargs)

    channel.Message = Plain
    return channel


def _headers(message: Any) -> Any:
    """The headers of a message as a transport of kombu has it, before kombu reads them."""
    if isinstance(message, dict):
        return message.get("headers") or {}
    return message.properties.get("application_headers") or {}


class Sideline:
    """A thread with a connection of its own, made anew whenever it is lost.

    Args:
        name: Of the thread, and what log lines call it.
        access: How the broker is reached.
        serve: Uses an open connection until `stopping`; an exception makes a new connection.
    """

    def __init__(self, name: str, access: Access, serve: Callable[[Any], None]) -> None:
        self._name, self.access, self._serve = name, access, serve
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._checked = 0.0
        #: Set by `serve` while it does its work.
        self.ready = threading.Event()

    @property
    def stopping(self) -> bool:
        """Whether the thread is to end."""
        return self._stop.is_set()

    def start(self) -> None:
        """Start the thread. Repeating: does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def pause(self, seconds: float) -> None:
        """Wait, but no longer than until `stopping`."""
        self._stop.wait(seconds)

    def stop(self, timeout: float = 2.0) -> None:
        """Ask the thread to end and wait at most `timeout` seconds for it."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def drain(self, connection: Any) -> None:
        """Let consumers of a connection have what comes, until `stopping`."""
        wait = 0.01  # Redis is subscribed to in the first call
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):  # also socket.timeout
                connection.drain_events(timeout=wait)
            self.ready.set()
            wait = TICK
            self.check(connection)

    def check(self, connection: Any) -> None:
        """See whether a connection still lives; to be called every second or so."""
        if connection.supports_heartbeats:
            connection.heartbeat_check()
            return
        now = time.monotonic()
        if now - self._checked > _HEALTH:
            self._checked = now
            cycle = getattr(connection.transport, "cycle", None)
            look = getattr(cycle, "maybe_check_subclient_health", None)
            if look is not None:
                look()

    def _run(self) -> None:
        delay, told = _FIRST, False
        while not self._stop.is_set():
            connection = None
            began = time.monotonic()
            try:
                connection = self.access.open()
                if told:
                    log.info("%s: connected again", self._name)
                    told = False
                self._serve(connection)
            except Exception as exc:
                if not told and not self._stop.is_set():
                    log.warning("%s: %s; connecting again", self._name, _words(exc))
                told = True
            finally:
                self.ready.clear()
                if connection is not None:
                    close(connection)
            delay = _FIRST if time.monotonic() - began > _MOST else min(delay * 2, _MOST)
            self._stop.wait(delay * random.uniform(0.5, 1.0))


def close(connection: Any) -> None:
    """Close a connection that may be broken."""
    try:
        connection.close()
    except Exception as exc:
        log.debug("closing a broken connection: %r", exc)


def _words(exc: BaseException) -> str:
    text = str(exc).strip()
    return text if isinstance(exc, BrokerError) else f"{type(exc).__name__}: {text}"
