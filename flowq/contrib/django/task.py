"""`DjangoTask`: the base class of tasks in a Django project."""

from __future__ import annotations

from typing import Any

from flowq.app.task import Task


class DjangoTask(Task):
    """A task in whose worker database connections are treated as in a request.

    Those that are broken or older than `CONN_MAX_AGE` are closed before and after each call. Called
    as a function, or eagerly, it leaves connections alone: they are the caller's.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body in this process, now, and return or raise what it does."""
        request = self.request
        if request.called_directly or request.is_eager:
            return super().__call__(*args, **kwargs)
        from django.db import close_old_connections

        close_old_connections()
        try:
            return super().__call__(*args, **kwargs)
        finally:
            close_old_connections()
