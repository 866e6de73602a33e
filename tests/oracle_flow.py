"""The reference evaluator for flows: their nodes in order, each by the rules of `tests.oracle`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowq.core.canvas import Signature
from flowq.core.flow import Flow, NodeHandle, handles_in
from flowq.core.states import State
from tests.oracle import In, Oracle, Out, error, needed


def results(oracle: Oracle, flow: Flow) -> list[Out]:
    """Evaluate every node of a flow; return how its result nodes ended."""
    outs: list[Out] = []
    good = [[*node.after, *dict.fromkeys(handles_in(node.signature))] for node in flow.nodes]
    for i, node in enumerate(flow.nodes):
        size = len(good[i]) + len(node.on_failure)
        bad = [p for p in node.on_failure if outs[p].state != State.FAILURE]
        missed = [p for p in good[i] if outs[p].state != State.SUCCESS]
        given = In(tuple(error(outs[p].cause) for p in node.on_failure), start=True)
        if size - len(missed + bad) < needed(node.join, size):
            given = In((), True, None if bad else outs[missed[0]].cause, start=True)
        outs.append(oracle.element(_filled(node.signature, outs), f"f{i}", given)[0])
    inner = {p for parents in good for p in parents}
    sinks = [i for i in range(len(outs)) if i not in inner]
    sinks = [i for i in sinks if good[i] or not flow.nodes[i].on_failure]
    return [outs[i] for i in sinks or [len(outs) - 1]]


def _filled(value: Any, outs: list[Out]) -> Any:
    """A value with each handle replaced by what its node returned, or by its error."""
    if isinstance(value, NodeHandle):
        out = outs[value.index]
        return out.value if out.state == State.SUCCESS else error(out.cause)
    if isinstance(value, Signature):
        return value.replace(_filled(list(value.args), outs), _filled(value.kwargs, outs))
    if isinstance(value, Mapping):
        return {key: _filled(item, outs) for key, item in value.items()}
    return [_filled(item, outs) for item in value] if isinstance(value, list | tuple) else value
