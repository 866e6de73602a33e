"""DOT text, through the `graphviz` package (which writes it and needs no program for that).

Nodes carry an id and a class, which Graphviz hands on into SVG: a page recolours a picture by
changing classes, without a new layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from flowq.render import caption, label, palette
from flowq.render.model import Drawing, Edge, Node
from flowq.render.tree import Group

if TYPE_CHECKING:
    from graphviz import Digraph

FONT = "Helvetica,Arial,sans-serif"
_WIDEST = 36
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\\": r"\\"})


def dot(drawing: Drawing, *, ascii: bool = False) -> str:
    """The drawing as a DOT digraph, left to right; states as ASCII words on request."""
    from graphviz import Digraph

    graph = Digraph("flowq", strict=False)
    graph.attr("graph", rankdir="LR", fontname=FONT, fontsize="11", nodesep="0.16", ranksep="0.45")
    graph.attr("graph", bgcolor="white", color="#d5dae1", fontcolor="#5b6573", pad="0.2")
    graph.attr("node", shape="box", style="rounded,filled", fontname=FONT, fontsize="11")
    graph.attr("node", margin="0.16,0.07", height="0.34", penwidth="1.2")
    graph.attr("edge", color="#a8b0bc", arrowsize="0.6", penwidth="1.1")
    if drawing.title:
        head = _text(f"{drawing.title} · {caption.headline(drawing)}")
        graph.attr("graph", label=head, labelloc="t", labeljust="l")
    boxes = {node.id: _node(node, ascii) for node in drawing.nodes}
    _members(graph, drawing.root, boxes)
    for edge in drawing.edges:
        graph.edge(edge.parent, edge.child, **_edge(edge))
    return str(graph.source)


def _text(line: str, limit: int = 0) -> str:
    """One line as a DOT label: no escape, entity or HTML-like label can come of it."""
    line = label.clip(line, limit) if limit else line
    return line.translate(_ENTITIES)


def _members(graph: Digraph, group: Group, boxes: Mapping[str, dict[str, str]]) -> None:
    for member in group.members:
        if isinstance(member, Group):
            _group(graph, member, boxes)
        else:
            graph.node(member, **boxes[member])
    if group.kind == "group":
        _top_down(graph, [member for member in group.members if isinstance(member, str)])
    if group.join:
        graph.node(group.join, **boxes[group.join])


def _group(graph: Digraph, group: Group, boxes: Mapping[str, dict[str, str]]) -> None:
    """A cluster for what is side by side; a chain needs no frame."""
    if group.kind != "group":
        _members(graph, group, boxes)
        return
    with graph.subgraph(name=f"cluster_{group.id}") as cluster:
        cluster.attr(label=_text(group.label), fontname=FONT, fontsize="10", labeljust="l")
        cluster.attr(style="rounded,filled", fillcolor="#f6f8fa", id=group.id)
        _members(cluster, group, boxes)


def _top_down(cluster: Digraph, members: list[str]) -> None:
    """Old and new Graphviz disagree on the order in a rank; an unseen chain settles it."""
    if len(members) < 2:
        return
    with cluster.subgraph() as rank:
        rank.attr(rank="same")
        for below, above in zip(reversed(members), reversed(members[:-1]), strict=False):
            rank.edge(below, above, style="invis")


def _node(node: Node, ascii: bool) -> dict[str, str]:
    look = palette.look(node.state)
    found = {
        "id": node.id,
        "class": f"fq-node st-{look.css}",
        "color": look.line,
        "fillcolor": look.fill,
        "fontcolor": look.ink,
        "tooltip": _text(_tip(node)),
    }
    if node.kind != "task":
        found |= {"shape": "circle", "width": "0.13", "height": "0.13", "fixedsize": "true"}
        return found | {"label": "", "fillcolor": look.line}
    if node.state in ("SKIPPED", "REVOKED"):
        found["style"] = "rounded,filled,dashed"
    if node.critical:
        found["penwidth"] = "2.4"
    if node.count > 1:
        found["peripheries"] = "2"
    lines = [caption.title_of(node), *caption.facts_of(node, ascii)]
    found["label"] = "\\n".join(_text(line, _WIDEST) for line in lines)
    return found


def _tip(node: Node) -> str:
    parts = [node.task or node.name, palette.look(node.state).word]
    return " · ".join([*parts, node.error] if node.error else parts)


def _edge(edge: Edge) -> dict[str, str]:
    found = {}
    if edge.on == "failure":
        found = {"style": "dashed", "color": palette.look("FAILURE").line}
    elif edge.on == "always":
        found = {"style": "dotted"}
    if edge.critical:
        found |= {"penwidth": "2.4", "color": "#56606e"}
    return found
