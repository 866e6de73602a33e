"""Which pool an app's settings ask for, and a worker around it."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flowq.errors import ImproperlyConfigured
from flowq.worker import capture, standard, wire
from flowq.worker.cpus import cpus
from flowq.worker.definitions import Definitions
from flowq.worker.worker import Worker

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.config import Settings
    from flowq.worker.livelog import Logs
    from flowq.worker.nursery import Launched

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
POOLS = ("prefork", "threads", "solo", "gevent", "eventlet")


class Early:
    """A pool's first process, started before the program is known.

    Loading the program and starting that process then go on side by side. Nothing is lost by a
    wrong guess but the process.

    Args:
        conf: Settings as known so far.
    """

    def __init__(self, conf: Settings) -> None:
        self._launched: Launched | None = None
        self._count = int(conf.worker_concurrency or cpus())
        if conf.worker_pool == "prefork" and self._count > 0:
            from flowq.worker.nursery import launch

            self._launched = launch(self._count)

    def take(self, count: int) -> Launched | None:
        """What was started, if it is for so many children; else, and once taken, None."""
        if count != self._count:
            self.drop()
        launched, self._launched = self._launched, None
        return launched

    def drop(self) -> None:
        """End what was not taken. A second call does nothing."""
        launched, self._launched = self._launched, None
        if launched is not None:
            launched.nursery.end()


def make_worker(
    app: Flowq,
    *,
    answer: Callable[..., None],
    keep: Iterable[int] = (),
    early: Early | None = None,
    first: int | None = None,
    logs: Logs | None = None,
) -> tuple[Worker, int]:
    """Make the worker that the settings ask for; returns it and its number of slots.

    Args:
        app: Whose tasks it runs.
        answer: What to do with questions of tasks.
        keep: Descriptors that the pool's processes hold open.
        early: The pool's first process, if it was started already.
        first: Slots to begin with, if not what the settings say: something resizes the pool.
        logs: What bare tasks write goes to the log of this process, which is set up like this;
            None: it goes nowhere.

    Raises:
        ImproperlyConfigured: No such pool, or a wrong number.
    """
    standard.occupy()
    conf = app.conf
    kind = str(conf.worker_pool or "prefork")
    if kind not in POOLS:
        raise ImproperlyConfigured(f"no pool is called {kind!r}: use {', '.join(POOLS)}")
    if kind == "solo" and first is not None:
        raise ImproperlyConfigured("the solo pool cannot be resized: leave --autoscale out")
    hands = 1 if kind == "solo" else int(first or conf.worker_concurrency or cpus())
    if hands < 1:
        raise ImproperlyConfigured(f"concurrency {hands} is too small: use at least 1")
    if logs is not None:
        logs.redirect = _level(conf) if conf.worker_redirect_stdouts else 0
        capture.redirect(logs.redirect)
    setup = _setup(app)
    setup.logs = logs
    if kind == "prefork":
        launched = early.take(hands) if early is not None else None
        pool = _prefork(app, hands, keep, launched, setup)
    elif kind in ("gevent", "eventlet"):
        pool = _greens(app, kind, hands, keep, setup)
    else:
        pool = _threads(app, hands, solo=kind == "solo", live=logs is not None)
    rates = not conf.worker_disable_rate_limits
    return Worker(pool, hands, answer=answer, rates=rates), hands


def _level(conf: Settings) -> int:
    name = str(conf.worker_redirect_stdouts_level).upper()
    if name not in LEVELS:
        raise ImproperlyConfigured(
            f"worker_redirect_stdouts_level is {name!r}, which is no level: use {', '.join(LEVELS)}"
        )
    return int(getattr(logging, name))


def _prefork(
    app: Flowq, hands: int, keep: Iterable[int], launched: Launched | None, setup: wire.Setup
) -> Any:
    from flowq.worker.prefork import PreforkPool

    return PreforkPool(hands, _definitions(app), setup, keep=keep, launched=launched)


def _greens(app: Flowq, kind: str, hands: int, keep: Iterable[int], setup: wire.Setup) -> Any:
    from flowq.worker.greens import GreenPool

    return GreenPool(kind, hands, _definitions(app), setup, keep=keep)


def _definitions(app: Flowq) -> Definitions:
    from flowq.app.current import home, program_modules

    conf = app.conf
    return Definitions(
        app,
        modules=[*conf.include, *conf.imports],
        program_modules=program_modules(),
        settings={"caches": conf.caches} if conf.caches else None,
        home=home(app),
    )


def _setup(app: Flowq) -> wire.Setup:
    conf = app.conf
    around = app.framework
    return wire.Setup(
        list(sys.path),
        os.getcwd(),
        b"",
        hostname=socket.gethostname(),
        accept=tuple(conf.accept_content),
        compile_fragment="flowq.app.child:compile_fragment",
        init=around.child_init if around is not None else "flowq.app.child:prepare",
        environ=around.environ if around is not None else {},
        max_bytes=int(conf.max_payload_bytes),
        max_tasks=int(conf.worker_max_tasks_per_child or 0),
        max_memory=int(conf.worker_max_memory_per_child or 0),
        log_size=_log_size(conf),
    )


def _log_size(conf: Settings) -> int:
    """How much is kept of what an attempt writes."""
    return int(conf.max_log_bytes) if conf.keep_logs else 0


def _threads(app: Flowq, hands: int, *, solo: bool, live: bool) -> Any:
    from flowq.app.child import compile_fragment
    from flowq.worker.threads import ThreadPool

    return ThreadPool(
        hands,
        app.tasks,
        solo=solo,
        live=live,
        hostname=socket.gethostname(),
        compile_fragment=compile_fragment,
        accept=tuple(app.conf.accept_content),
        max_bytes=int(app.conf.max_payload_bytes),
        kept=_log_size(app.conf),
    )
