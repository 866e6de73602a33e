"""SVG by our own layout: the same picture on every machine, no program needed.

Every box is a `g` with an id, class `fq-node st-<state>` and `data-state`; colours are both
attributes (for viewers without style sheets) and rules (for dark pages and live recolouring).
"""

from __future__ import annotations

from html import escape

from flowq.render import caption, label, layout, palette, route, theme
from flowq.render.model import Drawing, Node
from flowq.render.palette import Look

_MARGIN = 24.0
_HEAD, _FOOT = 46.0, 40.0
_OPEN = frozenset({"PENDING", "READY"})


def svg(drawing: Drawing, *, bare: bool = False) -> str:
    """The drawing by our own layout; `bare` leaves out margin, title, legend and style sheet."""
    places = layout.picture(drawing)
    margin = 8.0 if bare else _MARGIN
    head = _head(drawing) if not bare else ""
    foot, foot_width = _legend(drawing) if not bare else ("", 0.0)
    top = margin + (_HEAD if head else 0.0)
    width = max(places.width + 2 * margin, foot_width + 2 * margin, 0 if bare else 300.0)
    height = places.height + top + margin + (_FOOT if foot else 0.0)
    name = escape(f"{drawing.title or 'flowq'}: {caption.headline(drawing)}")
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="fq-svg" role="img" {size} '
        f'aria-label="{name}" font-family="{escape(theme.FONTS)}" font-size="13">'
    ]
    if not bare:
        parts += [f"<style>{theme.svg_css()}</style>", '<rect class="fq-paper" ']
        parts[-1] += 'width="100%" height="100%" rx="10" fill="#ffffff"/>'
        parts.append(f'<g transform="translate({margin:g},{margin:g})">{head}</g>')
    parts.append(_MARKERS)
    parts.append(f'<g transform="translate({margin:g},{top:g})">')
    parts += [_frame(plan) for plan in places.frames]
    parts += [_arrow(found) for found in route.routes(places, drawing.edges)]
    nodes = drawing.by_id()
    parts += [_node(nodes[name], place) for name, place in places.boxes.items()]
    parts.append("</g>")
    if foot:
        parts.append(f'<g transform="translate({margin:g},{height - margin:g})">{foot}</g>')
    return "\n".join([*parts, "</svg>\n"])


def _marker(name: str, fill: str) -> str:
    return (
        f'<marker id="fq-{name}" class="fq-m-{name}" viewBox="0 0 8 8" refX="7" refY="4" '
        f'markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path d="M0,0.8L7.4,4L0,7.2L1.6,4Z" fill="{fill}"/></marker>'
    )


_MARKERS = "".join(
    (
        "<defs>",
        _marker("to", theme.LIGHT["edge"]),
        _marker("err", palette.look("FAILURE").line),
        _marker("crit", theme.LIGHT["strong"]),
        "</defs>",
    )
)


def _head(drawing: Drawing) -> str:
    """Title, state of the run as a pill, and how far it is."""
    title = label.clip(drawing.title, 60)
    parts = []
    if title:
        parts.append(_line(0, 16, title, "fq-title", theme.LIGHT["ink"], 17, "600"))
    x = layout.text_width(title, 19.5) + 16 if title else 0.0
    if drawing.state:
        look = palette.run_look(drawing.state)
        word = f"{look.glyph} {look.word}"
        wide = layout.text_width(word, 12) + 20
        parts.append(
            f'<g class="fq-pill st-{look.css}"><rect class="fq-box" x="{x:.0f}" y="-1" '
            f'width="{wide:.0f}" height="22" rx="11" fill="{look.fill}" stroke="{look.line}"/>'
            f'<text class="fq-name" x="{x + wide / 2:.1f}" y="14" font-size="12" '
            f'text-anchor="middle" fill="{look.ink}">{escape(word)}</text></g>'
        )
        x += wide + 14
    facts = caption.headline(drawing).removeprefix(f"{drawing.state} · ")
    parts.append(_line(x, 14.5, facts, "fq-soft", theme.LIGHT["soft"], 12.5))
    return "".join(parts)


def _legend(drawing: Drawing) -> tuple[str, float]:
    """States that occur, with their counts; nothing before a run."""
    if not drawing.counts.keys() - _OPEN:
        return "", 0.0
    parts, x = [], 0.0
    for state in palette.ORDER:
        count = drawing.counts.get(state, 0)
        if not count:
            continue
        look = palette.look(state)
        text = f"{count:,} {look.word}"
        parts.append(
            f'<g class="st-{look.css}"><text class="fq-glyph" x="{x:.0f}" y="0" font-size="12" '
            f'fill="{look.line}">{look.glyph}</text></g>'
        )
        parts.append(_line(x + 16, 0, text, "fq-soft", theme.LIGHT["soft"], 12))
        x += 16 + layout.text_width(text, 12) + 20
    if any(node.critical for node in drawing.nodes):
        parts.append(_line(x, 0, "━ critical path", "fq-soft", theme.LIGHT["soft"], 12))
        x += 110
    return "".join(parts), x


def _line(x: float, y: float, text: str, css: str, fill: str, size: float, weight: str = "") -> str:
    bold = f' font-weight="{weight}"' if weight else ""
    return (
        f'<text class="{css}" x="{x:.1f}" y="{y:g}" font-size="{size:g}"{bold} '
        f'fill="{fill}">{escape(text)}</text>'
    )


def _frame(plan: layout.Plan) -> str:
    place, group = plan.place, plan.group
    if place is None or group is None:
        return ""
    title = label.clip(group.label, 60)
    return (
        f'<g class="fq-frame"><rect x="{place.x:.1f}" y="{place.y:.1f}" width="{place.width:.1f}" '
        f'height="{place.height:.1f}" rx="12" fill="{theme.LIGHT["frame"]}" '
        f'stroke="{theme.LIGHT["rule"]}"/>'
        f"{_line(place.x + 14, place.y + 18, title, 'fq-soft', theme.LIGHT['soft'], 11.5, '600')}"
        "</g>"
    )


def _arrow(found: route.Route) -> str:
    name = "err" if found.failure else "crit" if found.critical else "to"
    stroke = {
        "err": palette.look("FAILURE").line,
        "crit": theme.LIGHT["strong"],
        "to": theme.LIGHT["edge"],
    }[name]
    dash = ' stroke-dasharray="5 4"' if found.failure else ""
    dash = ' stroke-dasharray="1 4"' if found.waits_always else dash
    width = 2.2 if found.critical else 1.3
    return (
        f'<path class="fq-edge fq-{name}" d="{found.path}" fill="none" stroke="{stroke}" '
        f'stroke-width="{width}"{dash} marker-end="url(#fq-{name})"/>'
    )


def _node(node: Node, place: layout.Rect) -> str:
    look = palette.look(node.state)
    tip = escape(" · ".join(_tip(node)))
    start = (
        f'<g id="{node.id}" class="fq-node st-{look.css}" data-state="{node.state}">'
        f"<title>{tip}</title>"
    )
    if node.kind != "task":
        middle = place.x + place.width / 2
        return (
            f'{start}<circle class="fq-hub" cx="{middle:.1f}" cy="{place.axis:.1f}" '
            f'r="{layout.HUB / 2}" fill="{look.line}" stroke="{theme.LIGHT["paper"]}"/></g>'
        )
    return f"{start}{_card(node, look, place)}{_words(node, look, place)}</g>"


def _tip(node: Node) -> list[str]:
    parts = [node.task or node.name, palette.look(node.state).word]
    return [*parts, *([node.error] if node.error else [])]


def _card(node: Node, look: Look, place: layout.Rect) -> str:
    style = ' stroke-dasharray="4 3"' if node.state in ("SKIPPED", "REVOKED") else ""
    if node.critical:
        style += ' stroke-width="2.4"'
    size = f'width="{place.width:.1f}" height="{place.height:.1f}" rx="8"'
    paint = f'fill="{look.fill}" stroke="{look.line}"'
    card = f'<rect class="fq-box" x="{place.x:.1f}" y="{place.y:.1f}" {size} {paint}{style}/>'
    if node.count < 2:
        return card
    below = "".join(
        f'<rect class="fq-box" x="{place.x + by:.1f}" y="{place.y + by:.1f}" {size} {paint}/>'
        for by in (6.0, 3.0)
    )
    return below + card


def _words(node: Node, look: Look, place: layout.Rect) -> str:
    lines = layout.lines_of(node)
    x, y = place.x + 13, place.y + 8.5 + 11.5
    if len(lines) == 1 and node.count < 2:
        x = place.x + place.width / 2
    middle = ' text-anchor="middle"' if len(lines) == 1 and node.count < 2 else ""
    parts = [
        f'<text class="fq-name" x="{x:.1f}" y="{y:.1f}" font-weight="600"{middle} '
        f'fill="{look.ink}">{escape(lines[0])}</text>'
    ]
    if node.count > 1:
        parts.append(_bar(node, place.x + 13, y + 9, place.width - 26))
        y += layout.BAR + 8
    for line in lines[1:]:
        y += layout.LINE
        parts.append(_line(x, round(y, 1), line, "fq-fact", look.ink, 11.5))
    return "".join(parts)


def _bar(node: Node, x: float, y: float, width: float) -> str:
    parts = []
    for state in palette.ORDER:
        share = width * node.counts.get(state, 0) / node.count
        if share:
            look = palette.look(state)
            share = max(share, 1.5)
            parts.append(
                f'<g class="st-{look.css}"><rect class="fq-part" x="{x:.1f}" y="{y:.1f}" '
                f'width="{share:.1f}" height="{layout.BAR:g}" fill="{look.line}"/></g>'
            )
            x += share
    return "".join(parts)
