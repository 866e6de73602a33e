"""The three descriptors that every program takes for granted."""

from __future__ import annotations

import os


def occupy() -> None:
    """Open ``/dev/null`` wherever one of 0, 1 and 2 is closed. Repeating: does nothing.

    Otherwise a pool's socket or memory gets that number, and its first process, which sends what
    modules print elsewhere, would put something else in its place.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:  # another thread was faster
                os.close(opened)
            else:
                os.set_inheritable(number, True)
