from __future__ import annotations

import importlib
import sys
from typing import Any


def find_app(spec: str | None) -> Any:
    sys.path.insert(0, ".")
    module = importlib.import_module(spec or "proj")
    return module.app
