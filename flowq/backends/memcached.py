"""Results in memcached, in Celery's form. They may be evicted, and go with the server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from flowq.backends import OnMessage, ResultRequest, TaskMeta
from flowq.backends.options import BackendOptions, shown
from flowq.backends.records import Records
from flowq.backends.waiting import poll
from flowq.errors import BackendUnavailable, ImproperlyConfigured

_SECONDS = 1.0
#: memcached reads a longer life as a time of day.
_LONGEST_LIFE = 30 * 86_400


class MemcachedResults:
    """Contract: `backends.ResultStore`. Nothing is connected before the first call.

    Args:
        url: cache+memcached://host:port/, several hosts separated by `;`.
        options: Of results.

    Raises:
        ImproperlyConfigured: pymemcache is not installed.
    """

    reply_to: str | None = None

    def __init__(self, url: str, options: BackendOptions) -> None:
        try:
            from pymemcache.client.hash import HashClient
        except ModuleNotFoundError as exc:
            raise ImproperlyConfigured(
                f"{shown(url)} needs pymemcache: pip install flowq[memcached]"
            ) from exc
        self._shown = shown(url)
        self._records, self._prefix = Records(options), options.prefix
        self._expires = options.expires
        hosts = urlsplit(url).netloc.rpartition("@")[2] or "127.0.0.1"
        self._client = HashClient(
            [_address(host) for host in hosts.split(";")],
            use_pooling=True, connect_timeout=_SECONDS, timeout=_SECONDS, no_delay=True,
            retry_attempts=0, dead_timeout=1,
        )  # fmt: skip

    def key(self, task_id: str) -> str:
        """Key of a task."""
        return f"{self._prefix}celery-task-meta-{task_id}"

    def store(self, task_id: str, meta: TaskMeta, request: ResultRequest | None = None) -> None:
        """As `ResultStore.store`."""
        key, body = self.key(task_id), self._records.encode(task_id, meta, request)
        with self._errors("store a result in"):
            while True:
                known, mark = self._client.gets(key)
                if known is None:
                    done = self._client.add(key, body, self._life(), noreply=False)
                elif self._records.is_success(bytes(known)):
                    return
                else:
                    done = self._client.cas(key, body, mark, self._life(), noreply=False)
                if done:
                    return

    def load(self, task_id: str) -> TaskMeta | None:
        """As `ResultStore.load`."""
        with self._errors("read a result from"):
            body = self._client.get(self.key(task_id))
        return None if body is None else self._records.decode(bytes(body))

    def wait(
        self, task_id: str, timeout: float | None, on_message: OnMessage | None = None
    ) -> TaskMeta | None:
        """As `ResultStore.wait`; looks after 10 ms, then ever more seldom, four times a second."""
        return poll(lambda: self.load(task_id), timeout, on_message)

    def expect(self, task_id: str) -> None:
        """As `ResultStore.expect`."""

    def forget(self, task_id: str) -> None:
        """As `ResultStore.forget`."""
        with self._errors("forget a result in"):
            self._client.delete(self.key(task_id), noreply=False)

    def close(self) -> None:
        """As `ResultStore.close`."""
        self._client.close()

    def _life(self) -> int:
        if self._expires > _LONGEST_LIFE:
            return int(time.time() + self._expires)
        return max(1, int(self._expires)) if self._expires else 0

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        from pymemcache.exceptions import MemcacheError

        try:
            yield
        except (MemcacheError, OSError) as exc:
            said = " ".join(str(exc).split()) or type(exc).__name__
            raise BackendUnavailable(
                f"cannot {doing} the memcached at {self._shown} ({said}); start it, or name "
                "another (result_backend)"
            ) from exc


def _address(host: str) -> Any:
    name, _, port = host.partition(":")
    return (name, int(port or 11211))
