"""The ledger that the disturbed pipeline leaves, held against the store's own record."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flowq.core.ids import split_node_id


class Entry(NamedTuple):
    """One line: which node, which attempt, in which process, `begin` or `end`, when."""

    node: int
    attempt: int
    pid: int
    event: str
    at: float


@dataclass(frozen=True)
class Verdict:
    """Nodes that began again though recorded, and others that began two or more times."""

    again: list[int]
    twice: list[int]
    more: list[int]

    def holds(self, concurrency: int) -> bool:
        return not self.again and not self.more and len(self.twice) <= concurrency


def size(path: Path) -> int:
    """The ledger's length in bytes; 0 before its first line."""
    return path.stat().st_size if path.exists() else 0


def read(path: Path, start: int = 0) -> list[Entry]:
    """The whole lines from byte `start` on; a line cut by a kill is left out."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(start)
        text = file.read().decode()
    entries = []
    for line in text.split("\n")[:-1]:
        node, attempt, pid, event, at = line.split(" ")
        entries.append(Entry(split_node_id(node)[1], int(attempt), int(pid), event, float(at)))
    return entries


def committed(store: Path) -> set[int]:
    """The indexes of the nodes whose SUCCESS the store holds now, read by plain SQL."""
    with closing(sqlite3.connect(store, timeout=10)) as connection:
        rows = connection.execute("SELECT idx FROM flowq_transition WHERE after = 'SUCCESS'")
        return {index for (index,) in rows}


def judge(path: Path, mark: int, done: set[int]) -> Verdict:
    """Compare the ledger with `done`, the nodes recorded when it was `mark` bytes long.

    `again`: recorded nodes that began after the mark. `twice` and `more`: other nodes that began
    two, or more than two times in all.
    """
    begins = Counter(entry.node for entry in read(path) if entry.event == "begin")
    later = {entry.node for entry in read(path, mark) if entry.event == "begin"}
    again = {node for node in later & done if begins[node] > 1}
    return Verdict(
        again=sorted(again),
        twice=sorted(node for node, count in begins.items() if count == 2 and node not in again),
        more=sorted(node for node, count in begins.items() if count > 2),
    )
