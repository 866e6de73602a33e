"""What a seed submits, and the empty store that it begins with."""

from __future__ import annotations

import atexit
import json
import os
import random
import shutil
import tempfile
from collections import Counter
from functools import cache
from typing import Any

from flowq.core.compiler import compile_canvas
from flowq.core.graph import Graph
from flowq.store import Store
from tests.canvases import Undetermined, canvas_by, flow_by, play
from tests.oracle import Expected, evaluate
from tests.simulation.workers import Binder


class RunOf:
    """One submitted canvas, and what the oracle says of it."""

    def __init__(self, canvas: Any, graph: Graph, expected: Expected, key: str) -> None:
        self.canvas, self.graph, self.expected, self.key = canvas, graph, expected, key
        self.id, self.uid = 0, ""
        self.revoked = self.broken = False
        self.orders: Counter[str] = Counter()


def draw_run(rng: random.Random, number: int) -> RunOf:
    """A canvas whose outcome does not depend on timing."""
    while True:
        draw = random.Random(rng.getrandbits(64)).randint
        canvas = flow_by(draw, 6) if rng.random() < 0.2 else canvas_by(draw, 12, 4)
        text = json.dumps(canvas.to_dict() if hasattr(canvas, "to_dict") else canvas)
        if "revoke_early" in text:
            continue
        try:
            expected = evaluate(canvas, play)
        except Undetermined:
            continue
        key = f"key {number}" if rng.random() < 0.4 else ""
        graph = compile_canvas(canvas, Binder())
        for node in graph.nodes:
            if node.spec >= 0 and draw(0, 9) == 0:
                node.expires = 1e6  # never, but it has a timer
        return RunOf(canvas, graph, expected, key)


@cache
def template() -> str:
    """An empty store, made once and copied for each seed."""
    folder = tempfile.mkdtemp(prefix="flowq-sim-", dir=fast_folder())
    path = f"{folder}/empty.db"
    store = Store(f"sqlite:///{path}")
    store.ensure()
    store.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    atexit.register(shutil.rmtree, folder, True)
    return path


def fast_folder() -> str | None:
    """A folder in memory where there is one: nothing here needs to survive."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
