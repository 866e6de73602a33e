"""The world of one seed: coordinators on lanes, a broker, workers, people, and a clock."""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from flowq.app import lanes
from flowq.broker.codec import Bundle, Report, decode_bundle, encode_bundle
from flowq.coordinator.admission import Submission
from flowq.core.ids import node_id, run_uid
from flowq.core.states import RUN_TERMINAL, RunState, State
from flowq.errors import BrokerError, IdempotencyConflict, LaneLost, StoreError, WrongState
from flowq.store import NewRun
from tests.simulation.invariants import ACTIVE, Checker, Violation
from tests.simulation.judging import Judge
from tests.simulation.process import Process, SimStore
from tests.simulation.runs import RunOf, draw_run, fast_folder, template
from tests.simulation.weather import Crash, Weather
from tests.simulation.workers import DEATHS, Arguments, Worker

_START = 1_800_000_000.0


class World:
    """Everything of one seed; `run` plays it to the end.

    Args:
        seed: Decides everything.
        only: Rates of faults in place of drawn ones.
    """

    def __init__(self, seed: int, only: dict[str, float] | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(f"flowq {seed}")
        self.weather = Weather(self.rng, only)
        self.folder = Path(tempfile.mkdtemp(prefix="flowq-sim-", dir=fast_folder()))
        path = self.folder / "sim.db"
        shutil.copyfile(template(), path)
        self.url = f"sqlite:///{path}"
        #: True seconds so far, and how far the coordinators' clock is off.
        self.real = self.offset = 0.0
        self.checker = Checker(str(path))
        self.trace = hashlib.sha256()
        self.traced: list[str] | None = None
        self.client = SimStore(self.url, self, None)
        self.inline = self.rng.choice([24, 64, 65536])
        self.pace = self.rng.choice([0.01, 0.1, 3.0])
        self.processes: list[Process] = []  # alive; the last one of a lane owns it
        self.broker: list[bytes] = []
        self.late: list[tuple[float, bytes]] = []
        self.air: list[tuple[float, int, Report]] = []
        self.workers = [Worker(self, self.rng.randint(1, 3)) for _ in range(self.rng.randint(1, 3))]
        self.narrow = self.rng.random() < 0.4
        self.executions: Counter[tuple[int, int]] = Counter()
        self.noises: dict[tuple[int, int], tuple[str, ...]] = {}
        self.deaths: Counter[tuple[int, int]] = Counter()
        self.runs: dict[int, RunOf] = {}
        self.waiting = [draw_run(self.rng, i) for i in range(self.rng.randint(1, 4))]
        self.handed: list[tuple[RunOf, Process, Submission]] = []
        self.known: dict[str, RunOf] = {}
        self.steps = 0
        self.arguments = Arguments(self).of
        lane = self.client.make_lane("sim", "embedded", "p0", None)
        self.names = 1
        self.processes.append(Process(self, lane, "p0", 1))

    # -- ports ------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Epoch seconds by the store's clock, which people set back and forth."""
        return _START + self.real + self.offset

    def clock(self) -> float:
        return self.now

    def slots(self, queue: str) -> int:
        return 1 if self.narrow else sum(worker.hands for worker in self.workers)

    def held(self) -> set[tuple[int, int, int]] | None:
        if self.broker or self.late or (self.weather.quiet and self.air):
            return None
        return set().union(*(worker.held for worker in self.workers))

    def publish(self, process: Process, bundle: Bundle) -> None:
        """A coordinator's port: check what goes out, then let the weather at it."""
        weather = self.weather
        weather.crash("before a publish")
        self._may_go(process, bundle)
        if weather.strikes("publish fails"):
            raise BrokerError("simulated: the broker is gone")
        data = encode_bundle(bundle)
        self.note("publish", process.fence.owner, hashlib.sha256(data).hexdigest()[:8])
        for _ in range(2 if weather.strikes("message twice") else 1):
            if weather.strikes("message lost"):
                continue
            if weather.strikes("message late"):
                self.late.append((self.real + self.rng.uniform(0.1, 20.0), data))
            else:
                self.broker.append(data)
        weather.crash("after a publish")

    def _may_go(self, process: Process, bundle: Bundle) -> None:
        """S10, S14: only committed dispatches of live runs are published."""
        for item in bundle.items:
            table = self.checker.tables[item.run]
            node = table.nodes[item.idx]
            where = f"run {item.run} node {item.idx} attempt {item.attempt}"
            if table.state == RunState.CANCELLED:
                raise Violation(f"S14: {where} is published after its run was cancelled")
            if table.lane != process.fence.lane_id:
                continue  # moved away since: its owner cannot know yet
            if item.attempt > node.attempt or (
                node.state not in ACTIVE and item.attempt == node.attempt
            ):
                raise Violation(f"S10: {where} is published, the row says {node.state}")

    def report(self, lane_id: int, report: Report) -> None:
        """A worker's port: a report starts its way."""
        weather = self.weather
        for _ in range(2 if weather.strikes("update twice") else 1):
            if not weather.strikes("update lost"):
                late = self.rng.uniform(0.1, 20.0) if weather.strikes("update late") else 0.0
                self.air.append((self.real + late, lane_id, report))

    def person(self, run_id: int, kind: str, body: bytes | None = None) -> None:
        """Somebody asks the run's coordinator for something, through the inbox."""
        lane = self.checker.tables[run_id].lane
        store = self.client
        store.write(lambda c: c.execute(store.sql.inbox_insert, (lane, run_id, kind, body)))
        self.ring(lane)

    def ring(self, lane: int) -> None:
        for process in self.processes:
            if process.fence.lane_id == lane:
                process.coordinator.inbox_rung = True

    def may_die(self, run_id: int, index: int) -> bool:
        """Whether a node may lose one more process without reaching its limit."""
        self.deaths[run_id, index] += 1
        return self.deaths[run_id, index] <= DEATHS

    def node_id(self, run_id: int, index: int) -> str:
        return node_id(UUID(self.runs[run_id].uid), index)

    # -- what is true -----------------------------------------------------------------------

    def committed(self, process: Process | None) -> None:
        """After every commit: all invariants, and that a lane has one writer."""
        self.checker.check()
        for table in self.checker.tables.values() if self.known else ():
            if table.id not in self.runs and table.uid in self.known:
                made = self.known.pop(table.uid)
                made.id, made.uid = table.id, table.uid
                self.runs[made.id] = made
        if process is not None and self.checker.news and not self._fenced(process):
            raise Violation(f"fence: {process.fence} wrote to a lane that it had lost")

    def _fenced(self, process: Process) -> bool:
        """Whether the lane is this process's own."""
        row = self.checker.rows(
            "SELECT owner, epoch FROM flowq_lane WHERE id=?", process.fence.lane_id
        )
        return row == [(process.fence.owner, process.fence.epoch)]

    def note(self, *words: object) -> None:
        text = f"{self.now:.3f} {' '.join(map(str, words))}"
        self.trace.update(text.encode())
        if self.traced is not None:
            self.traced.append(text)

    # -- playing ----------------------------------------------------------------------------

    def run(self) -> str:
        """Play the seed; returns the hash of its trace. Raises Violation."""
        try:
            self._play()
        except Violation as exc:
            raise AssertionError(f"seed {self.seed}: {exc}") from exc
        finally:
            for process in self.processes:
                process.end()
            self.client.close()
            self.checker.close()
            shutil.rmtree(self.folder, ignore_errors=True)
        return self.trace.hexdigest()

    def _play(self) -> None:
        for _ in range(self.rng.choice([150, 400, 800])):
            self.tick()
        self.weather.over = True
        self._heal()
        size = sum(len(table.nodes) for table in self.checker.tables.values())
        for _ in range(3000 + 300 * size):
            if self._ended() and not (self._under_way() or self.late or self.air):
                break
            self.tick()
        else:
            alive = [t.id for t in self.checker.tables.values() if t.state not in RUN_TERMINAL]
            raise Violation(f"S11: runs {alive} do not end: {Judge(self).why()}")
        judge = Judge(self)
        judge.settle()
        judge.outcomes()
        for table in self.checker.tables.values():
            states = [(str(n.state), n.attempt, n.generation) for n in table.nodes]
            self.note("end", table.id, table.state, states)

    def tick(self) -> None:
        """One thing happens somewhere."""
        self.steps += 1
        self.real += self.rng.random() * self.pace
        if self.weather.strikes("clock jumps"):
            self.offset += self.rng.choice([-3600.0, 3600.0])
        self._trouble()
        self._handed_in()
        choices: list[Callable[[], None]] = [self._advance] * 3
        if self.waiting:
            choices += [self._submit] * (1 if self.runs and not self.weather.over else 9)
        if self.air:
            choices += [self._deliver] * 3
        if self.broker or self.late:
            choices += [self._take] * 3
        busy = [worker for worker in self.workers if worker.busy]
        if busy:
            choices += [self.rng.choice(busy).act] * 4
        self.rng.choice(choices)()

    def _advance(self) -> None:
        """A coordinator's turn; when nothing is under way time passes until it is due."""
        if not self.processes:
            self._take_over()
            return
        process = self.rng.choice(self.processes)
        try:
            done = process.step()
        except Crash as crash:
            self.note("crash", process.fence.owner, crash)
            self._bury(process)
            return
        except LaneLost:
            self.note("lane lost", process.fence.owner)
            if self._fenced(process):
                raise Violation("fence: the owner was told that its lane is lost") from None
            self._bury(process)
            return
        except (StoreError, BrokerError) as exc:
            self.note("error", process.fence.owner, exc)
            return
        self.note("step", process.fence.owner, done)
        if not done and not self._under_way():
            if not (self.late or self.air or process.coordinator.dispatcher.rate_wake):
                self._no_wake_up_lost(process)
            due = min(process.coordinator.wake_at() - self.now, 60.0, self._next_arrival())
            self.real += max(due, 0.0) + 0.001

    def _under_way(self) -> bool:
        lanes_full = self.handed or any(
            len(p.updates) or p.coordinator.inbox_rung for p in self.processes
        )
        busy = any(worker.busy for worker in self.workers)
        return bool(self.broker or lanes_full or busy or self._next_arrival() <= 0.0)

    def _next_arrival(self) -> float:
        """Seconds until something that is late arrives; a minute if nothing does."""
        times = [entry[0] for entry in self.late] + [entry[0] for entry in self.air]
        return min(times, default=self.real + 60.0) - self.real

    def _no_wake_up_lost(self, process: Process) -> None:
        """S11: nothing is READY in a live run while its coordinator has nothing to do."""
        if not self._fenced(process) or not process.started:
            return
        full = any(
            len(q.out) >= 4 * self.slots(q.name)
            for q in process.coordinator.dispatcher.queues.values()
        )
        for table in self.checker.tables.values():
            if table.lane != process.fence.lane_id or table.state != RunState.RUNNING or full:
                continue
            if self.runs[table.id].broken:
                continue
            ready = [i for i, node in enumerate(table.nodes) if node.state is State.READY]
            if ready:
                raise Violation(f"S11: run {table.id}: nodes {ready} are READY, nobody knows")

    def _submit(self) -> None:
        """Submit a run, through its own process or from elsewhere."""
        made = self.waiting.pop()
        process = self.rng.choice(self.processes) if self.processes else None
        lane = process.fence.lane_id if process else 1
        if process is not None and process.started and self.rng.random() < 0.5:
            submission = Submission(self._new(made, lane), made.graph)
            self.handed.append((made, process, submission))
            process.coordinator.submissions.append(submission)
            self.note("hand in", made.key)
            return
        self._submit_twice(made, lane)
        if made.key:
            self._conflict(made, lane)
        self.note("submit", made.id)
        self.ring(lane)

    def _submit_twice(self, made: RunOf, lane: int) -> None:
        """One with a key is sometimes submitted again (S2)."""
        before = 0
        for _ in range(2 if made.key and self.rng.random() < 0.5 else 1):
            found, _, fresh = self.client.submit(self._new(made, lane), made.graph)
            if before and (fresh or before != found):
                raise Violation("S2: one key, two runs")
            before = found
        if self.runs.get(before) is not made:
            raise Violation("S2: a key gave another run")

    def _new(self, made: RunOf, lane: int) -> NewRun:
        uid = str(run_uid(int(self.now * 1000), self.rng.getrandbits(44)))
        self.known[uid] = made
        return NewRun(
            uid, lane, "sim", f"run {made.key}", idempotency_key=made.key or None,
            digest=hashlib.sha256(made.graph.encode()).digest() if made.key else None,
            priority=self.rng.choice([0, 0, 5]),
        )  # fmt: skip

    def _handed_in(self) -> None:
        """Look after submissions to coordinators: what was not stored is submitted again."""
        for entry in list(self.handed):
            made, process, submission = entry
            if not submission.done.is_set() and process in self.processes:
                continue
            self.handed.remove(entry)
            stored = made.id in self.checker.tables
            if submission.done.is_set() and submission.error is None:
                if not stored:
                    raise Violation(f"S1: run {submission.uid} was acknowledged, and is not there")
            elif not stored:
                self.waiting.append(made)

    def _conflict(self, made: RunOf, lane: int) -> None:
        new = NewRun(
            "00000000-0000-7000-8000-000000000000", lane, "sim", "x", idempotency_key=made.key,
            digest=b"other",
        )  # fmt: skip
        try:
            self.client.submit(new, made.graph)
        except IdempotencyConflict:
            return
        raise Violation("S2: one key, two canvases")

    def _deliver(self) -> None:
        due = [i for i, (at, _, _) in enumerate(self.air) if at <= self.real]
        if not due:
            return
        _, lane, report = self.air.pop(self.rng.choice(due))
        owner = self._owner(lane)
        if owner is None:
            return  # nobody listens: as if it were lost
        owner.updates.put([report])

    def _take(self) -> None:
        """A worker takes any message that is there: order means nothing."""
        for pair in [pair for pair in self.late if pair[0] <= self.real]:
            self.late.remove(pair)
            self.broker.append(pair[1])
        free = [worker for worker in self.workers if worker.free]
        if free and self.broker:
            data = self.broker.pop(self.rng.randrange(len(self.broker)))
            self.rng.choice(free).take(decode_bundle(data))

    # -- trouble ----------------------------------------------------------------------------

    def _trouble(self) -> None:
        weather, rng = self.weather, self.rng
        if weather.over:
            return
        if weather.strikes("child dies"):
            rng.choice(self.workers).child_dies()
        if weather.strikes("worker dies"):
            rng.choice(self.workers).vanish()
        if weather.strikes("worker drains"):
            rng.choice(self.workers).drain()
        if weather.strikes("takeover"):
            self._take_over()
        if weather.strikes("move"):
            self._move()
        for kind in ("cancel", "retry", "pause", "revoke", "run breaks"):
            if self.runs and weather.strikes(kind):
                self._order(kind, rng.choice(list(self.runs.values())))

    def _order(self, kind: str, made: RunOf) -> None:
        self.note(kind, made.id)
        made.orders[kind] += 1
        if kind == "run breaks":
            made.broken = True
            column = self.rng.choice(["flowq_spec SET body", "flowq_run SET result_nodes"])
            where = "run_id" if "spec" in column else "id"
            self.checker.execute(f"UPDATE {column} = 'not this' WHERE {where} = ?", made.id)
            return
        if kind == "revoke":
            made.revoked = True
            index = self.rng.randrange(len(self.checker.tables[made.id].nodes))
            self.person(made.id, kind, str(index).encode())
            return
        self.person(made.id, kind)
        if kind == "pause" and self.rng.random() < 0.7:
            self.person(made.id, "unpause")
        if kind == "cancel" and self.rng.random() < 0.3:
            self.person(made.id, "retry")

    def _owner(self, lane_id: int) -> Process | None:
        """The coordinator that owns a lane now; an older one may still believe it does."""
        found = [p for p in self.processes if p.fence.lane_id == lane_id]
        return found[-1] if found else None

    def _bury(self, process: Process) -> None:
        """A process is gone; a lane that lasts keeps what was not acknowledged."""
        self.processes.remove(process)
        owner = self._owner(process.fence.lane_id)
        if self.seed % 2 and process.updates.left():
            for report in process.updates.left():
                self.air.append((self.real, process.fence.lane_id, report))
        if owner is None and self.rng.random() < 0.5:
            for worker in self.workers:  # an embedded process takes its children along
                worker.vanish()
            self.broker.clear()
            self.late.clear()
        process.end()

    def _take_over(self, lane_id: int | None = None) -> None:
        """A new coordinator takes a lane, whether or not the old one is still there."""
        rows = self.checker.rows("SELECT id, epoch FROM flowq_lane ORDER BY id")
        if lane_id is not None:
            rows = [row for row in rows if row[0] == lane_id]
        lane, epoch = self.rng.choice(rows)
        owner = f"p{self.names}"
        self.names += 1
        store = self.client
        store.write(lambda c: c.execute(store.sql.lane_take, (owner, lane, epoch)))
        self.note("take over", lane, owner)
        self.processes.append(Process(self, lane, owner, epoch + 1))

    def _move(self) -> None:
        """A lane's process is killed; one of its runs goes on in another lane."""
        if not self.runs or not self.processes:
            return
        made = self.rng.choice(list(self.runs.values()))
        table = self.checker.tables[made.id]
        if table.state in RUN_TERMINAL or made.broken:
            return
        begun = [i for i, node in enumerate(table.nodes) if node.state is State.STARTED]
        if any(self.deaths[made.id, i] >= DEATHS for i in begun):
            return
        for process in [p for p in self.processes if p.fence.lane_id == table.lane]:
            if self.rng.random() < 0.8:
                self._bury(process)  # else it lives on, and does not know
        owner = f"p{self.names}"
        self.names += 1
        lane = self.client.make_lane("sim", "embedded", owner, None)
        try:
            lanes.move_run(self.client, made.id, lane, owner, ["adopt"])
        except WrongState:
            return
        for i in begun:
            self.may_die(made.id, i)
        self.note("move", made.id, lane)
        self.processes.append(Process(self, lane, owner, 1))

    # -- the end ----------------------------------------------------------------------------

    def _heal(self) -> None:
        """Every lane gets one live owner, every paused run goes on."""
        for process in list(self.processes):
            if self._owner(process.fence.lane_id) is not process:
                self._bury(process)
        for table in list(self.checker.tables.values()):
            owner = self._owner(table.lane)
            rows = self.checker.rows("SELECT epoch FROM flowq_lane WHERE id=?", table.lane)
            if owner is None or rows != [(owner.fence.epoch,)]:
                self._take_over(table.lane)
            self.person(table.id, "unpause")

    def _ended(self) -> bool:
        tables = self.checker.tables
        if self.waiting or self.handed:
            return False
        return all(t.state in RUN_TERMINAL for t in tables.values() if not self.runs[t.id].broken)
