"""Where outcomes of the embedded engine's bare tasks go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowq.backends import ResultStore
from flowq.backends.memory import MemoryResults

if TYPE_CHECKING:
    from flowq.app.base import Flowq


def results_of(app: Flowq) -> ResultStore:
    """Where outcomes of bare tasks go: into memory, or to the backend that the settings name.

    Replies (``rpc://``) need a broker to travel by; in one process memory does the same.
    """
    url = str(app.conf.result_backend or "memory://")
    own = any(getattr(task, "backend", None) for task in app.tasks.values())
    if url.startswith(("memory:", "cache+memory:", "rpc:")):
        found: ResultStore = MemoryResults()
    else:
        from flowq.backends.opening import open_results

        found = open_results(url, app.conf)
    if not own:
        return found
    from flowq.app.taskresults import TaskResults

    return TaskResults(app, found)
