"""`Cache`: one named cache, the process's own layer in front of a server."""

from __future__ import annotations

import logging
import os
import string
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any, TypeVar

from flowq import payload
from flowq.cache.local import Local
from flowq.cache.servers import Server, open_server
from flowq.config import mask_url
from flowq.errors import ImproperlyConfigured, MessageDecodeError

log = logging.getLogger("flowq.cache")

T = TypeVar("T")

_PLAIN = frozenset(string.ascii_letters + string.digits + "-_.:/@+=,~")
#: memcached takes keys of 250 bytes; prefix and number need some of them.
_LONGEST = 160
#: First byte of a frame that is the value itself; no tag of `payload`.
_BYTES = b"b"
#: On a server a frame follows its end, in epoch seconds: whoever reads it knows what is left.
_until = struct.Struct(">d")
#: Stands for the `ttl` of the cache.
_OWN: Any = object()
_caches: weakref.WeakSet[Cache] = weakref.WeakSet()


class Cache:
    """A cache. Safe to use from any thread, and in a process that was forked.

    Values are plain data or bytes, and come back as copies. What is kept in the process is not
    told of changes that other processes make: a value may be `local_ttl` seconds old.

    Args:
        name: Its name in messages.
        url: memcached://host:port[,host:port], redis://host:port/db, rediss://, or memory://.
        ttl: Seconds for which values are kept; None: for as long as there is room.
        local_size: Most values in the process; 0: none.
        local_bytes: Most bytes of them.
        local_ttl: Seconds for which they are used without asking the server.
        prefix: Start of its keys on the server.
        timeout: Seconds to wait for the server.
        retry_after: Seconds after a failure in which it is not asked again.
        serializer: json, msgpack, yaml or pickle; pickle only where all who can write to the
            server are trusted.

    Raises:
        ImproperlyConfigured: An option is wrong.
    """

    def __init__(
        self,
        name: str,
        url: str = "memory://",
        *,
        ttl: float | None = None,
        local_size: int = 1000,
        local_bytes: int = 64 << 20,
        local_ttl: float = 30.0,
        prefix: str | None = None,
        timeout: float = 1.0,
        retry_after: float = 5.0,
        serializer: str = "json",
        **unknown: Any,
    ) -> None:
        if unknown:
            raise ImproperlyConfigured(
                f"the cache {name!r} has the option {next(iter(unknown))!r}, which no cache has: "
                "use url, ttl, local_size, local_bytes, local_ttl, prefix, timeout, retry_after "
                "and serializer"
            )
        self.name, self.url, self.ttl, self.prefix = name, url, ttl, prefix or f"flowq:{name}:"
        if _safe(self.prefix) != self.prefix:
            raise ImproperlyConfigured(
                f"the prefix {prefix!r} of the cache {name!r} must be short and without spaces"
            )
        self._local_options = (local_size, local_bytes)
        self._local_ttl = local_ttl
        self._timeout, self._retry_after = timeout, retry_after
        self._serializer = serializer
        self._accept = {*payload.DEFAULT_ACCEPT, serializer}
        self._start()
        _caches.add(self)

    def _start(self) -> None:
        """Begin without anything in memory, and without connections."""
        self._local = Local(*self._local_options)
        self._lock = threading.Lock()
        self._server: Server | None = open_server(self.url, self.prefix, self._timeout)
        self._away_until = 0.0
        self._is_away = False
        self._making: dict[str, threading.Lock] = {}

    # -- reading -------------------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or `default`."""
        key = _safe(key)
        frame = self._local.get(key)
        if frame is None and self._server is not None:
            frame = self._fetch([key]).get(key)
        return default if frame is None else self._value(frame, default)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Values of those keys that are there; asks the server once."""
        wanted = {key: _safe(key) for key in keys}
        frames = {safe: f for safe in wanted.values() if (f := self._local.get(safe)) is not None}
        missing = [safe for safe in wanted.values() if safe not in frames]
        if missing and self._server is not None:
            frames.update(self._fetch(missing))
        values = {}
        for key, safe in wanted.items():
            value = self._value(frames[safe], _OWN) if safe in frames else _OWN
            if value is not _OWN:
                values[key] = value
        return values

    def get_or_set(self, key: str, make: Callable[[], T], ttl: float | None = _OWN) -> T:
        """The value of a key; where it has none, what `make` returns, which is kept.

        Threads of this process that ask for one key at a time make it once. An error of `make` is
        raised, and nothing is kept.
        """
        value = self.get(key, _OWN)
        if value is not _OWN:
            return value  # type: ignore[no-any-return]
        with self._lock:
            lock = self._making.setdefault(key, threading.Lock())
        with lock:
            try:
                value = self.get(key, _OWN)
                if value is _OWN:
                    value = make()
                    self.set(key, value, ttl)
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return value  # type: ignore[no-any-return]

    # -- writing -------------------------------------------------------------------------

    def set(self, key: str, value: Any, ttl: float | None = _OWN) -> None:
        """Keep a value for `ttl` seconds, None: for as long as there is room.

        Raises:
            EncodeError: It is not plain data.
        """
        self.set_many({key: value}, ttl)

    def set_many(self, values: Mapping[str, Any], ttl: float | None = _OWN) -> None:
        """Keep several values; the server is told once. Raises as `set`."""
        ttl = self.ttl if ttl is _OWN else ttl
        frames = {_safe(key): self._frame(value, key) for key, value in values.items()}
        if ttl is not None and ttl <= 0:
            self._forget(list(frames))
            return
        local = ttl
        if self._server is not None:
            head = _until.pack(float("inf") if ttl is None else time.time() + ttl)
            stored = {key: head + frame for key, frame in frames.items()}
            self._ask(lambda s: s.set_many(stored, ttl))
            local = self._local_ttl if ttl is None else min(ttl, self._local_ttl)
        for key, frame in frames.items():
            self._local.put(key, frame, local)

    def delete(self, key: str) -> None:
        """Forget a key. Other processes may still use the value for `local_ttl` seconds."""
        self._forget([_safe(key)])

    def clear(self) -> None:
        """Forget everything; other caches on the same server keep what they have."""
        self._local.clear()
        self._ask(lambda s: s.clear())

    def close(self) -> None:
        """Close connections and forget what is in the process. A later call connects again."""
        if self._server is not None:
            self._server.close()
        self._start()

    def _forget(self, keys: list[str]) -> None:
        for key in keys:
            self._local.drop(key)
        self._ask(lambda s: s.delete(keys))

    def _fetch(self, keys: list[str]) -> dict[str, bytes]:
        """Frames of keys that the server has; the process keeps them too."""
        found: dict[str, bytes] | None = self._ask(lambda s: s.get_many(keys))
        frames = {}
        for key, stored in (found or {}).items():
            until = _until.unpack_from(stored)[0] if len(stored) > _until.size else 0.0
            rest = until - time.time()
            if rest > 0:
                frame = frames[key] = stored[_until.size :]
                self._local.put(key, frame, min(rest, self._local_ttl))
        return frames

    # -- the server ----------------------------------------------------------------------

    def _ask(self, call: Callable[[Server], T]) -> T | None:
        """What the server says; None without one, and while it is away."""
        server = self._server
        if server is None or (self._is_away and time.monotonic() < self._away_until):
            return None
        try:
            answer = call(server)
        except server.errors as problem:
            server.failed()
            self._away_until = time.monotonic() + self._retry_after
            if not self._is_away:
                self._is_away = True
                log.warning(
                    "the cache %s is away, tasks do without: %s: %s",
                    self.name,
                    mask_url(self.url),
                    str(problem) or type(problem).__name__,
                )
            return None
        if self._is_away:
            self._is_away = False
            log.info("the cache %s is back: %s", self.name, mask_url(self.url))
        return answer

    # -- values --------------------------------------------------------------------------

    def _frame(self, value: Any, key: str) -> bytes:
        if type(value) is bytes:
            return _BYTES + value
        return payload.encode(value, self._serializer, where=f"the value of {key!r}")

    def _value(self, frame: bytes, default: Any) -> Any:
        """A frame's value; what cannot be read counts as not there."""
        if frame[:1] == _BYTES:
            return frame[1:]
        try:
            return payload.decode(frame, self._accept)
        except MessageDecodeError as problem:
            log.debug("the cache %s holds what it cannot read: %s", self.name, problem)
            return default

    def __repr__(self) -> str:
        return f"<Cache {self.name} {mask_url(self.url)}>"


def _safe(key: str) -> str:
    """A key as every server takes it: short, printable; others are replaced by their hash."""
    if len(key) <= _LONGEST and _PLAIN.issuperset(key):
        return key
    return "#" + blake2b(key.encode("utf-8", "surrogatepass"), digest_size=24).hexdigest()


def _after_fork() -> None:
    """Connections and locks of the parent are of no use here."""
    for cache in list(_caches):
        cache._start()


os.register_at_fork(after_in_child=_after_fork)
