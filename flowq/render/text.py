"""A tree for the terminal: chain = lines in order, group = one line that unfolds.

`rows` gives the lines with their states, for a caller that colours them; `text` joins them.
A group of more than a few members unfolds only what a reader looks for: what failed, waits for a
retry or runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from flowq.render import caption, label, palette
from flowq.render.fold import collapse, loudest
from flowq.render.model import Drawing, Node, count_states
from flowq.render.tree import Group, leaves, longest_line

#: A group up to this size is listed in full.
_LISTED = 12
#: Of a larger one, and of each state worth a look, so many.
_UNFOLDED = 5
_BAR = 24
#: Lines that a chain or flow may take.
_LONGEST = 200
_LOOKED_FOR = ("FAILURE", "RETRY", "STARTED")


class Row(NamedTuple):
    """One line of the tree."""

    branch: str  #: lines of the tree before it
    state: str  #: "" for a line that is no node
    name: str
    facts: str
    parents: str = ""  #: in a flow: what it waits for


def text(drawing: Drawing, *, ascii: bool = False, width: int = 100) -> str:
    """The drawing as a tree of at most `width` columns; a long chain or flow is collapsed."""
    if longest_line(drawing.root) > _LONGEST:
        drawing = collapse(drawing, _LONGEST)
    rows = list(rows_of(drawing, ascii=ascii))
    limit = max(width, 20)
    edge = max((_head(row, ascii, limit) for row in rows), default=0)
    edge = min(edge, limit - 2)
    lines = [_title(drawing, ascii, limit)]
    lines += [_line(row, ascii, edge, limit) for row in rows]
    return "\n".join(lines) + "\n"


def rows_of(drawing: Drawing, *, ascii: bool = False) -> Iterator[Row]:
    """The lines of the tree, without the title."""
    writer = _Writer(drawing, ascii)
    return writer.rows(drawing.root, "")


def _title(drawing: Drawing, ascii: bool, width: int) -> str:
    parts = [drawing.title, caption.headline(drawing, ascii)]
    line = "  ".join(part for part in parts if part)
    return label.clip(label.ascii_line(line), width, "~") if ascii else label.clip(line, width)


def _start(row: Row, ascii: bool) -> str:
    sign = palette.glyph(row.state, ascii) if row.state else ""
    wide = 5 if ascii else 1
    return f"{row.branch}{sign:<{wide}} " if row.state else row.branch


def _name(row: Row, ascii: bool) -> str:
    name = label.ascii_line(row.name) if ascii else row.name
    # a name written right to left must not carry what follows with it
    return name if ascii or not label.right_to_left(name) else f"\u2068{name}\u2069"


def _head(row: Row, ascii: bool, width: int) -> int:
    wanted = label.columns(_start(row, ascii)) + label.columns(_name(row, ascii))
    return wanted if wanted <= width * 6 // 10 else width * 6 // 10


def _line(row: Row, ascii: bool, edge: int, width: int) -> str:
    start = _start(row, ascii)
    mark = "~" if ascii else "…"
    name = label.clip(_name(row, ascii), max(edge - label.columns(start), 4), mark)
    tail = "  ".join(part for part in (row.facts, row.parents) if part)
    if not tail:
        return label.clip(start + name, width, mark).rstrip()
    tail = label.ascii_line(tail) if ascii else tail
    gap = " " * max(edge - label.columns(start) - label.columns(name), 0)
    return label.clip(f"{start}{name}{gap}  {tail}", width, mark).rstrip()


class _Writer:
    """Walks the tree once."""

    def __init__(self, drawing: Drawing, ascii: bool) -> None:
        self._nodes: Mapping[str, Node] = drawing.by_id()
        self._ascii = ascii
        self._tee, self._end = ("|-- ", "`-- ") if ascii else ("├── ", "└── ")
        self._pass, self._gap = ("|   ", "    ") if ascii else ("│   ", "    ")
        self._before: dict[str, list[str]] = {}
        for edge in drawing.edges:
            self._before.setdefault(edge.child, []).append(edge.parent)

    def rows(self, group: Group, indent: str) -> Iterator[Row]:
        """Lines of a group's members; small chains inside chains are spliced in."""
        items = list(self._spliced(group))
        for at, (item, mark) in enumerate(items):
            last = at == len(items) - 1
            branch = indent + (self._end if last else self._tee)
            below = indent + (self._gap if last else self._pass)
            if isinstance(item, Group):
                yield from self._group(item, branch, below)
            else:
                yield self._node(self._nodes[item], branch, mark or self._parents(group, item))

    def _spliced(self, group: Group) -> Iterator[tuple[str | Group, str]]:
        for at, member in enumerate(group.members):
            mark = self._mark(member) if group.kind == "links" and at else ""
            if isinstance(member, str):
                if self._nodes[member].kind == "task" or group.kind == "flow":
                    yield member, mark
            elif member.kind == "links" or (member.kind == "chain" and group.kind != "group"):
                yield from self._spliced(member)
            else:
                yield member, mark

    def _mark(self, member: str | Group) -> str:
        """What a callback or errback waits for."""
        first = leaves(member)[0]
        names = [self._nodes[up].name for up in self._before.get(first, ())]
        arrow = "<-" if self._ascii else "←"
        failure = self._nodes[first].path.rpartition("/")[2].startswith("e")
        return f"{arrow} {'error of ' if failure else ''}{_few(names)}" if names else ""

    def _parents(self, group: Group, item: str) -> str:
        if group.kind != "flow" or item not in self._before:
            return ""
        names = [self._nodes[up].name or "join" for up in self._before[item]]
        return f"{'<-' if self._ascii else '←'} {_few(names)}"

    def _node(self, node: Node, branch: str, parents: str = "") -> Row:
        facts = [fact.partition(" ")[2] for fact in caption.facts_of(node, self._ascii)[:1]]
        if node.count > 1:
            facts = [self._bar(node.counts), *caption.facts_of(node, self._ascii)]
        if node.critical:
            facts.append("*" if self._ascii else "◆")
        if node.error:
            facts.append(node.error)
        name = caption.title_of(node)
        return Row(branch, node.state, name, "  ".join(fact for fact in facts if fact), parents)

    def _group(self, group: Group, branch: str, below: str) -> Iterator[Row]:
        if group.kind != "group":
            yield Row(branch, "", self._title(group), "")
            yield from self.rows(group, below)
            return
        members = [self._nodes[name] for name in leaves(group)]
        counts = count_states(members)
        state = loudest(counts)
        facts = "  ".join(part for part in (self._bar(counts), self._tally(counts)) if part)
        yield Row(branch, state, group.label, facts)
        if len(group.members) <= _LISTED:
            yield from self.rows(group, below)
        else:
            yield from self._worth_a_look(members, below)

    def _title(self, group: Group) -> str:
        """A chain or flow in a group is called by its ends."""
        ends = [self._nodes[name].name for name in (leaves(group)[0], leaves(group)[-1])]
        arrow = " -> " if self._ascii else " → "
        return f"flow of {len(group.members)}" if group.kind == "flow" else arrow.join(ends)

    def _worth_a_look(self, members: Iterable[Node], indent: str) -> Iterator[Row]:
        found: list[tuple[Node | None, str]] = []
        for state in _LOOKED_FOR:
            nodes = [node for node in members if node.state == state and node.kind == "task"]
            found += [(node, "") for node in nodes[:_UNFOLDED]]
            if len(nodes) > _UNFOLDED:
                found.append((None, f"+{len(nodes) - _UNFOLDED:,} {palette.look(state).word}"))
        for at, (node, more) in enumerate(found):
            branch = indent + (self._end if at == len(found) - 1 else self._tee)
            yield self._node(node, branch) if node else Row(branch, "", more, "")

    def _tally(self, counts: Mapping[str, int]) -> str:
        """Empty before a run: the label has the number of members already."""
        return label.tally(counts, self._ascii) if counts.keys() - {"PENDING", "READY"} else ""

    def _bar(self, counts: Mapping[str, int]) -> str:
        total = sum(counts.values())
        done = sum(counts.get(state, 0) for state in ("SUCCESS", "FAILURE", "REVOKED", "SKIPPED"))
        if not done or done == total:
            return ""
        full = max(1, _BAR * done // total)
        left, right = ("#", ".") if self._ascii else ("━", "─")
        return left * full + right * (_BAR - full)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" +{len(names) - 3}" if len(names) > 3 else "")
