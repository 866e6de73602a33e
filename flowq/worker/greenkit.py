"""What the greenlet pools need of gevent and eventlet, under the same names for both.

Only the pool's child process makes a kit, after it was patched; see `greenhouse`.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from flowq.worker.alarm import soft_limit

#: Pool -> code that makes everything cooperative; run before anything else is imported.
PATCHES: Final = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": (
        # it warns at import that it is deprecated, past all filters; whoever names the pool knows
        "import warnings; warn, warnings.warn = warnings.warn, lambda *a, **k: None;"
        " import eventlet; warnings.warn = warn; eventlet.monkey_patch()"
    ),
}


class Kit(Protocol):
    """The library at hand. Modules are looked up by name: neither library has to be there."""

    def plain_socket(self, fd: int) -> Any:
        """A socket that blocks all greenlets."""

    def wait_readable(self, fd: int) -> None:
        """Wait until something can be read; the others go on."""

    def spawn(self, function: Callable[..., None], *args: Any) -> Any:
        """Start a greenlet, soon."""

    def throw(self, greenlet: Any, exc: BaseException) -> None:
        """Raise something in a greenlet, soon."""

    def timeout(self, seconds: float, exc: BaseException) -> AbstractContextManager[Any]:
        """Raise something in this greenlet unless the block ends before."""

    def in_thread(self, function: Callable[[], Any]) -> Any:
        """Run something in a real thread and wait for it; the other greenlets go on."""

    def set_threads(self, most: int) -> None:
        """How many real threads there may be."""


def make_kit(kind: str) -> Kit:
    """The kit of a pool, in its patched process."""
    return _Gevent() if kind == "gevent" else _Eventlet()


def _named(name: str) -> Any:
    return importlib.import_module(name)


class _Gevent:
    def __init__(self) -> None:
        self._gevent, self._monkey = _named("gevent"), _named("gevent.monkey")
        self._socket = _named("gevent.socket")

    def plain_socket(self, fd: int) -> Any:
        return self._monkey.get_original("socket", "socket")(fileno=fd)

    def wait_readable(self, fd: int) -> None:
        self._socket.wait_read(fd)

    def spawn(self, function: Callable[..., None], *args: Any) -> Any:
        return self._gevent.spawn(function, *args)

    def throw(self, greenlet: Any, exc: BaseException) -> None:
        greenlet.kill(exc, block=False)

    def timeout(self, seconds: float, exc: BaseException) -> AbstractContextManager[Any]:
        made: AbstractContextManager[Any] = self._gevent.Timeout(seconds, exc)
        return made

    def in_thread(self, function: Callable[[], Any]) -> Any:
        return self._gevent.get_hub().threadpool.apply(function)

    def set_threads(self, most: int) -> None:
        self._gevent.get_hub().threadpool.maxsize = most


class _Eventlet:
    def __init__(self) -> None:
        self._eventlet, self._hubs = _named("eventlet"), _named("eventlet.hubs")
        self._tpool, self._patcher = _named("eventlet.tpool"), _named("eventlet.patcher")

    def plain_socket(self, fd: int) -> Any:
        return self._patcher.original("socket").socket(fileno=fd)

    def wait_readable(self, fd: int) -> None:
        self._hubs.trampoline(fd, read=True)

    def spawn(self, function: Callable[..., None], *args: Any) -> Any:
        return self._eventlet.spawn(function, *args)

    def throw(self, greenlet: Any, exc: BaseException) -> None:
        self._hubs.get_hub().schedule_call_global(0, greenlet.throw, exc)

    def timeout(self, seconds: float, exc: BaseException) -> AbstractContextManager[Any]:
        made: AbstractContextManager[Any] = self._eventlet.Timeout(seconds, exc)
        return made

    def in_thread(self, function: Callable[[], Any]) -> Any:
        return self._tpool.execute(function)

    def set_threads(self, most: int) -> None:
        with contextlib.suppress(Exception):  # too late once one was started
            self._tpool.set_num_threads(most)


class GreenAlarm:
    """Raises SoftTimeLimitExceeded in a greenlet that waits; one that computes is not reached."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    def after(
        self,
        seconds: float,
        divert: Callable[[BaseException], None] | None = None,
    ) -> AbstractContextManager[Any]:
        """Ring after `seconds` unless the ``with`` block ends before."""
        return self._kit.timeout(seconds, soft_limit(seconds))
