"""``flowq list``, ``show``, ``result`` and ``logs``: what the store tells, without an app."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from flowq.cli import options, summary
from flowq.cli.opening import open_if_there, open_store
from flowq.cli.output import Output, iso, readable
from flowq.cli.shapes import node_object, run_object
from flowq.core.states import RUN_TERMINAL
from flowq.errors import WrongState
from flowq.render import label, palette

_CODES = {"SUCCESS": 0, "FAILURE": 1, "CANCELLED": 3, "PAUSED": 6, "RUNNING": 5}
_STREAMS = {1: "out", 2: "err", 3: "log"}


def list_(
    state: Annotated[
        list[str] | None, typer.Option("--state", metavar="STATE", help="Only runs in this state.")
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
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 50,
    store: options.StoreUrl = None,
    json: options.Json = False,
) -> int:
    """List runs, the latest first."""
    out = Output(json=json)
    age = options.seconds(since, "--since")
    tags = options.pairs(tag)
    states = [text.upper() for text in state or ()]
    opened = open_if_there(store)
    if opened is None:
        out.say("no runs yet: flowq run FILE makes the first one")
        return 0
    earliest = None if age is None else opened.now() - age
    rows = opened.list_runs(states=states, name=name, tags=tags, since=earliest, limit=limit)
    if json:
        for row in rows:
            out.object(run_object(opened, row))
        return 0
    if not rows:
        out.say("no runs" + (" like that" if state or name or tag or since else " yet"))
        return 0
    _table(out, opened, rows)
    return 0


def _table(out: Output, store: Any, rows: list[Any]) -> None:
    size = _unique([row.uid for row in rows])
    lines = [("RUN", "NAME", "STATE", "NODES", "SUBMITTED (UTC)", "TOOK")]
    for row in rows:
        took = summary.seconds_of(store, row)
        done = row.node_count - row.open_count
        lines.append(
            (
                row.uid[:size],
                label.plain(row.name, 32),
                row.state,
                f"{done:,}/{row.node_count:,}",
                str(iso(row.submitted_at))[:19].replace("T", " "),
                label.duration(took) if took is not None else "",
            )
        )
    widths = [max(label.columns(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        cells = [text + " " * (w - label.columns(text)) for text, w in zip(line, widths)]
        out.data("  ".join(cells).rstrip())


def _unique(ids: list[str]) -> int:
    """How many characters tell these ids apart; at least 13, the time in them."""
    size = 13
    while size < 36 and len({uid[:size] for uid in ids}) < len(set(ids)):
        size += 1
    return size


def show(
    run: options.Ref = "@last",
    node: options.Node = None,
    nodes: Annotated[bool, typer.Option("--nodes", help="Every node with state and time.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed, and why.")] = False,
    store: options.StoreUrl = None,
    json: options.Json = False,
) -> int:
    """Show a run, or one node of it: state, times, result, errors, attempts."""
    out = Output(json=json)
    opened = open_store(store)
    row = opened.find_run(run)
    if node is not None:
        from flowq.cli.node import show_node

        return show_node(opened, row, opened.find_node(row.id, node), out, store)
    if json:
        fields = run_object(opened, row)
        if row.state == "SUCCESS":
            fields["result"] = _value(opened, row, store)
        if row.state == "FAILURE" or failed:
            fields["failures"] = summary.failures(opened, row.id, 100)
        if nodes:
            fields["all_nodes"] = [node_object(n) for n in opened.nodes(row.id)]
        out.object(fields)
        return 0
    if failed:
        _failures(out, opened, row)
    elif nodes:
        _nodes(out, opened, row)
    else:
        _head(out, opened, row, store)
    return 0


def _head(out: Output, store: Any, row: Any, url: str | None) -> None:
    counts = summary.task_counts(store, row.id)
    took = summary.seconds_of(store, row)
    lines = [("run", row.uid), ("name", row.name), ("state", row.state)]
    lines.append(("nodes", label.sentence(counts) or "none"))
    lines.append(("submitted", str(iso(row.submitted_at))))
    if took is not None:
        lines.append(("took", label.duration(took)))
    lines += [("target", row.target)] if row.target else []
    lines += [("tags", ", ".join(f"{k}={v}" for k, v in row.tags.items()))] if row.tags else []
    if row.rerun_of is not None:
        lines.append(("rerun of", str(run_object(store, row)["rerun_of"] or "a run since removed")))
    if row.state not in RUN_TERMINAL:
        lines.append(("process", _process(store, row)))
    if row.state == "SUCCESS":
        text = readable(_value(store, row, url))
        lines.append(("result", text if len(text) <= 500 else text[:500] + " ..."))
    for key, value in lines:
        first, *rest = value.splitlines() or [""]
        out.data(f"{key:<10} {first}")
        for line in rest:
            out.data(f"{'':<10} {line}")
    out.data("")
    out.data(_tree(store, row))
    if row.state == "FAILURE":
        out.data("")
        _failures(out, store, row)


def _process(store: Any, row: Any) -> str:
    from flowq.app.lanes import is_alive, lane_of

    lane = lane_of(store, row.lane_id)
    if lane is not None and is_alive(lane):
        return "alive"
    return f"gone: go on with flowq resume {row.uid}"


def _tree(store: Any, row: Any) -> str:
    import shutil

    from flowq.cli.output import is_ascii
    from flowq.render import render

    text = render(
        drawing(store, row),
        "text",
        ascii=is_ascii(sys.stdout),
        width=shutil.get_terminal_size().columns,
    )
    return str(text).rstrip()


def drawing(store: Any, row: Any) -> Any:
    """The picture of a run as it is now."""
    from flowq.render import drawing_of

    return drawing_of(
        store.nodes(row.id),
        store.edges(row.id),
        title=row.name,
        state=row.state,
        finished=row.finished_at,
        now=store.now(),
    )


def _nodes(out: Output, store: Any, row: Any) -> None:
    for node in store.nodes(row.id):
        if node.kind != "task":
            continue
        took = ""
        if node.began_at and node.ended_at:
            took = label.duration(node.ended_at - node.began_at)
        sign = palette.glyph(node.state)
        error = f"  {label.plain(node.error)}" if node.error else ""
        out.data(f"{sign} {node.state:<8} {took:>9}  {node.name}{error}")


def _failures(out: Output, store: Any, row: Any) -> None:
    found = summary.failures(store, row.id, 100)
    if not found:
        out.say("nothing failed")
    for failure in found:
        out.data(f"{palette.glyph('FAILURE')} {failure['name']}: {failure['error']}")
        for line in failure["traceback"].rstrip().splitlines():
            out.data(f"    {line}")
        if failure["not_run"]:
            out.data(f"  not run because of it: {failure['not_run']:,}")


def result(
    run: options.Ref = "@last",
    node: options.Node = None,
    timeout: options.Timeout = None,
    store: options.StoreUrl = None,
    json: options.Json = False,
) -> int:
    """Print the result of a run or node; waits for a run that goes on."""
    out = Output(json=json)
    seconds = options.seconds(timeout, "--timeout")
    opened = open_store(store)
    row = opened.find_run(run)
    if node is not None:
        from flowq.cli.node import node_result

        return node_result(opened, row, opened.find_node(row.id, node), out, store)
    if row.state not in RUN_TERMINAL:
        row = _wait(opened, row, seconds)
    return show_outcome(opened, row, out, store)


def _wait(store: Any, row: Any, seconds: float | None) -> Any:
    """Until the run has ended, is paused, or the time has passed; refuses a dead one."""
    import time

    deadline = None if seconds is None else time.monotonic() + seconds
    while row.state == "RUNNING":
        if _process(store, row) != "alive":
            found = store.run_by_id(row.id)
            if found.state in RUN_TERMINAL:
                return found
            raise WrongState(
                f"run {row.uid} has no result yet and its process is gone; flowq resume {row.uid}"
            )
        if deadline is not None and time.monotonic() >= deadline:
            break
        time.sleep(0.05)
        row = store.run_by_id(row.id)
    return row


def show_outcome(store: Any, row: Any, out: Output, url: str | None) -> int:
    """Print what came of a run and return the exit code that says the same."""
    if out.json:
        fields = run_object(store, row)
        fields["result"] = _value(store, row, url) if row.state == "SUCCESS" else None
        if row.state == "FAILURE":
            fields["failures"] = summary.failures(store, row.id)
        out.object(fields)
    elif row.state == "SUCCESS":
        out.data(readable(_value(store, row, url)))
    elif row.state in ("RUNNING", "PAUSED"):
        out.say(f"run {row.uid} is {row.state}: it has no result yet")
    else:
        summary.tell(out, store, row.id)
    return _CODES[row.state]


def _value(store: Any, row: Any, url: str | None) -> Any:
    from flowq.cli.values import accepted, value_of_run

    return value_of_run(store, row, accepted(url))


def logs(
    run: options.Ref = "@last",
    node: options.Node = None,
    attempt: Annotated[
        int | None, typer.Option("--attempt", min=1, metavar="N", help="Of this attempt only.")
    ] = None,
    store: options.StoreUrl = None,
    json: options.Json = False,
) -> int:
    """Print what tasks wrote to stdout, stderr and logging."""
    out = Output(json=json)
    opened = open_store(store)
    row = opened.find_run(run)
    idx = None if node is None else opened.find_node(row.id, node)
    names = {r[0]: r[1] for r in opened.rows(opened.sql.lean_nodes, (row.id, 0))}
    pieces = opened.logs(row.id, idx, attempt)
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
            sys.stdout.write(piece.text)
        else:
            for line in piece.text.splitlines():
                out.data(f"{names.get(piece.idx)} | {line}")
    if not pieces and not json:
        out.say("nothing was written")
    return 0
