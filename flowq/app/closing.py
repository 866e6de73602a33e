"""Closing an engine: what runs is brought in, then the pool is stopped."""

from __future__ import annotations

import contextlib
import select
import time
from typing import TYPE_CHECKING

from flowq import errors

if TYPE_CHECKING:
    from flowq.app.embedded import Engine


def wind_down(engine: Engine, grace: float) -> None:
    """After the engine's thread has ended: finish what runs for `grace` seconds, end the pool."""
    if engine.worker is None or engine.coordinator is None:
        return
    engine.hands = 0
    try:
        if engine.failure is None:
            _finish_running(engine, time.monotonic() + grace)
    except errors.FlowqError as exc:
        engine.notify(str(exc))
    finally:
        with contextlib.suppress(errors.FlowqError):  # whoever waited was told
            engine.worker.stop(0.0)


def _finish_running(engine: Engine, deadline: float) -> None:
    worker, coordinator = engine.worker, engine.coordinator
    assert coordinator is not None
    worker.drain()
    poll = select.poll()
    for handle in worker.handles():
        poll.register(handle, select.POLLIN)
    while True:
        engine.route(worker.collect())
        coordinator.step()
        if not worker.busy or time.monotonic() > deadline:
            break
        poll.poll(20)
    while len(engine.updates):
        coordinator.step()
    engine.wake_waiters()
    store, lane = engine.store, engine.lane_id
    store.write(lambda cursor: cursor.execute(store.sql.lane_delete_idle, (lane,)))
