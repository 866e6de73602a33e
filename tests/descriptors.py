"""Waiting on descriptors, however large their numbers: `select.select` ends at 1,023."""

from __future__ import annotations

import select
from collections.abc import Iterable
from typing import Any


def readable(handles: Iterable[Any], seconds: float) -> list[int]:
    """Those of some descriptors (or what has a `fileno`) that can be read, after a wait for one."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    return [fd for fd, _ in poll.poll(max(0.0, seconds) * 1000)]
