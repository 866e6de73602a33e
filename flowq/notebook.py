"""The IPython extension: ``%load_ext flowq`` gives ``%flowq COMMAND``.

What shows itself in a notebook needs no extension: pictures are made by `flowq.app.display`, live
ones by `flowq.app.live`, below this module, because values may not import what stands above them.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import Any

from flowq.app import current
from flowq.app.place import url_of


def load_ipython_extension(shell: Any) -> None:
    """Add the magic to an IPython shell. A second call changes nothing."""
    shell.register_magic_function(_flowq, magic_kind="line", magic_name="flowq")


def unload_ipython_extension(shell: Any) -> None:
    """Take the magic away again. A second call does nothing."""
    shell.magics_manager.magics["line"].pop("flowq", None)


def _flowq(line: str) -> None:
    """Run a command of the flowq program, on the store of the notebook's app: %flowq list"""
    run_command(shlex.split(line))


def run_command(words: list[str]) -> int:
    """Run the flowq program in a process of its own and print what it writes; its exit code.

    It works on the store of the current app, unless ``--store`` says otherwise.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    app = current.current_or_none()
    if app is not None:
        environment["FLOWQ_STORE"] = url_of(app.conf)
    process = subprocess.Popen(
        [sys.executable, "-m", "flowq", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
    except KeyboardInterrupt:
        process.terminate()
    return process.wait()
