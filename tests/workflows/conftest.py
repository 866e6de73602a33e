"""Load the example workflows as a user's program would, and run them on a store of their own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

WORKFLOWS = Path(__file__).parents[2] / "workflows"


@pytest.fixture
def workflow(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a workflow file by its name."""
    monkeypatch.syspath_prepend(str(WORKFLOWS))
    return importlib.import_module


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[ModuleType, Any], Any]]:
    """Submit a canvas to the app of a workflow, on a fresh store; gives the finished run."""
    monkeypatch.setenv("FLOWQ_STORE", f"sqlite:///{tmp_path}/store.db")
    apps = []

    def submit(module: ModuleType, canvas: Any) -> Any:
        apps.append(module.app)
        finished = module.app.submit(canvas)
        assert finished.wait(timeout=60), f"still running: {finished.counts()}"
        return finished

    yield submit
    for app in apps:
        app.close()
    for name in ("wordcount", "etl", "wfformat"):
        sys.modules.pop(name, None)
