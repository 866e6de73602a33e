"""Recorded outcomes of nodes, read from the store as frames.

A join's value is the list of its members' frames, put together here whenever it is asked for;
a replaced node's value is its fragment's. An error without a record of its own (a join's, a
skipped node's) is told from its cause.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from flowq.core.graph import Kind
from flowq.core.ids import node_id
from flowq.core.states import State
from flowq.errors import ChordError, TaskRevokedError, TaskSkipped
from flowq.payload import NONE, ErrorInfo, decode_error, encode_error, encode_list, resolve
from flowq.store import Store


class Recorded:
    """Reads values and errors of nodes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def value(self, run_id: int, idx: int) -> bytes | None:
        """Frame of a node's result; None unless it is SUCCESS. `None` where it was ignored."""
        row = self._store.one(self._store.sql.node_one, (run_id, idx))
        if row is None or row[1] != State.SUCCESS:
            return None
        return self._value(run_id, idx, int(row[0]))

    def _value(self, run_id: int, idx: int, kind: int) -> bytes:
        sql = self._store.sql
        row = self._store.one(sql.result_get, (run_id, idx))
        if row is not None:
            return self.whole(bytes(row[0]))
        if kind == Kind.JOIN:
            return self.items(run_id, idx)
        if kind == Kind.PASS:
            tail = self._store.one(sql.pass_tail, (run_id, idx))
            if tail is not None:
                return self.value(run_id, int(tail[0])) or NONE
        return NONE

    def items(self, run_id: int, idx: int) -> bytes:
        """A join's list frame: members in order, errors in the place of missing values."""
        rule = self._store.one(self._store.sql.node_need, (run_id, idx))
        always = rule is not None and rule[0] == -1
        frames = []
        for parent, _, frame, state, kind in self._store.rows(
            self._store.sql.result_items, (run_id, idx)
        ):
            if state == State.SUCCESS:
                found = None if frame is None else self.whole(bytes(frame))
                frames.append(found or self._value(run_id, parent, kind))
            elif always:
                frames.append(self.error(run_id, parent))
        return encode_list(frames)

    def whole(self, frame: bytes) -> bytes:
        """A frame with references replaced by what they refer to."""
        return resolve(frame, self.payload) if frame[:1] in (b"r", b"l") else frame

    def payload(self, digest: bytes) -> bytes:
        """Bytes of a stored payload.

        Raises:
            KeyError: It was pruned.
        """
        row = self._store.one(self._store.sql.payload_get, (digest,))
        if row is None:
            raise KeyError(digest.hex())
        return bytes(row[0])

    def error(self, run_id: int, idx: int, shown: int | None = None) -> bytes:
        """Error frame of a node that did not succeed.

        Args:
            run_id: The run.
            idx: The node.
            shown: Node whose id the error carries instead (a chord's body for its join).
        """
        store = self._store
        row = store.one(store.sql.node_one, (run_id, idx))
        if row is None:
            return encode_error(LookupError(f"node {idx} is not there"))
        kind, state, cause = int(row[0]), row[1], int(row[2])
        if state == State.FAILURE:
            detail = store.one(store.sql.error_get, (run_id, idx))
            if detail is not None and detail[2] == State.FAILURE:
                return bytes(detail[0])
            if kind == Kind.JOIN:
                return self._chord_error(run_id, idx, cause, shown)
        if cause not in (-1, idx):
            return self.error(run_id, cause)
        name = self._id(run_id, idx)
        if state == State.REVOKED:
            return encode_error(TaskRevokedError("revoked"), node_id=name)
        if state == State.SKIPPED:
            why = "its task raised Ignore" if cause == idx else "nothing led to it"
            return encode_error(TaskSkipped(f"skipped: {why}"), node_id=name)
        return encode_error(LookupError(f"node {idx} is {state}, not failed"), node_id=name)

    def _chord_error(self, run_id: int, idx: int, cause: int, shown: int | None) -> bytes:
        inner = self._info(run_id, cause) if cause not in (-1, idx) else None
        return chord_error(inner, self._id(run_id, idx if shown is None else shown))

    def _info(self, run_id: int, idx: int) -> ErrorInfo:
        return decode_error(self.error(run_id, idx))

    def _id(self, run_id: int, idx: int) -> str:
        row: Any = self._store.one(self._store.sql.run_head, (run_id,))
        return node_id(UUID(row[1]), idx) if row else ""


def chord_error(inner: ErrorInfo | None, shown_id: str) -> bytes:
    """Error frame of a join that failed: ChordError, caused by its first missing member's."""
    text = "no member of the group succeeded"
    if inner is not None:
        text = f"Dependency {inner.node_id} raised {inner.type}({inner.message})"
    info = decode_error(encode_error(ChordError(text), node_id=shown_id))
    info.cause = inner
    return b"e" + msgspec.msgpack.encode(info)
