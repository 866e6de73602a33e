"""flowq's own command line, against our worker and against Celery's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowq import cli
from flowq.app import current
from flowq.broker.sideline import Access
from flowq.worker.control import COMMANDS
from tests.control.fake import FakeWorker, wait_for
from tests.shells.cli import Shell, finish, read_until
from tests.shells.fake_engine import FakeEngine

pytestmark = pytest.mark.services

PROJECT = """
    from flowq import Flowq
    app = Flowq("shop", broker={url!r}, task_default_queue="fast")
    @app.task(name="shop.add")
    def add(x, y): return x + y
"""


@pytest.fixture
def worker(access: Access) -> Iterator[FakeWorker]:
    """Our worker."""
    with FakeWorker("w1@farm", access) as made:
        yield made


@pytest.fixture
def flowq(tmp_path: Path, broker_url: str) -> Shell:
    """flowq in a folder with an app, its broker in the environment."""
    shell = Shell(tmp_path, {"proj.py": PROJECT.format(url=broker_url)})
    shell.env["FLOWQ_BROKER"] = broker_url
    return shell


def test_inspect(flowq: Shell, worker: FakeWorker, broker_url: str) -> None:
    done = flowq("inspect", "ping", "-d", "w1@farm", "-t", "5s", "--json")
    assert done.json == {"schema": 1, "replies": {"w1@farm": {"ok": "pong"}}}
    assert flowq("inspect", "ping", "-A", "proj", "-d", "w1@farm", "-t", "5").out == (
        "w1@farm: pong\n"
    )
    here = ("-b", broker_url, "-d", "w1@farm", "-t", "5")
    done = flowq("inspect", "active", *here, FLOWQ_BROKER="")
    assert "shop.add[id-1] args=[2, 3]" in done.out
    assert "since 2023-11-14T22:13:20.500Z in process 4711" in done.out
    done = flowq("inspect", "query_task", "id-1", "id-2", *here)
    assert "active: shop.add[id-1]" in done.out
    assert done.err == ""
    assert "celery: exchange 'celery' (direct)" in flowq("inspect", "active-queues", *here).out
    assert "max-concurrency: 2" in flowq("inspect", "stats", *here).out
    assert "due 2030" in flowq("inspect", "scheduled", *here).out
    assert flowq("inspect", "revoked", *here).out == "w1@farm: none\n"


def test_control(flowq: Shell, worker: FakeWorker) -> None:
    here = ("-d", "w1@farm", "-t", "5s")
    assert flowq("control", "add_consumer", "fast", *here).out == "w1@farm: add consumer fast\n"
    flowq("control", "rate_limit", "shop.add", "5/m", *here)
    flowq("control", "time_limit", "shop.add", "5", "9.5", *here)
    flowq("control", "pool_grow", "3", *here)
    flowq("control", "revoke", "id-8", "id-9", *here)
    done = flowq("control", "terminate", "KILL", "id-1", *here, "--json")
    assert done.json["replies"] == {"w1@farm": {"ok": "terminate: id-1"}}
    assert worker.calls == [
        ("add", "fast", None, None, None),
        ("rate", "shop.add", "5/m"),
        ("time", "shop.add", 9.5, 5.0),
        ("grow", 3),
        ("revoke", ["id-8", "id-9"], False, "SIGTERM"),
        ("revoke", ["id-1"], True, "KILL"),
    ]
    done = flowq("control", "pool_shrink", "9", *here, code=8)
    assert done.says("1 of 1 workers refused", "keeps at least one slot")
    assert "keeps at least" in done.out


def test_silence_is_an_error_of_one_sentence(flowq: Shell, worker: FakeWorker) -> None:
    done = flowq("inspect", "ping", "-d", "w1@farm,w2@farm", "-t", "0.5s", code=69)
    assert done.out == "w1@farm: pong\n"
    assert done.says("w2@farm did not answer within 0.5 s")
    done = flowq("status", "-d", "w9@farm", "-t", "0.2s", "--json", code=69)
    assert done.json["workers"] == []
    assert done.says("w9@farm did not answer")


def test_what_cannot_be_asked(flowq: Shell) -> None:
    assert flowq("inspect", "activ", code=2).says("no command 'activ'", "active")
    assert flowq("inspect", "revoke", code=2).says("say flowq control revoke")
    assert flowq("control", "pool_grow", "many", code=2).says("'many' is no n for pool_grow")
    assert flowq("control", "rate_limit", "x", code=2).says("takes TASK_NAME RATE_LIMIT")
    assert flowq("inspect", "ping", "now", code=2).says("ping takes no arguments")
    done = flowq("inspect", "ping", FLOWQ_BROKER="", code=78)
    assert done.says("workers are spoken to through a broker")
    done = flowq("inspect", "ping", "-b", "redis://:hush@127.0.0.1:1/0", code=69)
    assert done.says("redis://:***@127.0.0.1:1/0 cannot be reached")
    assert flowq("inspect", "ping", "-A", "nowhere", code=7).says("no module 'nowhere'")


def test_help_names_every_command() -> None:
    from flowq.cli.remote import control, inspect

    for name, command in COMMANDS.items():
        text = (inspect if command.inspect else control).__doc__ or ""
        assert command.hidden or name in text, name


def test_status(flowq: Shell, worker: FakeWorker) -> None:
    done = flowq("status", "-d", "w1@farm", "-t", "5s")
    assert done.out == "w1@farm: 2 slots, queues celery, 7 tasks taken, up 12 s\n"
    (shown,) = flowq("status", "-d", "w1@farm", "-t", "5s", "--json").json["workers"]
    assert (shown["slots"], shown["queues"], shown["processed"]) == (2, ["celery"], 7)


def test_status_shows_coordinators_of_the_store(
    flowq: Shell, worker: FakeWorker, tmp_path: Path
) -> None:
    from flowq.store import Store
    from flowq.store.members import announce
    from flowq.store.rows import MemberRow

    store = Store(f"sqlite:///{tmp_path}/runs.db")
    store.ensure()
    until = store.lease_now() + 60
    announce(
        store, MemberRow("m", "c1@farm", "farm", 7, [], 0, until, "running", "coordinator", b"")
    )
    store.close()
    done = flowq("status", "-t", "5s", "-d", "w1@farm", "--store", store.url)
    assert "c1@farm: coordinator, process 7 on farm" in done.out


def send(url: str, queue: str, count: int) -> None:
    """Put messages on a queue."""
    from kombu import Producer, Queue

    with Access([url]).opened() as connection:
        channel = connection.channel()
        Queue(queue, routing_key=queue)(channel).declare()
        for _ in range(count):
            Producer(channel).publish({}, routing_key=queue)
        channel.close()


def test_queues_and_purge(flowq: Shell, worker: FakeWorker, broker_url: str) -> None:
    send(broker_url, "fast", 3)

    def tasks(*words: str) -> Any:
        done = flowq("queues", "-A", "proj", "-t", "1s", "--json", *words)
        return {row["name"]: (row["tasks"], row["workers"]) for row in done.json["queues"]}

    wait_for(lambda: tasks("-Q", "fast") == {"fast": (3, [])}, "three messages")
    everything = tasks()
    assert everything["celery"][1] == ["w1@farm"]
    done = flowq("queues", "-A", "proj", "-Q", "fast,void")
    assert [line.split()[:2] for line in done.out.splitlines()[1:2]] == [["fast", "3"]]
    assert flowq("purge", "-A", "proj", code=8).says("would be lost")
    done = flowq("purge", "-A", "proj", "-f")
    assert done.out == "fast: 3 tasks removed\n"
    assert "the store would send them again" in done.err
    assert flowq("purge", "-Q", "fast", "--yes", "--json").json["removed"] == {"fast": 0}


def test_events(flowq: Shell, worker: FakeWorker) -> None:
    listening = flowq.start("events", "-E", "--type", "task-*", "--limit", "3")
    read_until(listening.stderr, "listening")
    wait_for(lambda: worker.sender.tasks, "task events were not asked for")
    worker.sender.received("t1", "shop.add", "(1, 2)")
    worker.sender.started("t1")
    worker.sender.succeeded("t1", "3", 0.25)
    done = finish(listening)
    assert done.code == 0, done.err
    lines = [line.partition(" ")[2] for line in done.out.splitlines()]
    assert lines == [
        "w1@farm task-received shop.add[t1] args=(1, 2) kwargs={} retries=0",
        "w1@farm task-started shop.add[t1]",
        "w1@farm task-succeeded shop.add[t1] result=3 runtime=0.25",
    ]
    done = flowq("events", "--json", "--dump", "--limit", "2", "-t", "20s")
    assert [each["event"] for each in done.lines] == ["worker-heartbeat"] * 2
    assert done.lines[0]["hostname"] == "w1@farm"
    assert done.lines[0]["schema"] == 1


# -- call, with an engine that only notes what it is given --------------------------------------


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """What tasks are sent through."""
    made, before = FakeEngine(), current.engine_factory()
    current.set_engine_factory(lambda app: made)
    yield made
    current.set_engine_factory(before)


def call(*words: str) -> int:
    """``flowq call`` in this process."""
    return cli.run(["call", *words, "-b", "memory://"])


def test_call_sends_a_task(engine: FakeEngine, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["shop.add", "--args", "[1, 2]", "--kwargs", '{"z": 3}', "-q", "fast"]
    assert call(*words, "--expires", "30s", "--serializer", "json") == 0
    assert capsys.readouterr().out == "bare-1\n"
    ((name, args, kwargs, options),) = engine.bare
    assert (name, args, kwargs) == ("shop.add", (1, 2), {"z": 3})
    assert options == {"queue": "fast", "expires": 30.0, "serializer": "json"}
    assert engine.closed
    assert call("shop.add", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "id": "bare-2", "task": "shop.add"}


def test_call_with_words_that_are_no_json(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, told in {
        ("-a", "1, 2"): "is no JSON",
        ("-a", "{}"): "is not a list",
        ("-k", "[1]"): "is not an object",
        ("--eta", "soon"): "is no time",
        ("--expires", "2030-13-01T00:00:00"): "is no time",
        ("--countdown", "later"): "is no duration",
    }.items():
        assert call("shop.add", *words) == 2
        assert told in capsys.readouterr().err
    assert cli.run(["call", "shop.add"]) == 78
    assert engine.bare == []


# -- a worker of Celery -------------------------------------------------------------------------

CELERY = """
from celery import Celery
app = Celery("old")
@app.task(name="old.add")
def add(x, y): return x + y
"""


@pytest.mark.slow
def test_a_celery_worker_is_inspected_and_controlled(
    flowq: Shell, tmp_path: Path, broker_url: str
) -> None:
    pytest.importorskip("celery", reason="Celery is not installed")
    (tmp_path / "old.py").write_text(CELERY)
    with (tmp_path / "celery.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "old", "-b", broker_url, "worker",
             "-P", "solo", "-n", "c1@old"],
            cwd=tmp_path, stdout=log, stderr=log, env=os.environ,
        )  # fmt: skip
    here = ("-d", "c1@old", "-t", "5s")
    try:
        wait_for(lambda: flowq("inspect", "ping", *here, code=None).code == 0, "no worker", 60)
        assert "old.add" in flowq("inspect", "registered", *here).out
        assert "celery" in flowq("status", *here).out
        flowq("control", "add_consumer", "extra", *here)
        shown = flowq("inspect", "active_queues", *here, "--json").json
        wait_for(
            lambda: "extra" in flowq("inspect", "active_queues", *here).out, f"not there: {shown}"
        )
        done = flowq("events", "--json", "--limit", "1", "-t", "20s", "--type", "worker-heartbeat")
        assert done.lines[0]["hostname"] == "c1@old"
        done = flowq("control", "autoscale", "3", "1", *here, code=8)
        assert "Autoscale not enabled" in done.err
    finally:
        process.terminate()
        process.wait(30)
