"""`Flowq.from_celery`: durable runs over the tasks of an existing Celery app.

Celery's own workers execute the nodes. The app made here knows the tasks by name, with what their
Celery app says of them; no function of theirs runs in a flowq worker.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowq import errors

if TYPE_CHECKING:
    from typing import Self

#: Settings taken over, where they differ from Celery's defaults or not.
_SETTINGS = (
    "task_serializer",
    "result_serializer",
    "accept_content",
    "result_accept_content",
    "task_default_queue",
    "broker_transport_options",
    "broker_use_ssl",
    "result_backend_transport_options",
    "timezone",
)
#: Celery's own tasks that its workers have.
_BUILT_IN = ("celery.map", "celery.starmap", "celery.accumulate")


class OverCelery:
    """What an app knows of the Celery app whose tasks it composes; part of `Flowq`."""

    #: The Celery app; None for an app of flowq's own tasks.
    celery_app: Any = None

    @classmethod
    def from_celery(cls, celery_app: Any, *, store: str | None = None, **conf: Any) -> Self:
        """An app whose nodes are executed by the workers of a Celery app.

        Broker, result backend, serialisers and routes are those of the Celery app. Submit flowq's
        canvases (``app.signature("proj.add", (1, 2))``) or Celery's own.

        Args:
            celery_app: A `celery.Celery`.
            store: Store URL; none: a file, and the coordinator is in this process.
            conf: Settings that win over the Celery app's.

        Raises:
            errors.ImproperlyConfigured: It has no broker that other processes reach, or no result
                backend, by which alone a coordinator learns of outcomes.
        """
        settings = celery_app.conf
        given = {name: getattr(settings, name, None) for name in _SETTINGS}
        given = {name: value for name, value in given.items() if value not in (None, {}, ())}
        given["accept_content"] = list(given.get("accept_content") or ["json"])
        backend = settings.result_backend or settings.get("result_backend")
        if not backend:
            raise errors.ImproperlyConfigured(
                f"the Celery app {celery_app.main!r} has no result backend, so nobody would learn "
                "how its tasks end: set result_backend"
            )
        make: Any = cls  # not this class, but the app that it is a part of
        made: Self = make(
            celery_app.main,
            broker=conf.pop("broker", None) or settings.broker_write_url or settings.broker_url,
            backend=conf.pop("backend", None) or backend,
            store=store,
            set_as_current=False,
            **{**given, **conf},
        )
        made.celery_app = celery_app
        if not made.conf.has_fleet:  # type: ignore[attr-defined]
            raise errors.ImproperlyConfigured(
                f"the Celery app {celery_app.main!r} has no broker that other processes reach: set "
                "broker_url"
            )
        return made

    def celery_options(self, name: str) -> Mapping[str, Any]:
        """Options of one of the Celery app's tasks, as they stand in a spec.

        Raises:
            errors.NotRegistered: The Celery app has no task of that name.
        """
        celery_app = self.celery_app
        celery_app.loader.import_default_modules()
        task = celery_app.tasks.get(name)
        if task is None or (name.startswith("celery.") and name not in _BUILT_IN):
            near = difflib.get_close_matches(name, list(celery_app.tasks), n=2)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise errors.NotRegistered(f"the Celery app has no task {name!r}{hint}")
        route = celery_app.amqp.router.route({}, name)
        queue = route.get("queue")
        return {
            "queue": getattr(queue, "name", queue) or getattr(task, "queue", None),
            "priority": route.get("priority") or task.priority or 0,
            "serializer": task.serializer or "json",
            "time_limit": task.time_limit,
            "soft_time_limit": task.soft_time_limit,
            "compression": getattr(task, "compression", None),
        }
