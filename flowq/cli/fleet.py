"""``flowq status``, ``queues`` and ``purge``: the fleet as a whole."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowq.cli import options
from flowq.cli.output import Output, iso

if TYPE_CHECKING:
    from flowq.app.base import Flowq

_Queues = Annotated[
    list[str] | None, typer.Option("-Q", "--queues", metavar="A,B", help="Only these queues.")
]


def status(
    app: options.App = None,
    broker: options.BrokerUrl = None,
    store: options.StoreUrl = None,
    destination: options.Destination = None,
    timeout: options.Patience = "1s",
    json: options.Json = False,
) -> int:
    """Show which workers and coordinators live."""
    from flowq.cli.addressing import app_for, check_answers, nodes
    from flowq.config import mask_url

    out = Output(json=json)
    seconds = options.seconds(timeout, "--timeout") or 0.0
    wanted = nodes(destination)
    found = app_for(app, broker, store=store)
    inspected = found.control.inspect(destination=wanted, timeout=seconds)
    workers = _workers(inspected.stats() or {}, found, seconds)
    coordinators = _coordinators(found)
    if json:
        url = mask_url(str(found.conf.broker_url))
        out.object({"broker": url, "workers": workers, "coordinators": coordinators})
    else:
        for each in workers:
            queues = ", ".join(each["queues"]) or "none"
            out.data(
                f"{each['name']}: {each['slots']} slots, queues {queues}, "
                f"{each['processed']} tasks taken, up {each['uptime']} s"
            )
        for each in coordinators:
            out.data(f"{each['name']}: coordinator, process {each['pid']} on {each['host']}")
        out.say(f"{len(workers)} worker{'' if len(workers) == 1 else 's'} answered")
    check_answers((each["name"] for each in workers), wanted, seconds, found)
    return 0


def _workers(stats: dict[str, Any], app: Flowq, seconds: float) -> list[dict[str, Any]]:
    names = sorted(stats)
    ask = app.control.inspect(destination=names, timeout=seconds)
    queues = (ask.active_queues() or {}) if names else {}
    found = []
    for name in names:
        reply = stats[name]
        pool = reply.get("pool") or {}
        found.append(
            {
                "name": name,
                "pid": reply.get("pid"),
                "slots": pool.get("max-concurrency"),
                "uptime": reply.get("uptime"),
                "processed": sum((reply.get("total") or {}).values()),
                "queues": [queue["name"] for queue in queues.get(name) or ()],
            }
        )
    return found


def _coordinators(app: Flowq) -> list[dict[str, Any]]:
    """Live coordinators, if the app's store is there and can be read."""
    from flowq.app.queues import live_coordinators

    return [
        {"name": row.name, "host": row.host, "pid": row.pid, "expires_at": iso(row.expires_at)}
        for row in live_coordinators(app)
    ]


def queues(
    names: _Queues = None,
    app: options.App = None,
    broker: options.BrokerUrl = None,
    store: options.StoreUrl = None,
    timeout: options.Patience = "1s",
    json: options.Json = False,
) -> int:
    """Show what waits on the queues, and who consumes from them."""
    from flowq.app.queues import queue_names, waiting
    from flowq.cli.addressing import app_for

    out = Output(json=json)
    seconds = options.seconds(timeout, "--timeout") or 0.0
    found = app_for(app, broker, store=store)
    consumed = _consumed(found, seconds)
    chosen = _split(names) or list(dict.fromkeys([*queue_names(found), *sorted(consumed)]))
    rows = [
        {
            "name": row.name,
            "tasks": row.tasks,
            "nodes": row.nodes,
            "consumers": row.consumers,
            "workers": consumed.get(row.name, []),
        }
        for row in waiting(found, chosen)
    ]
    if json:
        out.object({"queues": rows})
        return 0
    width = max(len("QUEUE"), 0, *(len(str(row["name"])) for row in rows))
    out.data(f"{'QUEUE':<{width}}  {'TASKS':>8}  {'NODES':>8}  WORKERS")
    for row in rows:
        tasks = "none yet" if row["tasks"] is None else str(row["tasks"])
        bundles = "-" if row["nodes"] is None else str(row["nodes"])
        workers = ", ".join(row["workers"]) or "-"  # type: ignore[arg-type]
        out.data(f"{row['name']:<{width}}  {tasks:>8}  {bundles:>8}  {workers}")
    return 0


def _consumed(app: Flowq, seconds: float) -> dict[str, list[str]]:
    """Queue -> workers that say they consume from it."""
    found: dict[str, list[str]] = {}
    replies = app.control.inspect(timeout=seconds).active_queues() or {}
    for node, several in sorted(replies.items()):
        for queue in several if isinstance(several, list) else ():
            found.setdefault(queue["name"], []).append(node)
    return found


def purge(
    names: _Queues = None,
    force: Annotated[
        bool, typer.Option("-f", "--force", "--yes", help="Do not ask whether to.")
    ] = False,
    app: options.App = None,
    broker: options.BrokerUrl = None,
    json: options.Json = False,
) -> int:
    """Remove the bare tasks that wait on queues. Nodes of runs come back by themselves."""
    from flowq.app.queues import purge as empty
    from flowq.app.queues import queue_names
    from flowq.cli.addressing import app_for

    out = Output(json=json)
    found = app_for(app, broker)
    found.control.access()
    chosen = _split(names) or queue_names(found)
    if not force:
        _confirm(chosen)
    removed = empty(found, chosen)
    if json:
        out.object({"removed": removed})
    else:
        for name, count in removed.items():
            out.data(f"{name}: {count} tasks removed")
    out.say(
        "nodes of runs were left alone: the store would send them again; "
        "flowq cancel RUN ends a run"
    )
    return 0


def _confirm(names: Iterable[str]) -> None:
    from flowq.errors import Refused

    what = f"the tasks that wait on {', '.join(names)} would be lost"
    if not sys.stdin.isatty():
        raise Refused(f"{what}; repeat it with --force")
    if not typer.confirm(f"{what}; remove them?", err=True):
        raise Refused(f"{what}; nothing was removed")


def _split(names: Sequence[str] | None) -> list[str]:
    found = [name.strip() for text in names or () for name in text.split(",")]
    return list(dict.fromkeys(name for name in found if name))
