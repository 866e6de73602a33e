"""Options that several commands share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Annotated, Any

import typer

Target = Annotated[
    str, typer.Argument(metavar="TARGET", help="file.py, file.py:name or pkg.mod:name")
]
Ref = Annotated[str, typer.Argument(metavar="RUN", help="An id, a unique prefix, @last or a name.")]
Node = Annotated[str | None, typer.Argument(metavar="[NODE]", help="A node's name, id or number.")]
Arguments = Annotated[
    list[str] | None,
    typer.Option("-a", "--arg", metavar="KEY=VALUE", help="Argument of the pipeline function."),
]
Json = Annotated[bool, typer.Option("--json", help="Data as JSON.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No words but errors.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours.")]
Progress = Annotated[
    str, typer.Option("--progress", metavar="HOW", help="auto, live, plain, json or none.")
]
Name = Annotated[
    str | None, typer.Option("-n", "--name", metavar="NAME", help="Name of the run in lists.")
]
Tag = Annotated[
    list[str] | None, typer.Option("--tag", metavar="K=V", help="Mark to find the run by.")
]
Key = Annotated[
    str | None,
    typer.Option("--idempotency-key", metavar="KEY", help="The same key gives the same run."),
]
Concurrency = Annotated[
    str | None, typer.Option("-c", "--concurrency", metavar="N", help="Tasks at a time.")
]
Pool = Annotated[
    str | None,
    typer.Option(
        "-P", "--pool", metavar="POOL", help="prefork, threads, solo, gevent or eventlet."
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option("--store", "--db", envvar="FLOWQ_STORE", metavar="URL", help="Where runs are."),
]
BrokerUrl = Annotated[
    str | None,
    typer.Option("-b", "--broker", envvar="FLOWQ_BROKER", metavar="URL", help="Broker."),
]
BackendUrl = Annotated[
    str | None,
    typer.Option("--backend", envvar="FLOWQ_BACKEND", metavar="URL", help="Result backend."),
]
Timeout = Annotated[
    str | None,
    typer.Option("--timeout", metavar="TIME", help="Stop waiting after that: 30s, 5m, 2h."),
]

App = Annotated[
    str | None,
    typer.Option("-A", "--app", metavar="APP", help="The app: proj, proj.celery:app or file.py."),
]
Destination = Annotated[
    list[str] | None,
    typer.Option("-d", "--destination", metavar="NODE", help="Only these workers: a,b."),
]
Patience = Annotated[
    str, typer.Option("-t", "--timeout", metavar="TIME", help="How long to wait for replies.")
]

POOLS = ("prefork", "threads", "solo", "gevent", "eventlet")
PROGRESS = ("auto", "live", "plain", "json", "none")


def seconds(text: str | None, option: str) -> float | None:
    """A duration like ``30s``, ``5m``, ``2h`` or ``7d`` in seconds; None for None.

    Raises:
        typer.BadParameter: It is none.
    """
    if text is None:
        return None
    from flowq.config.table import KINDS

    try:
        found = KINDS["duration"][1](text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no duration: write 30s, 5m, 2h or 7d", param_hint=option
        ) from None
    return found.total_seconds() if found else 0.0


def whole(text: str | None, option: str, least: int = 1) -> int | None:
    """A whole number given as text; None for None.

    Numbers come as text because Typer loads a validation library to read any other type, which
    costs a third of what a command may take to start.

    Raises:
        typer.BadParameter: It is none, or less than `least`.
    """
    if text is None:
        return None
    if not text.isdecimal() or int(text) < least:
        raise typer.BadParameter(
            f"{text!r} is no whole number of at least {least}", param_hint=option
        )
    return int(text)


def early_pool(pool: str | None, concurrency: str | None, broker: str | None = None) -> Any:
    """The pool's first process, started as far as options and settings say what it will be.

    None where a broker leads to workers elsewhere.
    """
    from flowq.app.pools import Early
    from flowq.config import Settings

    _check_pool(pool)
    given = {"worker_pool": pool, "worker_concurrency": whole(concurrency, "--concurrency")}
    if broker:
        given["broker_url"] = broker
    conf = Settings({key: value for key, value in given.items() if value is not None})
    return None if conf.has_fleet else Early(conf)


def _check_pool(pool: str | None) -> None:
    if pool and pool.lower() not in POOLS:
        raise typer.BadParameter(f"{pool!r} is none of {', '.join(POOLS)}", param_hint="--pool")


@contextlib.contextmanager
def broker_known(broker: str | None) -> Iterator[None]:
    """Let a program see the broker that an option named while it is loaded: tasks of a fleet are
    named otherwise."""
    before = os.environ.get("FLOWQ_BROKER")
    if broker:
        os.environ["FLOWQ_BROKER"] = broker
    try:
        yield
    finally:
        if before is not None:
            os.environ["FLOWQ_BROKER"] = before
        elif broker:
            del os.environ["FLOWQ_BROKER"]


def configure(app: Any, **given: Any) -> None:
    """Put what options said into an app's settings, where it wins over everything else.

    Raises:
        ImproperlyConfigured: A value cannot be one, or needs what this version does not have.
        typer.BadParameter: There is no such pool, or the concurrency is no number.
    """
    _check_pool(given.get("pool"))
    given["concurrency"] = whole(given.get("concurrency"), "--concurrency")
    names = {
        "store": "store_url",
        "broker": "broker_url",
        "backend": "result_backend",
        "pool": "worker_pool",
        "concurrency": "worker_concurrency",
    }
    for option, value in given.items():
        if value is not None and value != "":
            app.conf.set(names[option], value, source=f"--{option}")


def checked_progress(how: str) -> str:
    """`how`, if it is one of the ways to show progress.

    Raises:
        typer.BadParameter: It is none.
    """
    if how not in PROGRESS:
        raise typer.BadParameter(
            f"{how!r} is none of {', '.join(PROGRESS)}", param_hint="--progress"
        )
    return how


def states(given: list[str] | None) -> list[str]:
    """States of runs, given one by one or as ``A,B``, in capitals.

    Raises:
        typer.BadParameter: One is none.
    """
    from difflib import get_close_matches

    from flowq.core.states import RunState

    known = [str(state) for state in RunState]
    found = [part.strip().upper() for text in given or () for part in text.split(",")]
    for name in found:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"states are {', '.join(known)}"
            raise typer.BadParameter(f"{name!r} is no state of a run; {hint}", param_hint="--state")
    return found


def pairs(tags: list[str] | None) -> dict[str, str]:
    """``K=V`` texts as a mapping.

    Raises:
        typer.BadParameter: One has no equals sign.
    """
    found = {}
    for text in tags or ():
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise typer.BadParameter(f"{text!r} is not K=V", param_hint="--tag")
        found[key] = value
    return found
