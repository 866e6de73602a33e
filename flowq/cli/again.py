"""``flowq resume``, ``retry`` and ``rerun``: runs that go on, or begin again, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flowq.cli import options
from flowq.cli.output import Output
from flowq.core.states import RUN_TERMINAL
from flowq.errors import TargetError, WrongState

Named = Annotated[
    str | None,
    typer.Option("--target", metavar="TARGET", help="What to load instead of what is recorded."),
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="NODE", help="Reuse the results of what is not behind it."),
]


def resume(
    run: options.Ref = "@last",
    target: Named = None,
    concurrency: options.Concurrency = None,
    pool: options.Pool = None,
    timeout: options.Timeout = None,
    store: options.StoreUrl = None,
    progress: options.Progress = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> int:
    """Go on with a run whose process was stopped or killed; finished nodes are not run again."""
    out = Output(json=json, quiet=quiet, color=False if no_color else None)
    seconds = options.seconds(timeout, "--timeout")
    options.checked_progress(progress)
    opened, row = _find(store, run)
    if row.state in RUN_TERMINAL:
        from flowq.cli.telling import show_outcome

        out.say(f"run {row.uid} has ended already, with {row.state}")
        return show_outcome(opened, row, out, store)
    _refuse_live(opened, row)
    engine = _engine_for(opened, row, target, out, pool=pool, concurrency=concurrency)
    from flowq.cli.interrupts import Interrupts
    from flowq.cli.summary import done_of

    with Interrupts() as interrupts:
        view = _view(engine, row.id, out, progress)
        engine.resume(row.id)
        if row.state == "PAUSED":
            engine.act(row.id, "unpause")
        done, total = done_of(engine.store, row.id)
        out.say(f"run {row.uid}: {done:,} of {total:,} nodes had ended and stay as they are")
        return _follow(engine, row.uid, out, seconds, interrupts, view)


def retry(
    run: options.Ref = "@last",
    target: Named = None,
    concurrency: options.Concurrency = None,
    pool: options.Pool = None,
    timeout: options.Timeout = None,
    store: options.StoreUrl = None,
    progress: options.Progress = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> int:
    """Run what failed, and what was not run because of it, again in the same run."""
    out = Output(json=json, quiet=quiet, color=False if no_color else None)
    seconds = options.seconds(timeout, "--timeout")
    options.checked_progress(progress)
    opened, row = _find(store, run)
    if row.state not in RUN_TERMINAL:
        raise WrongState(
            f"run {row.uid} has not ended, so there is nothing to retry; "
            f"flowq resume {row.uid} goes on with it"
        )
    engine = _engine_for(opened, row, target, out, pool=pool, concurrency=concurrency)
    from flowq.cli.interrupts import Interrupts

    with Interrupts() as interrupts:
        view = _view(engine, row.id, out, progress)
        engine.run(row.uid).retry()
        return _follow(engine, row.uid, out, seconds, interrupts, view)


def rerun(
    run: options.Ref = "@last",
    from_: From = None,
    target: Named = None,
    concurrency: options.Concurrency = None,
    pool: options.Pool = None,
    timeout: options.Timeout = None,
    store: options.StoreUrl = None,
    progress: options.Progress = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> int:
    """Run the same graph in a new run; with --from, reuse what is not behind that node."""
    out = Output(json=json, quiet=quiet, color=False if no_color else None)
    seconds = options.seconds(timeout, "--timeout")
    options.checked_progress(progress)
    opened, row = _find(store, run)
    if from_ is not None:
        opened.find_node(row.id, from_)
    engine = _engine_for(opened, row, target, out, pool=pool, concurrency=concurrency)
    from flowq.app.rerun import rerun as copy
    from flowq.app.target import hash_of
    from flowq.cli.interrupts import Interrupts
    from flowq.cli.summary import done_of

    file = (target or row.target or "").partition(":")[0]
    with Interrupts() as interrupts:
        made = copy(engine, engine.run(row.uid), from_, hash_of(file) or None)
        kept = done_of(engine.store, made.run_id)[0] if from_ is not None else 0
        out.say(
            f"run {made.id}, a rerun of {row.uid}"
            + (f": {kept:,} result{'s' if kept > 1 else ''} reused" if kept else "")
        )
        view = _view(engine, made.run_id, out, progress)
        return _follow(engine, made.id, out, seconds, interrupts, view)


def _view(engine: Any, run_id: int, out: Output, progress: str) -> Any:
    """The display of a run that goes on: it begins with what is the case now."""
    from flowq.cli.views import view_for

    view = view_for(progress, out, engine.open(), run_id)
    view.prepare()
    return view


def _follow(
    engine: Any, uid: str, out: Output, seconds: float | None, interrupts: Any, view: Any
) -> int:
    from flowq.cli.foreground import follow

    return follow(engine, engine.run(uid), out, view, timeout=seconds, interrupts=interrupts)


def _find(store: str | None, ref: str) -> tuple[Any, Any]:
    from flowq.cli.opening import open_store

    opened = open_store(store)
    return opened, opened.find_run(ref)


def _refuse_live(store: Any, row: Any) -> None:
    from flowq.app.lanes import is_alive, lane_of

    lane = lane_of(store, row.lane_id)
    if lane is not None and is_alive(lane):
        raise WrongState(
            f"run {row.uid} is {row.state} in another live process, which goes on with it; "
            f"follow it with flowq watch {row.uid}"
            + (f", or flowq unpause {row.uid}" if row.state == "PAUSED" else "")
        )


def _engine_for(store: Any, row: Any, target: str | None, out: Output, **given: Any) -> Any:
    """The engine of the run's own program, loaded from where it is recorded or was named."""
    from flowq.app.target import engine_of, inside, load_program

    place = target or row.target
    if not place:
        raise TargetError(
            f"run {row.uid} recorded no file, as it was submitted at a prompt or in a notebook; "
            "name one with --target FILE, or go on in that notebook"
        )
    if target is None and not inside(place, Path.cwd()):
        raise TargetError(
            f"run {row.uid} was made from {place}, which is not in this folder; go there, or "
            f"name it with --target {place}"
        )
    program = load_program(place)
    out.say(f"with {place}" + ("" if target else " (as recorded)"))
    if row.code_hash and row.code_hash != program.code_hash:
        out.say(
            "warning: that file has changed since the run was submitted; what is left runs new code"
        )
    app = program.app(main=row.app)
    options.configure(app, store=store.url, **given)
    store.close()
    out.keep_stdout()
    engine = engine_of(app)
    engine.notify = out.once
    return engine
