"""Looking for damage: the file, the version, and counts that must agree with the rows."""

from __future__ import annotations

from flowq.errors import StoreError
from flowq.store import schema
from flowq.store.access import Access

#: Statement -> what it means if it finds something; each row is (run uid, how many).
_RULES = {
    "check_open": "run {0}: its count of unfinished nodes does not agree with its nodes",
    "check_ended": "run {0} has ended, but {1} of its nodes have not",
    "check_unmet": "run {0}: {1} waiting nodes do not agree with what they wait for",
    "check_results": "run {0} holds results of {1} nodes that did not succeed",
}


def check(store: Access) -> list[str]:
    """What is wrong with a store, a sentence each; empty if all is well. Changes nothing."""
    found = schema.check(store.database)
    if found:
        return found
    try:
        for name, sentence in _RULES.items():
            rows = store.rows(getattr(store.sql, name))
            found += [sentence.format(*row) for row in rows]
        for name in ("node", "edge", "result"):
            (lost,) = store.rows(getattr(store.sql, f"check_lost_{name}"))[0]
            if lost:
                found.append(f"{lost} rows of the table flowq_{name} belong to no run")
    except StoreError as exc:
        found.append(str(exc))
    return found
