"""A pipeline of 59 tasks of 20 to 40 ms for the kill test; each leaves two lines in a ledger."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.campaigns.steady import gather_value, note, step_value
from flowq import Flowq, chain, group

BRANCHES, LEAVES = 12, 20

app = Flowq("little")


@app.task(bind=True)
def step(self: Any, value: int, salt: int) -> int:
    note(self.request, "begin")
    time.sleep((20 + salt * 7 % 21) / 1000)
    note(self.request, "end")
    return step_value(value, salt)


@app.task(bind=True)
def gather(self: Any, values: list[int], salt: int) -> int:
    note(self.request, "begin")
    note(self.request, "end")
    return gather_value(values, salt)


pipeline = chain(
    step.si(1, 0),
    group(chain(step.s(100 + i), step.s(200 + i), step.s(300 + i)) for i in range(BRANCHES)),
    gather.s(1),
    group(step.s(400 + i) for i in range(LEAVES)),
    gather.s(2),
)


def expected() -> int:
    """The result, by plain loops."""
    value = step_value(1, 0)
    rows = []
    for i in range(BRANCHES):
        row = value
        for salt in (100 + i, 200 + i, 300 + i):
            row = step_value(row, salt)
        rows.append(row)
    value = gather_value(rows, 1)
    return gather_value([step_value(value, 400 + i) for i in range(LEAVES)], 2)
