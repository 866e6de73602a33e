"""``flowq worker`` and ``flowq coordinator``: the long-lived processes of a fleet."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer

from flowq.cli import options
from flowq.cli import serving_options as with_
from flowq.cli.daemon import Pidfile, into_background, set_up_logging
from flowq.worker.livelog import Logs

log = logging.getLogger("flowq")

#: A worker says that it is ready after so many seconds even if remote control is not.
_PATIENCE = 2.0


def worker(
    app: with_.AppName = None,
    loglevel: with_.Level = "WARNING",
    queues: with_.Queues = "",
    exclude_queues: with_.NotQueues = "",
    concurrency: options.Concurrency = None,
    hostname: with_.NodeName = "",
    pool: options.Pool = None,
    max_tasks_per_child: with_.MaxTasks = None,
    max_memory_per_child: with_.MaxMemory = None,
    time_limit: with_.HardLimit = None,
    soft_time_limit: with_.SoftLimit = None,
    prefetch_multiplier: with_.Prefetch = None,
    autoscale: with_.Autoscale = "",
    purge: with_.Purge = False,
    task_events: with_.TaskEvents = False,
    with_coordinator: with_.WithCoordinator = False,
    grace: with_.Grace = None,
    detach: with_.Detach = False,
    pidfile: with_.PidPath = "",
    logfile: with_.LogPath = "",
    store: options.StoreUrl = None,
    broker: options.BrokerUrl = None,
    backend: options.BackendUrl = None,
) -> int:
    """Run tasks: take them from the broker's queues until told to stop."""
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
    urls = {"store": store, "broker": broker, "backend": backend}
    found = _app(app, given, pool=pool, concurrency=concurrency, **urls)
    serving = _serving(found, hostname, queues, exclude_queues, autoscale, with_coordinator)
    hijack = bool(found.conf.worker_hijack_root_logger)
    with _Process(detach, pidfile, logfile, loglevel, serving.name, hijack) as process:
        service = serving.open(process.logs)
        if purge:
            serving.purge()
        process.on_signals(service.stop)
        if service.mailbox is not None:  # whoever waits for "ready" may send commands at once
            service.mailbox.wait_ready(_PATIENCE)
        process.say(serving.banner())
        service.consumer.on_ready = lambda: process.say(f"{serving.name} ready.")
        service.run()
    return 0


def _app(name: str | None, given: dict[str, Any], **shared: Any) -> Any:
    """The app that a worker serves, with what the command line says."""
    from flowq.app.finding import find_app

    if not name:
        raise typer.BadParameter("name the app whose tasks it runs", param_hint="--app")
    found = find_app(name)
    options.configure(found, **shared)
    for key, value in given.items():
        if value is not None:
            found.conf.set(key, value, source="the command line")
    return found


def _serving(
    app: Any, hostname: str, queues: str, exclude: str, autoscale: str, coordinator: bool
) -> Any:
    from flowq.app.serving import Serving, expand

    return Serving(
        app,
        expand(_node_name(hostname or "celery")),
        queues=_given(queues, "--queues"),
        exclude=_given(exclude, "--exclude-queues"),
        autoscale=_bounds(autoscale),
        with_coordinator=coordinator,
    )


def coordinator(
    app: with_.AppName = None,
    loglevel: with_.Level = "WARNING",
    hostname: with_.NodeName = "",
    detach: with_.Detach = False,
    pidfile: with_.PidPath = "",
    logfile: with_.LogPath = "",
    store: options.StoreUrl = None,
    broker: options.BrokerUrl = None,
    backend: options.BackendUrl = None,
) -> int:
    """Advance the runs of a store; any number of coordinators share them."""
    from flowq.app.serving import expand, open_coordinator
    from flowq.coordinator.loop import CoordinatorLoop

    found = _app_or_none(app)
    options.configure(found, store=store, broker=broker, backend=backend)
    name = expand(_node_name(hostname or "coordinator"))
    with _Process(detach, pidfile, logfile, loglevel, name) as process:
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

    def __init__(
        self,
        detach: bool,
        pidfile: str,
        logfile: str,
        level: str,
        name: str,
        hijack: bool = True,
    ) -> None:
        from flowq.app.serving import expand

        self._detach, self._level, self._hijack = detach, level, hijack
        #: How it logs, once it is entered.
        self.logs: Logs | None = None
        self._logfile = expand(logfile, name)
        self._pidfile = Pidfile(expand(pidfile, name))

    def __enter__(self) -> _Process:
        self.logs = set_up_logging(self._level, self._logfile, hijack=self._hijack)
        for number in (signal.SIGTERM, signal.SIGQUIT):  # until `on_signals`: nothing runs yet
            signal.signal(number, _leave)
        try:
            self._pidfile.take()
            if self._detach:
                into_background(self._logfile)
            self._pidfile.write()
        except BaseException:
            self._pidfile.drop()
            raise
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


def _leave(_number: int, _frame: object) -> None:
    """End in order, from wherever the process is."""
    raise SystemExit(0)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _given(text: str, option: str) -> list[str]:
    names = _names(text)
    if text and not names:
        raise typer.BadParameter(f"{text!r} names no queue", param_hint=option)
    return names


def _node_name(text: str) -> str:
    """A node's name; one without a host gets this one's, as in Celery."""
    return text if "@" in text else f"{text}@%h"


def _bounds(text: str) -> tuple[int, int] | None:
    """MAX,MIN of ``--autoscale``; one number is the most, with none as the least."""
    if not text:
        return None
    parts = _names(text)
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() for part in parts):
        raise typer.BadParameter(f"{text!r} is not MAX,MIN, as in 10,2", param_hint="--autoscale")
    most, least = int(parts[0]), int(parts[-1]) if len(parts) == 2 else 1
    if most < max(least, 1):
        raise typer.BadParameter(
            f"{text!r}: the most, which comes first, is below the least", param_hint="--autoscale"
        )
    return most, max(1, least)
