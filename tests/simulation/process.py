"""The processes of the simulation: production code on a store and a lane that may fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowq.backends.memory import MemoryLane
from flowq.broker.codec import Report
from flowq.coordinator import Coordinator, Fence
from flowq.store import Store

if TYPE_CHECKING:
    from tests.simulation.world import World


class SimStore(Store):
    """The production store, whose calls may fail before or after they are done."""

    def __init__(self, url: str, world: World, process: Process | None) -> None:
        super().__init__(url, synchronous="NORMAL")
        self._world, self._process = world, process
        self.database.now = world.clock  # type: ignore[method-assign]
        self._commit, self.write = self.write, self._write

    def _write(self, function: Callable[[Any], Any]) -> Any:
        world = self._world
        if self._process is not None:
            world.weather.crash("before a commit")
            world.weather.store("commit fails")
        result = self._commit(function)
        world.committed(self._process)
        if self._process is not None:
            world.weather.store("commit lies")
            world.weather.crash("after a commit")
        return result

    def rows(self, statement: str, params: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        if self._process is not None:
            self._world.weather.store("read fails")
        return super().rows(statement, params)


class SimLane(MemoryLane):
    """The production lane; its owner may die before it acknowledges."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def ack(self, count: int) -> None:
        self._world.weather.crash("before an ack")
        super().ack(count)
        self._world.weather.crash("after an ack")

    def left(self) -> list[Report]:
        return list(self._reports)


class Process:
    """One coordinator with a store of its own."""

    def __init__(self, world: World, lane_id: int, owner: str, epoch: int) -> None:
        self.world = world
        self.store = SimStore(world.url, world, self)
        self.fence = Fence(lane_id, owner, epoch)
        self.updates = SimLane(world)
        self.coordinator = Coordinator(
            self.store,
            self.fence,
            self.updates,
            publish=lambda bundle: world.publish(self, bundle),
            slots=world.slots,
            held=world.held,
            now=world.clock,
            inline_bytes=world.inline,
        )
        self.started = False

    def step(self) -> bool:
        """One turn; False if nothing was done."""
        if not self.started:
            self.coordinator.start()
            self.started = True
            return True
        return self.coordinator.step()

    def end(self) -> None:
        self.store.close()
