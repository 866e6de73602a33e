"""Where an app's runs are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def url_of(conf: Any) -> str:
    """The store's URL: as the settings say, else a file under ``.flowq`` in the current folder."""
    url = conf.store_url
    if url:
        return str(url)
    return f"sqlite:///{Path.cwd() / '.flowq' / 'flowq.db'}"
