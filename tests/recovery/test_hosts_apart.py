"""A worker's host cut off for twice its lease, and joined again: nothing lost, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apart import LEASE, PARTS, Apart, pause
from tests.rig import until

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(240)]

#: Enough work for four slots to outlast a cut, three tasks each.
WIDTH = 12


@pytest.fixture(params=["redis", "rabbitmq"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Apart]:
    redis = f"redis://127.0.0.1:{request.getfixturevalue('redis_server').port}"
    broker: Any = f"{redis}/0"
    if request.param == "rabbitmq":
        broker = request.getfixturevalue("rabbitmq_url")
    store = request.getfixturevalue("postgres_server")()
    made = Apart(tmp_path, broker=broker, backend=f"{redis}/1", store=store)
    yield made
    made.close()


def disturbed(rig: Apart, how: str, parts: tuple[str, ...] = PARTS) -> int:
    """One cut in the middle of a run; afterwards the worker takes part again.

    Gives how many attempts were taken back from it meanwhile.
    """
    runs = [(*rig.submit(WIDTH), WIDTH)]
    rig.cut(how, parts)
    runs += rig.until_it_takes_part("cut")
    taken_back = 0
    for run in runs:
        verdict = rig.judge(*run)
        assert not verdict.wrong, f"{verdict}\n{rig.words()}"
        taken_back += verdict.taken_back
    return taken_back


def test_three_cuts(rig: Apart) -> None:
    rig.begin()
    assert sum(disturbed(rig, how) for how in ("cut", "stall", "cut"))


@pytest.mark.parametrize("part", PARTS)
def test_cut_off_from_one_server_only(rig: Apart, part: str) -> None:
    rig.begin()
    disturbed(rig, "cut", (part,))
    disturbed(rig, "stall", (part,))


@pytest.mark.parametrize("stopped", [False, True])
def test_what_a_message_refers_to_waits_for_the_store(rig: Apart, stopped: bool) -> None:
    rig.coordinator()
    worker = rig.cut_worker()
    rig.proxies["store"].cut()
    uid = rig.call("run = app.submit(size.s('x' * 300_000)); answer(run.id)")
    until(lambda: "waits for what the store holds" in rig.log_of(worker), "it cannot be read")
    if stopped:  # it is handed back, and runs elsewhere
        assert rig.stop(worker) == 0
        rig.worker("-c", "2")
    else:
        pause(2 * LEASE)
        rig.proxies["store"].restore()
    assert rig.call(f"answer(app.run({uid!r}).result(60))", patience=80) == 300_000
    assert stopped or worker.poll() is None


@pytest.mark.parametrize("how", ["cut", "stall"])
def test_the_only_coordinator_is_cut_off(rig: Apart, how: str) -> None:
    coordinator = rig.cut_coordinator()
    rig.worker("-c", "2", PLACE="near")
    for parts in (PARTS, ("store",), ("backend",), ("broker",)):
        run = rig.submit(6)
        rig.await_work("near")
        rig.part(how, parts)
        verdict = rig.judge(*run, 6)
        assert not verdict.wrong, f"{parts} {verdict}\n{rig.words()}"
    assert coordinator.poll() is None
