"""A stock Celery app, for tests in which Celery and flowq take part in one canvas."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

app = Celery("celery_side")
app.conf.update(
    broker_url=os.environ.get("FLOWQ_TEST_BROKER", "memory://"),
    result_backend=os.environ.get("FLOWQ_TEST_BACKEND", "cache+memory://"),
    result_backend_transport_options={"global_keyprefix": os.environ.get("FLOWQ_TEST_PREFIX", "")},
    broker_transport_options={"global_keyprefix": os.environ.get("FLOWQ_TEST_PREFIX", "")},
    task_routes={"flowq.*": {"queue": "flowq_side"}},
    task_default_queue="celery_side",
    accept_content=["json", "msgpack", "yaml", "pickle"],
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task(name="celery.add")
def add(x: Any, y: Any = 0) -> Any:
    return x + y


@app.task(name="celery.total")
def total(values: Any, more: int = 0) -> Any:
    return sum(values) + more


@app.task(name="celery.same")
def same(*args: Any, **kwargs: Any) -> Any:
    return [list(args), kwargs]


@app.task(name="celery.kinds")
def kinds(*args: Any) -> list[str]:
    return [type(arg).__name__ for arg in args]


@app.task(name="celery.fail")
def fail(*args: Any) -> None:
    raise ValueError("on purpose")


@app.task(name="celery.request", bind=True)
def request(self: Any) -> dict[str, Any]:
    names = (
        "id", "root_id", "parent_id", "group", "group_index", "retries", "eta", "timelimit",
        "shadow", "origin", "headers", "stamps", "stamped_headers", "reply_to", "correlation_id",
        "replaced_task_nesting", "expires",
    )  # fmt: skip
    return {name: getattr(self.request, name) for name in names}


def far(name: str) -> Any:
    """A task that only the flowq side has."""
    return app.signature(name)
