"""Results in Redis, in Celery's form: a key a task, and a push to whoever waits for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from queue import Empty
from typing import Any

from flowq.backends import OnMessage, ResultRequest, TaskMeta
from flowq.backends.options import BackendOptions
from flowq.backends.records import Records
from flowq.backends.redislink import RedisPlace
from flowq.backends.redispush import LOOK, Pushed, RedisPush
from flowq.backends.waiting import Deadline, Told

#: Writes and publishes a record unless a SUCCESS is there. A JSON record is judged here; of any
#: other the caller gets the bytes, and comes again with what it read if that may be replaced.
#: Returns 1: written, 0: kept, else what is there.
_STORE = """
local now = redis.call('GET', KEYS[1])
if now then
  if string.find(string.sub(now, 1, 64), '^%s*{%s*"status"%s*:') then
    if string.find(string.sub(now, 1, 80), '^%s*{%s*"status"%s*:%s*"SUCCESS"') then
      return 0
    end
  elseif now ~= ARGV[3] then
    return now
  end
end
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1
"""


class _Hint:
    """Takes pushes, and says only that there was one: what is true is read from the key."""

    def __init__(self, task_id: str, heard: Callable[[str], None]) -> None:
        self._task_id, self._heard = task_id, heard

    def put(self, item: Pushed) -> None:
        """Take a push."""
        self._heard(self._task_id)


class RedisResults:
    """Contract: `backends.ResultStore`. Nothing is connected before the first call.

    Args:
        url: redis://... or rediss://...
        options: Of results.

    Raises:
        ImproperlyConfigured: redis-py is missing, or the URL or an option cannot be read.
    """

    reply_to: str | None = None

    def __init__(self, url: str, options: BackendOptions) -> None:
        self._place = RedisPlace(url, options)
        self._records, self._options = Records(options), options
        self._client = self._place.client()
        self._script = self._client.register_script(_STORE)
        self._expires = max(1, int(options.expires)) if options.expires else 0
        self._push: RedisPush | None = None
        self._watched: dict[str, tuple[RedisPush, _Hint]] = {}
        self._lock, self._pid = threading.Lock(), os.getpid()

    @property
    def client(self) -> Any:
        """A client of the same Redis, for what is counted beside the results."""
        return self._client

    @property
    def prefix(self) -> str:
        """What all keys begin with."""
        return self._place.prefix

    def key(self, task_id: str) -> bytes:
        """Key and channel of a task."""
        return f"{self._place.prefix}celery-task-meta-{task_id}".encode()

    def store(self, task_id: str, meta: TaskMeta, request: ResultRequest | None = None) -> None:
        """As `ResultStore.store`."""
        body = self._records.encode(task_id, meta, request)
        key, seen = self.key(task_id), b""
        with self._place.errors("store a result in"):
            while True:
                answer: Any = self._script(keys=(key,), args=(body, self._expires, seen))
                if isinstance(answer, int):
                    return
                if self._records.is_success(answer):
                    return
                seen = answer

    def load(self, task_id: str) -> TaskMeta | None:
        """As `ResultStore.load`."""
        with self._place.errors("read a result from"):
            body = self._client.get(self.key(task_id))
        return None if body is None else self._records.decode(body)

    def load_many(self, ids: Iterable[str]) -> dict[str, TaskMeta]:
        """As `WatchedResults.load_many`; one round trip."""
        wanted = list(ids)
        with self._place.errors("read results from"):
            bodies = self._client.mget([self.key(task_id) for task_id in wanted])
        return {
            task_id: self._records.decode(body)
            for task_id, body in zip(wanted, bodies, strict=True)
            if body is not None
        }

    def wait(
        self, task_id: str, timeout: float | None, on_message: OnMessage | None = None
    ) -> TaskMeta | None:
        """As `ResultStore.wait`."""
        deadline, told = Deadline(timeout), Told(on_message)
        meta = self.load(task_id)
        if told.final(meta):
            return meta
        with self._pushes().listening(self.key(task_id)) as box:
            while True:
                try:
                    item = box.get(timeout=deadline.left())
                except Empty:
                    if deadline.passed:
                        return None
                    continue
                if isinstance(item, Exception):
                    raise item
                meta = self.load(task_id) if item is LOOK else self._records.decode(item)
                if told.final(meta):
                    return meta

    def watch(self, task_id: str, heard: Callable[[str], None]) -> None:
        """As `WatchedResults.watch`."""
        push = self._pushes()
        if task_id not in self._watched:
            self._watched[task_id] = watched = (push, _Hint(task_id, heard))
            push.add(self.key(task_id), watched[1])

    def unwatch(self, task_id: str) -> None:
        """As `WatchedResults.unwatch`."""
        push, hint = self._watched.pop(task_id, (None, None))
        if push is not None and hint is not None:
            push.remove(self.key(task_id), hint)

    def expect(self, task_id: str) -> None:
        """As `ResultStore.expect`."""

    def forget(self, task_id: str) -> None:
        """As `ResultStore.forget`."""
        with self._place.errors("forget a result in"):
            self._client.delete(self.key(task_id))

    def close(self) -> None:
        """As `ResultStore.close`."""
        with self._lock:
            push, self._push = self._push, None
        if push is not None and self._pid == os.getpid():
            push.close()
        self._client.connection_pool.disconnect()

    def _pushes(self) -> RedisPush:
        with self._lock:
            if self._push is None or self._pid != os.getpid():  # a fork has no thread of its parent
                self._push = RedisPush(self._place, self._options.patience)
                self._pid = os.getpid()
            return self._push
