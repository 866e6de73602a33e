"""Acting on runs: asking their coordinator, or taking them over from a process that died."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowq import errors
from flowq.app.lanes import is_alive, lane_of, move_run
from flowq.core.states import RUN_TERMINAL

if TYPE_CHECKING:
    from flowq.app.client import Client


def act(engine: Client, run_id: int, kind: str, body: bytes | None = None) -> None:
    """Ask the run's coordinator for something; where its process is dead, take it over.

    Effects: an inbox row; the change follows when its coordinator reads it.

    Raises:
        UnknownId: The run is not there.
    """
    store = engine.open()
    head = store.one(store.sql.run_head, (run_id,))
    if head is None:
        raise errors.UnknownId(f"run number {run_id} is not in the store")
    engine.follow_definitions()
    lane = lane_of(store, head[2])
    if lane is not None and (lane.id == engine.lane_id or is_alive(lane)):
        row = (lane.id, run_id, kind, body)
        store.write(lambda cursor: cursor.execute(store.sql.inbox_insert, row))
        if lane.id == engine.lane_id:
            engine.submitted()
        return
    engine.start(work=kind in ("retry", "adopt"))
    kinds = [kind] if head[3] in RUN_TERMINAL or kind == "adopt" else ["adopt", kind]
    move_run(store, run_id, engine.lane_id, engine.owner, kinds)
    engine.submitted()


def resume(engine: Client, run_id: int) -> None:
    """Go on with an interrupted run in this process.

    Raises:
        WrongState: It has ended, or its process lives.
        NotRegistered: A task of it is not defined here.
    """
    store = engine.open()
    head = store.one(store.sql.run_head, (run_id,))
    if head is None:
        raise errors.UnknownId(f"run number {run_id} is not in the store")
    if head[3] in RUN_TERMINAL:
        raise errors.WrongState(
            f"the run has ended with {head[3]}: flowq retry runs what failed again"
        )
    for (name,) in store.rows(store.sql.spec_tasks, (run_id,)):
        engine.app.check_known(name)
    if head[2] == engine.lane_id:
        return
    engine.start()
    engine.follow_definitions()
    move_run(store, run_id, engine.lane_id, engine.owner, ["adopt"])
    engine.submitted()
