"""What a bare task on a fleet's worker calls is sent as a client would send it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import PROJECT, Rig, until
from tests.started import Server

pytestmark = [pytest.mark.services, pytest.mark.timeout(120)]

CALLS = """
    @app.task(bind=True)
    def who(self, x, by="place"):
        request = self.request
        return [x, by, request.id, request.root_id, request.parent_id, request.run_id,
            (request.delivery_info or {}).get("routing_key"), request.headers]
    @app.task
    def note(found, text):
        with open("notes.txt", "a") as out: out.write(f"{text} {found}")
    @app.task(bind=True)
    def calls(self, **options):
        made = who.apply_async((1,), {"by": "name"}, **options)
        refused = ""
        try:
            made.get(timeout=1)
        except Exception as exc:
            refused = f"{type(exc).__name__}: {exc}"
        return [self.request.id, made.id, refused]
"""
POOLS = ("prefork", "threads", "solo", "gevent", "eventlet")


@pytest.fixture
def rig(redis_server: Server, tmp_path: Path) -> Iterator[Rig]:
    """A client and a Redis; the test starts the worker, and no coordinator."""
    url = f"redis://127.0.0.1:{redis_server.port}"
    made = Rig(tmp_path, broker=f"{url}/0", backend=f"{url}/1", project=PROJECT + CALLS)
    yield made
    made.close()


def outcome(rig: Rig, options: str = "") -> Any:
    """What the inner call says of itself, read by another program that knows its id only."""
    outer, inner, refused = rig.call(f"answer(calls.delay({options}).get(timeout=20))")
    assert "inside the task" in refused
    read = f"answer(app.AsyncResult({inner!r}).get(timeout=20))"
    rig.call(f"""
        import time
        end = time.monotonic() + 20
        while not app.AsyncResult({inner!r}).ready() and time.monotonic() < end: time.sleep(0.05)
        answer(None)
    """)
    return outer, inner, rig.call(read)


@pytest.mark.parametrize("pool", POOLS)
def test_a_call_in_a_bare_task_is_a_message(rig: Rig, pool: str) -> None:
    if pool in ("gevent", "eventlet"):
        pytest.importorskip(pool)
    rig.worker("-P", pool, "-c", "1" if pool == "solo" else "2")
    outer, inner, found = outcome(rig)
    assert found[:6] == [1, "name", inner, outer, outer, None]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_a_bare_task_composes_needs_no_coordinator(rig: Rig, pool: str) -> None:
    rig.worker("-P", pool, "-c", "2")
    _, inner, found = outcome(rig, 'link=note.s("linked"), countdown=0.2')
    assert found[:3] == [1, "name", inner]
    until(lambda: (rig.folder / "notes.txt").exists(), "the callback runs")
    assert (rig.folder / "notes.txt").read_text().startswith("linked [1, 'name'")


def test_options_of_a_call_in_a_bare_task_are_kept(rig: Rig) -> None:
    rig.worker("-c", "1")
    rig.worker("-c", "1", "-Q", "other")
    _, inner, found = outcome(rig, 'queue="other", task_id="mine", headers={"a": 1}, expires=60')
    assert inner == "mine"
    assert found[:3] == [1, "name", "mine"]
    assert found[6:] == ["other", {"a": 1}]


def test_a_call_to_no_queue_is_refused_in_a_task(rig: Rig) -> None:
    rig.worker("-c", "1", FLOWQ_TASK_CREATE_MISSING_QUEUES="0")
    said = rig.call("""
        try:
            calls.delay(queue="nowhere").get(timeout=20)
        except Exception as exc:
            answer(str(exc))
    """)
    assert "there is no queue 'nowhere'" in said


def test_a_node_makes_a_run_of_what_it_calls(redis_server: Server, tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}"
    store = f"sqlite:///{tmp_path}/fleet.db"
    made = Rig(tmp_path, broker=url, backend=f"{url}/1", store=store, project=PROJECT + CALLS)
    try:
        made.worker("-c", "1", "--with-coordinator")
        found = made.call("""
            inner = app.submit(calls.s()).result(20)[1]
            answer([inner, app.AsyncResult(inner).get(timeout=20)])
        """)
        assert found[1][2] == found[0]
        assert found[1][5], "a run of its own"
    finally:
        made.close()


def test_a_function_is_told_the_call(redis_server: Server, tmp_path: Path) -> None:
    routes = """
    def by_call(name, args, kwargs, options, task=None, **more):
        if name == "proj.who" and args:
            return f"{args[0]}-{kwargs['by']}-{options['shadow']}-{task.name}"
    app.conf.task_routes = [by_call]
    """
    url = f"redis://127.0.0.1:{redis_server.port}"
    rig = Rig(tmp_path, broker=url, backend=f"{url}/1", project=PROJECT + CALLS + routes)
    try:
        rig.worker("-c", "1", "-Q", "celery,7-b-s-proj.who,1-name-t-proj.who")
        made = "who.apply_async((7,), {'by': 'b'}, shadow='s')"
        assert rig.call(f"answer({made}.get(timeout=20))")[6] == "7-b-s-proj.who"
        _, _, found = outcome(rig, 'shadow="t"')
        assert found[6] == "1-name-t-proj.who"
    finally:
        rig.close()
