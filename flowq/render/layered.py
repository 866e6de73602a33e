"""A layered layout of boxes joined by arrows, left to right; deterministic.

The usual four steps: layers by longest path, stand-ins where an arrow passes a layer, order in a
layer by barycentres, heights by least squares that keep that order.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from flowq.render import timing

_SWEEPS = 8
_GAP = 18.0
_LANE_GAP = 12.0
_LAYER_GAP = 56.0
#: Stand-ins pull harder, so that long arrows run straight.
_LANE_PULL = 4.0

Point = tuple[float, float]


class Size(NamedTuple):
    """A box to place; `axis` is the height in it at which arrows arrive."""

    width: float
    height: float
    axis: float


class Layered(NamedTuple):
    """Where boxes go (left, top), and the points that long arrows pass."""

    spots: list[Point]
    lanes: dict[tuple[int, int], list[Point]]
    width: float
    height: float


@dataclass(slots=True)
class _Spot:
    """A box, or the stand-in of an arrow in a layer that it passes (`box` is -1)."""

    size: Size
    box: int = -1
    layer: int = 0
    place: int = 0  # position in its layer
    top: float = 0.0
    before: list[_Spot] = field(default_factory=list)
    after: list[_Spot] = field(default_factory=list)

    @property
    def middle(self) -> float:
        return self.top + self.size.axis


def arrange(sizes: Sequence[Size], steps: Sequence[tuple[int, int]]) -> Layered:
    """Place boxes by their arrows (pairs of indexes); arrows on a cycle do not count."""
    spots = [_Spot(size, box) for box, size in enumerate(sizes)]
    _assign_layers(spots, steps)
    layers: list[list[_Spot]] = [[] for _ in range(max(s.layer for s in spots) + 1)]
    for spot in spots:
        layers[spot.layer].append(spot)
    routes = _link(spots, steps, layers)
    _order(layers)
    _set_tops(layers)
    lefts = _lefts(layers)
    low = min(spot.top for layer in layers for spot in layer)
    for spot in (spot for layer in layers for spot in layer):
        spot.top -= low
    found = [(lefts[spot.layer][0], spot.top) for spot in spots]
    lanes = {
        key: [(x, stop.middle) for stop in stops for x in lefts[stop.layer]]
        for key, stops in routes.items()
        if stops
    }
    height = max(spot.top + spot.size.height for layer in layers for spot in layer)
    return Layered(found, lanes, lefts[-1][1], height)


def _assign_layers(spots: list[_Spot], steps: Sequence[tuple[int, int]]) -> None:
    depths = timing.depths(range(len(spots)), steps)
    fed = {child for _, child in steps}
    nearest: dict[int, int] = {}
    for parent, child in steps:
        nearest[parent] = min(nearest.get(parent, depths[child]), depths[child])
    for spot in spots:
        spot.layer = depths[spot.box]
        if spot.box not in fed and spot.box in nearest:  # a source stands before its first child
            spot.layer = max(0, nearest[spot.box] - 1)


def _link(
    spots: list[_Spot], steps: Sequence[tuple[int, int]], layers: list[list[_Spot]]
) -> dict[tuple[int, int], list[_Spot]]:
    """Join neighbours; arrows of one parent share their stand-ins."""
    routes: dict[tuple[int, int], list[_Spot]] = {}
    shared: dict[tuple[int, int], _Spot] = {}
    for parent, child in dict.fromkeys(steps):
        start, end = spots[parent], spots[child]
        if end.layer <= start.layer:
            continue
        route, last = [], start
        for layer in range(start.layer + 1, end.layer):
            stop = shared.get((parent, layer))
            if stop is None:
                stop = shared[parent, layer] = _Spot(Size(0.0, 0.0, 0.0), layer=layer)
                layers[layer].append(stop)
                _join(last, stop)
            route.append(stop)
            last = stop
        _join(last, end)
        routes[parent, child] = route
    return routes


def _join(parent: _Spot, child: _Spot) -> None:
    parent.after.append(child)
    child.before.append(parent)


def _order(layers: list[list[_Spot]]) -> None:
    """Barycentre sweeps both ways; the order with the fewest crossings stays."""
    _number(layers)
    best, fewest = [list(layer) for layer in layers], _crossings(layers)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        forth = sweep % 2 == 0
        for layer in layers if forth else reversed(layers):
            layer.sort(key=lambda spot: _centre(spot, spot.before if forth else spot.after))
            for place, spot in enumerate(layer):
                spot.place = place
        crossings = _crossings(layers)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in layers], crossings
    layers[:] = best
    _number(layers)


def _number(layers: list[list[_Spot]]) -> None:
    for layer in layers:
        for place, spot in enumerate(layer):
            spot.place = place


def _centre(spot: _Spot, others: list[_Spot]) -> float:
    return sum(other.place for other in others) / len(others) if others else float(spot.place)


def _crossings(layers: list[list[_Spot]]) -> int:
    found = 0
    for layer in layers:
        ends: list[int] = []
        for spot in layer:
            mine = sorted(child.place for child in spot.after)
            found += sum(len(ends) - bisect_right(ends, end) for end in mine)
            for end in mine:
                insort(ends, end)
    return found


def _set_tops(layers: list[list[_Spot]]) -> None:
    for layer in layers:
        _settle(layer, [0.0] * len(layer))
    for sweep in range(_SWEEPS):
        last = sweep >= _SWEEPS - 2
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = []
            for spot in layer:
                near = spot.before if sweep % 2 == 0 else spot.after
                near = near or ([] if last else spot.before + spot.after)
                middle = sum(o.middle for o in near) / len(near) if near else spot.middle
                wanted.append(middle - spot.size.axis)
            _settle(layer, wanted)


def _settle(layer: list[_Spot], wanted: list[float]) -> None:
    """Tops nearest to the wanted ones that keep the order and the gaps (isotonic regression)."""
    offset, blocks = 0.0, list[list[float]]()  # [weighted sum, weight, members]
    offsets = []
    for spot, top in zip(layer, wanted, strict=True):
        offsets.append(offset)
        weight = 1.0 if spot.box >= 0 else _LANE_PULL
        blocks.append([(top - offset) * weight, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            total, weight, members = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + weight, blocks[-1][2] + members]
        offset += spot.size.height + (_GAP if spot.box >= 0 else _LANE_GAP)
    at = 0
    for total, weight, members in blocks:
        for _ in range(int(members)):
            layer[at].top = total / weight + offsets[at]
            at += 1


def _lefts(layers: list[list[_Spot]]) -> list[tuple[float, float]]:
    """Left and right of each layer; more room where many arrows must bend."""
    found, left = [], 0.0
    for layer in layers:
        width = max((spot.size.width for spot in layer), default=0.0)
        found.append((left, left + width))
        bends = sum(len(spot.after) for spot in layer)
        left += width + _LAYER_GAP + min(64.0, max(0, bends - 4) * 2.0)
    return found
