"""The store: the only truth. Tables, statements, the writer, and what people read.

The only package that imports sqlalchemy, and that lazily.
"""

from __future__ import annotations

from flowq.store.store import NewRun, Store

__all__ = ["NewRun", "Store"]
