"""The public `Flow`: the core's builder, showing itself in notebooks."""

from __future__ import annotations

from flowq.app.display import Shown
from flowq.core import flow as core


class Flow(Shown, core.Flow):
    """A graph of tasks, built node by node.

    Args:
        name: Shown in lists; no meaning beyond that.
    """
