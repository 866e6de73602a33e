"""Which lanes of a fleet's store this coordinator writes to, for how long.

A lease is an owner's name, an epoch and a time in the lane's row. Whoever finds the time passed
takes the lane over and raises the epoch; the one before is stopped by the fence of its next
commit. Live coordinators share the lanes evenly: each claims up to its share of what is free,
and lets go of what it has beyond that.
"""

from __future__ import annotations

from typing import Any

from flowq.store import Store

#: Lanes of a new fleet store.
LANES = 16
#: A lease that ends further in the future than so many lease lengths was written before the host
#: was started again: SQLite's lease clock begins anew then.
_BEYOND = 10.0


class Leases:
    """Claims, renews and gives up lanes; for one thread.

    Args:
        store: Whose lanes.
        owner: Unique name of this coordinator.
        seconds: Length of a lease; it is to be renewed every third of that.
    """

    def __init__(self, store: Store, owner: str, *, seconds: float = 10.0) -> None:
        self._store, self.owner, self.seconds = store, owner, seconds
        #: Lanes held: id -> epoch.
        self.epochs: dict[int, int] = {}
        #: When the first lease of another coordinator ends, as `share` saw it last.
        self.others_until = float("inf")

    def renew(self) -> list[int]:
        """Extend every lease; returns the lanes that were taken over meanwhile, now forgotten."""
        until = self._store.lease_now() + self.seconds
        renew, owner = self._store.sql.lane_renew, self.owner
        held = dict(self.epochs)

        def write(cursor: Any) -> list[int]:
            lost = []
            for lane_id, epoch in held.items():
                cursor.execute(renew, (until, lane_id, owner, epoch))
                if cursor.rowcount != 1:
                    lost.append(lane_id)
            return lost

        lost: list[int] = self._store.write(write) if held else []
        for lane_id in lost:
            del self.epochs[lane_id]
        return lost

    def share(self, coordinators: int) -> tuple[list[int], list[int]]:
        """Claim free lanes up to this coordinator's share.

        Args:
            coordinators: How many live ones there are, this one included.

        Returns:
            The lanes gained, held from now on, and those held beyond the share: end the work on
            them, then `release` them. A second call changes nothing while the fleet stays as it is.
        """
        rows = self._store.rows(self._store.sql.lane_leases)
        target = -(-len(rows) // max(1, coordinators))
        now = self._store.lease_now()
        gained: list[int] = []
        others = [row[3] for row in rows if row[1] and row[0] not in self.epochs and row[3] >= now]
        self.others_until = min(others, default=float("inf"))
        for lane_id, before, epoch, expires_at in rows:
            if len(self.epochs) >= target:
                break
            lapsed = expires_at < now or expires_at > now + _BEYOND * self.seconds
            free = lane_id not in self.epochs and (not before or lapsed)
            if free and self._claim(lane_id, str(before), int(epoch), now):
                gained.append(lane_id)
        beyond = sorted(self.epochs)[target:]
        return gained, beyond

    def _claim(self, lane_id: int, before: str, epoch: int, now: float) -> bool:
        store = self._store
        params = (self.owner, now + self.seconds, lane_id, epoch, before)
        sql = store.sql.lane_claim
        done = store.write(lambda cursor: cursor.execute(sql, params).rowcount)
        if done == 1:
            self.epochs[lane_id] = epoch + 1
        return bool(done == 1)

    def release(self, lane_id: int) -> None:
        """Let a lane go, so that another takes it at once. A second call does nothing."""
        epoch = self.epochs.pop(lane_id, None)
        if epoch is None:
            return
        store, params = self._store, (lane_id, self.owner, epoch)
        store.write(lambda cursor: cursor.execute(store.sql.lane_release, params))


def ensure_lanes(store: Store, count: int = LANES) -> list[int]:
    """Make the store's fleet lanes if it has none; returns their ids. Safe to call from many."""
    sql = store.sql
    rows = store.rows(sql.lane_leases)
    if rows:
        return [int(row[0]) for row in rows]

    def make(cursor: Any) -> list[int]:
        store.database.lock(cursor, "lanes")
        cursor.execute(sql.lane_leases)
        found = [int(row[0]) for row in cursor.fetchall()]
        for _ in range(0 if found else count):
            cursor.execute(sql.lane_insert, ("", "fleet", "", 0.0, None))
            found.append(int(cursor.fetchone()[0]))
        return found

    return store.write(make)  # type: ignore[no-any-return]
