"""No result backend: bare tasks keep no state, and whoever waits for one is told so."""

from __future__ import annotations

from flowq.backends import OnMessage, ResultRequest, TaskMeta
from flowq.errors import NoResultBackend


class NoResults:
    """Contract: `backends.ResultStore`; records nothing.

    Args:
        why: Why there is nothing to read.
    """

    reply_to: str | None = None

    def __init__(self, why: str = "no result backend is configured") -> None:
        self._why = why

    def store(self, task_id: str, meta: TaskMeta, request: ResultRequest | None = None) -> None:
        """Does nothing."""

    def load(self, task_id: str) -> TaskMeta | None:
        """None."""
        return None

    def wait(
        self, task_id: str, timeout: float | None, on_message: OnMessage | None = None
    ) -> TaskMeta | None:
        """Nothing will ever come.

        Raises:
            NoResultBackend: Always.
        """
        raise NoResultBackend(
            f"the result of task {task_id} is kept nowhere, for {self._why}: "
            "give the app one, as in backend='redis://localhost/1', or submit the task as a run"
        )

    def expect(self, task_id: str) -> None:
        """Does nothing."""

    def forget(self, task_id: str) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
