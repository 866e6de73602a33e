"""`delay_on_commit` and `apply_async_on_commit`: sent only if the caller's transaction commits.

What is sent becomes a durable run always. Where the transaction is one of the store's own database,
the run is written in it; else it is submitted right after the commit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.app.calling import as_child, result_of, take_run_options

if TYPE_CHECKING:
    from flowq.app.base import Flowq
    from flowq.store.sessions import CallersTransaction


class OnCommit:
    """The two verbs, for canvases."""

    def _canvas_for(self, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        """The call as a canvas of its own; None where there is nothing to do."""
        raise NotImplementedError

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> Any:
        """`apply_async_on_commit` with these arguments.

        For the session of `Flowq.use_session`, or in a Django project.
        """
        return self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        session: Any = None,
        using: str | None = None,
        **options: Any,
    ) -> Any:
        """Submit a durable run that exists only if the transaction commits.

        Rolled back, or closed without a commit: nothing is sent; nor for a savepoint that is
        undone. A mistake in the call itself is raised here, not at the commit.

        Args:
            args: As for `apply_async`.
            kwargs: Likewise.
            session: SQLAlchemy Session, scoped session, or AsyncSession inside its `run_sync`;
                none: the one of `Flowq.use_session`, else Django's transaction.
            using: Name of the Django database whose transaction it is.
            options: As for `apply_async`.

        Returns:
            The result object where the run is written in the transaction, that is where it is one
            of the store's database; None where it is submitted after the commit.

        Raises:
            errors.ImproperlyConfigured: There is no transaction to go by.
        """
        options.pop("durable", None)
        canvas = self._canvas_for(args, kwargs, options)
        if canvas is None:
            return None
        app = canvas.app
        session = canvas["options"].pop("session", None) if session is None else session
        return _send(app, canvas, _transaction_of(app, session, using))


class TaskOnCommit(OnCommit):
    """The same for tasks."""

    check_arguments: Any
    shadow_name: Any
    signature: Any

    def _canvas_for(self, args: Any, kwargs: Any, options: dict[str, Any]) -> Any:
        args, kwargs = tuple(args or ()), dict(kwargs or {})
        self.check_arguments(args, kwargs)
        options["shadow"] = options.get("shadow") or self.shadow_name(args, kwargs, options)
        given = {key: value for key, value in options.items() if value is not None}
        return self.signature(args, kwargs, **given)


def _send(app: Flowq, canvas: Any, transaction: CallersTransaction) -> Any:
    from flowq.app.submission import Compiled

    about = take_run_options(canvas)
    if app.conf.task_always_eager:
        transaction.after_commit(canvas.apply)
        return None
    store = getattr(app._engine(), "store", None)  # none in a pool's child
    if store is not None and transaction.carries(store.database):
        return as_child(result_of(app, app.submit(canvas, session=transaction, **about)))
    ready = Compiled(app, canvas)
    transaction.after_commit(lambda: _submit(app, ready, about))
    return None


def _submit(app: Flowq, ready: Any, about: dict[str, Any]) -> None:
    app.submit(ready, **about)


def _transaction_of(app: Flowq, session: Any, using: str | None) -> CallersTransaction:
    if session is not None and using is not None:
        raise errors.ImproperlyConfigured(
            "session= is a SQLAlchemy session, using= a Django database: give one of them"
        )
    if using is None and session is None:
        session = app._current_session()
    if session is not None:
        from flowq.store.sessions import transaction_of

        return transaction_of(session)
    if using is not None or "django.conf" in sys.modules:
        from flowq.app.djangodb import current_transaction

        transaction = current_transaction(using)
        if transaction is not None:
            return transaction
    raise errors.ImproperlyConfigured(
        "there is no transaction whose commit could be waited for: pass session=, a SQLAlchemy "
        "session, name it once with app.use_session(), or call this in a Django project"
    )
