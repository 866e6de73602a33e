"""Finds and runs a Graphviz layout program: `dot`, or `graphviz-pure` beside the interpreter."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

_NAMES = ("dot", "graphviz-pure")


def find() -> str | None:
    """Path of the layout program to use, None if there is none.

    `dot` on PATH goes first; the directory of the interpreter is looked through too, because a
    virtual environment that is not activated is not on PATH.
    """
    beside = str(Path(sys.executable).parent)
    for name in _NAMES:
        found = shutil.which(name) or shutil.which(name, path=beside)
        if found:
            return found
    return None


def draw(source: str, format: str, program: str, timeout: float = 60.0) -> bytes | None:
    """The picture of a DOT text, None if the program made none in `timeout` seconds."""
    try:
        done = subprocess.run(
            [program, f"-T{format}"],
            input=source.encode(),
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 and done.stdout else None
