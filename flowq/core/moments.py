"""Times in options: a delay in seconds, or a moment; one number tells which.

Numbers up to `EPOCH` are seconds from readiness, larger ones epoch times. So a node's row and
the machine need one column for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from flowq.errors import CanvasError

#: What is above this is an epoch time, below it seconds from readiness.
EPOCH = 1e9


def deadline(expires: Any, now: float) -> float:
    """Epoch time of an `expires` option of a call made `now`; 0.0: it has none.

    Raises:
        CanvasError: As `moment`.
    """
    return point({"expires": expires}, "expires", "expires", now) if expires else 0.0


def point(options: Mapping[str, Any], absolute: str, relative: str, now: float) -> float:
    """Epoch time that one of two options of a call made `now` says; 0.0: neither says any.

    Raises:
        CanvasError: As `moment`.
    """
    at = moment(options, absolute, relative)
    return at if not at or at > EPOCH else now + at


def moment(options: Mapping[str, Any], absolute: str, relative: str) -> float:
    """Seconds from readiness, or an epoch time: whichever of two options is there.

    Returns:
        0.0 where neither is; never 0.0 for an `expires` that has passed.

    Raises:
        CanvasError: No number, datetime or ISO text (for a delay: timedelta), or out of range.
    """
    name, value = absolute, options.get(absolute)
    if value is None:
        name, value = relative, options.get(relative)
    if value is None:
        return 0.0
    if isinstance(value, timedelta) and name == relative:
        value = value.total_seconds()
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise CanvasError(f"{name}={value!r} is no ISO time and no number") from None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise CanvasError(f"{name}={value!r} must be seconds or a datetime")
    if not -1e9 < value < 1e11:
        raise CanvasError(f"{name}={value!r} is out of range: give at most 30 years")
    return float(value) if value > 0 else (1e-6 if relative == "expires" else 0.0)
