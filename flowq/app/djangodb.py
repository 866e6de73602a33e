"""Django's transactions, for `*_on_commit`; loaded only in Django projects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flowq.store.database import Database
from flowq.store.sessions import CallersTransaction, postgres_place, sqlite_place


def current_transaction(using: str | None = None) -> DjangoTransaction | None:
    """The transaction of a Django database; None in a program without one."""
    from django.conf import settings
    from django.db import transaction

    if using is None and not settings.configured:
        return None
    connection = transaction.get_connection(using)
    if using is None and connection.vendor == "unknown":  # Django without DATABASES
        return None
    return DjangoTransaction(connection)


class DjangoTransaction(CallersTransaction):
    """What Django will commit on one of its databases.

    Outside of `atomic` there is nothing to wait for: as with Django's `on_commit`, it is done at
    once.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def place(self) -> str:
        settings, vendor = self._connection.settings_dict, self._connection.vendor
        if vendor == "sqlite":
            return sqlite_place(str(settings["NAME"]))
        if vendor == "postgresql":
            port = int(settings["PORT"]) if settings["PORT"] else None
            return postgres_place(settings["HOST"], port, settings["NAME"])
        return f"{vendor} {settings['HOST']}/{settings['NAME']}"

    def carries(self, database: Database) -> bool:
        """Whether a run can be written in it: in `atomic`, on the store's PostgreSQL database.

        Not on SQLite, where Django's transactions begin by reading: a write may then be refused.
        """
        connection = self._connection
        if connection.vendor != "postgresql" or not connection.in_atomic_block:
            return False
        return super().carries(database)

    def driver(self) -> Any:
        self._connection.ensure_connection()
        return self._connection.connection

    def cursor(self) -> Any:
        return self.driver().cursor()

    def after_commit(self, call: Callable[[], None]) -> None:
        from django.db import transaction

        transaction.on_commit(call, using=self._connection.alias)
