"""The tree of groups, rebuilt from the paths of nodes.

Segments of a path: `c<i>` element of a chain, `g<i>` member of a group, `j` its join, `b` body of
a chord, `f<i>` node of a Flow, `r` what replaced the node, `l<i>` and `e<i>` callbacks and
errbacks. A path of another form is not an error: such nodes are drawn as members of a flow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from flowq.render.label import short

#: Deeper segments are drawn side by side: renderers recurse over the tree.
_MAX_DEPTH = 40
_NO_WORD = re.compile(r"[^A-Za-z0-9]")


class Group(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Boxes and groups that belong together; its kind says how they are arranged.

    `chain`: one after the other. `group`: side by side, closed by `join`. `flow`: as their edges
    say. `links`: the first member with its callbacks and errbacks.
    """

    id: str
    kind: str
    label: str = ""
    #: Ids of nodes, and groups.
    members: list[str | Group] = []
    #: Id of the node that closes a `group`; may be empty.
    join: str = ""


class _Vertex:
    """One position of the canvas: the nodes there and what hangs below."""

    __slots__ = ("kids", "own")

    def __init__(self) -> None:
        self.kids: dict[str, _Vertex] = {}
        self.own: list[str] = []


def grow(nodes: Sequence[Any], tails: set[str]) -> Group:
    """The root group of these nodes (objects with id, name, path, task)."""
    top = _Vertex()
    for node in nodes:
        spot = top
        for segment in node.path.split("/", _MAX_DEPTH)[:_MAX_DEPTH]:
            if segment:
                child = spot.kids.get(segment)
                if child is None:
                    child = spot.kids[segment] = _Vertex()
                spot = child
        spot.own.append(node.id)
    root = _Planter(nodes, tails).item(top, "root")
    return root if isinstance(root, Group) else Group(id="root", kind="chain", members=[root])


def inside(path: str, at: str) -> bool:
    """Whether a path lies in what replaced, or was expanded from, the node at another path."""
    inner = f"{at}/r" if at else "r"
    return path == inner or path.startswith(inner + "/")


def tails_of(nodes: Iterable[Any], edges: Iterable[Any]) -> set[str]:
    """Nodes that wait for what replaced or expanded them, so are drawn behind it."""
    paths = {node.id: node.path for node in nodes}
    return {edge.child for edge in edges if inside(paths[edge.parent], paths[edge.child])}


def heads_of(nodes: Sequence[Any], edges: Sequence[Any], tails: set[str]) -> dict[str, list[str]]:
    """For each of these nodes, the first nodes of what replaced it (deepest replacement)."""
    paths = {node.id: node.path for node in nodes}
    replaced = {node.path: node.id for node in nodes if node.id in tails}
    waiting = {edge.child for edge in edges}
    fed = {e.child for e in edges if not inside(paths[e.parent], paths[e.child])}
    heads: dict[str, list[str]] = {}
    for node in nodes:
        if node.id in waiting:
            continue
        segments = node.path.split("/")
        for last in range(len(segments) - 1, -1, -1):
            tail = replaced.get("/".join(segments[:last])) if segments[last] == "r" else None
            if tail is not None:
                heads.setdefault(tail, []).append(node.id)
                if tail in fed:
                    break
    return heads


class _Planter:
    """Turns vertices into groups."""

    def __init__(self, nodes: Sequence[Any], tails: set[str]) -> None:
        self._tasks = {node.id: node.task for node in nodes}
        self._tails = {node.id: node.name for node in nodes if node.id in tails}

    def item(self, spot: _Vertex, at: str) -> str | Group:
        """What is drawn for one position: a node's id, or a group."""
        kids = _by_letter(spot.kids)
        parts: list[str | Group] = []
        extra = [self.item(kid, _id(at, name)) for name, kid in kids.get("le", ())]
        if "c" in kids:
            parts.append(self._group(at, "chain", kids["c"]))
        if "g" in kids:
            group, after = self._parallel(kids["g"], kids.get("j", []), at)
            parts.append(group)
            extra = after + extra
        parts += [self.item(kid, _id(at, name)) for name, kid in kids.get("b", ())]
        if "f" in kids:
            parts.append(self._group(at, "flow", kids["f"]))
        inner = [self.item(kid, _id(at, name)) for name, kid in kids.get("r", ())]
        parts = self._own(spot, at, parts, inner)
        if "j" in kids and "g" not in kids:  # an empty group, or the gate before a node of a flow
            parts = [*(self.item(kid, _id(at, name)) for name, kid in kids["j"]), *parts]
        main = parts[0] if len(parts) == 1 else Group(id=_id(at, "s"), kind="chain", members=parts)
        return Group(id=_id(at, "k"), kind="links", members=[main, *extra]) if extra else main

    def _own(
        self, spot: _Vertex, at: str, parts: list[str | Group], inner: list[str | Group]
    ) -> list[str | Group]:
        if len(spot.own) == 1:
            name = self._tails.get(spot.own[0])
            if name is None:
                return [spot.own[0], *parts, *inner]
            parts += inner
            if len(parts) == 1 and isinstance(parts[0], Group) and parts[0].kind == "group":
                parts[0].label = f"{name} → {parts[0].label}"
                return [parts[0], spot.own[0]]
            return [Group(id=at, kind="group", label=name, members=parts, join=spot.own[0])]
        if spot.own:
            parts = [Group(id=_id(at, "o"), kind="flow", members=list(spot.own)), *parts]
        return [*parts, *inner]

    def _group(self, at: str, kind: str, kids: list[tuple[str, _Vertex]]) -> Group:
        members = [self.item(kid, _id(at, name)) for name, kid in kids]
        return Group(id=_id(at, kind), kind=kind, members=members)

    def _parallel(
        self, kids: list[tuple[str, _Vertex]], joins: list[tuple[str, _Vertex]], at: str
    ) -> tuple[Group, list[str | Group]]:
        group = self._group(at, "group", kids)
        group.label = self._label(group.members)
        after: list[str | Group] = []
        for name, kid in joins:
            join = self.item(kid, _id(at, name))
            if isinstance(join, Group) and isinstance(join.members[0], str):
                after += join.members[1:]
                join = join.members[0]
            if isinstance(join, str):
                group.join = join
            else:
                after.append(join)
        return group, after

    def _label(self, members: list[str | Group]) -> str:
        tasks = {self._tasks[one] if isinstance(one, str) else "" for one in members}
        task = tasks.pop() if len(tasks) == 1 else ""
        return f"{short(task) or 'group'} × {len(members):,}"


def _id(at: str, name: str) -> str:
    """An id that every output format takes as it is."""
    return f"{at}_{_NO_WORD.sub('', name)}"


def _by_letter(kids: dict[str, _Vertex]) -> dict[str, list[tuple[str, _Vertex]]]:
    """Segments by what they mean, in order; callbacks and errbacks together under `le`."""
    found: dict[str, list[tuple[str, _Vertex]]] = {}
    for name in sorted(kids, key=_position):
        letter = name[0] if name[0] in "cgjbrle" else "f"
        found.setdefault("le" if letter in "le" else letter, []).append((name, kids[name]))
    return found


def _position(segment: str) -> tuple[str, int, str]:
    number = segment[1:]
    letter = "\x7f" + segment[0] if segment[0] == "e" else segment[0]
    return letter, int(number) if number.isdecimal() and len(number) < 19 else -1, segment


def leaves(item: str | Group) -> list[str]:
    """Ids of all nodes of an item, joins after the members they close."""
    if isinstance(item, str):
        return [item]
    found = [leaf for member in item.members for leaf in leaves(member)]
    return [*found, item.join] if item.join else found


def longest_line(group: Group) -> int:
    """Most members of a chain or flow in the tree: what no renderer can fold by itself."""
    inner = [longest_line(member) for member in group.members if isinstance(member, Group)]
    return max([0 if group.kind == "group" else len(group.members), *inner])
