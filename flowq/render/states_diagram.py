"""The diagram of node states, printed from the one table of transitions (for docs/).

Each function takes the table, by default the real one, and returns text; a test compares the
page in docs/ with what they return.
"""

from __future__ import annotations

from collections.abc import Mapping

from flowq.core import states
from flowq.render import palette

Table = Mapping[tuple[states.State, states.Event], states.State]


def _arrows(table: Table) -> dict[tuple[states.State, states.State], list[str]]:
    """The events of each arrow, in the order of the states and of the table."""
    order = list(states.State)
    found: dict[tuple[states.State, states.State], list[str]] = {}
    for (before, event), after in table.items():
        found.setdefault((before, after), []).append(event.value)
    return dict(
        sorted(found.items(), key=lambda item: (order.index(item[0][0]), order.index(item[0][1])))
    )


def mermaid(table: Table = states.TRANSITIONS) -> str:
    """A Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"  [*] --> {states.State.PENDING}"]
    for (before, after), events in _arrows(table).items():
        lines.append(f"  {before} --> {after}: {', '.join(events)}")
    lines += [f"  {state} --> [*]" for state in states.State if state in states.TERMINAL]
    for state in states.State:
        look = palette.look(state)
        lines.append(f"  classDef {look.css} fill:{look.fill},stroke:{look.line},color:{look.ink}")
        lines.append(f"  class {state} {look.css}")
    return "\n".join(lines) + "\n"


def dot(table: Table = states.TRANSITIONS) -> str:
    """A DOT digraph."""
    from graphviz import Digraph

    graph = Digraph("states")
    graph.attr("graph", rankdir="LR", nodesep="0.4", ranksep="0.7")
    graph.attr("node", shape="box", style="rounded,filled", fontname="Helvetica", fontsize="11")
    graph.attr("edge", fontname="Helvetica", fontsize="9", color="#8b95a3", arrowsize="0.6")
    for state in states.State:
        look = palette.look(state)
        ends = "2" if state in states.TERMINAL else "1"
        paint = {"color": look.line, "fillcolor": look.fill, "fontcolor": look.ink}
        graph.node(state.value, peripheries=ends, **paint)
    for (before, after), events in _arrows(table).items():
        graph.edge(before.value, after.value, label="\\n".join(events))
    return str(graph.source)


def markdown(table: Table = states.TRANSITIONS) -> str:
    """A table: one row for each event, one column for each state in which it can happen."""
    froms = [state for state in states.State if any(before == state for before, _ in table)]
    lines = [
        "| event | " + " | ".join(froms) + " |",
        "|---" * (len(froms) + 1) + "|",
    ]
    for event in states.Event:
        cells = [str(table.get((state, event), "")) for state in froms]
        if any(cells):
            lines.append(f"| {event} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
