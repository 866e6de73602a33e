"""``flowq run``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flowq.cli import options
from flowq.cli.output import Output


def run(
    target: options.Target,
    arg: options.Arguments = None,
    name: options.Name = None,
    tag: options.Tag = None,
    idempotency_key: options.Key = None,
    concurrency: options.Concurrency = None,
    pool: options.Pool = None,
    timeout: options.Timeout = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compile and show the plan; store nothing.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Run in a process of its own; print the run's id.")
    ] = False,
    report_fd: Annotated[str, typer.Option("--report-fd", hidden=True)] = "",
    store: options.StoreUrl = None,
    broker: options.BrokerUrl = None,
    backend: options.BackendUrl = None,
    progress: options.Progress = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
    no_color: options.NoColor = False,
) -> int:
    """Run a pipeline here: load it, show it live, print its result."""
    out = Output(json=json, quiet=quiet, color=False if no_color else None)
    options.checked_progress(progress)
    seconds = options.seconds(timeout, "--timeout")
    about: dict[str, Any] = {
        "name": name,
        "tags": options.pairs(tag),
        "idempotency_key": idempotency_key,
    }
    if detach and not dry_run:
        from flowq.cli.detached import start

        return start(out, store)
    early = None if dry_run else options.early_pool(pool, concurrency, broker)
    try:
        from flowq.app.target import engine_of, load

        with options.broker_known(broker):
            loaded = load(target)
        canvas = loaded.build(arg or ())
        app = loaded.app(canvas)
        options.configure(
            app, store=store, broker=broker, backend=backend, pool=pool, concurrency=concurrency
        )
        if dry_run:
            return _plan(app, canvas, out)
        out.keep_stdout()
        engine = engine_of(app)
        engine.notify, engine.early = out.once, early
        return _run(engine, loaded, canvas, about, out, progress, seconds, report_fd)
    finally:
        if early is not None:
            early.drop()


def _run(
    engine: Any,
    loaded: Any,
    canvas: Any,
    about: dict[str, Any],
    out: Output,
    progress: str,
    seconds: float | None,
    report_fd: str,
) -> int:
    """Submit the canvas and stay with the run to its end."""
    from flowq.cli.foreground import follow
    from flowq.cli.interrupts import Interrupts
    from flowq.cli.views import view_for

    with Interrupts() as interrupts:
        submitted = loaded.submit(engine.app, canvas, **about)
        if report_fd:
            from flowq.cli.detached import report

            report(int(report_fd), submitted.id)
        if about["idempotency_key"]:
            found = _existing(engine, submitted, out)
            if found is not None:
                return found
        view = view_for(progress, out, engine.store, submitted.run_id)
        view.begun(submitted.id)
        return follow(engine, submitted, out, view, timeout=seconds, interrupts=interrupts)


def _existing(engine: Any, run: Any, out: Output) -> int | None:
    """What to do with a run that an idempotency key had before; None: it is ours, go on."""
    from flowq.app.lanes import is_alive, lane_of
    from flowq.cli.foreground import show_result
    from flowq.cli.telling import CODES
    from flowq.core.states import RUN_TERMINAL

    row = run.row
    if row.lane_id == engine.lane_id:
        return None
    out.say(f"run {run.id} has this idempotency key already: it is {row.state}")
    if row.state in RUN_TERMINAL:
        show_result(engine, run, out)
        engine.close(0.0)
        return CODES[row.state]
    lane = lane_of(engine.store, row.lane_id)
    if lane is None or not is_alive(lane):
        engine.resume(run.run_id)
    return None


def _plan(app: Any, canvas: Any, out: Output) -> int:
    """Compile, and print what would run."""
    from flowq.app.submission import compile_for, default_name
    from flowq.render import drawing_of_graph, render

    graph = compile_for(app, canvas)
    drawing = drawing_of_graph(graph, title=default_name(app, canvas, graph))
    if out.json:
        out.object(
            {
                "name": drawing.title,
                "nodes": [
                    {"node": n.idx, "name": n.name, "kind": n.kind, "task": n.task, "path": n.path}
                    for n in drawing.nodes
                ],
                "edges": [
                    {"parent": int(e.parent[1:]), "child": int(e.child[1:]), "on": e.on}
                    for e in drawing.edges
                ],
                "results": graph.results,
            }
        )
        return 0
    import shutil
    import sys

    from flowq.cli.output import is_ascii

    width = shutil.get_terminal_size().columns
    out.data(str(render(drawing, "text", ascii=is_ascii(sys.stdout), width=width)).rstrip())
    out.say(f"{len(graph.nodes):,} nodes, {len(graph.edges):,} edges; nothing was stored")
    return 0
