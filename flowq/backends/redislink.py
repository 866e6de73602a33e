"""Connections to Redis: settings into redis-py's, errors into ours, and `RedisLink`.

redis-py connects: addresses, TLS, login, database. `RedisLink` then drives the socket without
ever waiting on it, so that a loop may sleep on many descriptors at once, this one among them.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

from flowq.backends.options import BackendOptions, shown
from flowq.errors import BackendUnavailable, ImproperlyConfigured

#: Most seconds for connecting, and for one answer.
CONNECT_SECONDS, ANSWER_SECONDS = 1.0, 1.0
_CHUNK = 1 << 18


class RedisPlace:
    """One Redis database, as a URL and options name it. Nothing is connected here.

    Args:
        url: redis://..., rediss://... or unix://...; Celery's `ssl_cert_reqs=CERT_...` is read.
        options: Key prefix and TLS options are looked at.

    Raises:
        ImproperlyConfigured: redis-py is not installed, or the URL cannot be read.
    """

    def __init__(self, url: str, options: BackendOptions) -> None:
        try:
            import hiredis  # noqa: F401 - asked for here, so that the error says how
            import redis  # noqa: F401
        except ModuleNotFoundError as exc:
            raise ImproperlyConfigured(
                f"{shown(url)} needs redis-py and hiredis: pip install flowq[redis]"
            ) from exc
        self.url, self.prefix = url, options.prefix
        self.shown = shown(url)
        self._more = _more(url, options)
        self._pool = self._make_pool(tries=2)
        self._single = self._make_pool(tries=1)

    def _make_pool(self, tries: int) -> Any:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        retry = Retry(NoBackoff(), tries - 1)
        try:
            made = redis.ConnectionPool.from_url(_plain(self.url), retry=retry, **self._more)
        except ValueError as exc:
            raise ImproperlyConfigured(f"{self.shown} is not a Redis URL: {exc}") from exc
        checked = made.connection_kwargs.get("ssl_cert_reqs")
        if isinstance(checked, str):
            made.connection_kwargs["ssl_cert_reqs"] = checked.removeprefix("CERT_").lower()
        return made

    def client(self) -> Any:
        """A client for any thread; a connection that the server closed costs a second attempt."""
        import redis

        return redis.Redis(connection_pool=self._pool)

    def connection(self) -> Any:
        """A new connection of redis-py's, connected, for one thread.

        Raises:
            BackendUnavailable: It cannot be made.
        """
        made = self._single.make_connection()
        with self.errors("reach"):
            made.connect()
        return made

    @contextlib.contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        """Turn the driver's errors into ours, naming what was attempted."""
        import redis

        try:
            yield
        except (redis.RedisError, OSError, ValueError) as exc:
            said = " ".join(str(exc).split()) or type(exc).__name__
            raise BackendUnavailable(
                f"cannot {doing} the Redis at {self.shown} ({said}); start it, or name another "
                "(result_backend)"
            ) from exc


def _more(url: str, options: BackendOptions) -> dict[str, Any]:
    """Arguments of redis-py's connections that are not in the URL."""
    more: dict[str, Any] = dict(options.redis_ssl) if url.startswith("rediss:") else {}
    for name in ("socket_keepalive", "username", "password", "client_name"):
        if name in options.transport:
            more[name] = options.transport[name]
    more.setdefault("socket_keepalive", True)
    more["socket_connect_timeout"] = CONNECT_SECONDS
    more["socket_timeout"] = ANSWER_SECONDS
    more["protocol"] = 2
    return more


def _plain(url: str) -> str:
    """The URL with TLS words in redis-py's spelling."""
    for word in ("REQUIRED", "OPTIONAL", "NONE"):
        url = url.replace(f"ssl_cert_reqs=CERT_{word}", f"ssl_cert_reqs={word.lower()}")
    return url


class RedisLink:
    """A connection that never waits once it stands: commands go out, answers come in order.

    For one thread. Every method but `close` raises BackendUnavailable when the connection broke.

    Args:
        place: Where to connect; done here, within a bounded time.
    """

    def __init__(self, place: RedisPlace) -> None:
        import hiredis

        self._place = place
        self._connection = place.connection()
        #: The server's number of this connection.
        with place.errors("talk to"):
            self._connection.send_command("CLIENT", "ID")
            self.client_id = int(self._connection.read_response())
        self._socket: socket.socket = self._connection._sock
        self._socket.setblocking(False)
        self._reader = hiredis.Reader()
        self._unsent = b""

    @property
    def unsent(self) -> bool:
        """Whether part of a command waits for room in the socket; any call goes on with it."""
        return bool(self._unsent)

    def fileno(self) -> int:
        """Descriptor that becomes readable when an answer comes."""
        return self._socket.fileno()

    def send(self, *command: Any) -> None:
        """Send a command; its answer comes from `receive`."""
        self._unsent += b"".join(self._connection.pack_command(*command))
        self._flush()

    def receive(self) -> list[Any]:
        """The answers that have come; an error answer is an exception object in the list."""
        self._flush()
        found: list[Any] = []
        with self._place.errors("read from"):
            while True:
                try:
                    data = self._socket.recv(_CHUNK)
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    return found
                if not data:
                    raise ConnectionError("it closed the connection")
                self._reader.feed(data)
                while (answer := self._reader.gets()) is not False:
                    found.append(answer)
                if len(data) < _CHUNK and not self._pending():
                    return found

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        self._connection.disconnect()

    def _pending(self) -> bool:
        """Whether TLS has read more than it has given out: no descriptor tells of that."""
        pending = getattr(self._socket, "pending", None)
        return bool(pending and pending())

    def _flush(self) -> None:
        with self._place.errors("write to"):
            while self._unsent:
                try:
                    sent = self._socket.send(self._unsent)
                except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    return
                self._unsent = self._unsent[sent:]
