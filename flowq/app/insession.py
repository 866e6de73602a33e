"""Submitting in the caller's transaction: the run exists if, and only if, that commits."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.app.run import Run
from flowq.app.submission import new_run
from flowq.core.graph import Graph
from flowq.store import schema
from flowq.store.sessions import CallersTransaction, errors_of, transaction_of

if TYPE_CHECKING:
    from flowq.app.client import Client

log = logging.getLogger("flowq")


def submit_in_session(
    engine: Client, session: Any, canvas: Any, graph: Graph, about: Mapping[str, Any]
) -> Run:
    """Write a run with the caller's SQLAlchemy session, or another transaction of the caller's.

    Raises:
        ImproperlyConfigured: The session is bound to another database than the store.
        StoreError: The database refused; the caller's transaction has to be rolled back.
    """
    transaction = transaction_of(session)
    database = engine.store.database
    transaction.check(database)
    if database.dialect == "sqlite" and not engine.is_started and transaction.is_open():
        return _before_start(engine, transaction, canvas, graph, about)
    engine.start()
    engine.follow_definitions(graph)
    new = new_run(engine.app, engine.lane_id, canvas, graph, **about)
    if database.dialect != "sqlite":
        _make_queues(engine, graph)
    with errors_of(database):
        cursor = transaction.writing_cursor(database)
        run_id, uid, _ = engine.store.submit_in(cursor, new, graph, remember=False)
    transaction.after_commit(engine.submitted)
    return _run(engine, run_id, uid, graph)


def _make_queues(engine: Client, graph: Graph) -> None:
    """Make the lane's queues at once: others must not wait for the caller's commit for them."""
    store, lane_id = engine.store, engine.lane_id
    names = {spec.queue for spec in graph.specs}
    if not store.knows_queues(lane_id, names):
        store.write(lambda cursor: store.queue_ids(lane_id, names, cursor))


def _before_start(
    engine: Client,
    transaction: CallersTransaction,
    canvas: Any,
    graph: Graph,
    about: Mapping[str, Any],
) -> Run:
    """Submit although nothing was started yet, and nothing can be: the caller locks the file.

    The run goes to a lane of nobody's, as if its process had died, and is taken over from there
    after the commit. If the process does die before, it is resumed like any interrupted run.
    """
    store = engine.store
    with errors_of(store.database):
        cursor = transaction.cursor()
        schema.ensure_in(store.database, cursor)
        main = str(engine.app.main or "")
        lane_id = store.make_lane_in(cursor, main, "embedded", uuid.uuid4().hex, None)
        new = new_run(engine.app, lane_id, canvas, graph, **about)
        run_id, uid, is_new = store.submit_in(cursor, new, graph, remember=False)
    if is_new:
        transaction.after_commit(lambda: _take_over(engine, run_id, uid))
    return _run(engine, run_id, uid, graph)


def _take_over(engine: Client, run_id: int, uid: str) -> None:
    try:
        engine.resume(run_id)
    except errors.FlowqError as problem:  # it is stored: the caller's commit must not fail for it
        log.warning("the run %s is stored, but does not go on: %s", uid, problem)
        log.warning("go on with it by: flowq resume %s", uid)


def _run(engine: Client, run_id: int, uid: str, graph: Graph) -> Run:
    """The run, as far as it can be told without reading what is not committed yet."""
    kind = graph.nodes[graph.results[0]].kind
    return Run(engine, run_id, uid, kind=kind, result=graph.results)
