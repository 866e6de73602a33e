"""What ``flowq list``, ``show`` and ``result`` print."""

from __future__ import annotations

import sys
import time
from typing import Any

from flowq.cli import summary
from flowq.cli.output import Output, iso, readable
from flowq.cli.shapes import run_object
from flowq.core.states import RUN_TERMINAL
from flowq.errors import WrongState
from flowq.render import label, palette

#: State of a run -> exit code of a command that asks for its outcome.
CODES = {"SUCCESS": 0, "FAILURE": 1, "CANCELLED": 3, "PAUSED": 6, "RUNNING": 5}


def table(out: Output, store: Any, rows: list[Any]) -> None:
    """Runs as a table, one a line."""
    size = _unique([row.uid for row in rows])
    lines = [("RUN", "NAME", "STATE", "NODES", "SUBMITTED (UTC)", "TOOK")]
    for row in rows:
        took = summary.seconds_of(store, row)
        done, total = summary.done_of(store, row.id)
        lines.append(
            (
                row.uid[:size],
                label.plain(row.name, 32),
                row.state,
                f"{done:,}/{total:,}",
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


def head(out: Output, store: Any, row: Any, url: str | None) -> None:
    """A run at a glance: its facts, its result, its tree."""
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
        lines.append(("process", process(store, row)))
    if row.state == "SUCCESS":
        text = readable(value_of(store, row, url))
        lines.append(("result", text if len(text) <= 500 else text[:500] + " ..."))
    for key, value in lines:
        first, *rest = value.splitlines() or [""]
        out.shown(f"{key:<10} {first}")
        for line in rest:
            out.shown(f"{'':<10} {line}")
    out.data("")
    out.data(_tree(store, row))
    if row.state == "FAILURE":
        out.data("")
        failures(out, store, row)


def process(store: Any, row: Any) -> str:
    """Whether the process that works on a run lives, in words."""
    from flowq.app.lanes import FLEET, is_alive, lane_of
    from flowq.store.members import living

    lane = lane_of(store, row.lane_id)
    if lane is not None and lane.kind == FLEET:
        if living(store, "coordinator"):
            return "a fleet"
        return "a fleet, but no coordinator lives: start one with flowq coordinator"
    if lane is not None and is_alive(lane):
        return "alive"
    return f"gone: go on with flowq resume {row.uid}"


def is_gone(store: Any, row: Any) -> bool:
    """Whether nobody works on a run until it is resumed; a fleet's run waits for its fleet."""
    from flowq.app.lanes import is_alive, lane_of

    lane = lane_of(store, row.lane_id)
    return lane is None or not is_alive(lane)


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


def nodes(out: Output, store: Any, row: Any) -> None:
    """Every task with state and time, one a line."""
    for node in store.nodes(row.id):
        if node.kind != "task":
            continue
        took = ""
        if node.began_at and node.ended_at:
            took = label.duration(node.ended_at - node.began_at)
        sign = palette.glyph(node.state)
        error = f"  {label.plain(node.error)}" if node.error else ""
        out.shown(f"{sign} {node.state:<8} {took:>9}  {node.name}{error}")


def failures(out: Output, store: Any, row: Any) -> None:
    """What failed by itself, with tracebacks."""
    found = summary.failures(store, row.id, 100)
    if not found:
        out.say("nothing failed")
    for failure in found:
        out.shown(f"{palette.glyph('FAILURE')} {failure['name']}: {failure['error']}")
        for line in failure["traceback"].rstrip().splitlines():
            out.shown(f"    {line}")
        if failure["not_run"]:
            out.shown(f"  not run because of it: {failure['not_run']:,}")


def wait(store: Any, row: Any, seconds: float | None) -> Any:
    """Until the run has ended, is paused, or the time has passed; refuses a dead one."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while row.state == "RUNNING":
        if is_gone(store, row):
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
        fields["result"] = value_of(store, row, url) if row.state == "SUCCESS" else None
        if row.state == "FAILURE":
            fields["failures"] = summary.failures(store, row.id)
        out.object(fields)
    elif row.state == "SUCCESS":
        out.value(readable(value_of(store, row, url)))
    elif row.state in ("RUNNING", "PAUSED"):
        out.say(f"run {row.uid} is {row.state}: it has no result yet")
    else:
        summary.tell(out, store, row.id)
    return CODES[row.state]


def value_of(store: Any, row: Any, url: str | None) -> Any:
    """The value of a run that succeeded."""
    from flowq.cli.values import accepted, value_of_run

    return value_of_run(store, row, accepted(url))
