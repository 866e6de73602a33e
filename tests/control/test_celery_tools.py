"""Celery's own tools and Flower, as they are, against our worker's mailbox and events."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowq.broker.sideline import Access
from tests.control.fake import FakeWorker, wait_for
from tests.started import free_port

pytestmark = [pytest.mark.services, pytest.mark.slow]
pytest.importorskip("celery", reason="Celery is not installed")

APP = """
from celery import Celery
app = Celery("shop")
app.conf.broker_connection_retry_on_startup = True
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a Celery app that knows no broker."""
    (tmp_path / "proj.py").write_text(APP)
    return tmp_path


@pytest.fixture
def worker(access: Access) -> Iterator[FakeWorker]:
    """Our worker."""
    with FakeWorker("w1@farm", access) as made:
        yield made


def celery(project: Path, broker: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Call Celery's command line."""
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "proj", "-b", broker, *words],
        cwd=project, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def asked(project: Path, broker: str, *words: str) -> Any:
    """What our worker replied, by Celery's account."""
    group, *rest = words
    done = celery(project, broker, group, "--json", "-t", "5", "-d", "w1@farm", *rest)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["w1@farm"] if group == "inspect" else json.loads(done.stdout)


def test_celery_inspect(project: Path, worker: FakeWorker, broker_url: str) -> None:
    def inspect(*words: str) -> Any:
        return asked(project, broker_url, "inspect", *words)

    assert inspect("ping") == {"ok": "pong"}
    (running,) = inspect("active")
    assert (running["id"], running["name"], running["args"]) == ("id-1", "shop.add", [2, 3])
    assert inspect("reserved")[0]["id"] == "id-2"
    assert inspect("scheduled")[0]["request"]["id"] == "id-3"
    assert inspect("registered") == ["shop.add", "shop.mail [rate_limit=10/m]"]
    assert inspect("stats")["total"] == {"shop.add": 7}
    assert inspect("active_queues")[0]["name"] == "celery"
    assert inspect("query_task", "id-1")["id-1"][0] == "active"
    assert "flowq" in inspect("report")["ok"]
    assert inspect("revoked") == []
    assert inspect("clock")["clock"] > 0
    assert isinstance(inspect("conf"), dict)


def test_celery_control_and_status(project: Path, worker: FakeWorker, broker_url: str) -> None:
    def control(*words: str) -> Any:
        (reply,) = asked(project, broker_url, "control", *words)
        return reply["w1@farm"]

    assert control("add_consumer", "fast") == {"ok": "add consumer fast"}
    assert control("cancel_consumer", "fast") == {"ok": "no longer consuming from fast"}
    assert "successfully" in control("rate_limit", "shop.add", "3/s")["ok"]
    assert "successfully" in control("time_limit", "shop.add", "5", "9")["ok"]
    assert control("pool_grow", "2") == {"ok": "pool will grow"}
    assert control("pool_shrink", "1") == {"ok": "pool will shrink"}
    assert control("enable_events") == {"ok": "task events enabled"}
    assert "id-7" in control("revoke", "id-7")["ok"]
    assert control("terminate", "KILL", "id-1") == {"ok": "terminate: id-1"}
    assert control("shutdown") == {"ok": "shutting down"}
    assert ("time", "shop.add", 9.0, 5.0) in worker.calls
    assert ("revoke", ["id-1"], True, "KILL") in worker.calls
    status = celery(project, broker_url, "status", "-t", "5", "-d", "w1@farm")
    assert status.returncode == 0, status.stderr
    assert "w1@farm: OK" in status.stdout
    assert "1 node online" in status.stdout


def test_celery_events_dump(project: Path, worker: FakeWorker, broker_url: str) -> None:
    dump = subprocess.Popen(
        [sys.executable, "-u", "-m", "celery", "-A", "proj", "-b", broker_url, "events", "--dump"],
        cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert dump.stdout is not None
    try:
        worker.events(True)
        seen = ""
        for line in dump.stdout:  # heartbeats come every second; the time limit guards
            seen += line
            if "heartbeat" in line:
                worker.sender.received("t1", "shop.add", "(1, 2)", "{}")
                worker.sender.started("t1")
                worker.sender.succeeded("t1", "3", 0.25)
            if "task succeeded" in line:
                break
        assert "w1@farm" in seen
        assert "task received" in seen
        assert "shop.add(t1)" in seen
    finally:
        dump.terminate()
        dump.communicate(timeout=30)


@pytest.fixture
def flower(project: Path, broker_url: str) -> Iterator[str]:
    """Flower, started; the URL of its pages."""
    pytest.importorskip("flower", reason="Flower is not installed")
    port = free_port()
    with (project / "flower.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "proj", "-b", broker_url, "flower",
             f"--port={port}", "--address=127.0.0.1"],
            cwd=project, stdout=log, stderr=log,
            env={**os.environ, "FLOWER_UNAUTHENTICATED_API": "true"},
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: get(url + "/healthcheck"), "Flower did not start", 60)
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


def test_flower_lists_the_worker_and_its_tasks(
    flower: str, worker: FakeWorker, broker_url: str
) -> None:
    def workers() -> Any:
        return json.loads(get(flower + "/api/workers?refresh=1") or "{}").get("w1@farm")

    shown = wait_for(lambda: (workers() or {}).get("stats") and workers(), "no worker", 60)
    assert shown["stats"]["pool"]["max-concurrency"] == 2
    assert shown["registered"][0] == "shop.add"
    assert shown["active_queues"][0]["name"] == "celery"
    assert "w1@farm" in get(flower + "/workers")
    page = get(flower + "/worker/w1@farm")
    assert "shop.add" in page

    def states() -> Any:
        found = json.loads(get(flower + "/api/tasks") or "{}")
        return {key: task["state"] for key, task in found.items()}

    wait_for(lambda: worker.sender.tasks, "Flower did not ask for task events", 60)
    worker.sender.received("t1", "shop.add", "(1, 2)", "{}")
    worker.sender.started("t1")
    worker.sender.succeeded("t1", "3", 0.25)
    worker.sender.received("t2", "shop.add", "(1, 'x')", "{}")
    worker.sender.started("t2")
    worker.sender.failed("t2", "TypeError('x')", "Traceback ...")
    worker.sender.received("t3", "shop.mail", "()", "{}")
    wanted = {"t1": "SUCCESS", "t2": "FAILURE", "t3": "RECEIVED"}
    wait_for(lambda: states() == wanted, "tasks are missing", 30)
    assert "shop.add" in get(flower + "/task/t1")
    grown = urllib.request.Request(f"{flower}/api/worker/pool/grow/w1@farm?n=2", method="POST")
    with urllib.request.urlopen(grown, timeout=20) as answer:
        assert answer.status == 200
    assert ("grow", 2) in worker.calls
