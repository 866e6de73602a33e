"""The end of a seed: nothing may be left, and everything ended as the oracle says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowq.backends.recorded import Recorded
from flowq.core.states import RunState, State
from tests.core.test_outcomes import matches
from tests.simulation.invariants import Violation
from tests.simulation.workers import DEATHS, Arguments

if TYPE_CHECKING:
    from tests.simulation.runs import RunOf
    from tests.simulation.world import World


class Judge:
    """Judges a world that has come to rest. Raises Violation."""

    def __init__(self, world: World) -> None:
        self.world = world

    def settle(self) -> None:
        """S20: nothing may be left."""
        for _ in range(20):
            for process in self.world.processes:
                process.coordinator.inbox_rung = True
                process.step()
        broken = tuple(made.id for made in self.world.runs.values() if made.broken)
        marks = ",".join("?" * len(broken))
        for table in ("timer", "inbox"):
            left = self.world.checker.rows(
                f"SELECT * FROM flowq_{table} WHERE run_id NOT IN ({marks})", *broken
            )
            if left:
                raise Violation(f"S20: left in {table}: {left}")
        left = self.world.checker.rows("SELECT * FROM flowq_outbox")
        if left and not broken:
            raise Violation(f"S20: left in outbox: {left}")

    def outcomes(self) -> None:
        """S15: every node ended as the oracle says."""
        for made in self.world.runs.values():
            self._heard_once(made.id)
            if made.broken or made.revoked:
                continue
            found = self._differences(made)
            if found:
                raise Violation(f"S15: run {made.id}: " + "; ".join(found[:6]))

    def _heard_once(self, run_id: int) -> None:
        """S5, S12: retries and crashes are what the attempts said, each attempt once."""
        for index, node in enumerate(self.world.checker.tables[run_id].nodes):
            noise = self.world.noises.get((run_id, index), ())
            deaths = min(self.world.deaths[run_id, index], DEATHS)
            if node.retries > noise.count("retry") or (
                node.state is State.SUCCESS and node.crashes > noise.count("lost") + deaths
            ):
                raise Violation(
                    f"S5: run {run_id} node {index}: {node.retries} retries, {node.crashes} "
                    f"crashes after {noise} and {deaths} deaths"
                )

    def _differences(self, made: RunOf) -> list[str]:
        table = self.world.checker.tables[made.id]
        cancelled = table.state == RunState.CANCELLED
        paths = {node.path: i for i, node in enumerate(table.nodes)}
        expected = made.expected
        found = []
        recorded = Recorded(self.world.client)
        if not cancelled and expected.run != table.state:
            found.append(f"ended {table.state}, not {expected.run}")
        for path, out in expected.nodes.items():
            if path not in paths:
                found += [] if cancelled else [f"{path!r} is missing"]
                continue
            index = paths[path]
            node = table.nodes[index]
            if cancelled and node.state is State.REVOKED:
                continue
            if node.state is not out.state:
                found += [] if cancelled else [f"{path!r} ended {node.state}, not {out.state}"]
            elif node.state is State.SUCCESS:
                frame = recorded.value(made.id, index) or b""
                value = Arguments(self.world).value(made.id, index, frame)
                if not matches(out.value, value) and not cancelled:
                    found.append(f"{path!r} = {value!r}, not {out.value!r}")
            elif table.cause_path(index) != out.cause and not cancelled:
                found.append(f"{path!r} because of {table.cause_path(index)!r}, not {out.cause!r}")
            if self.world.weather.quiet:
                found += self._needless(made, index, expected.attempts[path])
        return found

    def _needless(self, made: RunOf, index: int, attempts: int) -> list[str]:
        """In peace each attempt runs once, and there are as many as there must be."""
        node = self.world.checker.tables[made.id].nodes[index]
        ran = self.world.executions[made.id, index]
        if (node.attempt, ran) != (attempts, attempts):
            return [f"{node.path!r}: {node.attempt} attempts, {ran} executions, not {attempts}"]
        return []

    def why(self) -> str:
        rows = self.world.checker.rows(
            "SELECT r.id, r.state, n.state, COUNT(*) FROM flowq_run r JOIN flowq_node n"
            " ON n.run_id = r.id GROUP BY 1, 2, 3"
        )
        return f"{rows}, air {len(self.world.air)}, broker {len(self.world.broker)}"
