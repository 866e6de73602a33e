"""What a cache keeps its frames in: Redis, memcached, or nothing but the process.

Each class raises one of its `errors` when the server does not do what it was asked.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from flowq.config import mask_url
from flowq.errors import ImproperlyConfigured

#: memcached takes a longer time (seconds) for a date.
_MONTH = 30 * 24 * 3600
#: Keys deleted in one call.
_PAGE = 500


class Server(Protocol):
    """Frames by key, outside of this process. Safe to use from any thread, but not after a fork."""

    #: What its methods raise when the server is away, or refuses.
    errors: tuple[type[Exception], ...]

    def get_many(self, keys: list[str]) -> dict[str, bytes]:
        """Frames of those keys that are there."""

    def set_many(self, frames: Mapping[str, bytes], ttl: float | None) -> None:
        """Keep frames for `ttl` seconds, None: until the server needs the room."""

    def delete(self, keys: Iterable[str]) -> None:
        """Forget keys."""

    def clear(self) -> None:
        """Forget all keys with the cache's prefix."""

    def failed(self) -> None:
        """The last call did: what is known of the server may not be so any more."""

    def close(self) -> None:
        """Close all connections."""


def open_server(url: str, prefix: str, timeout: float) -> Server | None:
    """The server behind a cache URL; None for `memory://`. Connects to nothing yet.

    Raises:
        ImproperlyConfigured: The URL is of no known kind, or its driver is not installed.
    """
    scheme = url.partition(":")[0].removeprefix("cache+")
    if scheme == "memory":
        return None
    try:
        if scheme in ("redis", "rediss", "unix"):
            return RedisServer(url, prefix, timeout)
        if scheme == "memcached":
            return MemcachedServer(url, prefix, timeout)
    except ModuleNotFoundError as problem:
        extra = "memcached" if scheme == "memcached" else "redis"
        raise ImproperlyConfigured(
            f"a cache on {scheme} needs its driver: pip install flowq[{extra}]"
        ) from problem
    raise ImproperlyConfigured(
        f"cache URL {mask_url(url)!r} is of no known kind: use memcached://host:11211, "
        "redis://host:6379/0 or memory://"
    )


class RedisServer:
    """Redis through redis-py, whose pool serves all threads."""

    def __init__(self, url: str, prefix: str, timeout: float) -> None:
        import redis

        self.errors: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        self._prefix = prefix
        self._client: Any = redis.Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout
        )

    def get_many(self, keys: list[str]) -> dict[str, bytes]:
        found = self._client.mget([self._prefix + key for key in keys])
        return {key: frame for key, frame in zip(keys, found) if frame is not None}

    def set_many(self, frames: Mapping[str, bytes], ttl: float | None) -> None:
        milliseconds = None if ttl is None else max(1, round(ttl * 1000))
        with self._client.pipeline(transaction=False) as pipe:
            for key, frame in frames.items():
                pipe.set(self._prefix + key, frame, px=milliseconds)
            pipe.execute()

    def delete(self, keys: Iterable[str]) -> None:
        self._client.delete(*[self._prefix + key for key in keys])

    def clear(self) -> None:
        pattern = "".join(f"[{c}]" if c in "*?[" else c for c in self._prefix) + "*"
        page: list[bytes] = []
        for key in self._client.scan_iter(match=pattern.replace("\\", "\\\\"), count=_PAGE):
            page.append(key)
            if len(page) == _PAGE:
                self._client.unlink(*page)
                page = []
        if page:
            self._client.unlink(*page)

    def failed(self) -> None:
        """Nothing is known of it."""

    def close(self) -> None:
        self._client.close()


class MemcachedServer:
    """memcached through pymemcache: one server, or several with the keys spread over them.

    memcached cannot list its keys: they carry a number that `clear` changes, kept under a key of
    its own. Each process reads it again now and then.
    """

    #: Seconds until another process's `clear` is seen.
    LOOK_EVERY = 1.0

    def __init__(self, url: str, prefix: str, timeout: float) -> None:
        from pymemcache import HashClient, PooledClient
        from pymemcache.exceptions import MemcacheError, MemcacheServerError

        self.errors: tuple[type[Exception], ...] = (MemcacheError, OSError)
        self._prefix = prefix
        self._refusal: type[Exception] = MemcacheServerError
        self._number = b""
        self._look_at = 0.0
        places = _places(url)
        options = {"connect_timeout": timeout, "timeout": timeout, "no_delay": True}
        if len(places) == 1:
            self._client: Any = PooledClient(places[0], **options)
        else:
            self._client = HashClient(
                places, use_pooling=True, retry_attempts=0, dead_timeout=timeout, **options
            )

    def get_many(self, keys: list[str]) -> dict[str, bytes]:
        full = {self._full(key): key for key in keys}
        return {full[key]: frame for key, frame in self._client.get_many(list(full)).items()}

    def set_many(self, frames: Mapping[str, bytes], ttl: float | None) -> None:
        full = {self._full(key): frame for key, frame in frames.items()}
        expire = _seconds(ttl)
        try:
            self._client.set_many(full, expire=expire, noreply=False)
        except self._refusal:  # one is too large: the others can be kept
            for key, frame in full.items():
                with contextlib.suppress(self._refusal):
                    self._client.set(key, frame, expire=expire, noreply=False)

    def delete(self, keys: Iterable[str]) -> None:
        self._client.delete_many([self._full(key) for key in keys], noreply=False)

    def clear(self) -> None:
        number = b"%x" % time.time_ns()
        self._client.set(self._prefix + "clear", number, expire=0, noreply=False)
        self._number = number

    def failed(self) -> None:
        self._look_at = 0.0  # it may have been restarted, and lost its number

    def close(self) -> None:
        self._client.close()

    def _full(self, key: str) -> str:
        now = time.monotonic()
        if not self._number or now >= self._look_at:
            name = self._prefix + "clear"
            found = self._client.get(name)
            if found is None:
                self._client.add(name, b"%x" % time.time_ns(), expire=0, noreply=False)
                found = self._client.get(name)
            self._number = found or self._number or b"0"
            self._look_at = now + self.LOOK_EVERY
        return f"{self._prefix}{self._number.decode()}:{key}"


def _seconds(ttl: float | None) -> int:
    if ttl is None:
        return 0
    whole = max(1, math.ceil(ttl))
    return whole if whole <= _MONTH else int(time.time()) + whole


def _places(url: str) -> list[Any]:
    """(host, port) of each server, or the path of a socket."""
    rest = url.partition("://")[2]
    if rest.startswith("/"):
        return [unquote(rest)]
    found = []
    for part in rest.split("/")[0].replace(";", ",").split(","):
        one = urlsplit(f"//{part}")
        try:
            found.append((one.hostname or "localhost", one.port or 11211))
        except ValueError as problem:
            raise ImproperlyConfigured(f"cache URL {mask_url(url)!r}: {problem}") from problem
    return found
