"""flowq on its embedded default: coordinator, pool and a store on disk, without a server."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import flowq
from benchmarks.bodies import BODIES, WIDE, parents_of

STORE = os.environ.get("FLOWQ_BENCH_STORE")

# The bodies live in another module than their tasks: pool children have to import this one.
app = flowq.Flowq(__name__, store=STORE, include=[__name__])
tasks = {name: app.task(name=f"bench.{name}")(body) for name, body in BODIES.items()}
durable_inc = app.task(name="bench.durable_inc", durable=True)(BODIES["inc"])


class Engine:
    """This process's embedded coordinator and pool, and flowq's primitives."""

    name = "flowq"
    version = flowq.__version__
    chain = staticmethod(flowq.chain)
    group = staticmethod(flowq.group)
    chord = staticmethod(flowq.chord)
    tasks = tasks
    durable_inc = durable_inc

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        app.conf.update(
            worker_pool=options["pool"],
            worker_concurrency=options["concurrency"],
            sqlite_synchronous=options["synchronous"],
        )

    @property
    def durability(self) -> str:
        """Where a result is when the caller has it."""
        kind = (STORE or "sqlite:").partition(":")[0].partition("+")[0]
        return f"sqlite {self.options['synchronous']}" if kind == "sqlite" else kind

    def layers(self, count: int) -> Any:
        """`count` layers of 20 nodes, each reading three of the layer before, and their sum."""
        flow = flowq.Flow()
        row = [flow.add(tasks["ident"].s(1)) for _ in range(WIDE)]
        for _ in range(count - 1):
            row = [
                flow.add(tasks["mix"].s(*(row[parent] for parent in parents_of(column))))
                for column in range(WIDE)
            ]
        flow.add(tasks["total"].s(row))
        return flow

    def submit(self, graph: Any) -> Any:
        return app.submit(graph)

    def store_bytes(self) -> int | None:
        """Bytes of the store's used pages: its file after a checkpoint; None if not SQLite."""
        path = store_path(STORE)
        return None if path is None else used_bytes(path)

    def close(self) -> None:
        app.close()


def store_path(url: str | None) -> Path | None:
    """The file of an SQLite store's URL, or None for another database."""
    if url is None or not url.startswith("sqlite"):
        return None
    return Path(url.partition("///")[2].partition("?")[0])


def used_bytes(path: Path) -> int:
    """Bytes of the pages in use, those that are still in the write-ahead log included."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
    finally:
        connection.close()
    return int((pages - free) * size)


def open_engine(options: dict[str, Any]) -> Engine:
    """Configure the app; the first task starts its coordinator and pool."""
    return Engine(options)
