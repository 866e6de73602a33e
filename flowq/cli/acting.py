"""``flowq cancel``, ``pause`` and ``unpause``: on runs of live processes and of dead ones."""

from __future__ import annotations

import time
from typing import Any

import typer

from flowq.cli import options
from flowq.cli.output import Output
from flowq.cli.shapes import run_object
from flowq.core.states import RUN_TERMINAL
from flowq.errors import WrongState

_PATIENCE = 10.0


def cancel(
    run: str = typer.Argument(metavar="RUN", help="An id, a unique prefix, @last or a name."),
    store: options.StoreUrl = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Cancel a run: what has not ended is never run; what runs is not waited for."""
    return _act(run, "cancel", "CANCELLED", store, Output(json=json, quiet=quiet))


def pause(
    run: str = typer.Argument(metavar="RUN", help="An id, a unique prefix, @last or a name."),
    store: options.StoreUrl = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Begin no more nodes of a run; what runs is finished."""
    return _act(run, "pause", "PAUSED", store, Output(json=json, quiet=quiet))


def unpause(
    run: str = typer.Argument(metavar="RUN", help="An id, a unique prefix, @last or a name."),
    store: options.StoreUrl = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Go on with a paused run."""
    return _act(run, "unpause", "RUNNING", store, Output(json=json, quiet=quiet))


def _act(ref: str, what: str, wanted: str, url: str | None, out: Output) -> int:
    from flowq.app.base import Flowq
    from flowq.app.lanes import is_alive, lane_of
    from flowq.app.target import engine_of
    from flowq.cli.opening import open_store

    store = open_store(url)
    row = store.find_run(ref)
    if row.state in RUN_TERMINAL:
        raise WrongState(
            f"run {row.uid} has ended with {row.state}, so it cannot be {_past(what)}; "
            f"flowq show {row.uid}"
        )
    lane = lane_of(store, row.lane_id)
    alive = lane is not None and is_alive(lane)
    app = Flowq(row.app, set_as_current=False)
    app.conf.set("store_url", store.url, source="--store")
    store.close()
    engine = engine_of(app)
    engine.notify = out.once
    engine.act(row.id, what)
    try:
        state = _wait(engine, row.id, wanted)
        if out.json:
            out.object(run_object(engine.store, engine.store.run_by_id(row.id)))
    finally:
        app.close()
    out.say(f"run {row.uid} is {state}")
    if not alive and what == "unpause":
        out.say(f"its process is gone; go on with: flowq resume {row.uid}")
    return 0


def _wait(engine: Any, run_id: int, wanted: str) -> str:
    """Until the run's coordinator has done it; its state then."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        engine.wait_run(run_id, 0.01)
        state = str(engine.store.run_by_id(run_id).state)
        if state == wanted or state in RUN_TERMINAL:
            return state
        if time.monotonic() > deadline:
            return f"{state}: its process has not answered yet"


def _past(what: str) -> str:
    return {"cancel": "cancelled", "pause": "paused", "unpause": "unpaused"}[what]
