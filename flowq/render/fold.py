"""Makes a big drawing readable: alike members of a group become one box with counts.

Groups are folded largest first, inner before outer, until few enough boxes are left; a group
over the limit always is. Members of the same shape are laid on each other, so a group of 300
chains becomes one chain of three boxes, each standing for 300 nodes. In a Flow, nodes of one task
at one depth are laid on each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from flowq.render import timing
from flowq.render.label import short
from flowq.render.model import Drawing, Edge, Node, count_states
from flowq.render.tree import Group, leaves

Item = str | Group
Wants = Callable[[Group, int], bool]

#: Most different patterns that one folded group may show.
_PATTERNS = 12
#: Boxes that one pattern may have before it becomes a single box.
_PATTERN_BOXES = 16
_NAMED_FAILURES = 3
_NUMBER = re.compile(r"(\[\d+\]|#\d+|[_\-. ]?(id)?\d+)+$", re.IGNORECASE)
#: The first of these that a group of nodes has is the state of their common box.
_LOUDEST = (
    *("FAILURE", "RETRY", "STARTED", "QUEUED", "READY", "PENDING"),
    *("REVOKED", "SUCCESS", "SKIPPED"),
)


def collapse(drawing: Drawing, limit: int = 200) -> Drawing:
    """The same drawing in about `limit` boxes, or itself if it has no more.

    No count is lost: folded boxes hold their nodes per state, their spread of durations and the
    names of their first failed members. Edges between the same two boxes become one.
    """
    limit = max(limit, 2)
    if sum(node.kind == "task" for node in drawing.nodes) <= limit:
        return drawing
    folder = _Folder(drawing, limit)
    root = folder.run()
    nodes = folder.boxes(leaves(root))
    return Drawing(
        title=drawing.title,
        state=drawing.state,
        began=drawing.began,
        ended=drawing.ended,
        seconds=drawing.seconds,
        counts=drawing.counts or count_states(drawing.nodes),
        nodes=nodes,
        edges=folder.arrows(),
        root=root,
    )


def stem(node: Node) -> str:
    """A node's name without its number: `transform[57]`, `transform#2`, `align_ID007` alike."""
    return _NUMBER.sub("", node.name) or short(node.task)


class _Folder:
    """One folding: boxes take the place of nodes, the tree is rebuilt from the inside."""

    def __init__(self, drawing: Drawing, limit: int) -> None:
        self._limit = limit
        self._root: Item = drawing.root
        self._nodes = drawing.by_id()
        self._edges = drawing.edges
        self._into: dict[str, str] = {}  # folded node -> its box
        self._times: dict[str, list[float]] = {}
        self._shown = sum(node.kind == "task" for node in drawing.nodes)

    def run(self) -> Group:
        """Fold class after class of groups until few enough boxes are left."""
        limit = self._limit
        root = self._fold(self._root, lambda group, _depth: len(group.members) > limit, 0)
        while self._shown > limit:
            classes = _classes(root)
            if not classes:
                break
            for chosen in sorted(classes, reverse=True):
                before = self._shown
                root = self._fold(root, _of_class(chosen), 0)
                if self._shown < before:
                    break
            else:
                root = self._fold(root, _of_class(max(classes)), 0, hard=True)
        if isinstance(root, Group):
            return root
        return Group(id="root", kind="chain", members=[root])

    def boxes(self, ids: Iterable[str]) -> list[Node]:
        """The nodes that are left, with what was measured in them."""
        found = [self._nodes[name] for name in ids]
        for node in found:
            if node.count > 1:
                node.spread = timing.spread_of(self._times.get(node.id, ()))
        return found

    def arrows(self) -> list[Edge]:
        """The edges between the boxes that are left."""
        merged: dict[tuple[str, str, bool], Edge] = {}
        for edge in self._edges:
            parent, child = self._box_of(edge.parent), self._box_of(edge.child)
            if parent == child:
                continue
            key = parent, child, edge.on == "failure"
            known = merged.get(key)
            if known is None:
                merged[key] = Edge(
                    parent=parent,
                    child=child,
                    on=edge.on,
                    bind=edge.bind,
                    critical=edge.critical,
                    count=edge.count,
                )
            else:
                known.count += edge.count
                known.critical = known.critical or edge.critical
        return list(merged.values())

    def _box_of(self, name: str) -> str:
        box = self._into.get(name)
        while box is not None:
            name, box = box, self._into.get(box)
        return name

    def _fold(self, item: Item, wants: Wants, depth: int, hard: bool = False) -> Item:
        if isinstance(item, str):
            return item
        members = [self._fold(member, wants, depth + 1, hard) for member in item.members]
        group = Group(id=item.id, kind=item.kind, label=item.label, members=members, join=item.join)
        if not wants(item, depth) or len(members) < 2:
            return group
        if hard:
            return self._box(group)
        match group.kind:
            case "group":
                return self._fold_group(group)
            case "flow":
                return self._fold_flow(group)
            case "chain":
                return self._fold_chain(group)
            case _:
                return group

    def _fold_group(self, group: Group) -> Item:
        alike = _sorted_by(group.members, [self._shape(member) for member in group.members])
        if len(alike) > _PATTERNS:
            return self._box(group)
        if len(alike) == 1 and all(isinstance(member, str) for member in group.members):
            return self._box(group)
        patterns = [self._lay(members) for members in alike]
        return Group(
            id=group.id, kind="group", label=group.label, members=patterns, join=group.join
        )

    def _fold_chain(self, group: Group) -> Item:
        runs: list[list[Item]] = []
        last: object = None
        for member in group.members:
            shape = self._shape(member)
            if not runs or shape != last:
                runs.append([])
            runs[-1].append(member)
            last = shape
        if len(runs) > self._limit:
            wide = -(-len(runs) // (self._limit // 2))
            runs = [list(chain(*runs[at : at + wide])) for at in range(0, len(runs), wide)]
        return _unwrapped(group, [self._box_all(run) for run in runs])

    def _fold_flow(self, group: Group) -> Item:
        members = group.members
        place = {leaf: at for at, member in enumerate(members) for leaf in leaves(member)}
        lifted = {
            (place[parent], place[child])
            for edge in self._edges
            if (parent := self._box_of(edge.parent)) in place
            and (child := self._box_of(edge.child)) in place
        }
        steps = [(parent, child) for parent, child in lifted if parent != child]
        depth = timing.depths(range(len(members)), steps)
        shapes = [self._shape(member) for member in members]
        tasks = [self._tasks(member) for member in members]
        floors = max(depth.values()) + 1
        budget = max(2, self._limit // 3)
        ladder: tuple[Callable[[int], object], ...] = (
            lambda at: (depth[at], shapes[at]),
            lambda at: (depth[at], tasks[at]),
            lambda at: depth[at],
        )
        for rung in ladder:
            keys = [rung(at) for at in range(len(members))]
            if len(set(keys)) <= budget:
                break
        else:
            keys = [depth[at] * budget // floors for at in range(len(members))]
        return _unwrapped(group, [self._lay(alike) for alike in _sorted_by(members, keys)])

    def _shape(self, item: Item) -> object:
        """Equal for items that may be laid on each other."""
        if isinstance(item, str):
            node = self._nodes[item]
            return (node.kind, node.task, stem(node), node.count == 1)
        shapes = tuple(self._shape(member) for member in item.members)
        return (item.kind, item.label, bool(item.join), shapes)

    def _tasks(self, item: Item) -> object:
        return tuple(sorted({self._nodes[leaf].task for leaf in leaves(item)}))

    def _lay(self, items: Sequence[Item]) -> Item:
        """One pattern for items of one shape; a box if they differ or the pattern is large."""
        if len(items) == 1:
            return items[0]
        pattern = items[0]
        if isinstance(pattern, str) or len(leaves(pattern)) > _PATTERN_BOXES:
            return self._box_all(items)
        if len({self._shape(item) for item in items}) > 1:
            return self._box_all(items)
        return self._lay_groups([item for item in items if isinstance(item, Group)])

    def _lay_groups(self, groups: Sequence[Group]) -> Group:
        first = groups[0]
        members: list[Item] = []
        for column in zip(*(group.members for group in groups), strict=True):
            inner = [item for item in column if isinstance(item, Group)]
            members.append(self._lay_groups(inner) if inner else self._box_all(column))
        joins = [group.join for group in groups if group.join]
        return Group(
            id=first.id,
            kind=first.kind,
            label=first.label,
            members=members,
            join=self._merge(joins) if joins else "",
        )

    def _box(self, group: Group) -> str:
        return self._merge(leaves(group))

    def _box_all(self, items: Sequence[Item]) -> Item:
        if len(items) == 1:
            return items[0]
        return self._merge([leaf for item in items for leaf in leaves(item)])

    def _merge(self, ids: Sequence[str]) -> str:
        """One box for these nodes; joins among them vanish in it unless there is nothing else."""
        nodes = [self._nodes[name] for name in ids]
        tasks = [node for node in nodes if node.kind == "task"] or nodes
        box = _sum_up(tasks)
        self._nodes[box.id] = box
        times = self._times.setdefault(box.id, [])
        for node in tasks:
            times += self._times.get(node.id) or ([] if node.seconds is None else [node.seconds])
        for name in ids:
            self._into[name] = box.id
        box.critical = any(node.critical for node in nodes)
        self._shown -= sum(node.kind == "task" for node in nodes) - (box.kind == "task")
        return box.id


def _classes(item: Item, depth: int = 0) -> set[tuple[int, int]]:
    """(size in powers of two, depth) of each group that could be folded."""
    if isinstance(item, str):
        return set()
    found = {(len(item.members).bit_length(), depth)} if len(item.members) > 1 else set()
    return found.union(*(_classes(member, depth + 1) for member in item.members))


def _of_class(chosen: tuple[int, int]) -> Wants:
    return lambda group, depth: (len(group.members).bit_length(), depth) == chosen


def _sorted_by(members: Sequence[Item], keys: Sequence[object]) -> list[list[Item]]:
    """Members of one key together, in the order in which the keys first occur."""
    found: dict[object, list[Item]] = {}
    for member, key in zip(members, keys, strict=True):
        found.setdefault(key, []).append(member)
    return list(found.values())


def _unwrapped(group: Group, members: list[Item]) -> Item:
    if len(members) == 1:
        return members[0]
    return Group(id=group.id, kind=group.kind, label=group.label, members=members, join=group.join)


def _sum_up(nodes: Sequence[Node]) -> Node:
    first = nodes[0]
    counts: dict[str, int] = {}
    for node in nodes:
        for state, count in (node.counts or {node.state: node.count}).items():
            counts[state] = counts.get(state, 0) + count
    failures = [node for node in nodes if node.state == "FAILURE"]
    failed = [name for node in failures for name in (node.failed or [node.name])]
    tasks = {node.task for node in nodes}
    began = [node.began for node in nodes if node.began is not None]
    ended = [node.ended for node in nodes if node.ended is not None]
    return Node(
        id=f"s{first.id}",
        idx=first.idx,
        name=common_name(nodes),
        task=first.task if len(tasks) == 1 else "",
        kind=first.kind,
        path=first.path,
        state=loudest(counts),
        began=min(began, default=None),
        ended=max(ended, default=None),
        retries=sum(node.retries for node in nodes),
        error=next((node.error for node in failures if node.error), ""),
        count=sum(node.count for node in nodes),
        counts=counts,
        failed=failed[:_NAMED_FAILURES],
    )


def common_name(nodes: Sequence[Node]) -> str:
    """A name for many nodes together: their own names without numbers."""
    stems = list(dict.fromkeys(stem(node) for node in nodes))
    return ", ".join(stems) if len(stems) < 4 else f"{stems[0]} … {stems[-1]}"


def loudest(counts: Mapping[str, int]) -> str:
    """The state of a box of many: failures first; half done counts as running."""
    seen = counts.keys()
    half = "SUCCESS" in seen and bool(seen & {"QUEUED", "READY", "PENDING"})
    if half and not seen & {"FAILURE", "RETRY", "STARTED"}:
        return "STARTED"
    return next((state for state in _LOUDEST if state in counts), "PENDING")
