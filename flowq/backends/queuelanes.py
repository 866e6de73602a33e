"""Update lanes over an AMQP broker: `flowq.broker.lanes` behind the lanes' protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowq.backends.held import HeldLane
from flowq.backends.outage import Outage
from flowq.broker.amqp import Reach
from flowq.broker.codec import Report, encode_reports
from flowq.broker.lanes import LaneConsumer, LanePublisher
from flowq.broker.signing import UNSEALED, Seal
from flowq.errors import BrokerError


class QueueLaneWriter:
    """Contract: `backends.LaneWriter`; `put` ends within two seconds or so.

    Args:
        reach: The broker.
        store_id: Name of the store.
        seal: Goes on the records.
    """

    def __init__(self, reach: Reach, store_id: str, seal: Seal = UNSEALED) -> None:
        self._seal = seal
        self._publisher = LanePublisher(reach, store_id)

    def put(self, lane_id: int, reports: list[Report]) -> None:
        """As `LaneWriter.put`."""
        self._publisher.put(lane_id, self._seal.close(encode_reports(reports)))

    def close(self) -> None:
        """As `LaneWriter.close`."""
        self._publisher.close()


class QueueLaneReader:
    """Contract: `backends.LaneReader`.

    Args:
        reach: The broker.
        store_id: Name of the store.
        seal: Goes on the records.
    """

    def __init__(self, reach: Reach, store_id: str, seal: Seal = UNSEALED) -> None:
        self._seal = seal
        self._lanes: dict[int, HeldLane] = {}
        self._acked: dict[int, list[Any]] = {}
        self._consumer = LaneConsumer(reach, store_id, self._record)
        self._outage = Outage("reading workers' reports stands still")

    def open(self, lane_id: int) -> HeldLane:
        """As `LaneReader.open`."""
        self._acked[lane_id] = []
        lane = self._lanes[lane_id] = HeldLane(self._acked[lane_id].append, self._seal)
        if self._consumer.is_connected:
            self._guarded(lambda: self._consumer.open(lane_id))
        return lane

    def leave(self, lane_id: int) -> None:
        """As `LaneReader.leave`."""
        if self._lanes.pop(lane_id, None) is None:
            return
        if self._consumer.is_connected:
            self._guarded(self._send_acks)
            self._guarded(lambda: self._consumer.leave(lane_id))
        del self._acked[lane_id]

    def handles(self) -> list[int]:
        """As `LaneReader.handles`."""
        return [self._consumer.fileno()] if self._consumer.is_connected else []

    def timeout(self) -> float:
        """As `LaneReader.timeout`."""
        return 1.0 if self._consumer.is_connected else self._outage.wait

    def refill(self) -> None:
        """As `LaneReader.refill`."""
        if not self._consumer.is_connected:
            if self._outage.wait:
                return
            self._guarded(self._connect)
        if self._consumer.is_connected:
            self._guarded(self._send_acks)
        if self._consumer.is_connected:
            self._guarded(self._consumer.pump)

    def close(self) -> None:
        """As `LaneReader.close`."""
        if self._consumer.is_connected:
            self._guarded(self._send_acks)
        self._consumer.close()

    def _connect(self) -> None:
        self._consumer.connect()
        for lane_id in self._lanes:
            self._consumer.open(lane_id)
        self._outage.over()

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except BrokerError as exc:
            self._outage.failed(exc)
            for lane in self._lanes.values():
                lane.lost()
            for keys in self._acked.values():
                keys.clear()

    def _send_acks(self) -> None:
        for lane_id, keys in self._acked.items():
            for key in keys:
                self._consumer.ack(lane_id, key)
            keys.clear()

    def _record(self, lane_id: int, key: int, body: bytes) -> None:
        lane = self._lanes.get(lane_id)
        if lane is not None:
            lane.add(key, body)
