"""Removing runs that are older than the retention, a few at a time, by the lane's owner."""

from __future__ import annotations

import logging
from typing import Any

from flowq.errors import StoreError
from flowq.store import Store

log = logging.getLogger("flowq")

#: Runs over the retention are looked for that often, and removed so many at a time.
PRUNE_SECONDS, PRUNE_RUNS = 3600.0, 20
#: Seconds between two helpings, while there are more.
PAUSE_SECONDS = 0.05


def prune_some(store: Store, conf: Any) -> float:
    """Remove some runs that ended before the retention began; returns seconds until more."""
    keep = conf.run_retention
    if keep is None:
        return PRUNE_SECONDS
    before = store.now() - keep.total_seconds()
    try:
        if store.prune_due(before) and store.prune(before, PRUNE_RUNS):
            return PAUSE_SECONDS
    except StoreError as exc:
        log.warning("old runs could not be removed: %s", exc)
    return PRUNE_SECONDS
