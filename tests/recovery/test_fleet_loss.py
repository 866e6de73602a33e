"""What a fleet survives: workers and coordinators killed, a broker wiped or away, hosts cut off."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Rig, until
from tests.started import Server

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]

#: Of coordinators, in seconds.
LEASE = 3.0

NAPS = """
    run = app.submit(group(nap.si({seconds}, str(i)) for i in range({count})) | total.si([1]))
    answer([run.id, run.run_id])
"""


@pytest.fixture
def rig(request: pytest.FixtureRequest, redis_server: Server, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(
        tmp_path,
        broker=f"redis://127.0.0.1:{redis_server.port}/0",
        backend=f"redis://127.0.0.1:{redis_server.port}/1",
        store=request.getfixturevalue("postgres_server")(),
    )
    made.env["FLOWQ_WORKER_LOST_AFTER"] = "3"
    made.env["FLOWQ_COORDINATOR_LEASE"] = str(LEASE)
    yield made
    made.close()


def ended(rig: Rig, uid: str, patience: float = 90.0) -> dict[str, Any]:
    """Wait for a run to end, and give what it became."""
    return rig.call(
        f"""
        run = app.run({uid!r})
        done = run.wait({patience - 10})
        answer([done, run.state.value, run.counts()])
        """,
        patience=patience,
    )


def ledger(rig: Rig) -> Counter[str]:
    return Counter((rig.folder / "ledger.txt").read_text().splitlines())


def rows(rig: Rig, statement: str, *params: Any) -> list[tuple[Any, ...]]:
    """Rows of the store, by plain SQL."""
    import psycopg

    with psycopg.connect(rig.env["FLOWQ_STORE"].replace("+psycopg", "")) as connection:
        return connection.execute(statement, params).fetchall()


def lanes(rig: Rig) -> list[tuple[int, str]]:
    """Each lane, and the name of the coordinator that owns it."""
    found = rows(rig, "SELECT id, owner FROM flowq_lane WHERE kind = 'fleet'")
    return [(lane, owner.rpartition("-")[0]) for lane, owner in found]


def recorded_once(rig: Rig, run_id: int) -> bool:
    """Whether no node of a run has two outcomes in one generation."""
    return not rows(
        rig,
        "SELECT idx, generation, count(*) FROM flowq_transition"
        " WHERE run_id = %s AND before <> after"  # others are reports that were discarded
        " AND after IN ('SUCCESS', 'FAILURE', 'REVOKED', 'SKIPPED')"
        " GROUP BY idx, generation HAVING count(*) > 1",
        run_id,
    )


def test_a_killed_worker_s_nodes_run_elsewhere(rig: Rig) -> None:
    rig.coordinator()
    doomed = rig.worker("-c", "2")
    uid, run_id = rig.call(NAPS.format(seconds=0.3, count=12))
    until(lambda: len(ledger(rig)) >= 3 if (rig.folder / "ledger.txt").exists() else 0, "it runs")
    rig.kill(doomed)
    rig.worker("-c", "2")
    assert ended(rig, uid)[:2] == [True, "SUCCESS"]
    found = ledger(rig)
    assert all(found[f"{i} ended"] >= 1 for i in range(12))
    again = sum(count - 1 for mark, count in found.items() if mark.endswith("began"))
    assert again <= 2 + 2  # what it ran, and what had ended a moment before and was not told yet
    assert recorded_once(rig, run_id)


def test_a_wiped_broker_costs_nothing(rig: Rig) -> None:
    import redis

    rig.coordinator()
    rig.worker("-c", "2")
    uid, run_id = rig.call(NAPS.format(seconds=0.2, count=30))
    until(lambda: (rig.folder / "ledger.txt").exists(), "it runs")
    for url in (rig.env["FLOWQ_BROKER"], rig.env["FLOWQ_BACKEND"]):
        redis.Redis.from_url(url).flushdb()
    assert ended(rig, uid)[:2] == [True, "SUCCESS"]
    assert recorded_once(rig, run_id)


def test_another_coordinator_takes_over_within_the_lease(rig: Rig) -> None:
    both = {name: rig.coordinator("-n", name) for name in ("one@test", "two@test")}
    until(lambda: len({owner for _, owner in lanes(rig)}) == 2, "both have lanes")
    rig.worker("-c", "2")
    runs = [rig.call(NAPS.format(seconds=0.1, count=count)) for count in (20, 20, 200)]
    until(lambda: (rig.folder / "ledger.txt").exists(), "it runs")
    uid, run_id = runs[-1]
    owner = dict(lanes(rig))[rows(rig, "SELECT lane_id FROM flowq_run WHERE id = %s", run_id)[0][0]]
    rig.kill(both.pop(owner))
    ((killed,),) = rows(rig, "SELECT EXTRACT(EPOCH FROM clock_timestamp())::float8")
    first = "SELECT min(at) FROM flowq_transition WHERE run_id = %s AND at > %s"
    moment = until(lambda: rows(rig, first, run_id, killed)[0][0], "another one goes on with it")
    assert moment - killed <= LEASE + 1.0  # for what is no waiting: a commit, on a busy machine
    for uid, run_id in runs:
        assert ended(rig, uid)[:2] == [True, "SUCCESS"]
        assert recorded_once(rig, run_id)
    assert all(process.poll() is None for process in both.values())
    assert max(ledger(rig).values()) <= 5  # each mark is in each of the runs


def test_a_worker_told_to_stop_finishes_and_hands_back(rig: Rig) -> None:
    rig.coordinator()
    worker = rig.worker("-c", "2", "--grace", "20s")
    uid, _ = rig.call(NAPS.format(seconds=0.5, count=10))
    until(lambda: (rig.folder / "ledger.txt").exists(), "it runs")
    assert rig.stop(worker) == 0
    found = ledger(rig)
    begun = sum(n for mark, n in found.items() if mark.endswith("began"))
    assert begun == sum(n for mark, n in found.items() if mark.endswith("ended"))
    rig.worker("-c", "2")
    assert ended(rig, uid)[:2] == [True, "SUCCESS"]
    assert all(n == 1 for n in ledger(rig).values())


def test_a_cold_stop_hands_back_what_runs(rig: Rig) -> None:
    rig.coordinator()
    worker = rig.worker("-c", "2")
    uid, run_id = rig.call(NAPS.format(seconds=2, count=4))
    until(lambda: (rig.folder / "ledger.txt").exists(), "it runs")
    assert rig.stop(worker, signal.SIGQUIT) == 0
    rig.worker("-c", "2")
    assert ended(rig, uid)[:2] == [True, "SUCCESS"]
    assert recorded_once(rig, run_id)
