"""Runs the coroutines of ``async def`` tasks, each to its end, in one event loop that is kept.

A loop takes longer to make than most tasks take to run. What a task leaves running is cancelled
when it ends, so that tasks see no more of each other than they do without a loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Coroutine, Generator, Iterable
from typing import Any


class Call(Coroutine[Any, Any, Any]):
    """A coroutine into which an exception can be raised from outside.

    Tasks of asyncio can only be cancelled; this turns the one cancellation that means something
    else into that exception, at the await where the coroutine waits.
    """

    def __init__(
        self, inner: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop, owner: object
    ) -> None:
        self._inner, self._loop = inner, loop
        #: What it runs for.
        self.owner = owner
        self._task: asyncio.Task[Any] | None = None
        self._raise: BaseException | None = None
        self._stepping = False

    def interrupt(self, exc: BaseException) -> None:
        """Raise in the coroutine; from the loop, or from a signal handler of its thread.

        A handler that interrupts the coroutine itself gets the exception raised right there.
        """
        if self._stepping:
            raise exc
        self.stop(exc)

    def stop(self, exc: BaseException) -> None:
        """Raise in the coroutine at its next await; from any thread. If it ended: nothing."""
        self._raise = exc
        with contextlib.suppress(RuntimeError):  # the loop is closed: it ended
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None and self._raise is not None:
            self._task.cancel()

    def send(self, value: Any) -> Any:
        """Go on."""
        if self._task is None:
            self._task = asyncio.current_task()
            if self._raise is not None:  # it was stopped before it began
                exc, self._raise = self._raise, None
                return self._inner.throw(exc)
        self._stepping = True
        try:
            return self._inner.send(value)
        finally:
            self._stepping = False

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Go on with an exception."""
        wanted = kind if isinstance(kind, BaseException) else value or kind()
        if self._raise is not None and isinstance(wanted, asyncio.CancelledError):
            exc, self._raise = self._raise, None
            assert self._task is not None
            self._task.uncancel()
            wanted = exc
        self._stepping = True
        try:
            return self._inner.throw(wanted)
        finally:
            self._stepping = False

    def close(self) -> None:
        """End the coroutine."""
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()


class Coroutines:
    """One thread's event loop."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None
        #: The one that runs.
        self.call: Call | None = None

    def run(
        self,
        coroutine: Coroutine[Any, Any, Any],
        alarms: Iterable[tuple[float, Callable[[], BaseException]]] = (),
        owner: object = None,
        told: Callable[[], BaseException | None] = lambda: None,
    ) -> Any:
        """Run a coroutine and give its result.

        Args:
            coroutine: What the task's function returned.
            alarms: After so many seconds what is made then is raised in it, each once.
            owner: What it runs for, for whoever looks at `call`.
            told: What was to be raised in it before there was a `call`; None: nothing.

        Raises:
            BaseException: What the coroutine raises.
        """
        runner = self._runner
        if runner is None:
            runner = self._runner = asyncio.Runner()
        loop = runner.get_loop()
        call = self.call = Call(coroutine, loop, owner)
        early = told()
        if early is not None:
            call.stop(early)
        timers = [loop.call_later(after, _ring, call, exceeded) for after, exceeded in alarms]
        try:
            task = loop.create_task(call, context=contextvars.copy_context())
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt):
            if task.done() and not task.cancelled():
                task.exception()  # else asyncio complains that nobody looked at it
            raise
        finally:
            self.call = None
            for timer in timers:
                timer.cancel()
            left = asyncio.all_tasks(loop)
            if left:
                for task in left:
                    task.cancel()
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))

    def close(self) -> None:
        """Close the loop. A second call does nothing."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()


def _ring(call: Call, exceeded: Callable[[], BaseException]) -> None:
    call.interrupt(exceeded())
