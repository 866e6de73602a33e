"""Replies of inspect commands in Celery's form."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flowq.config import mask_url
from flowq.worker.controlled import Held, Stats

#: Attributes of tasks that `registered` shows if nobody says which.
_SHOWN = ("exchange", "routing_key", "rate_limit")
_RATE = re.compile(r"\d+(\.\d+)?(/[smh])?")
_SECRET = re.compile(r"(?i)(password|passwd|secret|token|signature|(^|_)keys?$)")


def request(held: Held, hostname: str, safe: bool = False) -> dict[str, Any]:
    """One task; `safe` shows arguments as the text that may be shown."""
    args, kwargs = held.args, held.kwargs
    if safe:
        args = held.argsrepr if held.argsrepr is not None else repr(args)
        kwargs = held.kwargsrepr if held.kwargsrepr is not None else repr(kwargs)
    return {
        "id": held.id,
        "name": held.name,
        "args": args,
        "kwargs": kwargs,
        "type": held.name,
        "hostname": hostname,
        "time_start": held.time_start,
        "acknowledged": held.acknowledged,
        "delivery_info": held.delivery_info,
        "worker_pid": held.worker_pid,
    }


def stats(found: Stats, clock: Any) -> dict[str, Any]:
    """Figures of a worker."""
    reply: dict[str, Any] = {
        "total": found.total,
        "pid": os.getpid(),
        "clock": str(clock.value),
        "uptime": round(found.uptime),
        "pool": {
            "implementation": f"flowq.worker:{found.pool}",
            "max-concurrency": found.concurrency,
            "processes": found.processes,
            "max-tasks-per-child": found.max_tasks_per_child or "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": [found.soft_time_limit or 0, found.time_limit or 0],
            "writes": "N/A",
        },
        "broker": {key: value for key, value in found.broker.items() if key != "password"},
        "prefetch_count": found.prefetch,
        "rusage": _rusage(),
    }
    if found.autoscale is not None:
        most, least = found.autoscale
        reply["autoscaler"] = {"max": most, "min": least, "current": found.concurrency, "qty": 0}
    return reply


def _rusage() -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    names = [name for name in dir(used) if name.startswith("ru_")]
    return {name.removeprefix("ru_"): getattr(used, name) for name in names}


def registered(
    tasks: Mapping[str, Any], attributes: Iterable[Any] | None, builtins: bool
) -> list[str]:
    """Names of the tasks, each followed by those of its attributes that are set."""
    wanted = [
        name for name in attributes or _SHOWN if isinstance(name, str) and not name.startswith("_")
    ]
    found = []
    for name in sorted(tasks):
        if not builtins and name.startswith(("celery.", "flowq.")):
            continue
        values = ((each, getattr(tasks[name], each, None)) for each in wanted)
        shown = [f"{each}={value}" for each, value in values if value is not None]
        found.append(f"{name} [{' '.join(shown)}]" if shown else name)
    return found


def conf(settings: Any, with_defaults: bool) -> dict[str, Any]:
    """Settings by name; what may be secret is masked."""
    rows = [row for row in settings.show() if with_defaults or row.source != "default"]
    return {row.name: _masked(row.name, row.value) for row in rows}


def _masked(name: str, value: Any) -> Any:
    if isinstance(name, str) and _SECRET.search(name) and value and value is not True:
        return "********"
    if isinstance(value, str):
        return mask_url(value)
    if isinstance(value, Mapping):
        return {key: _masked(key, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_masked("", inner) for inner in value]
    return value


def report(app: Any) -> str:
    """Versions and settings as text."""
    from importlib.metadata import PackageNotFoundError, version

    lines = [
        f"python -> {platform.python_implementation()} {platform.python_version()}",
        f"system -> {platform.system()} {platform.release()} {platform.machine()}",
    ]
    for name in ("flowq", "kombu", "sqlalchemy", "redis", "amqp"):
        try:
            lines.append(f"{name} -> {version(name)}")
        except PackageNotFoundError:
            lines.append(f"{name} -> not installed")
    lines += ["", *(f"{key}: {value!r}" for key, value in conf(app.conf, False).items())]
    return "\n".join(lines)


def memory() -> str:
    """The process's memory as text, as Celery's memsample."""
    if sys.platform != "linux":
        return "N/A"
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return f"{pages * os.sysconf('SC_PAGE_SIZE') / (1 << 20):.1f}MB"


def check_rate(rate: Any) -> None:
    """Whether something is a rate limit: None, a number per second, or ``10/s``, ``5/m``, ``1/h``.

    Raises:
        ValueError: It is none.
    """
    text = "0" if rate is None else str(rate)
    if isinstance(rate, bool) or not _RATE.fullmatch(text):
        raise ValueError(f"{rate!r} is no rate; write a number per second, or 10/s, 5/m, 1/h")


def flag(text: Any) -> bool:
    """A yes or no from a command line.

    Raises:
        ValueError: It is neither.
    """
    low = str(text).lower()
    if low in ("1", "true", "yes", "on"):
        return True
    if low in ("0", "false", "no", "off", ""):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def plain(value: Any) -> Any:
    """A value as JSON can carry it; what it has no form for becomes text."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return repr(value)
