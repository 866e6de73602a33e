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
    made.env["FLOWQ_COORDINATOR_LEASE"] = "3"
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


def recorded_once(rig: Rig, run_id: int) -> bool:
    """Whether no node of a run has two outcomes in one generation."""
    import psycopg

    with psycopg.connect(rig.env["FLOWQ_STORE"].replace("+psycopg", "")) as connection:
        rows = connection.execute(
            "SELECT idx, generation, count(*) FROM flowq_transition"
            " WHERE run_id = %s AND before <> after"  # others are reports that were discarded
            " AND after IN ('SUCCESS', 'FAILURE', 'REVOKED', 'SKIPPED')"
            " GROUP BY idx, generation HAVING count(*) > 1",
            (run_id,),
        ).fetchall()
    return not rows


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
    assert sum(count - 1 for mark, count in found.items() if mark.endswith("began")) <= 2
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


def test_another_coordinator_takes_over(rig: Rig) -> None:
    one, other = rig.coordinator(), rig.coordinator()
    rig.worker("-c", "2")
    uid, run_id = rig.call(NAPS.format(seconds=0.2, count=40))
    more = [rig.call(NAPS.format(seconds=0.05, count=3))[0] for _ in range(3)]
    rig.kill(one)
    for each in (uid, *more):
        assert ended(rig, each)[:2] == [True, "SUCCESS"]
    assert recorded_once(rig, run_id)
    assert other.poll() is None
    assert max(ledger(rig).values()) <= 5  # "0" to "2" are in each of the runs


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
