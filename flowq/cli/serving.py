"""``flowq worker`` and ``flowq coordinator``: the long-lived processes of a fleet."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from flowq.cli import options
from flowq.cli.daemon import Pidfile, into_background, set_up_logging

log = logging.getLogger("flowq")

AppName = Annotated[
    str | None,
    typer.Option("-A", "--app", envvar="FLOWQ_APP", metavar="APP", help="proj, proj.mod:app, f.py"),
]
Level = Annotated[str, typer.Option("-l", "--loglevel", metavar="LEVEL", help="DEBUG to CRITICAL.")]
Detach = Annotated[bool, typer.Option("-D", "--detach", help="Go on in the background.")]
PidPath = Annotated[
    str, typer.Option("--pidfile", metavar="FILE", help="Where the pid is written.")
]
LogPath = Annotated[
    str, typer.Option("-f", "--logfile", metavar="FILE", help="Log there, not to stderr.")
]


def worker(
    app: AppName = None,
    loglevel: Level = "WARNING",
    queues: Annotated[
        str, typer.Option("-Q", "--queues", metavar="NAMES", help="Queues to serve: a,b.")
    ] = "",
    exclude_queues: Annotated[
        str, typer.Option("-X", "--exclude-queues", metavar="NAMES", help="Queues not to serve.")
    ] = "",
    concurrency: options.Concurrency = None,
    hostname: Annotated[
        str, typer.Option("-n", "--hostname", metavar="NAME", help="w1@%h: %h %n %d expand.")
    ] = "",
    pool: options.Pool = None,
    max_tasks_per_child: Annotated[
        str | None, typer.Option("--max-tasks-per-child", metavar="N", help="Then a new child.")
    ] = None,
    max_memory_per_child: Annotated[
        str | None, typer.Option("--max-memory-per-child", metavar="KIB", help="Then a new child.")
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option("--time-limit", metavar="TIME", help="Of each task: 30s, 5m.")
    ] = None,
    soft_time_limit: Annotated[
        str | None,
        typer.Option("--soft-time-limit", metavar="TIME", help="Likewise, as a warning."),
    ] = None,
    prefetch_multiplier: Annotated[
        str | None,
        typer.Option("--prefetch-multiplier", metavar="N", help="Bare tasks held for each slot."),
    ] = None,
    autoscale: Annotated[
        str, typer.Option("--autoscale", metavar="MAX,MIN", help="As many slots as work asks for.")
    ] = "",
    purge: Annotated[
        bool, typer.Option("--purge", help="Throw bare tasks away that wait in the queues.")
    ] = False,
    task_events: Annotated[
        bool, typer.Option("-E", "--task-events", help="Send events of tasks.")
    ] = False,
    with_coordinator: Annotated[
        bool, typer.Option("--with-coordinator", help="Be a coordinator, too.")
    ] = False,
    grace: Annotated[
        str | None,
        typer.Option(
            "--grace", metavar="TIME", help="What runs at TERM gets that long; else: any."
        ),
    ] = None,
    detach: Detach = False,
    pidfile: PidPath = "",
    logfile: LogPath = "",
    store: options.StoreUrl = None,
    broker: options.BrokerUrl = None,
    backend: options.BackendUrl = None,
) -> int:
    """Run tasks: take them from the broker's queues until told to stop."""
    from flowq.app.finding import find_app
    from flowq.app.serving import Serving, expand

    if not app:
        raise typer.BadParameter("name the app whose tasks it runs", param_hint="--app")
    found = find_app(app)
    options.configure(
        found, store=store, broker=broker, backend=backend, pool=pool, concurrency=concurrency
    )
    name = expand(hostname or "celery@%h")
    given = {
        "worker_max_tasks_per_child": options.whole(max_tasks_per_child, "--max-tasks-per-child"),
        "worker_max_memory_per_child": options.whole(
            max_memory_per_child, "--max-memory-per-child"
        ),
        "task_time_limit": options.seconds(time_limit, "--time-limit"),
        "task_soft_time_limit": options.seconds(soft_time_limit, "--soft-time-limit"),
        "worker_prefetch_multiplier": options.whole(
            prefetch_multiplier, "--prefetch-multiplier", least=0
        ),
        "worker_shutdown_timeout": options.seconds(grace, "--grace"),
        "worker_send_task_events": task_events or None,
    }
    for key, value in given.items():
        if value is not None:
            found.conf.set(key, value, source="the command line")
    serving = Serving(
        found,
        name,
        queues=_names(queues),
        exclude=_names(exclude_queues),
        autoscale=_bounds(autoscale),
        with_coordinator=with_coordinator,
    )
    with _Process(detach, expand(pidfile, name), expand(logfile, name), loglevel) as process:
        service = serving.open()
        if purge:
            serving.purge()
        process.on_signals(service.stop)
        process.say(serving.banner())
        service.run()
    return 0


def coordinator(
    app: AppName = None,
    loglevel: Level = "WARNING",
    hostname: Annotated[
        str, typer.Option("-n", "--hostname", metavar="NAME", help="c1@%h: %h %n %d expand.")
    ] = "",
    detach: Detach = False,
    pidfile: PidPath = "",
    logfile: LogPath = "",
    store: options.StoreUrl = None,
    broker: options.BrokerUrl = None,
    backend: options.BackendUrl = None,
) -> int:
    """Advance the runs of a store; any number of coordinators share them."""
    from flowq.app.serving import expand, open_coordinator
    from flowq.coordinator.loop import CoordinatorLoop

    found = _app_or_none(app)
    options.configure(found, store=store, broker=broker, backend=backend)
    name = expand(hostname or "coordinator@%h")
    with _Process(detach, expand(pidfile, name), expand(logfile, name), loglevel) as process:
        service = open_coordinator(found, name)
        loop = CoordinatorLoop(service)
        process.on_signals(lambda how: loop.stop())
        process.say(f"{name}: {service.described}")
        loop.run()
    return 0


def _app_or_none(name: str | None) -> Any:
    """The app whose settings count; without a name one that has the environment's."""
    if name:
        from flowq.app.finding import find_app

        return find_app(name)
    from flowq.app.base import Flowq

    return Flowq("coordinator", set_as_current=False)


class _Process:
    """What surrounds a server: background, pidfile, log, signals."""

    def __init__(self, detach: bool, pidfile: str, logfile: str, level: str) -> None:
        self._detach, self._logfile, self._level = detach, logfile, level
        self._pidfile = Pidfile(pidfile)

    def __enter__(self) -> _Process:
        set_up_logging(self._level, self._logfile)
        self._pidfile.take()
        if self._detach:
            into_background(self._logfile)
            self._pidfile.write()
        return self

    def __exit__(self, *_: object) -> None:
        self._pidfile.drop()

    def say(self, text: str) -> None:
        """Words for a person who watches; in the log when nobody does."""
        if self._detach or self._logfile:
            log.info("%s", text)
        else:
            print(text, file=sys.stderr, flush=True)

    def on_signals(self, stop: Callable[[str], None]) -> None:
        """TERM and the first Ctrl-C stop warmly; QUIT and the second Ctrl-C at once."""
        heard: list[int] = []

        def ask(number: int, _frame: object) -> None:
            again = number == signal.SIGINT and signal.SIGINT in heard
            heard.append(number)
            stop("cold" if again or number == signal.SIGQUIT else "warm")

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, ask)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if self._detach else signal.SIG_DFL)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _bounds(text: str) -> tuple[int, int] | None:
    """MAX,MIN of ``--autoscale``; one number is the most, with none as the least."""
    if not text:
        return None
    parts = _names(text)
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"{text!r} is not MAX,MIN, as in 10,2", param_hint="--autoscale")
    numbers = sorted((int(part) for part in parts), reverse=True)
    return numbers[0], max(1, numbers[1]) if len(numbers) == 2 else 1
