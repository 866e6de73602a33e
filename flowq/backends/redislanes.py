"""Update lanes as Redis streams, one a lane.

Only the lane's owner reads, so a plain XREAD from the beginning finds what a former owner took and
did not acknowledge, and an acknowledged record is deleted. The reader keeps one blocking XREAD
over all its lanes outstanding: the server's answer makes the descriptor readable, which is the
wake-up. A second connection carries deletions, and unblocks the first when the lanes change.

Ids of a stream only grow, but a server that was wiped, or a replica with a slow clock, may begin
below what was read. So every few seconds the oldest record of each lane is looked at, and one
that was passed over makes the reader begin anew.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from flowq.backends.held import HeldLane
from flowq.backends.outage import Outage
from flowq.backends.redislink import RedisLink, RedisPlace
from flowq.broker.codec import Report, encode_reports
from flowq.broker.signing import UNSEALED, Seal
from flowq.errors import BackendUnavailable

#: Nothing is asked for while so many reports wait here.
ENOUGH = 50_000
#: Records of one lane in one answer at most.
_RECORDS = 20
#: The outstanding read comes back empty after this time; later, the connection is dead.
_BLOCK_SECONDS = 5.0
_LOOK_SECONDS = 5.0
_DEAD_SECONDS = 5.0
_START = b"0-0"


def stream(prefix: str, store_id: str, lane_id: int) -> str:
    """Name of a lane's stream."""
    return f"{prefix}flowq:{store_id}:upd:{lane_id}"


class RedisLaneWriter:
    """Contract: `backends.LaneWriter`; `put` ends within two seconds or so.

    Args:
        place: Which Redis.
        store_id: Name of the store.
        seal: Goes on the records.
    """

    def __init__(self, place: RedisPlace, store_id: str, seal: Seal = UNSEALED) -> None:
        self._place, self._store_id, self._seal = place, store_id, seal
        self._connection: Any = None

    def put(self, lane_id: int, reports: list[Report]) -> None:
        """As `LaneWriter.put`.

        Raises:
            BackendUnavailable: Redis is away, full, or refuses.
        """
        command = ("XADD", stream(self._place.prefix, self._store_id, lane_id), "*", "r")
        body = self._seal.close(encode_reports(reports))
        if self._connection is not None:
            try:
                self._call(*command, body)
                return
            except BackendUnavailable as exc:
                import redis

                again = isinstance(exc.__cause__, (redis.ConnectionError, OSError))
                if not again or isinstance(exc.__cause__, redis.TimeoutError):
                    raise
        self._connection = self._place.connection()
        self._call(*command, body)

    def _call(self, *command: Any) -> None:
        import redis

        with self._place.errors("hand reports to"):
            try:
                self._connection.send_command(*command)
                self._connection.read_response()
            except redis.ResponseError:
                raise
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """As `LaneWriter.close`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()


class RedisLaneReader:
    """Contract: `backends.LaneReader`.

    Args:
        place: Which Redis.
        store_id: Name of the store.
        seal: Goes on the records.
    """

    def __init__(self, place: RedisPlace, store_id: str, seal: Seal = UNSEALED) -> None:
        self._place, self._store_id, self._seal = place, store_id, seal
        self._lanes: dict[int, HeldLane] = {}
        #: Id of the last record read of each lane.
        self._last: dict[int, bytes] = {}
        self._acked: dict[int, list[Any]] = {}
        self._read: RedisLink | None = None
        self._order: RedisLink | None = None
        #: Streams in the outstanding read; None while there is none.
        self._asked: dict[bytes, tuple[int, HeldLane]] | None = None
        self._stale = False
        self._answers: deque[Callable[[Any], None] | None] = deque()
        self._asked_at = self._looked_at = 0.0
        #: Whether the last PING has no answer yet.
        self._unheard = False
        self._outage = Outage("reading workers' reports stands still")

    # -- lanes ---------------------------------------------------------------------------

    def open(self, lane_id: int) -> HeldLane:
        """As `LaneReader.open`."""
        self._acked[lane_id] = []
        lane = self._lanes[lane_id] = HeldLane(self._acked[lane_id].append, self._seal)
        self._last[lane_id] = _START
        self._ask_anew()
        return lane

    def leave(self, lane_id: int) -> None:
        """As `LaneReader.leave`."""
        if self._lanes.pop(lane_id, None) is not None:
            self._guarded(self._delete)
            del self._acked[lane_id], self._last[lane_id]
            self._ask_anew()

    def _ask_anew(self) -> None:
        """The outstanding read is for other lanes than are open now: have it come back."""
        if self._asked is not None and not self._stale:
            self._stale = True
            self._guarded(self._unblock)

    # -- driving -------------------------------------------------------------------------

    def handles(self) -> list[int]:
        """As `LaneReader.handles`."""
        return [link.fileno() for link in (self._read, self._order) if link is not None]

    def timeout(self) -> float:
        """As `LaneReader.timeout`."""
        if self._read is None:
            return self._outage.wait
        if self._asked is None and self._lanes and not self._full():
            return 0.0
        return max(0.0, self._looked_at + _LOOK_SECONDS - time.monotonic())

    def refill(self) -> None:
        """As `LaneReader.refill`."""
        if self._read is None:
            if self._outage.wait:
                return
            self._guarded(self._connect)
        if self._read is not None:
            self._guarded(self._turn)

    def close(self) -> None:
        """As `LaneReader.close`."""
        if self._order is not None:
            self._guarded(self._delete)
        self._drop()

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BackendUnavailable as exc:
            self._drop()
            self._outage.failed(exc)

    def _connect(self) -> None:
        read = RedisLink(self._place)
        try:
            self._order = RedisLink(self._place)
        except BackendUnavailable:
            read.close()
            raise
        self._read = read
        self._looked_at = time.monotonic()

    def _drop(self) -> None:
        for link in (self._read, self._order):
            if link is not None:
                link.close()
        self._read = self._order = self._asked = None
        self._stale = self._unheard = False
        self._answers.clear()

    def _turn(self) -> None:
        assert self._read is not None
        now = time.monotonic()
        self._hear()
        self._delete()
        answers = self._read.receive()
        for answer in answers:
            self._absorb(answer)
        # What came in is worked on first: `timeout` has the caller come back at once.
        if not answers and self._asked is None and self._lanes and not self._full():
            self._ask(now)
        if now >= self._looked_at + _LOOK_SECONDS:
            self._look(now)

    # -- reading -------------------------------------------------------------------------

    def _full(self) -> bool:
        return sum(map(len, self._lanes.values())) >= ENOUGH

    def _ask(self, now: float) -> None:
        assert self._read is not None
        names = {i: stream(self._place.prefix, self._store_id, i) for i in self._lanes}
        self._asked = {names[i].encode(): (i, lane) for i, lane in self._lanes.items()}
        self._stale, self._asked_at = False, now
        self._read.send(
            *("XREAD", "COUNT", _RECORDS, "BLOCK", int(_BLOCK_SECONDS * 1000), "STREAMS"),
            *names.values(),
            *(self._last[lane_id] for lane_id in names),
        )

    def _absorb(self, answer: Any) -> None:
        asked, self._asked = self._asked or {}, None
        if isinstance(answer, Exception):
            raise BackendUnavailable(
                f"the Redis at {self._place.shown} refuses to read a stream: {answer}"
            ) from answer
        self._outage.over()
        for name, records in answer or ():
            lane_id, lane = asked[name]
            if self._lanes.get(lane_id) is not lane:
                continue  # it was left meanwhile; what it held waits for the next owner
            for key, fields in records:
                lane.add(key, fields[1] if fields else b"")
                self._last[lane_id] = key

    # -- orders --------------------------------------------------------------------------

    def _say(self, handler: Callable[[Any], None] | None, *command: Any) -> None:
        if self._order is not None:
            self._order.send(*command)
            self._answers.append(handler)

    def _hear(self) -> None:
        assert self._order is not None
        for answer in self._order.receive():
            handler = self._answers.popleft()
            if handler is not None and not isinstance(answer, Exception):
                handler(answer)

    def _delete(self) -> None:
        if self._order is None:
            return
        for lane_id, keys in self._acked.items():
            if keys:
                name = stream(self._place.prefix, self._store_id, lane_id)
                self._say(None, "XDEL", name, *keys)
                keys.clear()

    def _unblock(self) -> None:
        if self._read is not None:
            self._say(self._unblocked, "CLIENT", "UNBLOCK", self._read.client_id)

    def _unblocked(self, answer: Any) -> None:
        if answer == 0 and self._stale and self._asked is not None:
            self._unblock()  # it overtook the read it was meant for

    def _look(self, now: float) -> None:
        """See that the server still answers, and that no record was passed over."""
        silent = self._asked is not None and now > self._asked_at + _BLOCK_SECONDS + _DEAD_SECONDS
        if silent or self._unheard:
            raise BackendUnavailable(f"the Redis at {self._place.shown} gives no answer")
        self._looked_at, self._unheard = now, True
        self._say(self._answered, "PING")
        for lane_id in self._lanes:
            name = stream(self._place.prefix, self._store_id, lane_id)
            self._say(partial(self._oldest, lane_id), "XRANGE", name, "-", "+", "COUNT", 1)

    def _answered(self, answer: Any) -> None:
        self._unheard = False

    def _oldest(self, lane_id: int, answer: Any) -> None:
        lane = self._lanes.get(lane_id)
        if lane is None or not answer:
            return
        key = answer[0][0]
        passed = _number(key) <= _number(self._last[lane_id])
        if passed and not lane.knows(key) and key not in self._acked[lane_id]:
            self._last[lane_id] = _START
            self._ask_anew()


def _number(key: bytes) -> tuple[int, int]:
    """A record's id, for comparing."""
    first, _, second = key.partition(b"-")
    return int(first), int(second)
