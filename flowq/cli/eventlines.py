"""Events of workers as lines."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from flowq.cli.output import Output, iso

if TYPE_CHECKING:
    from flowq.app.base import Flowq

#: Fields that every event has, or that say nothing to people.
_USUAL = frozenset(
    ("type", "hostname", "timestamp", "uuid", "name", "utcoffset", "pid", "clock", "local_received")
)


def listen(
    app: Flowq,
    out: Output,
    *,
    kind: str,
    enable: bool,
    limit: int | None,
    timeout: float | None,
) -> None:
    """Print events as they come, until so many came, so long passed, or for ever.

    Args:
        app: Whose broker and settings.
        out: Where to.
        kind: Only types that match this pattern.
        enable: Have workers send task events first.
        limit: Most events to print.
        timeout: Most seconds to listen.

    Raises:
        BrokerError: The broker cannot be reached, or the connection was lost.
    """
    from flowq.broker.events import EventReceiver

    conf, names, shown = app.conf, _Names(), 0

    def take(event: dict[str, Any]) -> None:
        nonlocal shown
        names.learn(event)
        if fnmatchcase(str(event["type"]), kind) and (limit is None or shown < limit):
            shown += 1
            out.object(_object(event)) if out.json else out.data(line(event, names))

    def ready(connection: Any) -> None:
        for command in ("enable_events", "heartbeat") if enable else ("heartbeat",):
            app.control.broadcast(command, connection=connection)
        out.say("listening; of tasks tell only workers that were started with -E, or were asked to")

    EventReceiver(
        app.control.access(),
        clock=app.clock,
        exchange=str(conf.event_exchange),
        prefix=str(conf.event_queue_prefix),
        ttl=float(conf.event_queue_ttl),
        expires=float(conf.event_queue_expires),
        accept={"json", str(conf.event_serializer)},
    ).capture(take, timeout=timeout, ready=ready, stop=lambda: limit is not None and shown >= limit)


class _Names:
    """Names of tasks by id: only the first event of a task has its name."""

    def __init__(self, most: int = 10_000) -> None:
        self._found: dict[str, str] = {}
        self._most = most

    def learn(self, event: dict[str, Any]) -> None:
        """Note what an event says."""
        if event.get("name") and event.get("uuid"):
            if len(self._found) >= self._most:
                self._found.pop(next(iter(self._found)))
            self._found[str(event["uuid"])] = str(event["name"])

    def of(self, event: dict[str, Any]) -> str:
        """The task's name; empty if it was not heard of."""
        return str(event.get("name") or self._found.get(str(event.get("uuid")), ""))


def line(event: dict[str, Any], names: _Names) -> str:
    """One event for people."""
    at = event.get("timestamp")
    text = f"{iso(at) if isinstance(at, int | float) else ''} {event.get('hostname')} "
    text += str(event["type"])
    if event.get("uuid"):
        text += f" {names.of(event)}[{event['uuid']}]"
    rest = [
        f"{key}={value}"
        for key, value in event.items()
        if key not in _USUAL and not key.startswith("sw_") and value not in (None, "", [])
    ]
    return " ".join([text, *rest])


def _object(event: dict[str, Any]) -> dict[str, Any]:
    at = event.get("timestamp")
    when = {"at": iso(at)} if isinstance(at, int | float) else {}
    return {"event": event.pop("type"), **when, **event}
