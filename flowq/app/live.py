"""Live displays: the picture of a run in a notebook, renewed while the run goes on.

HTML by `update_display`, at most four times a second, from one daemon thread for each display; no
widget and nothing from the network. When the run has ended, the picture is replaced once more, by a
static one of HTML, SVG and text, and that is what the saved notebook holds. IPython is never
imported here: where it is not loaded there is nobody to show anything to.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
import threading
import time
import uuid
from typing import Any

from flowq.app.display import bundle
from flowq.core.states import RUN_TERMINAL

log = logging.getLogger("flowq")

#: Seconds between two pictures at the least; without news, and for a task that is no run.
_GAP, _IDLE, _POLL = 0.25, 1.0, 0.25
#: A picture that takes long to make is made less often: this many times its cost is waited.
_REST = 9

_live: list[_Live] = []
_lock = threading.Lock()


def show(value: Any) -> None:
    """Show a run or result in the notebook and follow it to its end.

    Each call makes another display.

    Raises:
        NotImplementedError: It has ended, or this is no notebook; a static picture will do.
    """
    shell = kernel_shell()
    if shell is None or _is_over(value):
        raise NotImplementedError
    display = _Live(shell, value)
    with _lock:
        if not _live:
            _watch_cells(shell)
            atexit.register(_stop_all)
        _live.append(display)
    display.start()


def kernel_shell() -> Any:
    """The IPython shell of the notebook kernel that this process is, or None."""
    ipython = sys.modules.get("IPython")
    if ipython is None or not hasattr(ipython, "get_ipython"):
        return None
    shell = ipython.get_ipython()
    return shell if hasattr(shell, "kernel") else None


def _run_of(value: Any) -> Any:
    return value if hasattr(value, "run_id") else getattr(value, "run", None)


def _is_over(value: Any) -> bool:
    """Whether nothing can follow."""
    run = _run_of(value)
    if run is not None:
        return run.state in RUN_TERMINAL
    if hasattr(value, "exists") and not value.exists():
        return True
    return bool(value.ready())


class _Live:
    """One display.

    Args:
        shell: Where to show it.
        value: A run or a result, asked for its picture again and again.
    """

    def __init__(self, shell: Any, value: Any) -> None:
        self._publisher, self._value = shell.display_pub, value
        self._run = _run_of(value)
        self._id = uuid.uuid4().hex
        self._last: dict[str, str] = {}
        self._drawing = threading.Lock()
        self._news, self._stop = threading.Event(), threading.Event()
        self._deaf = self._listen()
        self._thread = threading.Thread(target=self._main, name="flowq-display", daemon=True)

    def start(self) -> None:
        """Show it and begin to follow."""
        self._last = bundle(self._value, svg=False)
        self._publish(update=False)
        self._thread.start()

    def refresh(self, *, only_end: bool = False) -> bool:
        """Show how it is now, `only_end`: if it has ended. True once nothing can follow."""
        with self._drawing:
            if self._stop.is_set():
                return True
            abandoned = self._abandoned()
            over = abandoned or _is_over(self._value)
            if over or not only_end:
                found = bundle(self._value, svg=over)
                if found != self._last or only_end:
                    self._last = found
                    self._publish(update=True)
            if over and (only_end or abandoned):
                self.end()
            elif over:  # once more when a cell ends: what is shown between two may not be heard
                self._deaf()
            return over

    def end(self) -> None:
        """Follow no longer; the picture stays. A second call does nothing."""
        self._stop.set()
        self._news.set()
        self._deaf()
        with _lock:
            if self in _live:
                _live.remove(self)
                if not _live:
                    atexit.unregister(_stop_all)

    def join(self) -> None:
        """Wait a moment for its thread."""
        self._thread.join(1.0)

    def _listen(self) -> Any:
        if self._run is None:
            return lambda: None
        run_id, news = self._run.run_id, self._news
        return self._run._engine.listen(lambda changed: news.set() if run_id in changed else None)

    def _abandoned(self) -> bool:
        """Whether the app was closed: its engine would only tell what it knew then."""
        if self._run is None:
            return False
        engine = self._run._engine
        return engine.app._engine_now is not engine

    def _main(self) -> None:
        try:
            while not self._stop.is_set():
                self._news.wait(_IDLE if self._run is not None else _POLL)
                self._news.clear()
                began = time.monotonic()
                if self.refresh():
                    return
                self._stop.wait(max(_GAP, _REST * (time.monotonic() - began)))
        except Exception:  # the run goes on without its picture
            log.debug("a live display ended", exc_info=True)
            self.end()

    def _publish(self, *, update: bool) -> None:
        self._publisher.publish(self._last, transient={"display_id": self._id}, update=update)


def _watch_cells(shell: Any) -> None:
    if _cell_ended not in shell.events.callbacks.get("post_run_cell", ()):
        shell.events.register("post_run_cell", _cell_ended)


def _cell_ended(*_: Any) -> None:
    """Show the ends of runs within the cell that waited for them.

    What executes notebooks without a browser hears only messages of the cell it is at.
    """
    for display in [*_live]:  # each may take itself off the list
        with contextlib.suppress(Exception):
            display.refresh(only_end=True)


def _stop_all() -> None:
    """The process ends: no thread may read the store while the engine closes it."""
    for display in [*_live]:  # each may take itself off the list
        display.end()
        display.join()
