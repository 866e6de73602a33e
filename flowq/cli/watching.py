"""``flowq watch``: follow a run of another process."""

from __future__ import annotations

import sys
import time
from typing import Any

from flowq.cli import options
from flowq.cli.output import Output
from flowq.core.states import RUN_TERMINAL
from flowq.errors import WrongState


def watch(
    run: options.Ref = "@last",
    timeout: options.Timeout = None,
    store: options.StoreUrl = None,
    progress: options.Progress = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> int:
    """Watch a run until it ends; its outcome is the exit code. Ctrl-C ends the watching only."""
    from flowq.cli import summary, telling
    from flowq.cli.lines import JsonView
    from flowq.cli.opening import open_store
    from flowq.cli.views import view_for

    out = Output(json=json, quiet=quiet, color=False if no_color else None)
    seconds = options.seconds(timeout, "--timeout")
    options.checked_progress(progress)
    opened = open_store(store)
    row = opened.find_run(run)
    view: Any = JsonView(out, opened, row.id, sys.stdout) if json else None
    view = view or view_for(progress, out, opened, row.id)
    deadline = None if seconds is None else time.monotonic() + seconds
    gone = False
    while row.state not in RUN_TERMINAL and not gone:
        view.look()
        if deadline is not None and time.monotonic() >= deadline:
            break
        gone = telling.is_gone(opened, opened.run_by_id(row.id))
        time.sleep(0.0 if gone else 0.05)
        row = opened.run_by_id(row.id)
    view.look(last=True)
    if gone and row.state not in RUN_TERMINAL:
        raise WrongState(
            f"run {row.uid} is {row.state}, but its process is gone; flowq resume {row.uid}"
        )
    summary.tell(out, opened, row.id)
    return telling.CODES[row.state]
