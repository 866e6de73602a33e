"""An engine that records what it is asked and answers what a test tells it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from flowq import errors, payload
from flowq.app.outcome import Outcome


class FakeEngine:
    """The port of `flowq.app.outcome`, over a dict."""

    def __init__(self, app: Any = None) -> None:
        self.app = app
        self.outcomes: dict[str, Outcome] = {}
        self.bare: list[tuple[str, tuple[Any, ...], dict[str, Any], dict[str, Any]]] = []
        self.submitted: list[tuple[Any, dict[str, Any]]] = []
        self.orders: list[tuple[Any, ...]] = []
        self.result_is_group = False
        self.closed = False

    def send_bare(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> str:
        payload.encode_args(args, kwargs, options.get("serializer", "json"))
        self.bare.append((name, args, kwargs, options))
        return str(options.get("task_id") or f"bare-{len(self.bare)}")

    def submit(self, canvas: Any, args: Any, kwargs: Any, **options: Any) -> Any:
        self.submitted.append((canvas, {"args": args, "kwargs": kwargs, **options}))
        number = len(self.submitted)
        return SimpleNamespace(
            uid=f"run-{number}", result_id=f"node-{number}", result_is_group=self.result_is_group
        )

    def lookup(self, node: str) -> Outcome | None:
        return self.outcomes.get(node)

    def wait(self, node: str, timeout: float | None, on_outcome: Any = None) -> Outcome:
        outcome = self.lookup(node)
        if outcome is None:
            raise errors.UnknownId(f"nobody knows {node}")
        if not outcome.final:
            raise errors.TimeoutError(f"{node} has not ended")
        return outcome

    def forget(self, node: str) -> None:
        self.outcomes.pop(node, None)

    def revoke(self, node: str, terminate: bool, signal: str | None) -> None:
        self.orders.append(("revoke", node, terminate, signal))

    def run(self, ref: str) -> str:
        return f"the run {ref}"

    def close(self) -> None:
        self.closed = True


def success(value: Any, **more: Any) -> Outcome:
    """A recorded success."""
    return Outcome("SUCCESS", payload.encode(value), **more)


def failure(error: Exception, state: str = "FAILURE", **more: Any) -> Outcome:
    """A recorded failure."""
    return Outcome(state, payload.encode_error(error, node_id="n", task="t"), **more)
