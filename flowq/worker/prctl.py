"""Die with the parent: the kernel's own way, where it has one (Linux)."""

from __future__ import annotations

import contextlib
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have this process killed when the thread that made it ends; elsewhere than on Linux nothing.

    The kernel watches the parent's *thread*: ask for it only where that thread lives as long as
    the parent does.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
