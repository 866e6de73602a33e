"""Die with the parent: the kernel's own way, where it has one (Linux)."""

from __future__ import annotations

import contextlib
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have this process get a signal when the thread that made it ends; only on Linux.

    The kernel watches the parent's *thread*: ask for it only where that thread lives as long as
    the parent does.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
