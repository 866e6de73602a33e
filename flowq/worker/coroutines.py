"""Runs the coroutines of ``async def`` tasks, each to its end, in one event loop that is kept.

A loop takes longer to make than most tasks take to run. What a task leaves running is cancelled
when it ends, so that tasks see no more of each other than they do without a loop.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any


class Call(Coroutine[Any, Any, Any]):
    """A coroutine into which an exception can be raised from outside.

    Tasks of asyncio can only be cancelled; this turns the one cancellation that means something
    else into that exception, at the await where the coroutine waits.
    """

    def __init__(self, inner: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._inner, self._loop = inner, loop
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
        """Raise in the coroutine at its next await; from any thread."""
        self._raise = exc
        self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None and self._raise is not None:
            self._task.cancel()

    def send(self, value: Any) -> Any:
        """Go on."""
        if self._task is None:
            self._task = asyncio.current_task()
        self._stepping = True
        try:
            return self._inner.send(value)
        finally:
            self._stepping = False

    def throw(self, kind: Any, value: Any = None, traceback: Any = None) -> Any:
        """Go on with an exception."""
        exc, self._raise = self._raise, None
        wanted = kind if isinstance(kind, BaseException) else value or kind()
        if exc is not None and isinstance(wanted, asyncio.CancelledError):
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
        limit: float = 0.0,
        exceeded: Callable[[], BaseException] = TimeoutError,
    ) -> Any:
        """Run a coroutine and give its result.

        Args:
            coroutine: What the task's function returned.
            limit: Seconds after which `exceeded` is raised in it, once; 0 for none.
            exceeded: Makes that exception.

        Raises:
            BaseException: What the coroutine raises.
        """
        runner = self._runner
        if runner is None:
            runner = self._runner = asyncio.Runner()
        loop = runner.get_loop()
        call = self.call = Call(coroutine, loop)
        timer = loop.call_later(limit, lambda: call.interrupt(exceeded())) if limit else None
        try:
            task = loop.create_task(call, context=contextvars.copy_context())
            return loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt):
            if task.done() and not task.cancelled():
                task.exception()  # else asyncio complains that nobody looked at it
            raise
        finally:
            self.call = None
            if timer is not None:
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
