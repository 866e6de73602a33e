"""A worker's host cut off for twice its lease, and joined again: nothing lost, nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.apart import PARTS, Apart

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


def disturbed(rig: Apart, how: str, parts: tuple[str, ...] = PARTS) -> None:
    """One cut in the middle of a run; afterwards the worker takes part again."""
    run = rig.submit(WIDTH)
    rig.cut(how, parts)
    more = rig.submit(6, 0.2)
    rig.await_work("cut")
    for (uid, run_id), width in ((run, WIDTH), (more, 6)):
        verdict = rig.judge(uid, run_id, width)
        assert not verdict.wrong, f"{verdict}\n{rig.words()}"


def test_three_cuts(rig: Apart) -> None:
    rig.begin()
    for how in ("cut", "stall", "cut"):
        disturbed(rig, how)


@pytest.mark.parametrize("part", PARTS)
def test_cut_off_from_one_server_only(rig: Apart, part: str) -> None:
    rig.begin()
    disturbed(rig, "cut", (part,))
    disturbed(rig, "stall", (part,))
