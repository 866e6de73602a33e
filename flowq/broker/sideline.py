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
from dataclasses import dataclass, field
from typing import Any, Protocol

from flowq.errors import BrokerError

log = logging.getLogger("flowq.broker")

#: Seconds for which a thread waits for messages before it looks whether it is to end.
TICK = 0.5
#: Seconds between two looks at a Redis subscription, which may be dead without a sign of it.
_HEALTH = 5.0
#: Seconds before the second try to connect, and the most between two.
_FIRST, _MOST = 0.5, 15.0


class Clock(Protocol):
    """A Lamport clock."""

    value: int

    def forward(self) -> int: ...

    def adjust(self, other: int) -> int: ...


@dataclass(frozen=True, slots=True)
class Link:
    """How a broker is reached.

    Args:
        urls: One URL or several; the next is tried when one does not answer.
        transport_options: Options of kombu's transport.
        heartbeat: Seconds; AMQP only; 0 turns it off.
        connect_timeout: Seconds that connecting to one URL may take.
        use_ssl: TLS options, or True.
        login_method: AMQP login method.
        failover_strategy: Order in which URLs are tried.
    """

    urls: Sequence[str]
    transport_options: Mapping[str, Any] = field(default_factory=dict)
    heartbeat: float = 120.0
    connect_timeout: float = 4.0
    use_ssl: Any = False
    login_method: str | None = None
    failover_strategy: str = "round-robin"

    @classmethod
    def of(cls, conf: Mapping[str, Any], url: str | None = None) -> Link:
        """Read it from settings (Celery's names).

        Args:
            conf: The settings.
            url: Broker to use in place of the one they name.

        Raises:
            BrokerError: No broker is named.
        """
        found = url or conf["broker_url"]
        if not found:
            raise BrokerError("no broker is named; set broker_url, or give --broker URL")
        return cls(
            urls=[found] if isinstance(found, str) else list(found),
            transport_options=dict(conf["broker_transport_options"] or {}),
            heartbeat=float(conf["broker_heartbeat"] or 0),
            connect_timeout=float(conf["broker_connection_timeout"] or 4.0),
            use_ssl=conf["broker_use_ssl"] or False,
            login_method=conf["broker_login_method"],
            failover_strategy=conf["broker_failover_strategy"] or "round-robin",
        )

    def prepared(self) -> Any:
        """A kombu connection that is not open yet."""
        from kombu import Connection

        options = dict(self.transport_options)
        if self.urls[0].startswith("redis"):
            options.setdefault("socket_connect_timeout", self.connect_timeout)
            options.setdefault("socket_keepalive", True)
        return Connection(
            ";".join(self.urls),
            transport_options=options,
            heartbeat=self.heartbeat,
            connect_timeout=self.connect_timeout,
            ssl=self.use_ssl,
            login_method=self.login_method,
            failover_strategy=self.failover_strategy,
        )

    def open(self) -> Any:
        """An open kombu connection; every URL is tried once.

        Raises:
            BrokerError: None of them can be reached.
        """
        connection = self.prepared()
        tries = len(";".join(self.urls).split(";")) - 1
        try:
            if tries:
                connection.ensure_connection(max_retries=tries, interval_start=0, interval_step=0)
            else:
                connection.connect()
        except Exception as exc:
            connection.close()
            raise BrokerError(f"{self._name(connection)} cannot be reached: {exc}") from exc
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
            raise BrokerError(f"{self._name(connection)} failed: {exc}") from exc
        finally:
            close(connection)

    def _name(self, connection: Any) -> str:
        return f"the broker at {connection.as_uri()}"

    @property
    def is_redis(self) -> bool:
        """Whether kombu's Redis transport serves it."""
        return self.urls[0].startswith(("redis", "rediss", "sentinel"))


class Sideline:
    """A thread with a connection of its own, made anew whenever it is lost.

    Args:
        name: Of the thread, and what log lines call it.
        link: How the broker is reached.
        serve: Uses an open connection until `stopping`; an exception makes a new connection.
    """

    def __init__(self, name: str, link: Link, serve: Callable[[Any], None]) -> None:
        self._name, self.link, self._serve = name, link, serve
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
                connection = self.link.open()
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
