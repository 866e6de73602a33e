"""The settings reference as a page, made of the table."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from flowq.config.table import TABLE, Setting


def settings_page() -> str:
    """The Markdown page of all settings: those that work, then those that are only accepted."""
    working = [s for s in TABLE if not s.ignored]
    accepted = [s for s in TABLE if s.ignored]
    lines = ["# Settings", "", *_rows(working, "Meaning", lambda s: s.doc)]
    lines += ["", "## Accepted for Celery's sake, without effect", ""]
    lines += _rows(accepted, "Why it has none", lambda s: s.note)
    return "\n".join(lines) + "\n"


def _rows(settings: Iterable[Setting], heading: str, text: Any) -> list[str]:
    lines = [f"| Setting | Default | Kind | Variable | {heading} |", "|---|---|---|---|---|"]
    for s in settings:
        kind = s.expected.partition(" (")[0]
        lines.append(f"| `{s.name}` | {_shown(s.default)} | {kind} | `{s.env}` | {text(s)} |")
    return lines


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, timedelta):
        return f"{value.days} days" if value.days != 1 else "1 day"
    if isinstance(value, tuple):
        value = list(value)
    return f"`{value}`"
