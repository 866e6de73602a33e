"""A worker that is cut off, and what must be true afterwards: for tests and for a campaign.

Its broker, its result backend and its store are reached through proxies of its own, which are cut
(connections end, new ones are refused) or stalled (they stay, and nothing passes). The coordinator,
the client and another worker are not disturbed. Tasks append lines to a ledger.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flowq.core.ids import split_node_id
from tests.proxy import CuttingProxy
from tests.rig import Rig, until
from tests.servers import address, through

#: Seconds without a sign of life after which a worker counts as lost, and between two signs.
LEASE, HEARTBEAT = 1.5, 0.3
#: Seconds that a task takes: so long that most of what runs at a cut has been announced by then.
BODY = 0.6
PARTS = ("broker", "backend", "store")

PROJECT = """
    import os, threading
    from flowq import Flowq, chain, chord, group
    app = Flowq("proj")

    def note(request, event):
        line = f"{request.id} {request.attempt} {os.environ.get('PLACE', '-')} {event}\\n"
        ledger = os.open("ledger.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(ledger, line.encode())
        os.close(ledger)

    @app.task(bind=True, max_crashes=50)
    def step(self, value, seconds):
        note(self.request, "began")
        threading.Event().wait(seconds)
        note(self.request, "ended")
        return value + 1
    @app.task(bind=True, max_crashes=50)
    def gather(self, values):
        note(self.request, "began")
        note(self.request, "ended")
        return sum(values)

    @app.task
    def size(text):
        return len(text)

    def work(width, seconds):
        return chord([chain(step.s(i, seconds), step.s(seconds), step.s(seconds))
                      for i in range(width)], gather.s())
"""
SUBMIT = """
    run = app.submit(work({width}, {seconds}))
    answer([run.id, run.run_id])
"""
ENDED = """
    run = app.run({uid!r})
    done = run.wait({patience})
    answer([done, run.state.value, run.counts(), run.result(1) if done else None])
"""


class Line(NamedTuple):
    """One line of the ledger."""

    node: str
    attempt: int
    place: str
    event: str


class Verdict(NamedTuple):
    """What was found of one run; `wrong` is empty when all of it is right."""

    nodes: int
    #: Attempts that were taken back from a worker that was lost while it ran them.
    taken_back: int
    #: Bodies that ran more than once to their end, which a cut may bring about.
    twice: int
    #: Reports that came too late and changed nothing.
    discarded: int
    wrong: list[str]


class Judged(Rig):
    """A fleet whose runs are held against a ledger and the store's own record.

    Args:
        folder: Where the project and the ledger are.
        broker, backend, store: Servers' URLs.
    """

    def __init__(self, folder: Path, *, broker: str, backend: str, store: str) -> None:
        super().__init__(folder, broker=broker, backend=backend, store=store, project=PROJECT)
        self.env["FLOWQ_WORKER_LOST_AFTER"] = str(LEASE)
        self.env["FLOWQ_WORKER_HEARTBEAT_INTERVAL"] = str(HEARTBEAT)

    def submit(self, width: int, seconds: float = BODY) -> tuple[str, int]:
        """Submit a run of `3 * width + 1` tasks that take so long each."""
        uid, run_id = self.call(SUBMIT.format(width=width, seconds=seconds))
        return uid, run_id

    def await_work(self, place: str, patience: float = 30.0) -> None:
        """Wait until a worker begins a task that it begins after this call."""
        before = self._begun(place)
        until(
            lambda: self._begun(place) > before,
            f"the worker {place!r} begins something; {self.words()}",
            patience,
        )

    def until_it_takes_part(self, place: str, patience: float = 30.0) -> list[tuple[str, int, int]]:
        """Submit little runs until a worker begins a task; gives them, as `judge` takes them."""
        before, runs = self._begun(place), []
        deadline = time.monotonic() + patience
        while self._begun(place) == before:
            assert time.monotonic() < deadline, f"{place!r} begins nothing\n{self.words()}"
            runs.append((*self.submit(6, 0.2), 6))
        return runs

    def _begun(self, place: str) -> int:
        return sum(line.place == place for line in self.ledger())

    def ledger(self) -> list[Line]:
        """All lines so far."""
        path = self.folder / "ledger.txt"
        found = []
        for line in path.read_text().splitlines() if path.exists() else ():
            node, attempt, place, event = line.split()
            found.append(Line(node, int(attempt), place, event))
        return found

    def judge(self, uid: str, run_id: int, width: int, patience: float = 60.0) -> Verdict:
        """Wait for a run to end, and hold it against the ledger and the table of transitions."""
        ended = self.call(ENDED.format(uid=uid, patience=patience), patience=patience + 30)
        done, state, counts, result = ended
        wrong = []
        if not done or state != "SUCCESS":
            wrong.append(f"it is {state} {counts}")
        if result != sum(i + 3 for i in range(width)):
            wrong.append(f"its result is {result}")
        outcomes, discarded = self._recorded(run_id)
        wrong += [f"node {i} has {found}" for i, found in outcomes.items() if found != ["SUCCESS"]]
        wrong += self._nodes_not_done(run_id)
        ran = Counter(
            line.node for line in self.ledger() if line.event == "ended" and _run(line) == uid
        )
        if len(ran) != 3 * width + 1:
            wrong.append(f"{len(ran)} bodies ran to their end, not {3 * width + 1}")
        twice = sum(1 for count in ran.values() if count > 1)
        ((crashes,),) = self.rows("SELECT sum(crashes) FROM flowq_node WHERE run_id = %s", run_id)
        return Verdict(len(outcomes), int(crashes), twice, discarded, wrong)

    def _recorded(self, run_id: int) -> tuple[dict[int, list[str]], int]:
        """Outcomes by node as the table of transitions has them; and how many were discarded."""
        rows = self.rows(
            "SELECT idx, after FROM flowq_transition WHERE run_id = %s AND before <> after AND"
            " after IN ('SUCCESS', 'FAILURE', 'REVOKED', 'SKIPPED') ORDER BY seq",
            run_id,
        )
        outcomes: dict[int, list[str]] = {}
        for idx, after in rows:
            outcomes.setdefault(idx, []).append(after)
        discarded = "SELECT count(*) FROM flowq_transition WHERE run_id = %s AND cause LIKE %s"
        return outcomes, int(self.rows(discarded, run_id, "discarded:%")[0][0])

    def _nodes_not_done(self, run_id: int) -> list[str]:
        rows = self.rows(
            "SELECT idx, state FROM flowq_node WHERE run_id = %s AND state <> 'SUCCESS'", run_id
        )
        return [f"node {idx} is {state}" for idx, state in rows]

    def rows(self, statement: str, *params: Any) -> Sequence[tuple[Any, ...]]:
        """Rows of the store, by plain SQL."""
        import psycopg

        with psycopg.connect(self.env["FLOWQ_STORE"].replace("+psycopg", "")) as connection:
            return connection.execute(statement, params).fetchall()


class Apart(Judged):
    """A fleet of which one worker can be cut off.

    Args:
        folder: Where the project and the ledger are.
        broker, backend, store: Servers' URLs.
    """

    def __init__(self, folder: Path, *, broker: str, backend: str, store: str) -> None:
        super().__init__(folder, broker=broker, backend=backend, store=store)
        urls = dict(zip(PARTS, (broker, backend, store), strict=True))
        self.proxies = {part: CuttingProxy(*_address(url)) for part, url in urls.items()}
        self._through = {
            f"FLOWQ_{part.upper()}": through(url, self.proxies[part].port)
            for part, url in urls.items()
        }

    def begin(self) -> None:
        """Start the coordinator, the worker that is cut, and the one that is not."""
        self.coordinator()
        self.cut_worker()
        self.worker("-c", "2", PLACE="near")

    def cut_worker(self) -> subprocess.Popen[bytes]:
        """Start the worker that can be cut."""
        return self.worker("-c", "2", PLACE="cut", **self._through)

    def cut_coordinator(self) -> subprocess.Popen[bytes]:
        """Start a coordinator in the place of the worker that can be cut."""
        self.env["FLOWQ_COORDINATOR_LEASE"] = str(LEASE)
        return self.coordinator(**self._through)

    def cut(self, how: str, parts: Collection[str] = PARTS, delay: float = 0.4) -> None:
        """Part the worker for twice its lease while it works, and join it again.

        Args:
            how: "cut" or "stall".
            parts: What it is parted from.
            delay: It happens so many seconds after a task began.
        """
        self.await_work("cut")
        pause(delay)
        self.part(how, parts)

    def part(self, how: str, parts: Collection[str] = PARTS) -> None:
        """Part what can be cut from servers for twice its lease, and join it again."""
        for part in parts:
            getattr(self.proxies[part], how)()
        pause(2 * LEASE)
        for part in parts:
            self.proxies[part].restore()

    def close(self) -> None:
        for proxy in self.proxies.values():
            proxy.restore()
        super().close()
        for proxy in self.proxies.values():
            proxy.close()


def pause(seconds: float) -> None:
    """Let time pass, where its passing is what is tested."""
    threading.Event().wait(seconds)


def _address(url: str) -> tuple[str, int]:
    host, port = address(url)
    return host, 5432 if url.startswith("postgresql") and port == 5672 else port


def _run(line: Line) -> str:
    return str(split_node_id(line.node)[0])
