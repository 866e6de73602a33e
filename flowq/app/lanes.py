"""Lanes of embedded processes: who is alive, and taking a run over from who is not.

An embedded process makes its own lane and holds a lock on a file for it; its pool children
hold it too. Whoever gets the lock knows that the owner and all its children are dead. Nothing
is adopted silently: a run moves to another lane only by `resume`, or by a command about it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import msgspec

from flowq.core.states import ACTIVE
from flowq.errors import StoreUnavailable, WrongState
from flowq.store import Store
from flowq.store.rows import LaneRow

#: Kind of the lanes that a fleet's coordinators share.
FLEET = "fleet"
#: How a folder for lock files begins where the store has no folder of its own.
_TEMPORARY = "flowq-lanes-"
_FASTER = "another process took this run over just now; look at it with flowq show"


class LaneLock:
    """The lock that says that a lane's owner lives.

    Args:
        store: Whose lanes these are.
        owner: Unique name of this process's engine.
    """

    def __init__(self, store: Store, owner: str) -> None:
        folder = lock_folder(store)
        self.path = folder / f"{owner}.lock"
        try:
            self.fd = _made(self.path)
        except OSError as exc:
            raise StoreUnavailable(
                f"cannot write to {folder}: {exc.strerror}; name another place with "
                "--store sqlite:///path/file.db"
            ) from exc
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        _locks.add(self)

    def release(self) -> None:
        """Let go and remove the file. A second call does nothing."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self.fd)
            self.fd = -1
            _tidy(self.path.parent)


_locks: weakref.WeakSet[LaneLock] = weakref.WeakSet()


def _after_fork() -> None:
    """A fork of the owner's is not the owner, and may well outlive it."""
    for lock in list(_locks):
        if lock.fd >= 0:
            os.close(lock.fd)
            lock.fd = -1


os.register_at_fork(after_in_child=_after_fork)


def _made(path: Path) -> int:
    """Make a lock file and its folder, which another process may be about to remove."""
    for _ in range(100):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)


def _tidy(folder: Path) -> None:
    """Remove a folder for lock files that is not beside a store, if nobody has one there."""
    if folder.name.startswith(_TEMPORARY):
        with contextlib.suppress(OSError):
            folder.rmdir()


def lock_folder(store: Store) -> Path:
    """Where a store's lock files are: beside a file store, else in the temporary folder."""
    if store.folder is not None:
        return store.folder / "lanes"
    name = hashlib.sha256(store.url.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"{_TEMPORARY}{name}"


def is_alive(lane: LaneRow) -> bool:
    """Whether the process that owns an embedded lane, or a child of it, still lives.

    A fleet's lane counts as alive: its coordinators come and go, and none takes a run from it.
    """
    if lane.kind == FLEET:
        return True
    if not lane.liveness:
        return False
    try:
        fd = os.open(lane.liveness, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # others may be asking too
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def lane_of(store: Store, lane_id: int) -> LaneRow | None:
    """One lane."""
    row = store.one(store.sql.lane_get, (lane_id,))
    return LaneRow(*row) if row else None


def move_run(store: Store, run_id: int, to_lane: int, owner: str, kinds: list[str]) -> None:
    """Move a run from a dead owner's lane to another, with inbox rows for its coordinator.

    Raises:
        WrongState: The owner lives, or another process was faster.
    """
    head = store.one(store.sql.run_head, (run_id,))
    if head is None:
        raise WrongState("the run was removed just now: flowq list shows what there is")
    lane = lane_of(store, head[2])
    if lane is not None and is_alive(lane):
        raise WrongState(
            "the run is being advanced by another live process: follow it with flowq watch, or "
            "end that process first"
        )

    def move(cursor: Any) -> None:
        if lane is not None:  # gone with a process that left nothing unfinished
            _take(store, cursor, run_id, lane, owner)
        _move(store, cursor, run_id, (head[2], to_lane), kinds)

    store.write(move)


def _take(store: Store, cursor: Any, run_id: int, lane: LaneRow, owner: str) -> None:
    """Fence off a lane's dead owner, and take the run out of the lane's messages."""
    sql = store.sql
    cursor.execute(sql.lane_take, (owner, lane.id, lane.epoch))
    if cursor.rowcount != 1:
        raise WrongState(_FASTER)
    cursor.execute(sql.outbox_list, (lane.id,))
    for key, _, _, items, _, _ in cursor.fetchall():
        rest = [item for item in msgspec.msgpack.decode(items) if item[0] != run_id]
        rest = [item for item in rest if _is_out(store, cursor, *item)]
        if not rest:
            cursor.execute(sql.outbox_delete, (lane.id, key))
        else:
            cursor.execute(sql.outbox_rest, (msgspec.msgpack.encode(rest), len(rest), lane.id, key))


def _move(store: Store, cursor: Any, run_id: int, lanes: tuple[int, int], kinds: list[str]) -> None:
    sql = store.sql
    before, to_lane = lanes
    cursor.execute(sql.run_move, (to_lane, run_id, before))
    if cursor.rowcount != 1:
        raise WrongState(_FASTER)
    cursor.execute(sql.timer_move, (to_lane, run_id))
    cursor.execute(sql.inbox_move, (to_lane, run_id))
    cursor.execute(sql.spec_queues, (run_id,))
    names = {str(row[0]) for row in cursor.fetchall()}
    for name, key in store.queue_ids(to_lane, names, cursor).items():
        if name in names:
            cursor.execute(sql.node_queue, (key, run_id, name))
    for kind in kinds:
        cursor.execute(sql.inbox_insert, (to_lane, run_id, kind, None))


def _is_out(store: Store, cursor: Any, run_id: int, index: int, attempt: int) -> bool:
    """Whether an attempt named in a message has not ended yet."""
    cursor.execute(store.sql.node_one, (run_id, index))
    row = cursor.fetchone()
    return row is not None and row[1] in ACTIVE and row[3] == attempt


def sweep(store: Store) -> int:
    """Remove lanes of dead processes that left nothing unfinished; returns how many."""
    removed = 0
    for lane in store.lanes():
        if lane.kind == "embedded" and not is_alive(lane):
            removed += store.write(functools.partial(_remove, store, lane))
    return removed


def _remove(store: Store, lane: LaneRow, cursor: Any) -> int:
    gone = int(cursor.execute(store.sql.lane_delete_idle, (lane.id,)).rowcount)
    if gone and lane.liveness:
        Path(lane.liveness).unlink(missing_ok=True)
        _tidy(Path(lane.liveness).parent)
    return gone
