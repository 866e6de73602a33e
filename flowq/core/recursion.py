"""Room for deep canvases: Python's recursion limit, raised for as long as one is walked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flowq.errors import LimitExceeded


@contextmanager
def deep_recursion(levels: int) -> Iterator[None]:
    """Allow Python frames for `levels` of nesting; pure Python calls use no C stack."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, levels * 6 + 1000))
    try:
        yield
    except RecursionError:
        raise LimitExceeded("the canvas nests too deeply: flatten it") from None
    finally:
        sys.setrecursionlimit(before)
