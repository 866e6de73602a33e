"""`task-sent` events: what a client tells monitors of its calls (`task_send_sent_event`)."""

from __future__ import annotations

import atexit
import os
import threading
from typing import TYPE_CHECKING

from flowq import __version__
from flowq.broker.events import EventSender
from flowq.broker.messages import TaskMessage
from flowq.broker.queues import Route

if TYPE_CHECKING:
    from flowq.app.base import Flowq

#: Seconds that the end of a process waits for events that were not sent yet.
_LAST = 2.0


class SentEvents:
    """Tells of each message that a client sent, from a thread that nobody waits for.

    Nothing is connected before the first event. Safe from any thread, and after a fork.

    Args:
        app: Its settings name the broker, and say whether events are wanted.
        origin: Who sends, as events name it.
    """

    def __init__(self, app: Flowq, origin: str) -> None:
        self._app, self._origin = app, origin
        self._lock = threading.Lock()
        self._sender: EventSender | None = None
        self._pid = os.getpid()

    def tell(self, message: TaskMessage, route: Route) -> None:
        """Tell that a message was sent; does nothing if such events are not wanted."""
        if not self._app.conf.task_send_sent_event:
            return
        queue = route.queue
        self._opened().sent(
            message.id,
            message.task,
            message.argsrepr or "",
            message.kwargsrepr or "",
            queue=queue.alias or queue.name if queue is not None else "",
            exchange=route.exchange,
            routing_key=route.routing_key,
            root_id=message.root_id,
            parent_id=message.parent_id,
            retries=message.retries,
            eta=message.eta,
            expires=message.expires,
        )

    def _opened(self) -> EventSender:
        with self._lock:
            if self._sender is None or self._pid != os.getpid():
                app, self._pid = self._app, os.getpid()
                self._sender = EventSender.of(
                    app.conf, self._origin, clock=app.clock, version=__version__, tasks=True
                )
                self._sender.start()
                atexit.register(self.close)
            return self._sender

    def close(self) -> None:
        """Send what is there, if that can be done in two seconds, and end. Repeating: nothing."""
        with self._lock:
            sender, self._sender = self._sender, None
        if sender is not None and self._pid == os.getpid():
            atexit.unregister(self.close)
            sender.stop(_LAST)
