"""The one table of how a state looks: its glyph, its word, its colours.

Colours come in pairs for light and dark backgrounds. A state is never told by colour alone: every
renderer prints the glyph (or its ASCII word) beside it.
"""

from __future__ import annotations

from typing import NamedTuple


class Look(NamedTuple):
    """How one state looks."""

    css: str  #: class name without its `st-` prefix
    glyph: str
    ascii: str
    word: str  #: in a sentence: "3 failed"
    line: str  #: border, bar and glyph on light paper
    fill: str  #: background of a node on light paper
    ink: str  #: text on `fill`
    dark_line: str
    dark_fill: str
    dark_ink: str


PALETTE: dict[str, Look] = {
    "SUCCESS": Look(
        *("success", "✓", "ok", "succeeded"),
        *("#2da160", "#e9f8ef", "#14532d", "#3fb673", "#12291c", "#c9f2d9"),
    ),
    "STARTED": Look(
        *("running", "●", "run", "running"),
        *("#2f74e8", "#e8f1ff", "#173b7a", "#5b97ff", "#13233f", "#d3e4ff"),
    ),
    "RETRY": Look(
        *("retry", "↻", "retry", "waiting to retry"),
        *("#d98a00", "#fff5dd", "#6b4300", "#eeaa33", "#32260c", "#ffe7b5"),
    ),
    "FAILURE": Look(
        *("failure", "✗", "FAIL", "failed"),
        *("#dc3b43", "#ffebec", "#7d161c", "#f4676e", "#391519", "#ffd4d6"),
    ),
    "QUEUED": Look(
        *("queued", "○", "..", "queued"),
        *("#7c6df2", "#f0eeff", "#3b2f92", "#9a8eff", "#201c40", "#dfdaff"),
    ),
    "READY": Look(
        *("ready", "○", "..", "ready"),
        *("#5f93ab", "#eef5f8", "#264b5c", "#82b4ca", "#172830", "#d2e8f1"),
    ),
    "PENDING": Look(
        *("pending", "○", "..", "waiting"),
        *("#a3acba", "#f8f9fb", "#3f4856", "#6f7a8b", "#1b2027", "#c3cbd6"),
    ),
    "SKIPPED": Look(
        *("skipped", "⊘", "skip", "skipped"),
        *("#b3b9c4", "#fafafa", "#7a8290", "#59616e", "#191c21", "#8f98a6"),
    ),
    "REVOKED": Look(
        *("revoked", "■", "stop", "cancelled"),
        *("#9a7b8c", "#f7f1f4", "#5d4151", "#b897a9", "#2a2026", "#e5d2dc"),
    ),
}

#: Run states borrow the look of a node state; only PAUSED is its own.
RUN_PALETTE: dict[str, Look] = {
    "RUNNING": PALETTE["STARTED"],
    "PAUSED": PALETTE["RETRY"]._replace(css="paused", glyph="⏸", ascii="hold", word="paused"),
    "SUCCESS": PALETTE["SUCCESS"],
    "FAILURE": PALETTE["FAILURE"],
    "CANCELLED": PALETTE["REVOKED"],
}

#: The order in which states are counted, stacked in a bar and listed in a legend.
ORDER = (
    *("SUCCESS", "STARTED", "RETRY", "FAILURE", "REVOKED", "SKIPPED"),
    *("QUEUED", "READY", "PENDING"),
)


def look(state: str) -> Look:
    """The look of a node's state; a state nobody knows looks like a waiting one."""
    return PALETTE.get(state) or PALETTE["PENDING"]


def run_look(state: str) -> Look:
    """The look of a run's state; a state nobody knows looks like a waiting one."""
    return RUN_PALETTE.get(state) or PALETTE["PENDING"]


def glyph(state: str, ascii: bool = False) -> str:
    """One sign for a node's state, or its ASCII word."""
    found = look(state)
    return found.ascii if ascii else found.glyph
