"""Python's cycle collector, held back while many small objects are made that soon go again.

Compiling a group of 10,000, or folding a batch, allocates enough to start full collections over
everything the program holds; measured, they took a seventh of the time. What is made there has
no cycles, so nothing is lost by collecting a moment later.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """Hold the collector back for the length of a block; inside another such block: nothing."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
