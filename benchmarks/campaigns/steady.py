"""The pipeline that the kill campaign disturbs: chains, groups and chords of tasks of 20 to 40 ms.

Each body writes a line to a ledger outside the store when it begins and another when it ends,
appended and synced, so that nobody has to take flowq's word for what ran. `expected()` computes the
result without flowq.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from flowq import Flowq, chain, chord, group

LEDGER = "STEADY_LEDGER"
MODULUS = 1_000_000_007
BRANCHES, CHORDS, MEMBERS, STEPS, LEAVES = 48, 24, 4, 20, 100

app = Flowq("steady")


def note(request: Any, event: str) -> None:
    """Append one durable line: node id, attempt, pid, event, monotonic seconds."""
    line = f"{request.id} {request.attempt} {os.getpid()} {event} {time.monotonic():.6f}\n"
    ledger = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(ledger, line.encode())
        os.fsync(ledger)
    finally:
        os.close(ledger)


def step_value(value: int, salt: int) -> int:
    return (value * 31 + salt) % MODULUS


def gather_value(values: Sequence[int], salt: int) -> int:
    """A sum that changes when two values trade places."""
    return sum((place + 1) * value for place, value in enumerate(values, salt)) % MODULUS


@app.task(bind=True)
def step(self: Any, value: int, salt: int) -> int:
    note(self.request, "begin")
    time.sleep((20 + salt * 7 % 21) / 1000)
    note(self.request, "end")
    return step_value(value, salt)


@app.task(bind=True)
def gather(self: Any, values: list[int], salt: int) -> int:
    note(self.request, "begin")
    time.sleep(0.02)
    note(self.request, "end")
    return gather_value(values, salt)


def branch(i: int) -> Any:
    return chain(step.s(100 + i), step.s(200 + i), step.s(300 + i))


def little_chord(i: int) -> Any:
    return chord([step.s(400 + 10 * i + j) for j in range(MEMBERS)], gather.s(500 + i))


pipeline = chain(
    step.si(1, 0),
    group([branch(i) for i in range(BRANCHES)]),
    gather.s(1),
    group([little_chord(i) for i in range(CHORDS)]),
    gather.s(2),
    *[step.s(600 + i) for i in range(STEPS)],
    group([step.s(700 + i) for i in range(LEAVES)]),
    gather.s(3),
)


def expected() -> int:
    """What the pipeline has to return, by plain loops."""
    value = step_value(1, 0)
    rows = []
    for i in range(BRANCHES):
        row = value
        for salt in (100 + i, 200 + i, 300 + i):
            row = step_value(row, salt)
        rows.append(row)
    value = gather_value(rows, 1)
    sums = []
    for i in range(CHORDS):
        header = [step_value(value, 400 + 10 * i + j) for j in range(MEMBERS)]
        sums.append(gather_value(header, 500 + i))
    value = gather_value(sums, 2)
    for i in range(STEPS):
        value = step_value(value, 600 + i)
    return gather_value([step_value(value, 700 + i) for i in range(LEAVES)], 3)
