"""`RedisPush`: one subscribing connection for everybody in this process who waits for a result.

Publishing keeps nothing: what is published while nobody is subscribed is gone. So a waiter is told
to look at the key itself each time its subscription begins, also after the connection was lost.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Final, Protocol

from flowq.backends.outage import Outage
from flowq.backends.redislink import RedisLink, RedisPlace
from flowq.errors import BackendUnavailable

log = logging.getLogger("flowq.backends")

_PING_SECONDS = 10.0

#: In a box: look at the key now, the subscription has begun.
LOOK: Final = None
Pushed = bytes | BackendUnavailable | None
Box = SimpleQueue[Pushed]


class Taker(Protocol):
    """What takes pushes: a box, or anything that can be put into."""

    def put(self, item: Pushed) -> None:
        """Take one; called in the thread of the subscriptions, it must not wait."""
        ...


class RedisPush:
    """Subscriptions of this process. Safe from any thread.

    Args:
        place: Which Redis.
        patience: Waiters are told of an outage that lasts longer than this (seconds).
    """

    def __init__(self, place: RedisPlace, patience: float) -> None:
        self._place, self._patience = place, patience
        self._boxes: dict[bytes, list[Taker]] = {}
        self._live: set[bytes] = set()
        self._todo: deque[tuple[str, bytes]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._link: RedisLink | None = None
        self._outage = Outage("waiting for results stands still")
        self._pinged_at, self._unheard = 0.0, False

    @contextlib.contextmanager
    def listening(self, channel: bytes) -> Iterator[Box]:
        """A box that fills with what is published on a channel while the block lasts.

        Items: LOOK, a payload, or an error to raise.
        """
        box: Box = SimpleQueue()
        self.add(channel, box)
        try:
            yield box
        finally:
            self.remove(channel, box)

    def add(self, channel: bytes, box: Taker) -> None:
        """Subscribe: what comes in is put into a box from now on, LOOK first.

        Raises:
            BackendUnavailable: This was closed.
        """
        with self._lock:
            if self._closed:
                raise BackendUnavailable(f"the results at {self._place.shown} were closed")
            boxes = self._boxes.setdefault(channel, [])
            boxes.append(box)
            if channel in self._live:
                box.put(LOOK)
            elif len(boxes) == 1:
                self._todo.append(("SUBSCRIBE", channel))
            self._start()
        self._ring()

    def remove(self, channel: bytes, box: Taker) -> None:
        """End a subscription that `add` began."""
        with self._lock:
            boxes = self._boxes[channel]
            boxes.remove(box)
            if not boxes:
                del self._boxes[channel]
                self._live.discard(channel)
                self._todo.append(("UNSUBSCRIBE", channel))
        self._ring()

    def close(self) -> None:
        """End the thread; waiters get an error. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            thread = self._thread
        self._ring()
        if thread is not None and thread is not threading.current_thread():
            thread.join(5.0)
        self._tell(BackendUnavailable(f"the results at {self._place.shown} were closed"))
        self._selector.close()
        self._bell.close()
        self._ringer.close()

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # closed, or so full that it is heard anyway
            self._ringer.send(b"!")

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flowq-results", daemon=True)
            self._thread.start()

    # -- the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            try:
                self._turn()
            except BackendUnavailable as exc:
                self._drop()
                self._outage.failed(exc)
                if time.monotonic() - self._outage.since >= self._patience:
                    self._tell(exc)
            except Exception:
                log.exception("waiting for results failed; it begins anew")
                self._drop()
                self._outage.failed(BackendUnavailable("an error of our own"))
        self._drop()

    def _turn(self) -> None:
        if self._link is None and self._boxes and not self._outage.wait:
            self._link = RedisLink(self._place)
            self._selector.register(self._link, selectors.EVENT_READ)
            self._pinged_at, self._unheard = time.monotonic(), False
            with self._lock:
                self._todo.clear()
                self._todo.extend(("SUBSCRIBE", channel) for channel in self._boxes)
        self._sleep()
        if self._link is not None:
            self._order(self._link)
            for answer in self._link.receive():
                self._take(answer)
            self._ping(self._link)

    def _sleep(self) -> None:
        link = self._link
        if link is None:
            seconds = max(0.01, self._outage.wait) if self._boxes else 3600.0
        else:
            seconds = max(0.0, self._pinged_at + _PING_SECONDS - time.monotonic())
            writes = selectors.EVENT_WRITE if link.unsent else 0
            self._selector.modify(link, selectors.EVENT_READ | writes)
        if not self._todo or link is None:
            self._selector.select(seconds)
        with contextlib.suppress(BlockingIOError):
            while self._bell.recv(4096):
                continue

    def _order(self, link: RedisLink) -> None:
        while True:
            with self._lock:
                if not self._todo:
                    return
                word, channel = self._todo.popleft()
            link.send(word, channel)

    def _take(self, answer: object) -> None:
        if isinstance(answer, Exception):
            raise BackendUnavailable(f"the Redis at {self._place.shown} refuses: {answer}")
        self._outage.over()
        self._unheard = False  # whatever came: a PONG is no list where nothing is subscribed to
        if not isinstance(answer, list):
            return
        word, channel = answer[0], answer[1]
        if word in (b"message", b"subscribe"):
            with self._lock:
                boxes = list(self._boxes.get(channel, ()))
                if boxes and word == b"subscribe":
                    self._live.add(channel)
            for box in boxes:
                box.put(LOOK if word == b"subscribe" else answer[2])

    def _ping(self, link: RedisLink) -> None:
        now = time.monotonic()
        if now < self._pinged_at + _PING_SECONDS:
            return
        if self._unheard:
            raise BackendUnavailable(f"the Redis at {self._place.shown} gives no answer")
        self._pinged_at, self._unheard = now, True
        link.send("PING")

    def _drop(self) -> None:
        link, self._link = self._link, None
        with self._lock:
            self._live.clear()
        if link is not None:
            self._selector.unregister(link)
            link.close()

    def _tell(self, error: BackendUnavailable) -> None:
        with self._lock:
            boxes = [box for each in self._boxes.values() for box in each]
        for box in boxes:
            box.put(error)
