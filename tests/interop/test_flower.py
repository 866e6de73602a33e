"""Flower, as it is, against a real `flowq worker -E`: it lists the worker, its tasks and nodes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.sides import CELERY, redis, vhost, without_celery
from tests.rig import Rig, until
from tests.started import free_port

pytestmark = [pytest.mark.services, pytest.mark.timeout(180), *without_celery()]
if importlib.util.find_spec("flower") is None:
    pytestmark.append(pytest.mark.skip(reason="Flower is not installed"))

PROGRAM = """
    bare = [add.delay(1, 2), fail.delay("no"), flaky.delay(1)]
    run = app.submit(add.s(1, 1) | add.s(2))
    run.wait(30)
    for each in bare: each.get(timeout=30, propagate=False)
    answer([[each.id for each in bare], [run["0"].id, run["1"].id]])
"""


@contextmanager
def flower(folder: Path, broker: str) -> Iterator[str]:
    """Flower, started; the URL of its pages."""
    (folder / "viewer.py").write_text(
        "from celery import Celery\napp = Celery('viewer')\n"
        "app.conf.broker_connection_retry_on_startup = True\n"
    )
    port = free_port()
    with (folder / "flower.log").open("w") as log:
        process = subprocess.Popen(
            [CELERY, "-m", "celery", "-A", "viewer", "-b", broker, "flower",
             f"--port={port}", "--address=127.0.0.1"],
            cwd=folder, stdout=log, stderr=log,
            env={**os.environ, "FLOWER_UNAUTHENTICATED_API": "true"},
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: get(url + "/healthcheck"), "Flower is up")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def get(url: str) -> str:
    """A page, or nothing."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_flower_lists_a_real_worker_and_its_tasks(broker: str, tmp_path: Path) -> None:
    with redis(tmp_path) as urls, vhost() if broker == "rabbitmq" else redis(tmp_path) as own:
        rig = Rig(
            tmp_path,
            broker=own[0],
            backend=urls[1],
            store=f"sqlite:///{tmp_path}/store.db",
        )
        try:
            rig.worker("-c", "2", "-E", "-n", "w1@farm", "--with-coordinator")
            with flower(tmp_path, own[0]) as url:
                listed(url, rig)
        finally:
            rig.close()


def listed(url: str, rig: Rig) -> None:
    def worker() -> Any:
        return json.loads(get(url + "/api/workers?refresh=1") or "{}").get("w1@farm")

    shown = until(lambda: (worker() or {}).get("stats") and worker(), "Flower lists the worker")
    assert shown["stats"]["pool"]["max-concurrency"] == 2
    assert {"proj.add", "proj.fail"} <= set(shown["registered"])
    assert shown["active_queues"][0]["name"] == "celery"
    assert "w1@farm" in get(url + "/workers")
    assert "proj.add" in get(url + "/worker/w1@farm")

    (added, failed, flaky), nodes = rig.call(PROGRAM)
    wanted = {added: "SUCCESS", failed: "FAILURE", flaky: "SUCCESS"}
    wanted |= dict.fromkeys(nodes, "SUCCESS")

    def states() -> Any:
        found = json.loads(get(url + "/api/tasks") or "{}")
        return {key: task["state"] for key, task in found.items() if key in wanted}

    until(lambda: states() == wanted, "Flower lists the tasks")
    page = get(f"{url}/task/{added}")
    assert "proj.add" in page
    assert "w1@farm" in page
    assert "ValueError" in get(f"{url}/task/{failed}")
    grow = urllib.request.Request(f"{url}/api/worker/pool/grow/w1@farm?n=1", method="POST")
    with urllib.request.urlopen(grow, timeout=20) as answer:
        assert answer.status == 200
    until(lambda: worker()["stats"]["pool"]["max-concurrency"] == 3, "the pool has grown")
