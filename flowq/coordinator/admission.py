"""Submissions that come from the coordinator's own process.

They are written by the coordinator in its next commit, together with everything else of that
turn: the run, its rows, and the dispatch of its roots. So a submission costs no commit of its
own, and many that wait are stored at once. The submitter waits for that commit.
"""

from __future__ import annotations

import threading

from flowq.core.graph import Graph
from flowq.store import NewRun


class Submission:
    """One run on its way into the store.

    Args:
        new: The run.
        graph: Its graph.
    """

    __slots__ = ("done", "error", "graph", "is_new", "new", "run_id", "uid")

    def __init__(self, new: NewRun, graph: Graph) -> None:
        self.new, self.graph = new, graph
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.run_id = 0
        self.uid = new.uid
        #: False if an earlier run has the same idempotency key.
        self.is_new = False

    def fail(self, error: BaseException) -> None:
        """Tell the submitter that nothing was stored. Repeating: the last error counts."""
        self.error = error
        self.done.set()
