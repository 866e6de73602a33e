"""A coordinator whose store is away rests, whatever its other descriptors say."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowq import Flowq
from flowq.app import embedded
from flowq.coordinator.loop import CoordinatorLoop
from flowq.coordinator.service import CoordinatorService
from flowq.errors import StoreUnavailable
from flowq.store import Store
from tests.rig import until

#: A loop that does not rest makes thousands of turns in that time (seconds).
LONG, FEW = 0.8, 20


class Readable:
    """A reader of reports whose descriptor is readable all the while; nobody reads from it."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.write(self._write, b"x")

    def handles(self) -> list[int]:
        return [self._read]

    def timeout(self) -> float:
        return 3600.0

    def refill(self) -> None: ...

    def close(self) -> None:
        for fd in (self._read, self._write):
            os.close(fd)


class Counted(CoordinatorService):
    turns = 0

    def turn(self) -> None:
        self.turns += 1
        super().turn()

    def _look_at_fleet(self) -> None:
        raise StoreUnavailable("the store is away")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Counted]:
    store = Store(f"sqlite:///{tmp_path}/s.db")
    store.ensure()
    reader: Any = Readable()
    yield Counted(store, reader, publish=lambda bundle: None, depth=lambda queue: None, store_id="")
    store.close()


def test_a_coordinator_without_its_store_does_not_spin(service: Counted) -> None:
    loop = CoordinatorLoop(service)
    thread = threading.Thread(target=loop.run)
    thread.start()
    threading.Event().wait(LONG)
    loop.stop()
    thread.join(10)
    assert 0 < service.turns < FEW


def test_an_engine_without_its_store_does_not_spin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    fails = threading.Event()
    turn, wait = embedded.Engine.turn, embedded.wait

    def failing(engine: embedded.Engine) -> None:
        if fails.is_set():
            raise StoreUnavailable("the store is away")
        turn(engine)

    def counted(poll: Any, seconds: float, worker: Any) -> Any:
        waits.append(seconds)
        return wait(poll, seconds, worker)

    monkeypatch.setattr(embedded.Engine, "turn", failing)
    monkeypatch.setattr(embedded, "wait", counted)
    app = Flowq("rests", store=f"sqlite:///{tmp_path}/s.db", set_as_current=False)
    app.conf.worker_pool = "threads"

    release = threading.Event()

    @app.task
    def nap() -> int:
        return 7 if release.wait(20) else 0

    run = app.submit(nap.si())
    until(lambda: run.nodes[0].state in ("QUEUED", "STARTED"), "it is handed out")
    fails.set()
    release.set()
    threading.Event().wait(0.3)  # the report is there now, and is left
    waits.clear()
    threading.Event().wait(LONG)
    assert len(waits) < FEW
    fails.clear()
    assert run.result(20) == 7
    app.close()
