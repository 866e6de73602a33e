"""What is said at a run's end: how it went, why it failed, and what can be done next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowq.cli.output import Output
from flowq.core.states import TERMINAL
from flowq.render import label, palette

if TYPE_CHECKING:
    from flowq.store import Store
    from flowq.store.rows import RunRow

_FAILURES = 5
_SLOWEST = 3
_FRAMES = 6


def tell(out: Output, store: Store, run_id: int) -> None:
    """Say how a run stands, in a few lines; root failures first."""
    row = store.run_by_id(run_id)
    counts = task_counts(store, run_id)
    took = seconds_of(store, row)
    time = f" in {label.duration(took)}" if took is not None else ""
    out.say(f"{row.name} {row.uid} {row.state}{time}: {label.sentence(counts) or 'no nodes'}")
    if counts.get("FAILURE") and row.state != "SUCCESS":  # handled ones are only counted
        _failures(out, store, row, counts["FAILURE"])
    total = sum(counts.values())
    if total > _SLOWEST:
        _slowest(out, store, run_id)
    _next(out, row, counts)


def task_counts(store: Store, run_id: int) -> dict[str, int]:
    """Tasks per state, joins left out."""
    return {str(state): int(n) for state, n in store.rows(store.sql.task_counts, (run_id,))}


def done_of(store: Store, run_id: int) -> tuple[int, int]:
    """How many tasks of a run have ended, and how many there are; joins left out."""
    counts = task_counts(store, run_id)
    return sum(n for state, n in counts.items() if state in TERMINAL), sum(counts.values())


def seconds_of(store: Store, row: RunRow) -> float | None:
    """How long a run took, or takes so far; None before it began."""
    if row.started_at is None:
        return None
    until = row.finished_at if row.finished_at is not None else store.now()
    return max(0.0, until - row.started_at)


def failures(store: Store, run_id: int, limit: int = _FAILURES) -> list[dict[str, Any]]:
    """The nodes that failed by themselves: name, error, traceback, and how many waited for it."""
    from flowq.backends.recorded import Recorded
    from flowq.payload import decode_error

    skipped = _not_run(store, run_id)
    recorded = Recorded(store)
    found = []
    for idx, name, attempt in store.rows(store.sql.failed_nodes, (run_id, limit)):
        info = decode_error(recorded.error(run_id, idx))
        found.append(
            {
                "node": idx,
                "name": name,
                "attempt": attempt,
                "error": f"{info.type}: {info.message}" if info.message else info.type,
                "traceback": info.traceback,
                "not_run": int(skipped.get(idx, 0)),
            }
        )
    return found


def _not_run(store: Store, run_id: int) -> dict[int, int]:
    """How many nodes were not run because of each that failed; joins hand their reason on."""
    joins = dict(store.rows(store.sql.broken_joins, (run_id,)))
    found: dict[int, int] = {}
    for cause, count in store.rows(store.sql.skipped_by, (run_id,)):
        root, seen = cause, set()
        while root in joins and root not in seen:
            seen.add(root)
            root = joins[root]
        found[root] = found.get(root, 0) + count
    return found


def _failures(out: Output, store: Store, row: RunRow, count: int) -> None:
    sign = palette.glyph("FAILURE", out.ascii)
    for failure in failures(store, row.id):
        attempt = f" (attempt {failure['attempt']})" if failure["attempt"] > 1 else ""
        out.say(f"{sign} {failure['name']}{attempt}: {label.plain(failure['error'], 200)}")
        for line in short(failure["traceback"]):
            out.say(f"    {line}")
        if failure["not_run"]:
            many = failure["not_run"]
            out.say(f"  {many:,} node{'s' if many > 1 else ''} not run because of it")
    if count > _FAILURES:
        out.say(f"  and {count - _FAILURES:,} more failed: flowq show {row.uid} --failed")


def short(traceback: str) -> list[str]:
    """The last frames of a traceback's text, without its head and its last line."""
    lines = [line for line in traceback.rstrip().splitlines() if line.startswith("  ")]
    return [line[2:] for line in lines[-_FRAMES:]]


def _slowest(out: Output, store: Store, run_id: int) -> None:
    rows = store.rows(store.sql.slowest, (run_id, _SLOWEST))
    words = [f"{name} {label.duration(took)}" for name, took in rows if took >= 0.01]
    if words:
        out.say(f"slowest: {', '.join(words)}")


def _next(out: Output, row: RunRow, counts: dict[str, int]) -> None:
    if row.state == "FAILURE":
        out.say(f"next: flowq retry {row.uid}   or   flowq show {row.uid} --failed")
    elif row.state == "CANCELLED":
        out.say(f"next: flowq retry {row.uid}   runs what was cancelled")
    elif counts.get("FAILURE"):
        failed = counts["FAILURE"]
        were = "was" if failed == 1 else "were"
        out.say(f"{failed} failed and {were} handled: flowq show {row.uid} --failed")
