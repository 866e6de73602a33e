"""Opening a store for looking at it, without an app and without making anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flowq.app.place import url_of
from flowq.config import Settings, mask_url
from flowq.errors import UnknownId

if TYPE_CHECKING:
    from flowq.store import Store


def settings(store: str | None = None) -> Settings:
    """The settings in force here, with the store that an option named."""
    return Settings({"store_url": store}) if store else Settings()


def open_if_there(store: str | None) -> Store | None:
    """The store, checked; None if it was not made yet.

    Raises:
        StoreError: It is damaged, of another version, or cannot be reached.
    """
    from flowq.store import Store, schema
    from flowq.store.database import sqlite_path

    url = url_of(settings(store))
    if url.startswith("sqlite:") and not Path(sqlite_path(url)).exists():
        return None
    opened = Store(url)
    if schema.version_of(opened.database) is None:
        opened.close()
        return None
    opened.ensure()
    return opened


def open_store(store: str | None) -> Store:
    """As `open_if_there`; a store that is not there is an error.

    Raises:
        UnknownId: There is no store yet, so no run either.
    """
    found = open_if_there(store)
    if found is None:
        place = mask_url(url_of(settings(store)))
        raise UnknownId(f"there is no store at {place} yet; flowq run FILE makes one")
    return found
