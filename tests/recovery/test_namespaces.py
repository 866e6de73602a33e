"""Coordinator, workers and servers on hosts of their own, and a cable that is pulled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apart import LEASE, Judged, pause
from tests.netns import Net, network

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(240)]

COORDINATOR_LEASE = 2.0


@pytest.fixture
def net() -> Iterator[Net]:
    with network("servers", "coord", "other", "one", "two") as made:
        yield made


@pytest.fixture(params=["redis", "rabbitmq"])
def rig(request: pytest.FixtureRequest, net: Net, tmp_path: Path) -> Iterator[Judged]:
    redis, store = net.redis("servers"), net.postgres("servers")
    broker = net.rabbitmq("servers") if request.param == "rabbitmq" else f"{redis}/0"
    made = Judged(tmp_path, broker=broker, backend=f"{redis}/1", store=store)
    made.env["FLOWQ_COORDINATOR_LEASE"] = str(COORDINATOR_LEASE)
    made.prefix = net.on("coord")
    made.coordinator()
    for host in ("one", "two"):
        made.prefix = net.on(host)
        made.worker("-c", "2", PLACE=host)
    made.prefix = net.on("coord")
    yield made
    made.close()


def test_a_worker_s_cable_is_pulled_for_twice_its_lease(rig: Judged, net: Net) -> None:
    runs = []
    for delay in (0.1, 0.4):
        runs.append((*rig.submit(12), 12))
        rig.await_work("one")
        pause(delay)
        net.unplug("one")
        pause(2 * LEASE)
        net.plug_in("one")
        runs += rig.until_it_takes_part("one")
    for run in runs:
        verdict = rig.judge(*run)
        assert not verdict.wrong, f"{verdict}\n{rig.words()}"


def test_a_coordinator_s_cable_is_pulled_for_twice_its_lease(rig: Judged, net: Net) -> None:
    rig.prefix = net.on("other")  # where the client is, too
    rig.coordinator()
    runs = []
    for _ in range(2):
        runs += [(*rig.submit(8), 8) for _ in range(2)]
        rig.await_work("one")
        net.unplug("coord")
        pause(2 * COORDINATOR_LEASE)
        runs.append((*rig.submit(3, 0.1), 3))
        net.plug_in("coord")
        pause(COORDINATOR_LEASE)
    for run in runs:
        verdict = rig.judge(*run)
        assert not verdict.wrong, f"{verdict}\n{rig.words()}"
    assert all(process.poll() is None for process in rig.processes)


def test_a_worker_s_cable_is_out_for_long(rig: Judged, net: Net) -> None:
    run = (*rig.submit(12), 12)
    rig.await_work("one")
    net.unplug("one")
    pause(30.0)
    verdict = rig.judge(*run)  # the other one has done it all
    assert not verdict.wrong, f"{verdict}\n{rig.words()}"
    net.plug_in("one")
    began = time.monotonic()
    runs = rig.until_it_takes_part("one")
    assert time.monotonic() - began < 15.0
    for run in runs:
        verdict = rig.judge(*run)
        assert not verdict.wrong, f"{verdict}\n{rig.words()}"
