"""The coordinator: the only writer of the runs of its lane."""

from __future__ import annotations

from flowq.coordinator.batch import Fence
from flowq.coordinator.coordinator import Coordinator

__all__ = ["Coordinator", "Fence"]
