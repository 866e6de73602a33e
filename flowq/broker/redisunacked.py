"""Bare tasks taken from Redis and not yet acknowledged, in kombu's own form.

kombu enters each message into a hash and a sorted set, and restores what stays there longer than
the visibility timeout. The entries here are the same, but are written without waiting for Redis's
answers. The tags outlive a connection: what was taken over one can be acknowledged over the next.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from flowq.broker.delivery import RawMessage, log
from flowq.broker.redispop import Pipe


class Unacked:
    """The tags that one consumer holds."""

    def __init__(self) -> None:
        self._tags: set[str] = set()
        self._late: list[str] = []
        self._channel: Any = None
        self._pipe: Pipe | None = None
        self._hash = self._index = ""

    def connect(self, channel: Any, pipe: Pipe) -> None:
        """Use these from now on; sends the acknowledgements that were due meanwhile."""
        self._channel, self._pipe = channel, pipe
        prefix = channel.global_keyprefix
        self._hash, self._index = prefix + channel.unacked_key, prefix + channel.unacked_index_key
        late, self._late = self._late, []
        for tag in late:
            self._forget(tag)

    def disconnect(self) -> None:
        """There is no connection for now."""
        if self._pipe is not None:
            self._late.extend(self._pipe.unanswered())
        self._channel = self._pipe = None

    def add(self, message: RawMessage, payload: bytes) -> None:
        """Enter a message that was taken."""
        assert self._pipe is not None
        tag, info = message.delivery_tag, message.delivery_info
        where = json.dumps([info["exchange"], info["routing_key"]])[1:].encode()
        self._tags.add(tag)
        self._pipe.send("ZADD", self._index, time.time(), tag)
        self._pipe.send("HSET", self._hash, tag, b"[" + payload + b", " + where)

    def settle(self, tag: Any, ack: bool, requeue: bool) -> None:
        """Acknowledge or give back. Without a connection: later, or by the visibility timeout."""
        if tag not in self._tags:
            return
        self._tags.discard(tag)
        if self._pipe is None:
            if ack or not requeue:
                self._late.append(tag)
            return
        try:
            if ack or not requeue:
                self._forget(tag)
            else:
                self._restore(tag, behind=True)
        except (RedisError, OSError) as exc:  # the next take finds out as well
            log.debug("could not settle a task yet: %s", exc)

    def _forget(self, tag: str) -> None:
        assert self._pipe is not None
        self._pipe.send("ZREM", self._index, tag)
        self._pipe.send("HDEL", self._hash, tag, note=tag)

    def _restore(self, tag: str, *, behind: bool) -> None:
        assert self._pipe is not None
        self._pipe.drain(timeout=1.0)  # the entry must be there before it is moved
        self._channel.qos.restore_by_tag(tag, leftmost=behind)

    def restore_all(self) -> None:
        """Give back all that is held here, to where it came from."""
        for tag in list(self._tags):
            self._tags.discard(tag)
            with suppress(RedisError, OSError):
                self._restore(tag, behind=False)
