"""`app.control`: looking at workers and steering them, Celery's or ours, by messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowq.broker.mailbox import broadcast
from flowq.broker.sideline import Access
from flowq.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from flowq.app.base import Flowq

log = logging.getLogger("flowq.control")

Reply = dict[str, Any]
#: What commands answer if replies were asked for: one ``{node name: reply}`` for each worker.
Replies = list[Reply] | None


def flatten_reply(replies: Iterable[Reply]) -> Reply:
    """Replies of all workers in one mapping; says so if two workers share a name."""
    found: Reply = {}
    for reply in replies:
        for name in reply.keys() & found.keys():
            log.warning("several workers are named %s; give each a name of its own with -n", name)
        found |= reply
    return found


class Inspect:
    """Asks workers what they do. Methods return ``{node name: reply}``, None if nobody replied.

    Args:
        control: The app's control.
        destination: A node name or several; of one that is a text, the reply itself is returned.
        timeout: Seconds to wait for replies.
        callback: Called with each reply as it comes.
        limit: Stop waiting after so many replies.
        pattern: Only workers whose names match.
        matcher: How: `glob` or `pcre`.
    """

    def __init__(
        self,
        control: Control,
        destination: str | Sequence[str] | None = None,
        timeout: float = 1.0,
        callback: Callable[[Reply], None] | None = None,
        connection: Any = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        self._control = control
        self.destination, self.timeout, self.limit = destination, timeout, limit
        self.callback, self.connection = callback, connection
        self.pattern, self.matcher = pattern, matcher

    def request(self, command: str, **arguments: Any) -> Any:
        """Ask by the name of the command; what the methods below do."""
        replies = self._control.broadcast(
            command,
            arguments,
            destination=self.destination,
            reply=True,
            timeout=self.timeout,
            limit=self.limit,
            callback=self.callback,
            connection=self.connection,
            pattern=self.pattern,
            matcher=self.matcher,
        )
        if not replies:
            return None
        found = flatten_reply(replies)
        return found.get(self.destination) if isinstance(self.destination, str) else found

    _request = request

    def active(self, safe: bool | None = None) -> Any:
        """Tasks that run now; with `safe`, their arguments as text that may be shown."""
        return self.request("active", safe=safe)

    def active_queues(self) -> Any:
        """Queues that are consumed from."""
        return self.request("active_queues")

    def clock(self) -> Any:
        """Logical clocks."""
        return self.request("clock")

    def conf(self, with_defaults: bool = False) -> Any:
        """Settings, passwords masked."""
        return self.request("conf", with_defaults=with_defaults)

    def hello(self, from_node: str, revoked: Any = None) -> Any:
        """Exchange revoked ids and clocks."""
        return self.request("hello", from_node=from_node, revoked=revoked)

    def memsample(self) -> Any:
        """Memory in use."""
        return self.request("memsample")

    def ping(self, destination: str | Sequence[str] | None = None) -> Any:
        """Whether workers answer."""
        if destination:
            self.destination = destination
        return self.request("ping")

    def query_task(self, *ids: Any) -> Any:
        """Tasks by id, with their state: scheduled, reserved or active."""
        if len(ids) == 1 and isinstance(ids[0], list | tuple):
            ids = tuple(ids[0])
        return self.request("query_task", ids=list(ids))

    def registered(self, *taskinfoitems: str) -> Any:
        """Tasks that are defined, with some of their attributes."""
        return self.request("registered", taskinfoitems=list(taskinfoitems))

    registered_tasks = registered

    def report(self) -> Any:
        """Versions and settings as text."""
        return self.request("report")

    def reserved(self, safe: bool | None = None) -> Any:
        """Tasks that were taken and wait."""
        return self.request("reserved")

    def revoked(self) -> Any:
        """Ids that were revoked."""
        return self.request("revoked")

    def scheduled(self, safe: bool | None = None) -> Any:
        """Tasks that wait for their time."""
        return self.request("scheduled")

    def stats(self) -> Any:
        """Figures."""
        return self.request("stats")


class Control:
    """Steers workers. Methods that send a command take what `broadcast` takes besides.

    Without ``reply=True`` they return None at once; with it, a list of ``{node name: reply}``.

    Args:
        app: Whose broker to use.
    """

    def __init__(self, app: Flowq) -> None:
        self.app = app

    def inspect(
        self,
        destination: str | Sequence[str] | None = None,
        timeout: float = 1.0,
        callback: Callable[[Reply], None] | None = None,
        connection: Any = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> Inspect:
        """What asks workers, as in ``app.control.inspect().active()``; see `Inspect`."""
        return Inspect(self, destination, timeout, callback, connection, limit, pattern, matcher)

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: str | Sequence[str] | None = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float = 1.0,
        limit: int | None = None,
        callback: Callable[[Reply], None] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **more: Any,
    ) -> Replies:
        """Send a command to workers.

        Args:
            command: Its name.
            arguments: Its arguments.
            destination: Node names it is for; none: all.
            connection: An open kombu connection; none: a new one.
            reply: Whether to wait for replies.
            timeout: Seconds to wait.
            limit: Stop waiting after so many.
            callback: Called with each reply as it comes.
            channel: Taken for Celery's sake; not used.
            pattern: With `matcher` (`glob`, `pcre`): only workers whose names match.
            matcher: See there.
            more: Further arguments of the command.

        Raises:
            ImproperlyConfigured: The app names no broker.
            BrokerError: The broker cannot be reached.
        """
        return broadcast(
            self.access(),
            command,
            {**(arguments or {}), **more},
            destination=[destination] if isinstance(destination, str) else destination,
            reply=reply,
            timeout=timeout,
            limit=limit,
            pattern=pattern,
            matcher=matcher,
            callback=callback,
            clock=self.app.clock,
            namespace=str(self.app.conf.control_exchange),
            connection=connection,
        )

    def access(self) -> Access:
        """How the app's broker is reached.

        Raises:
            ImproperlyConfigured: It names none: there are no workers to speak to.
        """
        if not self.app.conf.broker_url:
            raise ImproperlyConfigured(
                "workers are spoken to through a broker, and none is named; "
                "set broker_url, or give --broker URL"
            )
        return Access.of(self.app.conf)

    # -- tasks ------------------------------------------------------------------------------

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: str | Sequence[str] | None = None,
        terminate: bool = False,
        signal: str = "SIGTERM",
        **how: Any,
    ) -> Replies:
        """Do not run tasks; `terminate` ends those that run.

        Nodes of runs are revoked in the store, whether or not a worker answers; what waits for
        them is skipped. Other ids go to the workers, which remember them. Repeating: does nothing.

        Args:
            task_id: One id or several.
            destination: Workers to tell; none: all.
            terminate: End those that run, too.
            signal: With which signal.
            how: See `broadcast`.
        """
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        bare = self._revoke_nodes(ids, terminate, signal)
        if not self.app.conf.broker_url:  # the worker is in this process
            for each in bare:
                self.app._engine().revoke(each, terminate, signal)
            bare = []
        if not bare:
            return [] if how.get("reply") else None
        return self.tell_revoked(bare, destination, terminate=terminate, signal=signal, **how)

    def tell_revoked(
        self,
        ids: Sequence[str],
        destination: str | Sequence[str] | None = None,
        *,
        terminate: bool = False,
        signal: Any = None,
        **how: Any,
    ) -> Replies:
        """Tell workers that tasks are revoked, and nobody else; `revoke` sees to nodes as well."""
        arguments = {
            "task_id": list(ids) if len(ids) > 1 else ids[0],
            "terminate": terminate,
            "signal": signal or "SIGTERM",
        }
        return self.broadcast("revoke", arguments, destination, **how)

    def terminate(
        self,
        task_id: str | Iterable[str],
        destination: str | Sequence[str] | None = None,
        signal: str = "SIGTERM",
        **how: Any,
    ) -> Replies:
        """Revoke tasks and end those that run."""
        return self.revoke(task_id, destination, terminate=True, signal=signal, **how)

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any] | Iterable[str],
        destination: str | Sequence[str] | None = None,
        terminate: bool = False,
        signal: str = "SIGTERM",
        **how: Any,
    ) -> Replies:
        """Do not run tasks that carry one of these stamps."""
        given = dict(headers) if isinstance(headers, Mapping) else list(headers)
        arguments = {"headers": given, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke_by_stamped_headers", arguments, destination, **how)

    def rate_limit(
        self,
        task_name: str,
        rate_limit: str | float,
        destination: str | Sequence[str] | None = None,
        **how: Any,
    ) -> Replies:
        """Limit how often a worker begins a task: ``10/s``, ``5/m``, ``1/h``; 0: no limit."""
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", arguments, destination, **how)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: str | Sequence[str] | None = None,
        **how: Any,
    ) -> Replies:
        """Set the time limits of a task, in seconds."""
        arguments = {"task_name": task_name, "hard": hard, "soft": soft}
        return self.broadcast("time_limit", arguments, destination, **how)

    # -- queues -----------------------------------------------------------------------------

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        destination: str | Sequence[str] | None = None,
        **how: Any,
    ) -> Replies:
        """Have workers consume from a queue too."""
        arguments = {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
            **(options or {}),
        }
        return self.broadcast("add_consumer", arguments, destination, **how)

    def cancel_consumer(
        self, queue: str, destination: str | Sequence[str] | None = None, **how: Any
    ) -> Replies:
        """Have workers consume from a queue no more."""
        return self.broadcast("cancel_consumer", {"queue": queue}, destination, **how)

    def purge(self, connection: Any = None) -> int:
        """Remove the bare tasks that wait on the app's queues; returns how many there were.

        Nodes of runs are not touched: the store would send them again.
        """
        from flowq.app.queues import purge

        return sum(purge(self.app).values())

    discard_all = purge

    # -- workers ----------------------------------------------------------------------------

    def ping(
        self,
        destination: str | Sequence[str] | None = None,
        timeout: float = 1.0,
        **how: Any,
    ) -> list[Reply]:
        """Ask workers whether they answer: ``[{node name: {"ok": "pong"}}]``."""
        how["reply"] = True
        return self.broadcast("ping", {}, destination, timeout=timeout, **how) or []

    def pool_grow(
        self, n: int = 1, destination: str | Sequence[str] | None = None, **how: Any
    ) -> Replies:
        """Add slots to the pools."""
        return self.broadcast("pool_grow", {"n": n}, destination, **how)

    def pool_shrink(
        self, n: int = 1, destination: str | Sequence[str] | None = None, **how: Any
    ) -> Replies:
        """Take slots from the pools."""
        return self.broadcast("pool_shrink", {"n": n}, destination, **how)

    def autoscale(
        self, max: int, min: int, destination: str | Sequence[str] | None = None, **how: Any
    ) -> Replies:
        """Set the bounds of pools that scale themselves."""
        return self.broadcast("autoscale", {"max": max, "min": min}, destination, **how)

    def pool_restart(
        self, destination: str | Sequence[str] | None = None, **arguments: Any
    ) -> Replies:
        """Restart the pools of Celery workers; ours refuse."""
        return self.broadcast("pool_restart", None, destination, **arguments)

    def shutdown(self, destination: str | Sequence[str] | None = None, **how: Any) -> Replies:
        """End workers when their tasks have ended."""
        return self.broadcast("shutdown", {}, destination, **how)

    def enable_events(self, destination: str | Sequence[str] | None = None, **how: Any) -> Replies:
        """Have workers send task events."""
        return self.broadcast("enable_events", {}, destination, **how)

    def disable_events(self, destination: str | Sequence[str] | None = None, **how: Any) -> Replies:
        """Have workers send no task events."""
        return self.broadcast("disable_events", {}, destination, **how)

    def heartbeat(self, destination: str | Sequence[str] | None = None, **how: Any) -> Replies:
        """Have workers send a heartbeat event now."""
        return self.broadcast("heartbeat", {}, destination, **how)

    def election(self, id: str, topic: str, action: Any = None, connection: Any = None) -> Replies:
        """Hold an election among Celery workers; ours take no part."""
        arguments = {"id": id, "topic": topic, "action": action}
        return self.broadcast("election", arguments, connection=connection)

    # -- within -----------------------------------------------------------------------------

    def _revoke_nodes(self, ids: list[str], terminate: bool, signal: str) -> list[str]:
        """Revoke those that are nodes of runs in the store; gives the others."""
        from flowq.app.queues import stored

        store = stored(self.app)
        if store is None:
            return ids
        try:
            nodes = {each for each in ids if store.locate(each) is not None}
        finally:
            store.close()
        for each in ids:
            if each in nodes:
                self.app._engine().revoke(each, terminate, signal)
        return [each for each in ids if each not in nodes]
