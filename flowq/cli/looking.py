"""``flowq list``, ``show``, ``result`` and ``logs``: what the store tells, without an app."""

from __future__ import annotations

from typing import Annotated

import typer

from flowq.cli import options
from flowq.cli.output import Output, iso
from flowq.cli.shapes import node_object, run_object
from flowq.core.states import RUN_TERMINAL

_STREAMS = {1: "out", 2: "err", 3: "log"}


def list_(
    state: Annotated[
        list[str] | None,
        typer.Option(
            "--state", metavar="STATE", help="Only in it: RUNNING, FAILURE; may be given again."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="GLOB", help="Only runs of this name.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="K=V", help="Only runs marked so.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Submitted within: 2h, 7d.")
    ] = None,
    limit: Annotated[str, typer.Option("--limit", metavar="N", help="At most so many.")] = "50",
    store: options.StoreUrl = None,
    json: options.Json = False,
) -> int:
    """List runs, the latest first."""
    from flowq.cli import telling
    from flowq.cli.opening import open_if_there

    out = Output(json=json)
    age = options.seconds(since, "--since")
    tags = options.pairs(tag)
    most = options.whole(limit, "--limit") or 50
    states = options.states(state)
    opened = open_if_there(store)
    if opened is None:
        out.say("no runs yet: flowq run FILE makes the first one")
        return 0
    earliest = None if age is None else opened.now() - age
    rows = opened.list_runs(states=states, name=name, tags=tags, since=earliest, limit=most)
    if json:
        for row in rows:
            out.object(run_object(opened, row))
        return 0
    if not rows:
        out.say("no runs" + (" like that" if state or name or tag or since else " yet"))
        return 0
    telling.table(out, opened, rows)
    return 0


def show(
    run: options.Ref = "@last",
    node: options.Node = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="Every node with state and time.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed, and why.")] = False,
    store: options.StoreUrl = None,
    json: options.Json = False,
) -> int:
    """Show a run, or one node of it: state, times, result, errors, attempts."""
    from flowq.cli import summary, telling
    from flowq.cli.opening import open_store

    out = Output(json=json)
    opened = open_store(store)
    row = opened.find_run(run)
    if node is not None:
        from flowq.cli.node import show_node

        return show_node(opened, row, opened.find_node(row.id, node), out, store)
    if json:
        fields = run_object(opened, row)
        if row.state == "SUCCESS":
            fields["result"] = telling.value_of(opened, row, store)
        if row.state == "FAILURE" or failed:
            fields["failures"] = summary.failures(opened, row.id, 100)
        if nodes:
            fields["all_nodes"] = [node_object(n) for n in opened.nodes(row.id)]
        out.object(fields)
        return 0
    if failed:
        telling.failures(out, opened, row)
    elif nodes:
        telling.nodes(out, opened, row)
    else:
        telling.head(out, opened, row, store)
    return 0


def result(
    run: options.Ref = "@last",
    node: options.Node = None,
    timeout: options.Timeout = None,
    store: options.StoreUrl = None,
    json: options.Json = False,
) -> int:
    """Print the result of a run or node; waits for a run that goes on."""
    from flowq.cli import telling
    from flowq.cli.opening import open_store

    out = Output(json=json)
    seconds = options.seconds(timeout, "--timeout")
    opened = open_store(store)
    row = opened.find_run(run)
    if node is not None:
        from flowq.cli.node import node_result

        return node_result(opened, row, opened.find_node(row.id, node), out, store)
    if row.state not in RUN_TERMINAL:
        row = telling.wait(opened, row, seconds)
    return telling.show_outcome(opened, row, out, store)


def logs(
    run: options.Ref = "@last",
    node: options.Node = None,
    attempt: Annotated[
        str | None, typer.Option("--attempt", metavar="N", help="Of this attempt only.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Control characters and colours as they were written.")
    ] = False,
    store: options.StoreUrl = None,
    json: options.Json = False,
) -> int:
    """Print what tasks wrote to stdout, stderr and logging."""
    from flowq.cli.opening import open_store

    out = Output(json=json)
    number = options.whole(attempt, "--attempt")
    opened = open_store(store)
    row = opened.find_run(run)
    idx = None if node is None else opened.find_node(row.id, node)
    names = {r[0]: r[1] for r in opened.rows(opened.sql.lean_nodes, (row.id, 0))}
    pieces = opened.logs(row.id, idx, number)
    write = out.data if raw else out.shown
    for piece in pieces:
        if json:
            out.object(
                {
                    "run": row.uid,
                    "node": piece.idx,
                    "name": names.get(piece.idx),
                    "attempt": piece.attempt,
                    "stream": _STREAMS.get(piece.stream, "out"),
                    "at": iso(piece.at),
                    "text": piece.text,
                }
            )
        elif idx is not None:
            write(piece.text, end="")
        else:
            for line in piece.text.splitlines():
                write(f"{names.get(piece.idx)} | {line}")
    if not pieces and not json:
        out.say("nothing was written")
    return 0
