"""Recorded values for looking at, decoded without the program that made them."""

from __future__ import annotations

from typing import Any

from flowq import payload
from flowq.backends.recorded import Recorded
from flowq.cli.opening import settings
from flowq.store import Store
from flowq.store.rows import RunRow

#: Forms that hold plain data: reading them runs no code.
_PLAIN = ("json", "msgpack", "yaml")


def accepted(url: str | None) -> tuple[str, ...]:
    """Serializers that may be read here: the plain ones and what the settings add."""
    return tuple({*_PLAIN, *settings(url).accept_content})


def value_of_run(store: Store, row: RunRow, accept: tuple[str, ...]) -> Any:
    """The value of a run that succeeded; a list where several nodes are its result."""
    values = [value_of_node(store, row.id, idx, accept) for idx in row.result_nodes]
    return values[0] if len(values) == 1 else values


def value_of_node(store: Store, run_id: int, idx: int, accept: tuple[str, ...]) -> Any:
    """The value of a node; None unless it succeeded."""
    frame = Recorded(store).value(run_id, idx)
    return None if frame is None else payload.decode(frame, accept)
