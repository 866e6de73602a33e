"""What stands in a box: the lines that every renderer writes for a node."""

from __future__ import annotations

from flowq.render import label, palette
from flowq.render.model import Drawing, Node

#: Before a run every box would say the same.
_SILENT = frozenset({"PENDING", "READY"})
_OVER = frozenset({"SUCCESS", "FAILURE", "SKIPPED", "REVOKED"})


def title_of(node: Node) -> str:
    """The first line of a box: its name, and how many it stands for."""
    return node.name + times(node)


def times(node: Node) -> str:
    """What follows the name of a folded box: ` × 200`; empty for a single node."""
    return f" × {node.count:,}" if node.count > 1 else ""


def facts_of(node: Node, ascii: bool = False) -> list[str]:
    """The other lines of a box, as known so far: state and duration, retries, who failed."""
    if node.count > 1:
        lines = [label.tally(node.counts, ascii)]
        if node.spread:
            lines.append(label.spread(*node.spread))
        if node.failed:
            lines.append(failures_of(node, ascii))
        return lines
    facts = [label.duration(node.seconds)] if node.seconds is not None else []
    if node.retries:
        facts.append(f"{node.retries} {'retry' if node.retries == 1 else 'retries'}")
    if not facts and node.state in _SILENT:
        return []
    facts = facts or [palette.look(node.state).word]
    return [f"{palette.glyph(node.state, ascii)} {' · '.join(facts)}"]


def failures_of(node: Node, ascii: bool = False) -> str:
    """The failed members of a folded box by name; as many more as are not named."""
    more = node.counts.get("FAILURE", 0) - len(node.failed)
    names = ", ".join(node.failed)
    return f"{palette.glyph('FAILURE', ascii)} {names}" + (f" +{more:,}" if more > 0 else "")


def headline(drawing: Drawing, ascii: bool = False) -> str:
    """The state of the run and how far it is: `RUNNING · 147/209 nodes · 12.4 s`."""
    if not drawing.state:
        return f"{drawing.total:,} node{'' if drawing.total == 1 else 's'}"
    done = sum(drawing.counts.get(state, 0) for state in _OVER)
    parts = [drawing.state, f"{done:,}/{drawing.total:,} nodes"]
    if drawing.seconds is not None:
        parts.append(label.duration(drawing.seconds))
    return (", " if ascii else " · ").join(parts)
