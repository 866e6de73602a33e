"""Submitting with a session of the caller's: the run and the caller's rows commit together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowq.errors import ImproperlyConfigured
from flowq.store.access import Access
from flowq.store.database import SqliteDatabase


def session_cursor(store: Access, session: Any) -> Any:
    """A driver cursor inside a SQLAlchemy session's transaction.

    Raises:
        ImproperlyConfigured: It is no session, or it is bound to another database.
    """
    from sqlalchemy.orm import Session

    from flowq.store.schema import sqlalchemy_url

    session = getattr(session, "sync_session", session)
    if not isinstance(session, Session):
        raise ImproperlyConfigured(
            f"session= takes a SQLAlchemy Session, not {type(session).__name__}"
        )
    connection = session.connection()
    theirs, ours = _place(connection.engine.url), _place_of(sqlalchemy_url(store.database))
    if theirs != ours:
        raise ImproperlyConfigured(
            f"the session is bound to {theirs}, the store is {ours}: a run can only commit "
            "together with rows of its own database; set store= to that database"
        )
    if isinstance(store.database, SqliteDatabase):
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            driver.execute("BEGIN IMMEDIATE")
    return connection.connection.cursor()


def ring_after_commit(session: Any, ring: Callable[[], None]) -> None:
    """Call `ring` once, after the session's next commit."""
    from sqlalchemy import event

    event.listen(
        getattr(session, "sync_session", session), "after_commit", lambda _: ring(), once=True
    )


def _place(url: Any) -> str:
    """What tells two databases apart, without user and driver."""
    if url.get_backend_name() == "sqlite":
        from pathlib import Path

        return f"sqlite file {Path(url.database or '').resolve()}"
    return f"{url.get_backend_name()} {url.host or 'localhost'}:{url.port or 5432}/{url.database}"


def _place_of(text: str) -> str:
    from sqlalchemy import make_url

    return _place(make_url(text))
