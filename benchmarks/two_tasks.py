"""The smallest pipeline: what `flowq run` costs before it does any work."""

from __future__ import annotations

from flowq import Flowq

app = Flowq("two_tasks")


@app.task
def start(x: int) -> int:
    return x + 1


@app.task
def finish(x: int) -> int:
    return x * 2


pipeline = start.s(20) | finish.s()
