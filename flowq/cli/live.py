"""The live display: the canvas as a tree, drawn again a few times a second."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from flowq.cli.follow import Progress, Tally
from flowq.cli.lines import Following
from flowq.cli.output import Output
from flowq.render import label, palette
from flowq.render.fold import loudest
from flowq.render.tree import Group
from flowq.store import Store

#: Members of a group that unfold, of each state.
_UNFOLDED = 5
#: A group of so few groups shows them all.
_NESTED = 6
_BAR = 24
#: Quiet lines in a row that become one when the tree is too tall.
_ROW = 3
_QUIET = {"SUCCESS": "done", "SKIPPED": "skipped", "PENDING": "waiting", "READY": "waiting"}
_STYLES = {
    "SUCCESS": "green",
    "STARTED": "bright_blue",
    "RETRY": "yellow",
    "FAILURE": "bold red",
    "QUEUED": "magenta",
    "REVOKED": "dim",
    "SKIPPED": "dim",
    "PENDING": "dim",
    "READY": "dim",
}


class Line(NamedTuple):
    """One line of the tree."""

    depth: int
    state: str  #: "" for a line that is no node
    name: str
    facts: str = ""
    quiet: bool = False  #: may be drawn together with its neighbours


class LiveView(Following):
    """Draws the tree while the run goes on; what tasks write scrolls above it."""

    replay = False

    def __init__(self, out: Output, store: Store, run_id: int) -> None:
        super().__init__(out, store, run_id)
        self._live: Any = None
        self._next = time.monotonic() + 0.15  # a run that is over by then needs no tree
        self._notes: list[str] = []

    def tick(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        began = time.perf_counter()
        self._draw()
        cost = time.perf_counter() - began
        self._next = now + max(self.every, 8 * cost)

    def note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)
            self._next = 0.0
            if self._live is None:
                self.out.say(text)

    def end(self) -> None:
        if self._live is None:
            return
        self._draw(last=True)
        self._live.stop()
        self._live = None

    def _draw(self, last: bool = False) -> None:
        progress = self.progress
        progress.catch_up()
        if self._live is None:
            self._start()
        console = self._live.console
        for piece in progress.output():
            name = progress.names[piece.idx]
            for line in piece.text.splitlines():
                console.print(_text(f"{name} | ", "dim"), _text(label.plain(line)), sep="")
        height = max(console.size.height - 3 - len(self._notes), 4)
        lines = [_header(progress)]
        lines += _painted(fitted(progress, height), console.size.width, self.out.ascii)
        if not last:
            lines += [_text(note, "yellow") for note in self._notes]
        self._live.update(_group(lines), refresh=True)

    def _start(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, no_color=not self.out.color, highlight=False)
        self._live = Live(
            console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._live.start()


def fitted(progress: Progress, height: int) -> list[Line]:
    """The tree in at most `height` lines: quiet stretches fold first, then the end is cut."""
    lines = list(_sequence(progress, progress.root, 0))
    if len(lines) > height:
        lines = list(_folded(lines))
    if len(lines) > height:
        busy = [i for i, line in enumerate(lines) if not line.quiet]
        keep = set(busy[: height - 1])
        keep |= set(list(range(len(lines)))[: max(0, height - 1 - len(keep))])
        hidden = len(lines) - len(keep)
        lines = [line for i, line in enumerate(lines) if i in keep]
        lines.append(Line(0, "", f"... {hidden:,} more lines"))
    return lines


def _sequence(progress: Progress, group: Group, depth: int) -> Iterator[Line]:
    """Members of a chain in order; a group or flow is one line that unfolds."""
    if group.kind in ("group", "flow"):
        yield from _parallel(progress, group, depth)
        return
    for member in group.members:
        if isinstance(member, Group):
            yield from _sequence(progress, member, depth)
        elif not progress.kinds[int(member[1:])]:
            yield _node(progress, int(member[1:]), depth)


def _parallel(progress: Progress, group: Group, depth: int) -> Iterator[Line]:
    tally = progress.tallies[group.id]
    counts = {state: n for state, n in tally.counts.items() if n}
    name = tally.label or f"flow of {tally.total:,}"
    facts = [_bar(tally), label.tally(counts)] if counts.keys() - {"PENDING"} else []
    yield Line(
        depth, loudest(counts) if counts else "PENDING", name, "  ".join(filter(None, facts))
    )
    inner = [member for member in group.members if isinstance(member, Group)]
    if inner and len(group.members) <= _NESTED:
        for member in group.members:
            if isinstance(member, Group):
                yield from _sequence(progress, member, depth + 1)
            elif not progress.kinds[int(member[1:])]:
                yield _node(progress, int(member[1:]), depth + 1)
        return
    yield from _unfolded(progress, tally, depth + 1)


def _unfolded(progress: Progress, tally: Tally, depth: int) -> Iterator[Line]:
    for state in ("STARTED", "RETRY", "FAILURE"):
        active = tally.active.get(state, {})
        for idx in _first(active, _UNFOLDED):
            yield _node(progress, idx, depth)
        if len(active) > _UNFOLDED:
            more = len(active) - _UNFOLDED
            yield Line(depth, "", f"+{more:,} more {palette.look(state).word}")


def _node(progress: Progress, idx: int, depth: int) -> Line:
    state = progress.states[idx]
    facts = []
    if state == "STARTED":
        facts.append(label.duration(progress.running_for(idx)))
    elif idx in progress.took:
        facts.append(label.duration(progress.took[idx]))
    if state in ("RETRY", "FAILURE"):
        facts.append(progress.error_of(idx))
    return Line(depth, state, progress.names[idx], "  ".join(facts), state in _QUIET)


def _folded(lines: Iterable[Line]) -> Iterator[Line]:
    """Rows of quiet lines of one kind as one line."""
    row: list[Line] = []
    for line in lines:
        if row and not (line.quiet and _kind(line) == _kind(row[0])):
            yield from _as_one(row)
            row = []
        if line.quiet:
            row.append(line)
        else:
            yield line
    yield from _as_one(row)


def _kind(line: Line) -> tuple[int, str]:
    return line.depth, _QUIET[line.state]


def _as_one(row: list[Line]) -> list[Line]:
    if len(row) < _ROW:
        return row
    first = row[0]
    name = f"{first.name} … {row[-1].name}"
    return [Line(first.depth, first.state, name, f"{len(row):,} {_QUIET[first.state]}", True)]


def _first(items: Iterable[int], count: int) -> list[int]:
    found: list[int] = []
    for item in items:
        if len(found) == count:
            break
        found.append(item)
    return found


# -- painting -----------------------------------------------------------------------------------


def _header(progress: Progress) -> Any:
    row, tally = progress.row, progress.whole
    words = [f"{tally.done:,}/{tally.total:,} nodes", label.duration(progress.seconds)]
    left = progress.left()
    if left is not None and row.state == "RUNNING":
        words.append(f"~{label.duration(left)} left")
    text = _text("")
    text.append(f"{row.name}  ", "bold")
    text.append(f"{row.uid[:13]}  ", "dim")
    style = {"RUNNING": "bright_blue", "PAUSED": "yellow", "SUCCESS": "green"}.get(row.state, "red")
    text.append(row.state, style)
    text.append("  " + "  ".join(words))
    return text


def _painted(lines: list[Line], width: int, ascii: bool) -> list[Any]:
    """Lines with branches, glyphs and colours, each on one line of the terminal."""
    tee, end, down, gap = (
        ("|-- ", "`-- ", "|   ", "    ") if ascii else ("├── ", "└── ", "│   ", "    ")
    )
    edge = min(max((4 * (n.depth + 1) + label.columns(n.name) for n in lines), default=0) + 4, 60)
    open_below: dict[int, bool] = {}
    painted = []
    for line in reversed(lines):
        last = not open_below.get(line.depth, False)
        branch = "".join(down if open_below.get(d) else gap for d in range(line.depth))
        branch += end if last else tee
        open_below = {d: o for d, o in open_below.items() if d < line.depth}
        open_below[line.depth] = True
        painted.append(_paint(line, branch, edge, width, ascii))
    return painted[::-1]


def _paint(line: Line, branch: str, edge: int, width: int, ascii: bool) -> Any:
    sign = palette.glyph(line.state, ascii) + " " if line.state else ""
    room = max(edge - label.columns(branch) - label.columns(sign), 8)
    name = label.clip(label.ascii_line(line.name) if ascii else label.plain(line.name), room)
    pad = " " * max(room - label.columns(name), 0) if line.facts else ""
    text = _text(branch, "dim")
    style = _STYLES.get(line.state, "dim")
    text.append(sign, style)
    text.append(name, style if line.state in ("FAILURE", "PENDING", "SKIPPED") else "")
    facts = label.ascii_line(line.facts) if ascii else label.plain(line.facts)
    text.append(pad + "  " + facts if facts else "", "" if line.state != "FAILURE" else "red")
    text.truncate(width - 1, overflow="crop" if ascii else "ellipsis")
    return text


def _bar(tally: Tally) -> str:
    done = tally.done
    if not done or done == tally.total:
        return ""
    full = max(1, _BAR * done // tally.total)
    return "━" * full + "─" * (_BAR - full)


def _text(words: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(words, style=style, no_wrap=True, end="")


def _group(lines: list[Any]) -> Any:
    from rich.text import Text

    return Text("\n").join(lines)
