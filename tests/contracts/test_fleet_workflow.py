"""The word count of `workflows/` on a fleet: two queues, two workers, a coordinator, three servers.

The result has to be what one process gives.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import Rig, until
from tests.started import Server

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(600)]

WORKFLOWS = Path(__file__).parents[2] / "workflows"
PROJECT = """
    import os
    from flowq import chord
    from wordcount import NOVELS, app, count, merge, novel_canvas, pipeline, report
    app.conf.task_routes = {"wordcount.count": {"queue": "a"}, "wordcount.*": {"queue": "b"}}

    @app.task
    def place():
        return os.environ["PLACE"]

    def many(times):
        # the corpus so many times over: 214 chapters, four novels and what makes the joins of each
        return chord([novel_canvas(novel) for _ in range(times) for novel in NOVELS], report.s())
"""
RESULT = """
    run = app.submit({canvas})
    run.wait({patience})
    answer([run.state.value, sum(run.counts().values()), run.result(10)])
"""
#: The corpus so many times gives more than 10,000 nodes.
TIMES = 46


@pytest.fixture
def rig(
    rabbitmq_url: str, redis_server: Server, postgres_url: str, tmp_path: Path
) -> Iterator[Rig]:
    made = Rig(
        tmp_path,
        broker=rabbitmq_url,
        backend=f"redis://127.0.0.1:{redis_server.port}/0",
        store=postgres_url,
        project=PROJECT,
    )
    made.env["PYTHONPATH"] += os.pathsep + str(WORKFLOWS)
    yield made
    made.close()


def start(rig: Rig) -> None:
    rig.coordinator()
    rig.worker("-Q", "a", "-n", "one@test", "-c", "2", PLACE="one")
    rig.worker("-Q", "b", "-n", "two@test", "-c", "1", PLACE="two")


def embedded(rig: Rig, canvas: str, patience: float = 60.0) -> Any:
    """What one process gives."""
    return rig.call(
        RESULT.format(canvas=canvas, patience=patience),
        patience=patience + 20,
        FLOWQ_BROKER="",
        FLOWQ_BACKEND="",
        FLOWQ_STORE=f"sqlite:///{rig.folder}/own.db",
    )


def queues(rig: Rig, worker: str) -> set[str]:
    """Queues that a worker serves, as it says."""
    done = rig.flowq("inspect", "-A", "proj", "active_queues", "-d", worker, "--json")
    return {queue["name"] for queue in json.loads(done.stdout)["replies"][worker]}


def test_the_word_count_on_two_queues_gives_the_same(rig: Rig) -> None:
    start(rig)
    found = rig.call(RESULT.format(canvas="pipeline()", patience=60))
    assert found == embedded(rig, "pipeline()")
    assert found[:2] == ["SUCCESS", 224]


def test_ten_thousand_nodes_while_a_queue_comes_and_goes(rig: Rig) -> None:
    start(rig)
    uid = rig.call(f"run = app.submit(many({TIMES})); answer(run.id)")
    to_one = ("-A", "proj", "-d", "one@test")
    assert queues(rig, "one@test") == {"a"}
    rig.flowq("control", *to_one, "add_consumer", "extra")
    assert queues(rig, "one@test") == {"a", "extra"}
    assert queues(rig, "two@test") == {"b"}
    placed = "answer(app.submit(place.s().set(queue='extra')).result(60))"
    assert rig.call(placed) == "one"
    rig.flowq("control", *to_one, "cancel_consumer", "extra")
    until(lambda: queues(rig, "one@test") == {"a"}, "the queue is served no more")
    again = f"run = app.run({uid!r}); answer([run.state.value, sum(run.counts().values())])"
    state, nodes = rig.call(again)
    assert (state, nodes >= 10_000) == ("RUNNING", True)
    waited = f"run = app.run({uid!r}); run.wait(300); answer([run.state.value, run.result(10)])"
    state, result = rig.call(waited, patience=330)
    assert [state, nodes, result] == embedded(rig, f"many({TIMES})", 200.0)
    assert state == "SUCCESS"
