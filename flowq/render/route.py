"""The course of arrows between placed boxes."""

from __future__ import annotations

from dataclasses import dataclass

from flowq.render.layered import Point
from flowq.render.layout import Picture, Plan, Rect
from flowq.render.model import Edge


@dataclass(slots=True)
class Route:
    """One arrow: the path data of SVG, and what it stands for."""

    path: str
    failure: bool
    waits_always: bool
    critical: bool


def routes(picture: Picture, edges: list[Edge]) -> list[Route]:
    """Paths for these edges; edges that share a course because a grid hides it become one."""
    found: dict[tuple[str, bool], Route] = {}
    for edge in edges:
        path = _path(picture, edge)
        if not path:
            continue
        key = path, edge.on == "failure"
        known = found.setdefault(
            key, Route(path, edge.on == "failure", edge.on == "always", edge.critical)
        )
        known.critical = known.critical or edge.critical
    return sorted(found.values(), key=lambda route: route.critical)


def _path(picture: Picture, edge: Edge) -> str:
    ups, downs = picture.within[edge.parent], picture.within[edge.child]
    common = 0
    while common < min(len(ups), len(downs)) and ups[common] == downs[common]:
        common += 1
    top, _ = ups[min(common, len(ups) - 1)]
    source = _end(ups, common, picture.boxes[edge.parent], top)
    target = _end(downs, common, picture.boxes[edge.child], top)
    if source is target or _closes(top, ups[common:], downs[common:]):
        return ""
    stops: list[Point] = []
    if common < len(ups) and common < len(downs) and top.place:
        lane = top.lanes.get((ups[common][1], downs[common][1]), ())
        stops = [(top.place.x + x, top.place.y + y) for x, y in lane]
    turn = top.turns.get(downs[common][1]) if common < len(downs) else None
    if turn is not None and top.place and target.x < source.right:
        return _new_line(source, target, top.place.y + turn)
    return _across(source, target, stops)


def _end(above: list[tuple[Plan, int]], common: int, box: Rect, top: Plan) -> Rect:
    """The box itself, or the grid that it is hidden in."""
    for plan, at in above[common:]:
        if plan.grid and plan is not top and plan.place and not _is_join(plan, at):
            return plan.place
    return box


def _is_join(plan: Plan, at: int) -> bool:
    return bool(plan.group and plan.group.join) and at == len(plan.parts) - 1


def _closes(top: Plan, ups: list[tuple[Plan, int]], downs: list[tuple[Plan, int]]) -> bool:
    """Whether this is an arrow from a member of a grid to the join on its border."""
    return top.grid and bool(ups) and bool(downs) and _is_join(top, downs[0][1])


def _across(source: Rect, target: Rect, stops: list[Point]) -> str:
    start: Point = (source.right, source.axis)
    end: Point = (target.x, target.axis)
    if not stops and end[0] < start[0] and target.y >= source.bottom:
        return _down(source, target)
    path, last = f"M{_pair(start)}", start
    for number, point in enumerate([*stops, end]):
        if number % 2 and point is not end:  # along a layer: straight
            path += f"L{_pair(point)}"
        else:
            bend = min(max(abs(point[0] - last[0]) / 2, 12.0), 90.0)
            first, second = (last[0] + bend, last[1]), (point[0] - bend, point[1])
            path += f"C{_pair(first)} {_pair(second)} {_pair(point)}"
        last = point
    return path


def _down(source: Rect, target: Rect) -> str:
    """To what hangs below: a callback or errback."""
    x, axis = source.x + min(17.0, source.width / 2), target.axis
    start = f"M{_pair((x, source.bottom))}"
    if target.x <= x <= target.right:
        return f"{start}L{_pair((x, target.y))}"
    side = target.x if x < target.x else target.right
    turn = max(-10.0, min(10.0, side - x))
    down, corner, after = (x, axis - abs(turn)), (x, axis), (x + turn, axis)
    return f"{start}L{_pair(down)}Q{_pair(corner)} {_pair(after)}L{_pair((side, axis))}"


def _new_line(source: Rect, target: Rect, middle: float) -> str:
    """From the end of one line of a chain to the start of the next."""
    right, left = source.right + 14, target.x - 14
    turns: list[Point] = [(right, source.axis), (right, middle), (left, middle)]
    turns.append((left, target.axis))
    path, last = f"M{_pair((source.right, source.axis))}", (source.right, source.axis)
    for turn, after in zip(turns, [*turns[1:], (target.x, target.axis)], strict=True):
        start, end = _towards(turn, last, 9.0), _towards(turn, after, 9.0)
        path += f"L{_pair(start)}Q{_pair(turn)} {_pair(end)}"
        last = turn
    return path + f"L{_pair((target.x, target.axis))}"


def _towards(point: Point, other: Point, by: float) -> Point:
    """The point moved along a horizontal or vertical line."""
    x, y = other[0] - point[0], other[1] - point[1]
    by = min(by, max(abs(x), abs(y)) / 2)
    return point[0] + (by if x > 0 else -by if x else 0), point[1] + (
        by if y > 0 else -by if y else 0
    )


def _pair(point: Point) -> str:
    return f"{round(point[0], 1):g},{round(point[1], 1):g}"
