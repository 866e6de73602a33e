"""Words for people: safe names, short durations, counts per state.

A name in a picture may come from anybody. `plain` makes it one line of printable text; each
renderer then escapes that line for its own format.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from flowq.render import palette

#: Marks that reorder the text around them: a name could make a line read as something else.
_BIDI = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSEEN = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})


def plain(text: object, limit: int = 0) -> str:
    """One printable line: line ends become spaces, control and reordering marks become `\ufffd`.

    A `limit` above 0 cuts the line to that many columns, the last of them an ellipsis.
    """
    line = text if isinstance(text, str) else str(text)
    if not (line.isascii() and line.isprintable()):
        line = "".join(_printable(char) for char in line)
    return clip(line, limit) if limit else line


def _printable(char: str) -> str:
    if char in "\n\r\t\v\f\u2028\u2029\x85":
        return " "
    return "\ufffd" if char in _BIDI or unicodedata.category(char) in _UNSEEN else char


def visible(text: str) -> str:
    """The text with all that would command a terminal as escapes (`\\x1b`); lines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) for char in text)


def _escaped(char: str) -> str:
    if char in "\n\t" or (char not in _BIDI and unicodedata.category(char) not in _UNSEEN):
        return char
    return char.encode("unicode_escape").decode("ascii")


def ascii_line(text: str) -> str:
    """The same line in ASCII: other characters as escapes, an ellipsis as two dots."""
    if text.isascii():
        return text
    text = text.replace("…", "..").replace("×", "x").replace(" · ", ", ").replace(" – ", " - ")
    return text.encode("ascii", "backslashreplace").decode("ascii")


def columns(text: str) -> int:
    """Terminal columns of a line: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) == "Cf":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def right_to_left(text: str) -> bool:
    """Whether a line holds letters that are written right to left."""
    return not text.isascii() and any(unicodedata.bidirectional(c) in ("R", "AL") for c in text)


def clip(text: str, limit: int, mark: str = "…") -> str:
    """The text in at most `limit` columns, with a mark where it was cut."""
    if columns(text) <= limit:
        return text
    kept, room = [], limit - 1
    for char in text:
        room -= _columns(char)
        if room < 0:
            break
        kept.append(char)
    return "".join(kept).rstrip() + mark


def shorten(text: str, limit: int) -> str:
    """The text in at most `limit` columns, cut in the middle: names differ at their ends."""
    if columns(text) <= limit:
        return text
    tail: list[str] = []
    room = limit * 6 // 10
    for char in reversed(text):
        room -= _columns(char)
        if room < 0:
            break
        tail.append(char)
    return clip(text, limit - limit * 6 // 10) + "".join(reversed(tail))


def duration(seconds: float | None) -> str:
    """A duration in two units at most: `12 ms`, `3.4 s`, `2 m 05 s`, `1 h 04 m`; empty for None."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3600:02d} h"


def tally(counts: Mapping[str, int], ascii: bool = False) -> str:
    """Counts per state in a fixed order, states of one glyph added up: `144 ✓ 4 ● 1 ✗`."""
    merged: dict[str, int] = {}
    for state in (*palette.ORDER, *sorted(set(counts) - set(palette.ORDER))):
        if counts.get(state):
            sign = palette.glyph(state, ascii)
            merged[sign] = merged.get(sign, 0) + counts[state]
    return " ".join(f"{count:,} {sign}" for sign, count in merged.items())


def sentence(counts: Mapping[str, int]) -> str:
    """Counts per state in words: `144 succeeded, 4 running, 1 failed`."""
    known = [state for state in palette.ORDER if counts.get(state)]
    return ", ".join(f"{counts[state]:,} {palette.look(state).word}" for state in known)


def spread(low: float, middle: float, high: float) -> str:
    """The median and the range of many durations: `median 5 ms (2 ms – 1.2 s)`."""
    if duration(low) == duration(high):
        return duration(low)
    return f"median {duration(middle)} ({duration(low)} – {duration(high)})"


def short(task: str) -> str:
    """The last part of a dotted task name."""
    return task.rpartition(".")[2] or task
