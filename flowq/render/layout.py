"""Our own layout: chain = row, group = framed column or grid, flow = layers.

Follows the tree of groups, so a canvas looks like it was written; needs no program. `picture`
gives places only; `svg` draws them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from flowq.render import caption, label, layered
from flowq.render.fold import common_name
from flowq.render.layered import Point, Size
from flowq.render.model import Drawing, Node
from flowq.render.tree import Group, leaves

#: More members than this stand in a grid, and share one arrow in and one out.
COLUMN = 10
LINE = 15.0
HUB = 9.0
BAR = 5.0
_WIDEST_NAME, _WIDEST_FACT = 30, 44
_PAD, _HEADER = 14.0, 29.0
_CHAIN_GAP, _MEMBER_GAP, _GRID_GAP, _HANG, _INDENT = 48.0, 12.0, 10.0, 14.0, 34.0
_JOIN_ROOM = 34.0
#: A longer chain goes on in a new line.
_LONGEST_ROW, _LINE_GAP = 1500.0, 44.0


@dataclass(slots=True)
class Rect:
    """A place in the picture, in pixels."""

    x: float
    y: float
    width: float
    height: float
    axis: float  #: y at which arrows arrive and leave

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height


@dataclass(slots=True)
class Plan:
    """A measured item: its size, and where its parts go in it."""

    width: float
    height: float
    axis: float
    node: str = ""
    group: Group | None = None
    parts: list[tuple[float, float, Plan]] = field(default_factory=list)
    grid: bool = False
    framed: bool = False
    #: In a row of several lines: heights between lines, by the position of a part below.
    turns: dict[int, float] = field(default_factory=dict)
    lanes: dict[tuple[int, int], list[Point]] = field(default_factory=dict)
    place: Rect | None = None


@dataclass(slots=True)
class Picture:
    """Places of everything that is drawn."""

    width: float
    height: float
    boxes: dict[str, Rect]
    frames: list[Plan]
    #: For each node: the plans it is in, outermost first, with its position in each.
    within: dict[str, list[tuple[Plan, int]]]


def picture(drawing: Drawing) -> Picture:
    """Measure and place the boxes of a drawing."""
    planner = _Planner(drawing)
    plan = planner.item(drawing.root)
    found = Picture(plan.width, plan.height, {}, [], {})
    _place(plan, 0.0, 0.0, found, [])
    return found


def lines_of(node: Node) -> list[str]:
    """The lines of text in a box."""
    facts = [label.clip(fact, _WIDEST_FACT) for fact in caption.facts_of(node)]
    return [label.shorten(node.name, _WIDEST_NAME) + caption.times(node), *facts]


def text_width(line: str, size: float) -> float:
    """About how wide a line is in a sans serif face of this size."""
    return sum(_advance(char) for char in line) * size


def _advance(char: str) -> float:
    if char in "iljtf.,:;'|!()[] ·":
        return 0.34
    if char in "mwMW%@…×✓✗●○↻⊘■\ufffd":
        return 0.88
    if not char.isascii():
        return 1.0 if label.columns(char) == 2 else 0.62 * label.columns(char)
    return 0.68 if char.isupper() else 0.57


class _Planner:
    """Measures from the inside to the outside."""

    def __init__(self, drawing: Drawing) -> None:
        self._nodes: Mapping[str, Node] = drawing.by_id()
        self._edges = [(edge.parent, edge.child) for edge in drawing.edges]

    def item(self, item: str | Group) -> Plan:
        """The plan of a node or group."""
        if isinstance(item, str):
            return self._box(item)
        match item.kind:
            case "group":
                return self._group(item)
            case "flow":
                return self._flow(item)
            case "links":
                return self._links(item)
            case _:
                return self._row(item)

    def _box(self, name: str) -> Plan:
        node = self._nodes[name]
        if node.kind != "task":
            return Plan(HUB, HUB, HUB / 2, node=name)
        lines = lines_of(node)
        wide = max(text_width(lines[0], 15.4), *(text_width(line, 11.8) for line in lines[1:]), 0.0)
        width = max(math.ceil((wide + 26) / 4) * 4.0, 140.0 if node.count > 1 else 76.0)
        height = 17 + LINE * len(lines) + (BAR + 8 if node.count > 1 else 0)
        return Plan(width, height, height / 2, node=name)

    def _row(self, group: Group) -> Plan:
        lines: list[list[Plan]] = [[]]
        width = 0.0
        for part in (self.item(member) for member in group.members):
            width += part.width + _CHAIN_GAP
            if width > _LONGEST_ROW and lines[-1]:
                lines.append([])
                width = part.width + _CHAIN_GAP
            lines[-1].append(part)
        plan = Plan(0.0, 0.0, 0.0, group=group)
        for parts in lines:
            axis = plan.height + max((part.axis for part in parts), default=0.0)
            plan.axis, x = plan.axis or axis, 0.0
            bottom = 0.0
            for part in parts:
                if x and part.width == HUB:  # a replaced node, behind what replaced it
                    x -= _CHAIN_GAP / 2
                if plan.height:
                    plan.turns[len(plan.parts)] = plan.height - _LINE_GAP / 2
                plan.parts.append((x, axis - part.axis, part))
                bottom = max(bottom, axis - part.axis + part.height)
                plan.width = max(plan.width, x + part.width)
                x += part.width + _CHAIN_GAP
            plan.height = bottom + _LINE_GAP
        plan.height -= _LINE_GAP
        return plan

    def _links(self, group: Group) -> Plan:
        main = self.item(group.members[0])
        plan = Plan(main.width, main.height, main.axis, group=group)
        plan.parts.append((0.0, 0.0, main))
        for member in group.members[1:]:
            part = self.item(member)
            plan.height += _HANG
            plan.parts.append((_INDENT, plan.height, part))
            plan.height += part.height
            plan.width = max(plan.width, _INDENT + part.width)
        return plan

    def _group(self, group: Group) -> Plan:
        parts = [self.item(member) for member in group.members]
        grid = len(parts) > COLUMN and all(part.node for part in parts)
        plan = Plan(0.0, 0.0, 0.0, group=group, grid=grid, framed=True)
        across = _across(parts) if grid else 1
        stacked = any(part.node and self._nodes[part.node].count > 1 for part in parts)
        gap = (_GRID_GAP if grid else _MEMBER_GAP) + (6.0 if stacked else 0.0)
        _even_out(parts)
        top, right = _HEADER, text_width(group.label, 12.5) + _PAD
        for at in range(0, len(parts), across):
            x = _PAD
            for part in parts[at : at + across]:
                plan.parts.append((x, top, part))
                x += part.width + gap
            right = max(right, x - gap)
            top += max(part.height for part in parts[at : at + across]) + gap
        inner = top - gap if parts else top
        plan.height = inner + _PAD
        plan.axis = (_HEADER + inner) / 2
        spare = _JOIN_ROOM if group.join and not grid and parts else _PAD
        plan.width = right + spare
        if group.join:
            hub = self._box(group.join)
            plan.parts.append((plan.width - HUB / 2, plan.axis - HUB / 2, hub))
        return plan

    def _flow(self, group: Group) -> Plan:
        members = self._gathered(group)
        place = {leaf: at for at, member in enumerate(members) for leaf in leaves(member)}
        steps = [
            (place[parent], place[child])
            for parent, child in self._edges
            if parent in place and child in place and place[parent] != place[child]
        ]
        if not steps and len(members) > COLUMN:
            return self._group(Group(id=group.id, kind="group", members=members))
        parts = [self.item(member) for member in members]
        found = layered.arrange([Size(p.width, p.height, p.axis) for p in parts], steps)
        plan = Plan(found.width, found.height, found.height / 2, group=group, lanes=found.lanes)
        plan.parts = [(x, y, part) for (x, y), part in zip(found.spots, parts, strict=True)]
        return plan

    def _gathered(self, group: Group) -> list[str | Group]:
        """Members with the same task, parents and children as one grid, where they are many."""
        before: dict[str, list[str]] = {}
        after: dict[str, list[str]] = {}
        for parent, child in self._edges:
            before.setdefault(child, []).append(parent)
            after.setdefault(parent, []).append(child)
        alike: dict[object, list[str | Group]] = {}
        for member in group.members:
            key: object = member if isinstance(member, str) else member.id
            if isinstance(member, str) and (member in before or member in after):
                ends = (tuple(before.get(member, ())), tuple(after.get(member, ())))
                key = (self._nodes[member].task, ends)
            alike.setdefault(key, []).append(member)
        found: list[str | Group] = []
        for members in alike.values():
            if len(members) <= COLUMN:
                found += members
                continue
            title = f"{common_name([self._nodes[str(one)] for one in members])} × {len(members):,}"
            at = f"{group.id}_{members[0]}"
            found.append(Group(id=at, kind="group", label=title, members=members))
        return found


def _across(parts: list[Plan]) -> int:
    wide = max(part.width for part in parts) + _GRID_GAP
    high = max(part.height for part in parts) + _GRID_GAP
    return max(2, round(math.sqrt(len(parts) * high / wide * 1.7)))


def _even_out(parts: list[Plan]) -> None:
    """Boxes of one group are equally wide."""
    boxes = [part for part in parts if part.node and part.width > HUB]
    for part in boxes:
        part.width = max(other.width for other in boxes) if len(boxes) < 400 else part.width


def _place(plan: Plan, x: float, y: float, found: Picture, above: list[tuple[Plan, int]]) -> None:
    plan.place = Rect(x, y, plan.width, plan.height, y + plan.axis)
    if plan.node:
        found.boxes[plan.node] = plan.place
        found.within[plan.node] = above
    if plan.framed:
        found.frames.append(plan)
    for at, (left, top, part) in enumerate(plan.parts):
        _place(part, x + left, y + top, found, [*above, (plan, at)])
