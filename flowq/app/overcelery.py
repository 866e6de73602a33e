"""`Flowq.from_celery`: durable runs over the tasks of an existing Celery app.

Celery's own workers execute the nodes. The app made here knows the tasks by name, with what their
Celery app says of them; no function of theirs runs in a flowq worker.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.core.canvas import EXPAND
from flowq.core.graph import Bind, Graph, Kind, On
from flowq.payload import decode_args

if TYPE_CHECKING:
    from typing import Self

#: Settings taken over: what both ends of a message or of a result have to agree on.
_SETTINGS = (
    "accept_content",
    "broker_connection_timeout",
    "broker_failover_strategy",
    "broker_heartbeat",
    "broker_login_method",
    "broker_transport_options",
    "broker_use_ssl",
    "control_exchange",
    "enable_utc",
    "redis_backend_use_ssl",
    "result_accept_content",
    "result_backend_transport_options",
    "result_expires",
    "result_persistent",
    "result_serializer",
    "task_create_missing_queues",
    "task_default_exchange",
    "task_default_exchange_type",
    "task_default_queue",
    "task_default_routing_key",
    "task_queue_max_priority",
    "task_queues",
    "task_serializer",
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

    def check_known(self, name: str) -> None:
        """See that a task is known here, to the Celery app if there is one.

        Raises:
            errors.NotRegistered: It is not; near names are given.
        """
        if self.celery_app is not None:
            self.celery_options(name)
        else:
            _ = self.tasks[name]  # type: ignore[attr-defined]

    def celery_options(self, name: str) -> Mapping[str, Any]:
        """Options of one of the Celery app's tasks, as they stand in a spec.

        Raises:
            errors.NotRegistered: The Celery app has no task of that name.
        """
        celery_app = self.celery_app
        celery_app.loader.import_default_modules()
        if name == EXPAND:
            raise errors.CanvasError(
                "expand() needs workers of flowq: over a Celery app, compose the rest when the "
                "list is there, or call replace() inside the task"
            )
        task = celery_app.tasks.get(name)
        if task is None or (name.startswith("celery.") and name not in _BUILT_IN):
            others = [each for each in celery_app.tasks if not each.startswith("celery.")]
            near = difflib.get_close_matches(name, others, n=2)
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

    def check_errbacks(self, graph: Graph) -> None:
        """See that Celery's workers can run what a canvas calls upon failure.

        Raises:
            errors.CanvasError: One takes the request, the exception and the traceback. Celery calls
                such a function in the process that saw the failure; no message can bring it those.
        """
        made_of = self.conf.accept_content  # type: ignore[attr-defined]
        for edge in graph.edges:
            node = graph.nodes[edge.child]
            if edge.on is not On.FAILURE or edge.bind is Bind.NONE or node.kind is not Kind.TASK:
                continue
            name = graph.specs[node.spec].task
            task = self.celery_app.tasks.get(name)
            args, kwargs = decode_args(node.args, made_of) if node.args else ([], {})
            if _takes_error(task, args, kwargs):
                raise errors.CanvasError(
                    f"{name} is called upon failure with (request, exc, traceback), which cannot "
                    "be sent to Celery's workers: let it take one argument, the id of what failed"
                )


def _takes_error(task: Any, args: list[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether Celery would call an errback with more than an id, by its own rule."""
    header = getattr(task, "__header__", None)
    if header is None or isinstance(header, partial):
        return False
    try:
        left = inspect.getfullargspec(partial(header, *args, **kwargs))
    except (TypeError, ValueError):
        left = inspect.getfullargspec(header)
    return bool(left.varargs) or len(left.args) > 1
