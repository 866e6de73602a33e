"""What the compiler needs of an app: options frozen, arguments encoded."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from flowq import errors, payload
from flowq.app.options import HIGHEST_PRIORITY, compression
from flowq.broker.routes import Call
from flowq.core.graph import Spec
from flowq.core.moments import point

#: Attributes of a task that a call's options override, as they stand in a Spec.
_KEYS = (
    "queue",
    "priority",
    "serializer",
    "time_limit",
    "soft_time_limit",
    "max_retries",
    "ignore_result",
    "track_started",
    "compression",
    "max_crashes",
)


#: Longest text that is shown instead of arguments.
REPR = 1024


class AppBinder:
    """Implements `core.compiler.Binder` for one app.

    Args:
        app: Its registry and settings decide.
        bare: For tasks that are sent alone, which may go to an exchange or to every worker.
    """

    def __init__(self, app: Any, *, bare: bool = False) -> None:
        self._bare = bare
        self._tasks, self._conf, self._app = app.tasks, app.conf, app
        self._accept = frozenset(app.conf.accept_content)
        self._max_bytes = int(app.conf.max_payload_bytes)
        self._defaults: dict[str, dict[str, Any]] = {}
        #: Whether the queue depends on a call's arguments, as functions in `task_routes` say.
        self.by_call = not bare and app.celery_app is None and self._routes_by_call()

    def spec(
        self,
        task: str,
        options: Mapping[str, Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        known: bool = True,
    ) -> Spec:
        """Freeze options: the call's over the task's over the settings'.

        Args:
            task: Name of the task.
            options: Of the call.
            args: Its arguments as far as they are known, for routers that are functions.
            kwargs: Likewise.
            known: Whether it has to be registered here; False for one that is sent by its name.
        """
        defaults = self._defaults.get(task)
        if defaults is None:
            if self._app.celery_app is not None:
                defaults = {**self._of_name(task), **self._app.celery_options(task)}
                defaults["foreign"] = not self._bare
            else:
                defaults = self._of_task(task) if known else self._of_name(task)
            self._defaults[task] = defaults
        fields = dict(defaults)
        for key in _KEYS:
            if options.get(key) is not None:
                fields[key] = options[key]
        if not isinstance(fields["queue"], str):  # kombu's Queue: nodes go to queues by name
            fields["queue"] = str(getattr(fields["queue"], "name", fields["queue"]))
        if not fields["queue"] and self.by_call:
            call = Call(task, args, kwargs or {}, options, self._tasks.get(task))
            given = options.get("priority")
            own = {"priority": fields["priority"] or None if given is None else given}
            fields["queue"], priority = self._routed(task, own, call)
            fields["priority"] = priority or 0
        try:
            headers = dict(options.get("headers") or {})
        except (TypeError, ValueError):
            raise errors.CanvasError(
                f"headers={options['headers']!r} of {task}: give a dict"
            ) from None
        if options.get("stamps"):
            headers["stamps"] = dict(options["stamps"])
        if fields["serializer"] not in self._accept:
            raise errors.CanvasError(
                f"{task} is written with {fields['serializer']!r}, which accept_content does not "
                "name: add it there if every sender is trusted, or use 'json'"
            )
        if not self._conf.task_create_missing_queues:
            self._app.router.queue(fields["queue"])  # raises UnknownQueue
        fields["headers"] = payload.encode(headers)[1:] if headers else b""
        if options.get("argsrepr") or options.get("kwargsrepr"):
            for key in ("argsrepr", "kwargsrepr"):
                fields[key] = str(options.get(key) or "")[:REPR]
        return _checked_spec(task, fields)

    def _of_task(self, name: str) -> dict[str, Any]:
        task = self._tasks[name]  # raises NotRegistered with near names
        found = {key: getattr(task, key, None) for key in _KEYS}
        if not found["queue"]:
            found["queue"], found["priority"] = self._by_name(name, found)
        found["priority"] = int(found["priority"] or 0)
        found["serializer"] = found["serializer"] or "json"
        found["ignore_result"] = bool(found["ignore_result"])
        found["track_started"] = bool(found["track_started"])
        crashes = found["max_crashes"]
        found["max_crashes"] = int(self._conf.max_crashes if crashes is None else crashes)
        found["rate"] = per_second(getattr(task, "rate_limit", None), name)
        found["expires"] = float(getattr(task, "expires", None) or 0.0)
        found["global_rate"] = per_second(getattr(task, "global_rate_limit", None), name)
        found["foreign"] = False
        return found

    def _of_name(self, name: str) -> dict[str, Any]:
        """Options of a task that only its worker knows."""
        conf = self._conf
        found: dict[str, Any] = dict.fromkeys(_KEYS)
        found["queue"], priority = self._by_name(name, found)
        found["priority"] = priority or 0
        found["serializer"] = str(conf.task_serializer or "json")
        found["ignore_result"] = bool(conf.task_ignore_result)
        found["track_started"] = False
        found["max_crashes"] = int(conf.max_crashes)
        found["rate"] = found["expires"] = found["global_rate"] = 0.0
        found["foreign"] = False
        return found

    def _by_name(self, name: str, options: Mapping[str, Any]) -> tuple[str, Any]:
        """Queue and priority of each call of a task; no queue where each call is asked anew."""
        if self.by_call:
            return "", options.get("priority")
        if self._bare and self._routes_by_call():  # `Sender.publish` asks, once for a message
            return str(self._conf.task_default_queue), options.get("priority")
        return self._routed(name, options)

    def _routes_by_call(self) -> bool:
        return bool(self._conf.task_routes) and bool(self._app.router.by_call)

    def _routed(
        self, name: str, options: Mapping[str, Any], call: Call | None = None
    ) -> tuple[str, Any]:
        """Queue and priority of a task that names no queue: as `task_routes` says, else defaults.

        Raises:
            CanvasError: The route leads to every worker, or to an exchange without a queue.
        """
        conf = self._conf
        if not conf.task_routes and not conf.task_queues:
            return str(conf.task_default_queue), options.get("priority")
        route = self._app.router.route(name, {"priority": options.get("priority")}, call)
        queue = route.queue
        if not self._bare and (queue is None or queue.broadcast):
            raise errors.CanvasError(
                f"{name} is routed to {'every worker' if queue else f'exchange {route.exchange}'}: "
                "a part of a canvas runs once, from a queue; name one in task_routes, or send the "
                "task alone with apply_async"
            )
        return str(queue.alias or queue.name) if queue is not None else "", route.priority

    def encode(self, args: Any, kwargs: Mapping[str, Any], spec: Spec) -> bytes:
        """Encode [args, kwargs].

        Raises:
            UnserialisableArgument: Names the argument, its type, and what to pass instead.
        """
        try:
            return payload.encode_args(
                args, dict(kwargs), spec.serializer, max_bytes=self._max_bytes
            )
        except errors.EncodeError as exc:
            raise errors.UnserialisableArgument(f"{spec.task}: {exc}") from exc


def moment_of(options: Mapping[str, Any], absolute: str, relative: str) -> datetime | None:
    """Time that one of two options says: seconds from now, a datetime or ISO text (else UTC).

    Raises:
        CanvasError: It is none of these.
    """
    at = point(options, absolute, relative, time.time())
    return datetime.fromtimestamp(at, UTC) if at else None


def per_second(limit: Any, task: str) -> float:
    """A rate limit in Celery's form (``10``, ``"10/s"``, ``"10/m"``, ``"10/h"``) a second.

    Returns:
        0.0 for no limit.

    Raises:
        ImproperlyConfigured: It is in no such form.
    """
    if limit in (None, "", 0, "0"):
        return 0.0
    count, _, unit = str(limit).partition("/")
    try:
        found = float(count) / {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}[unit.strip()]
        if not 0 <= found < math.inf:
            raise ValueError(limit)
        return found
    except (ValueError, KeyError):
        raise errors.ImproperlyConfigured(
            f"{task} has the rate limit {limit!r}: write it as 10, '10/s', '10/m' or '10/h'"
        ) from None


#: Specs made so far; a program has few.
_specs: dict[tuple[Any, ...], Spec] = {}
_SPECS_KEPT = 10_000


def _checked_spec(task: str, fields: dict[str, Any]) -> Spec:
    """A spec whose fields have the right types; equal fields give the same object.

    Raises:
        CanvasError: An option is of the wrong type.
    """
    key = (task, *fields.values())
    try:
        found = _specs.get(key)
        if found is None:
            made = Spec(task=task, **fields)
            found = msgspec.convert(msgspec.to_builtins(made), Spec)
            _refuse_senseless(found)
            if len(_specs) > _SPECS_KEPT:
                _specs.clear()
            _specs[key] = found
    except msgspec.ValidationError as exc:
        raise errors.CanvasError(f"wrong option for {task}: {_named(str(exc))}") from exc
    except (TypeError, ValueError) as exc:
        raise errors.CanvasError(f"wrong option for {task}: {exc}") from exc
    return found


def _refuse_senseless(spec: Spec) -> None:
    if abs(spec.priority) > HIGHEST_PRIORITY:
        raise errors.CanvasError(
            f"priority {spec.priority} of {spec.task}: use {-HIGHEST_PRIORITY} to "
            f"{HIGHEST_PRIORITY}, larger goes first"
        )
    for name in ("time_limit", "soft_time_limit"):
        if (getattr(spec, name) or 0) < 0:
            raise ValueError(f"{name}={getattr(spec, name)}: give 0 or more seconds")
    if spec.compression is not None:
        compression(f"compression={spec.compression!r}", spec.compression)


def _named(text: str) -> str:
    """What msgspec says of a spec, with the option's name for its place: "... at `$[7]`"."""
    said, _, place = text.partition(" - at `$[")
    index = place.rstrip("`").rstrip("]")
    if not index.isdigit() or int(index) >= len(Spec.__struct_fields__):
        return text
    return f"{Spec.__struct_fields__[int(index)]}: {said[:1].lower()}{said[1:]}"
