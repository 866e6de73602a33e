"""One node of a run: what ``flowq show RUN NODE`` and ``flowq result RUN NODE`` print."""

from __future__ import annotations

from typing import Any

from flowq import payload
from flowq.backends.recorded import Recorded
from flowq.cli.output import Output, iso, readable
from flowq.cli.shapes import node_object
from flowq.cli.values import accepted, value_of_node
from flowq.core.graph import decode_spec
from flowq.payload import decode_error, frame_repr
from flowq.render import label
from flowq.store import Store
from flowq.store.rows import NodeRow, RunRow

_TAIL = 20
_CODES = {"SUCCESS": 0, "FAILURE": 1, "REVOKED": 3, "SKIPPED": 1}


def show_node(store: Store, row: RunRow, idx: int, out: Output, url: str | None) -> int:
    """Arguments, result, attempts, error and the end of what it wrote."""
    node = _node(store, row, idx)
    story = [line for line in store.transitions(row.id) if line.idx == idx]
    error = _error(store, row, node)
    if out.json:
        out.object(
            {
                "run": row.uid,
                **node_object(node),
                "args": _arguments(store, row, idx, url),
                "result": value_of_node(store, row.id, idx, accepted(url)),
                "traceback": error.traceback if error else None,
                "story": [
                    {
                        "before": line.before,
                        "after": line.after,
                        "cause": line.cause,
                        "attempt": line.attempt,
                        "at": iso(line.at),
                        "began_at": iso(line.began_at),
                        "ended_at": iso(line.ended_at),
                    }
                    for line in story
                ],
            }
        )
        return 0
    out.shown(f"{node.name}  {node.state}  of run {row.uid}")
    if node.task:
        out.shown(f"task       {node.task}, queue {node.queue}")
    if node.began_at and node.ended_at:
        out.shown(f"took       {label.duration(node.ended_at - node.began_at)}")
    out.shown(f"attempts   {node.attempt}, {node.retries} retries, {node.crashes} crashes")
    args = _arguments(store, row, idx, url)
    if args is not None:
        out.shown(f"arguments  {label.plain(_call(args), 500)}")
    if node.state == "SUCCESS":
        frame = Recorded(store).value(row.id, idx)
        out.shown(f"result     {frame_repr(frame or b'jnull', 500)}")
    if error is not None:
        out.data("")
        out.shown(error.traceback.rstrip() or f"{error.type}: {error.message}")
    out.data("")
    for line in story:
        out.shown(
            f"{iso(line.at)}  attempt {line.attempt}  {line.before} -> {line.after}  {line.cause}"
        )
    text = "".join(piece.text for piece in store.logs(row.id, idx)).rstrip()
    if text:
        lines = text.splitlines()
        out.data("")
        out.shown(f"it wrote{f' (last {_TAIL} lines)' if len(lines) > _TAIL else ''}:")
        for written in lines[-_TAIL:]:
            out.shown(f"  {written}")
    return 0


def node_result(store: Store, row: RunRow, idx: int, out: Output, url: str | None) -> int:
    """The node's value; the exit code says its state."""
    node = _node(store, row, idx)
    if out.json:
        value = value_of_node(store, row.id, idx, accepted(url))
        out.object({"run": row.uid, **node_object(node), "result": value})
    elif node.state == "SUCCESS":
        out.value(readable(value_of_node(store, row.id, idx, accepted(url))))
    else:
        out.say(f"{node.name} is {node.state}: it has no result")
        if node.error:
            out.say(label.plain(node.error))
    return _CODES.get(node.state, 5)


def _node(store: Store, row: RunRow, idx: int) -> NodeRow:
    return store.nodes(row.id)[idx]


def _error(store: Store, row: RunRow, node: NodeRow) -> payload.ErrorInfo | None:
    if node.state == "RETRY":
        found = store.one(store.sql.error_get, (row.id, node.idx))
        return decode_error(bytes(found[0])) if found else None
    if node.state not in ("FAILURE", "SKIPPED", "REVOKED"):
        return None
    return decode_error(Recorded(store).error(row.id, node.idx))


def _arguments(store: Store, row: RunRow, idx: int, url: str | None) -> list[Any] | None:
    found = store.one(store.sql.node_arg, (row.id, idx))
    if not found or not found[0]:
        return None
    frame = Recorded(store).whole(bytes(found[0]))
    args, kwargs = payload.decode_args(frame, accepted(url))
    chosen = store.one(store.sql.node_spec, (row.id, idx))
    if not chosen:
        return [args, kwargs]
    spec = decode_spec(bytes(chosen[0]))
    return [spec.argsrepr or args, spec.kwargsrepr or kwargs]


def _call(args: list[Any]) -> str:
    """A call in words; a text in the place of arguments is what their caller chose to show."""
    first, named = args
    parts = [first] if isinstance(first, str) else [repr(value) for value in first]
    if isinstance(named, str):
        parts.append(named)
    else:
        parts += [f"{key}={value!r}" for key, value in named.items()]
    return f"({', '.join(parts)}) and what its parents give"
