"""A run in the hands of this process: show it, wait for it, hand over its result."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

from flowq.cli import summary
from flowq.cli.interrupts import Interrupts
from flowq.cli.output import Output, readable
from flowq.cli.shapes import run_object
from flowq.cli.views import View
from flowq.core.states import RUN_TERMINAL
from flowq.errors import StoreUnavailable

if TYPE_CHECKING:
    from flowq.app.client import Client
    from flowq.app.run import Run

#: State of a run -> exit code of the command that waited for it.
CODES = {"SUCCESS": 0, "FAILURE": 1, "CANCELLED": 3, "PAUSED": 6, "RUNNING": 5}
#: Seconds that running tasks get once ``--timeout`` has passed.
_GRACE = 2.0
#: Seconds that a store may refuse to be written before the run is given up here.
_PATIENCE = 10.0


def follow(
    engine: Client,
    run: Run,
    out: Output,
    view: View,
    *,
    timeout: float | None = None,
    interrupts: Interrupts | None = None,
) -> int:
    """Wait for a run that this process works on, print its result, stop the engine.

    Returns:
        The exit code: of the run's outcome, of the time that passed, or of the signal.
    """
    engine.notify = view.note
    with interrupts or Interrupts() as heard:
        heard.run = run.id
        why = _wait(engine, run, view, heard, timeout)
        if why:
            _wind_down(engine, run, view, why)
        view.look(last=True)
        state = str(run.state)
        if state in RUN_TERMINAL:
            if view.in_words or state != "SUCCESS":  # the last object says that it succeeded
                summary.tell(out, engine.store, run.run_id)
            show_result(engine, run, out)
            _others(engine, out, heard)
            engine.close(0.0)
            return CODES[state]
        _unfinished(engine, run, out, why, timeout)
        engine.close(0.0 if why == "timeout" else _GRACE)
        return 5 if why == "timeout" else heard.exit_code


def _others(engine: Client, out: Output, heard: Interrupts) -> None:
    """Finish what tasks of the run have submitted; interrupted, say how to go on with it."""
    store = engine.store
    told = False
    while engine.works_here:
        left = [row[0] for row in store.rows(store.sql.run_live, (engine.lane_id,))]
        if not left:
            return
        if not told:
            told = True
            out.say(f"its tasks have submitted more: finishing {len(left)} other run(s)")
        while not engine.wait_run(left[0], 0.1):
            if heard.signal:
                for run_id in left:
                    out.say(f"resume with: flowq resume {store.run_by_id(run_id).uid}")
                return


def _wait(engine: Client, run: Run, view: View, heard: Interrupts, timeout: float | None) -> str:
    """Until the run has ended (""), somebody interrupts, or the time has passed."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        pause = view.every
        if deadline is not None:
            pause = max(0.0, min(pause, deadline - time.monotonic()))
        if engine.wait_run(run.run_id, pause):
            return ""
        if heard.signal:
            return "signal"
        trouble = engine.trouble
        if trouble is not None and time.monotonic() - trouble[0] > _PATIENCE:
            _give_up(engine, run, trouble[1])
        if deadline is not None and time.monotonic() >= deadline:
            return "timeout"
        view.look()


def _give_up(engine: Client, run: Run, why: StoreUnavailable) -> NoReturn:
    """Give up on a store that could not be written for a while; nothing committed is lost.

    Raises:
        StoreUnavailable: Always: what is wrong, and how to go on.
    """
    engine.notify = lambda _: None  # it would say the same once more when it is closed
    sentence = str(why).partition("; ")[0]
    raise StoreUnavailable(
        f"{sentence}; put that right, then go on with: flowq resume {run.id}"
    ) from why


def _wind_down(engine: Client, run: Run, view: View, why: str) -> None:
    """Let what runs finish: for as long as it takes, or for a moment after a time-out."""
    engine.drain()
    if why == "signal" and not engine.drained:
        view.note("stopping: what runs is finished first; once more ends at once")
    deadline = time.monotonic() + (_GRACE if why == "timeout" else 1e9)
    while not engine.drained and time.monotonic() < deadline:
        if engine.wait_run(run.run_id, 0.05):
            return
        view.look()


def _unfinished(engine: Client, run: Run, out: Output, why: str, timeout: float | None) -> None:
    if out.json:
        out.object(run_object(engine.store, run.row))
    if why == "timeout":
        out.say(f"run {run.id} has not ended within {timeout:g} s")
    if engine.works_here:
        out.say(f"resume with: flowq resume {run.id}")
    else:
        out.say(f"it goes on without this command; follow it with: flowq watch {run.id}")


def show_result(engine: Client, run: Run, out: Output) -> None:
    """The run's value on stdout if it succeeded; with JSON the whole run in any case."""
    state = str(run.state)
    value: Any = run.result(0) if state == "SUCCESS" else None
    if out.json:
        fields = run_object(engine.store, run.row)
        fields["result"] = value
        if state == "FAILURE":
            fields["failures"] = summary.failures(engine.store, run.run_id)
        out.object(fields)
    elif state == "SUCCESS":
        out.value(readable(value, out.columns))
