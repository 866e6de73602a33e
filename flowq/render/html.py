"""The canvas as HTML and CSS: chain = row, group = a column that folds, big map = one line.

No script, no layout program, nothing from the network. `fragment` is for a notebook or another
page, `page` stands alone and may be mailed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from flowq.render import caption, label, palette, theme
from flowq.render.fold import loudest
from flowq.render.model import Drawing, Node, count_states
from flowq.render.svg import svg
from flowq.render.tree import Group, leaves

#: A group up to this size is a column; a larger one starts folded.
_COLUMN = 12
#: Most chips inside a folded group, and beside it for what a reader looks for.
_CHIPS, _BESIDE = 300, 8
_ERRORS = 10
_LOOKED_FOR = ("FAILURE", "RETRY", "STARTED")


def page(drawing: Drawing) -> str:
    """A whole HTML document."""
    title = escape(drawing.title or "flowq")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>{_PAGE}</style></head>\n"
        f"<body>{fragment(drawing)}</body></html>\n"
    )


_PAGE = (
    f"body{{margin:24px;background:{theme.LIGHT['frame']}}}"
    f"@media(prefers-color-scheme:dark){{body{{background:{theme.DARK['frame']}}}}}"
)


def fragment(drawing: Drawing | None, *, more: str = "") -> str:
    """One `div` with its own style sheet, for any page; `more` is HTML below the canvas."""
    state = escape(drawing.state) if drawing else ""
    parts = [f'<div class="fq" data-state="{state}"><style>{theme.html_css()}</style>']
    if drawing is not None:
        parts.append(_head(drawing))
        parts.append(f'<div class="fq-canvas">{_Canvas(drawing).item(drawing.root)}</div>')
        parts.append(_errors(drawing.nodes))
    return "\n".join(part for part in [*parts, more, "</div>"] if part)


def _head(drawing: Drawing) -> str:
    parts = []
    if drawing.title:
        parts.append(f"<h2><bdi>{escape(drawing.title)}</bdi></h2>")
    if drawing.state:
        look = palette.run_look(drawing.state)
        parts.append(f'<span class="fq-pill st-{look.css}">{look.glyph} {look.word}</span>')
    facts = caption.headline(drawing).removeprefix(f"{drawing.state} · ")
    parts.append(f'<span class="fq-soft">{facts}</span>')
    head = f'<div class="fq-head">{"".join(parts)}</div>'
    if not drawing.state and not drawing.counts.keys() - {"PENDING", "READY"}:
        return head
    words = []
    for state in palette.ORDER:
        if count := drawing.counts.get(state):
            look = palette.look(state)
            sign = f"<b>{look.glyph}</b>{count:,} {look.word}"
            words.append(f'<span class="st-{look.css}">{sign}</span>')
    return head + _bar(drawing.counts) + f'<div class="fq-legend">{"".join(words)}</div>'


def _bar(counts: Mapping[str, int]) -> str:
    parts = [
        f'<i class="st-{palette.look(state).css}" style="flex:{counts[state]}"></i>'
        for state in palette.ORDER
        if counts.get(state)
    ]
    return f'<div class="fq-bar">{"".join(parts)}</div>'


def _errors(nodes: Iterable[Node]) -> str:
    failed = [node for node in nodes if node.error and node.state == "FAILURE"]
    if not failed:
        return ""
    rows = [
        f"<li><b>✗ <bdi>{escape(label.shorten((node.failed or [node.name])[0], 60))}</bdi></b>"
        f"<code>{escape(label.clip(node.error, 400))}</code></li>"
        for node in failed[:_ERRORS]
    ]
    if len(failed) > _ERRORS:
        rows.append(f'<li class="fq-soft">and {len(failed) - _ERRORS:,} more</li>')
    return f'<ul class="fq-errors">{"".join(rows)}</ul>'


class _Canvas:
    """Writes the tree of groups."""

    def __init__(self, drawing: Drawing) -> None:
        self._nodes = drawing.by_id()
        self._edges = drawing.edges

    def item(self, item: str | Group) -> str:
        """The HTML of a node or group."""
        if isinstance(item, str):
            return _chip(self._nodes[item])
        match item.kind:
            case "group":
                return self._group(item)
            case "links":
                return self._links(item)
            case "flow":
                return self._flow(item)
            case _:
                shown = [self.item(member) for member in item.members if not self._hub(member)]
                css = "fq-chain fq-flat" if _is_flat(item) else "fq-chain"
                return f'<div class="{css}">{"".join(shown)}</div>'

    def _hub(self, member: str | Group) -> bool:
        return isinstance(member, str) and self._nodes[member].kind != "task"

    def _links(self, group: Group) -> str:
        main, parts = self.item(group.members[0]), []
        for member in group.members[1:]:
            path = self._nodes[leaves(member)[0]].path.rpartition("/")[2]
            css = "fq-hang fq-err" if path.startswith("e") else "fq-hang"
            parts.append(f'<div class="{css}">{self.item(member)}</div>')
        hanging = f'<div class="fq-hangs">{"".join(parts)}</div>'
        return f'<div class="fq-links"><div>{main}</div>{hanging}</div>'

    def _flow(self, group: Group) -> str:
        ids = set(leaves(group))
        part = Drawing(
            nodes=[node for name, node in self._nodes.items() if name in ids],
            edges=[edge for edge in self._edges if edge.parent in ids and edge.child in ids],
            root=group,
        )
        return f'<div class="fq-flow">{svg(part, bare=True)}</div>'

    def _group(self, group: Group) -> str:
        nodes = [self._nodes[name] for name in leaves(group)]
        counts = count_states(nodes)
        look = palette.look(loudest(counts))
        begun = counts.keys() - {"PENDING", "READY"}
        bar = _bar(counts) + f"<span>{label.tally(counts)}</span>" if begun else ""
        big = len(group.members) > _COLUMN
        summary = f"<summary><bdi>{escape(group.label or 'group')}</bdi>{bar}</summary>"
        state = f'fq-big st-{look.css}"' if big else f'st-{look.css}" open'
        start = f'<details class="fq-group {state}>{summary}'
        if not big:
            shown = "".join(self.item(member) for member in group.members)
            return f'{start}<div class="fq-column">{shown}</div></details>'
        shown = self._grid(group)
        beside = "".join(_chip(node) for node in _worth_a_look(nodes))
        beside = f'<div class="fq-look">{beside}</div>' if beside else ""
        return f"<div>{start}{shown}</details>{beside}</div>"

    def _grid(self, group: Group) -> str:
        shown = "".join(self.item(member) for member in group.members[:_CHIPS])
        more = len(group.members) - _CHIPS
        rest = f'<span class="fq-soft">and {more:,} more</span>' if more > 0 else ""
        flat = all(isinstance(member, str) for member in group.members)
        return f'<div class="{"fq-grid" if flat else "fq-column"}">{shown}{rest}</div>'


def _is_flat(chain: Group) -> bool:
    """Whether a chain has single nodes only, perhaps with callbacks: then their tops align."""
    return all(
        isinstance(member, str)
        or (member.kind == "links" and all(isinstance(one, str) for one in member.members))
        for member in chain.members
    )


def _worth_a_look(nodes: Sequence[Node]) -> list[Node]:
    found = [
        node
        for state in _LOOKED_FOR
        for node in nodes
        if node.state == state and node.kind == "task"
    ]
    return found[:_BESIDE]


def _chip(node: Node) -> str:
    look = palette.look(node.state)
    css = f"fq-node st-{look.css}"
    css += " fq-critical" if node.critical else ""
    css += " fq-many" if node.count > 1 else ""
    tip = " · ".join(part for part in (node.task or node.name, look.word, node.error) if part)
    facts = "".join(f"<small>{escape(fact)}</small>" for fact in caption.facts_of(node))
    bar = _bar(node.counts) if node.count > 1 else ""
    name = f"<bdi>{escape(label.shorten(node.name, 48))}</bdi>{caption.times(node)}"
    return (
        f'<div class="{css}" data-node="{node.id}" data-state="{escape(node.state)}" '
        f'title="{escape(tip)}"><b>{name}</b>{bar}{facts}</div>'
    )
