"""Where an app's runs are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def url_of(conf: Any) -> str:
    """The store's URL: as the settings say, else a file under ``.flowq`` in the current folder."""
    return str(conf.store_url or _default())


def is_default(conf: Any) -> bool:
    """Whether that is the file in the current folder, named or not."""
    return url_of(conf) == _default()


def _default() -> str:
    return f"sqlite:///{Path.cwd() / '.flowq' / 'flowq.db'}"
