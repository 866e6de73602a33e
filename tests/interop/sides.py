"""Celery's end of the tests: its workers as programs of their own, on servers that nobody shares.

FLOWQ_TEST_CELERY_PYTHON names another interpreter for them, as one that has no flowq.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Rig, until
from tests.started import RABBITMQ, Server, program, rabbitmqctl

CELERY = os.environ.get("FLOWQ_TEST_CELERY_PYTHON", sys.executable)


def without_celery() -> list[Any]:
    """Marks that skip a module where there is no Celery."""
    if importlib.util.find_spec("celery") is None:
        return [pytest.mark.skip(reason="celery is not installed")]
    return []


@contextmanager
def redis(folder: Path) -> Iterator[tuple[str, str]]:
    """Broker and backend on a Redis of their own."""
    server = redis_in(folder)
    try:
        yield f"redis://127.0.0.1:{server.port}/0", f"redis://127.0.0.1:{server.port}/1"
    finally:
        server.stop()


def redis_in(folder: Path) -> Server:
    """A Redis that is up and keeps nothing when it ends."""
    path = program("redis-server")
    options = ["--save", "", "--appendonly", "no", "--dir", str(folder), "--bind", "127.0.0.1"]
    server = Server(lambda port: [path, "--port", str(port), *options])
    server.start()
    return server


@contextmanager
def vhost() -> Iterator[tuple[str, str]]:
    """Broker on a virtual host of RabbitMQ, and replies through it."""
    name = f"flowq_interop_{secrets.token_hex(4)}"
    rabbitmqctl("add_vhost", name)
    rabbitmqctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
    try:
        yield f"{RABBITMQ}/{name}", "rpc://"
    finally:
        rabbitmqctl("delete_vhost", name)


def start_celery(rig: Rig, name: str, *more: str) -> subprocess.Popen[bytes]:
    """Start a worker of the Celery app in `theirs.py`; returns once it is ready."""
    words = [CELERY, "-m", "celery", "-A", "theirs", "worker", "-n", name, "-l", "INFO", *more]
    log = rig.folder / f"celery-{len(rig.processes)}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            words, cwd=rig.folder, env=rig.env, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    rig.processes.append(process)
    rig.logs[process.pid] = log
    until(lambda: "ready." in log.read_text() or process.poll() is not None, "Celery is ready")
    assert process.poll() is None, log.read_text()
    return process
