"""Measured time: the critical path, and the spread of many durations."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def longest(spent: Mapping[str, float], edges: Sequence[tuple[str, str]]) -> list[str]:
    """The path of nodes with the greatest sum of durations; empty if nothing was measured.

    Nodes on a cycle are passed over; ends of the path that took no time are cut off.
    """
    best: dict[str, tuple[float, str]] = {}
    before: dict[str, list[str]] = {}
    for parent, child in edges:
        before.setdefault(child, []).append(parent)
    for node in in_order(spent, edges):
        score, parent = max(
            ((best[up][0], up) for up in before.get(node, ()) if up in best), default=(0.0, "")
        )
        best[node] = (score + spent[node], parent if score else "")
    if not best:
        return []
    node = max(best, key=lambda name: best[name][0])
    if not best[node][0]:
        return []
    path = []
    while node:
        path.append(node)
        node = best[node][1]
    while not spent[path[0]]:
        path.pop(0)
    return path[::-1]


def in_order(nodes: Iterable[T], edges: Iterable[tuple[T, T]]) -> list[T]:
    """Parents before children, otherwise in the given order; nodes on a cycle are left out."""
    after: dict[T, list[T]] = {}
    missing: dict[T, int] = dict.fromkeys(nodes, 0)
    for parent, child in edges:
        after.setdefault(parent, []).append(child)
        missing[child] += 1
    ready = [node for node, count in missing.items() if not count]
    for node in ready:
        for child in after.get(node, ()):
            missing[child] -= 1
            if not missing[child]:
                ready.append(child)
    return ready


def depths(nodes: Iterable[T], edges: Sequence[tuple[T, T]]) -> dict[T, int]:
    """Length of the longest path to each node; 0 for nodes on a cycle."""
    found = dict.fromkeys(nodes, 0)
    after: dict[T, list[T]] = {}
    for parent, child in edges:
        after.setdefault(parent, []).append(child)
    for node in in_order(list(found), edges):
        for child in after.get(node, ()):
            found[child] = max(found[child], found[node] + 1)
    return found


def spread_of(durations: Sequence[float]) -> tuple[float, float, float] | None:
    """Shortest, median and longest; None if there are none."""
    if not durations:
        return None
    ordered = sorted(durations)
    half = len(ordered) // 2
    middle = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    return ordered[0], middle, ordered[-1]
