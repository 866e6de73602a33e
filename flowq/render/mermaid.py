"""Mermaid text, for READMEs and pull requests (GitHub draws it)."""

from __future__ import annotations

from collections.abc import Mapping

from flowq.render import caption, label, palette
from flowq.render.model import Drawing, Edge, Node
from flowq.render.tree import Group

_WIDEST = 40
#: Mermaid reads entities as #name; so # itself must be one too.
_ENTITIES = str.maketrans(
    {'"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "#": "#35;", "`": "#96;", "\\": "#92;"}
)


def mermaid(drawing: Drawing) -> str:
    """The drawing as a Mermaid flowchart, left to right."""
    nodes = drawing.by_id()
    lines = ["flowchart LR", *_members(drawing.root, nodes, "  ")]
    critical = []
    for number, edge in enumerate(drawing.edges):
        lines.append(f"  {edge.parent} {_arrow(edge)} {edge.child}")
        if edge.critical:
            critical.append(str(number))
    if critical:
        lines.append(f"  linkStyle {','.join(critical)} stroke-width:3px")
    states = {node.state for node in drawing.nodes}
    lines += [_class(state) for state in palette.ORDER if state in states]
    if any(node.kind != "task" for node in drawing.nodes):
        lines.append("  classDef dot fill:#a3acba,stroke:#a3acba")
    return "\n".join(lines) + "\n"


def _members(group: Group, nodes: Mapping[str, Node], indent: str) -> list[str]:
    lines = []
    for member in group.members:
        if isinstance(member, str):
            lines.append(indent + _node(nodes[member]))
        elif member.kind == "group":
            lines.append(f'{indent}subgraph {member.id}["{_text(member.label)}"]')
            lines += _members(member, nodes, indent + "  ")
            lines.append(f"{indent}end")
        else:
            lines += _members(member, nodes, indent)
    if group.join:
        lines.append(indent + _node(nodes[group.join]))
    return lines


def _node(node: Node) -> str:
    if node.kind != "task":
        return f'{node.id}((" ")):::dot'
    lines = [caption.title_of(node), *caption.facts_of(node)]
    text = "<br/>".join(_text(line) for line in lines)
    form = f'[["{text}"]]' if node.count > 1 else f'("{text}")'
    return f"{node.id}{form}:::{palette.look(node.state).css}"


def _text(line: str) -> str:
    return label.clip(line, _WIDEST).translate(_ENTITIES)


def _arrow(edge: Edge) -> str:
    return "-.->" if edge.on == "failure" else "-->"


def _class(state: str) -> str:
    look = palette.look(state)
    more = ",stroke-dasharray:4 3" if state in ("SKIPPED", "REVOKED") else ""
    return f"  classDef {look.css} fill:{look.fill},stroke:{look.line},color:{look.ink}{more}"
