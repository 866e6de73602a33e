"""What is lost at Celery's end, or only seems to be: workers killed, brokers away, takeovers."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.interop.sides import redis_in, start_celery, vhost, without_celery
from tests.interop.test_from_celery import OVER, THEIRS, told
from tests.rig import Rig, until
from tests.started import Server

pytestmark = [pytest.mark.services, pytest.mark.timeout(180), *without_celery()]

#: Doubts come sooner than in life.
HASTY = """
    import flowq.app.celerynodes as nodes
    nodes.DOUBT = 0.2
"""


@pytest.fixture
def backend_server(tmp_path: Path) -> Iterator[Server]:
    """A second Redis, which keeps results while the first is away."""
    server = redis_in(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def rig(redis_server: Server, backend_server: Server, tmp_path: Path) -> Iterator[Rig]:
    """A project over a Celery app; no worker yet."""
    made = Rig(
        tmp_path,
        broker=f"redis://127.0.0.1:{redis_server.port}/0",
        backend=f"redis://127.0.0.1:{backend_server.port}/1",
        project=OVER + HASTY,
    )
    (tmp_path / "theirs.py").write_text(textwrap.dedent(THEIRS))
    yield made
    made.close()


@contextmanager
def beside(call: Callable[[], None]) -> Iterator[None]:
    """Have something done in a thread while the block lasts."""
    thread = threading.Thread(target=call)
    thread.start()
    yield
    thread.join(60)


def test_what_a_killed_worker_had_is_sent_again_under_another_id(rig: Rig) -> None:
    worker = start_celery(rig, "w@test", "-c", "1")
    source = f"""
        import os, signal, time
        run = app.submit(celery.chain(S("nap", 8, "x"), S("add", "!")))
        until(lambda: os.path.exists("ledger.txt"), "it has begun")
        time.sleep(4)  # workers are asked meanwhile, and say that they have it
        assert open("ledger.txt").read().split() == ["x", "began"]
        os.killpg({worker.pid}, signal.SIGKILL)
        open("killed.txt", "w").close()
        answer([run.result(90), run["0"].id, run.nodes[0].attempt])
    """

    def again() -> None:
        until(lambda: (rig.folder / "killed.txt").exists(), "the worker was killed")
        worker.wait(30)
        start_celery(rig, "w@test", "-c", "1")

    with beside(again):
        value, first, attempt = rig.call(source, patience=120)
    assert value == "x!"
    assert attempt == 2
    assert told(rig.folder) == {"x began": 2, "x ended": 1}
    seen = "".join(log.read_text() for log in rig.logs.values())
    assert f"proj.nap[{first}] received" in seen
    assert seen.count("proj.nap[") - seen.count(f"proj.nap[{first}]") > 0


def test_what_a_silent_worker_may_have_waits_for_its_time_limit(rig: Rig) -> None:
    """Of two workers the one that had it is gone for good, and might be busy for all one knows."""
    start_celery(rig, "w@test", "-c", "1", "-Q", "other")
    worker = start_celery(rig, "gone@test", "-c", "1")
    source = f"""
        import os, signal, time
        app.conf.celery_lost_after = 12
        run = app.submit(S("nap", 60, "x"))
        until(lambda: os.path.exists("ledger.txt"), "it has begun")
        os.killpg({worker.pid}, signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: run.nodes[0].attempt > 1, "it is sent again", 80)
        answer(time.monotonic() - killed)
    """
    assert 9 < rig.call(source, patience=90) < 40


def test_a_broker_that_is_away_when_nodes_are_sent(rig: Rig, redis_server: Server) -> None:
    redis_server.stop()
    source = """
        import logging, threading
        warned = threading.Event()
        class Heard(logging.Handler):
            def emit(self, record): warned.set()
        logging.getLogger("flowq").addHandler(Heard(logging.WARNING))
        run = app.submit(celery.chain(S("add", 1, 1), S("add", 2)))
        assert warned.wait(60), "nobody said that the broker is away"
        open("submitted.txt", "w").close()
        answer(run.result(90))
    """

    def up() -> None:
        until(lambda: (rig.folder / "submitted.txt").exists(), "it was submitted")
        redis_server.start()
        start_celery(rig, "w@test", "-c", "1")

    with beside(up):
        assert rig.call(source, patience=120) == 4


def test_another_coordinator_goes_on(rig: Rig) -> None:
    """Two coordinators, one killed while Celery's worker has its nodes: each node runs once."""
    rig.env["FLOWQ_STORE"] = f"sqlite:///{rig.folder}/store.db"
    rig.env["FLOWQ_COORDINATOR_LEASE"] = "2"
    start_celery(rig, "w@test", "-c", "4")
    first = rig.coordinator("-A", "proj")
    source = """
        naps = celery.group(S("nap", 4, str(i)) for i in range(4))
        run = app.submit(celery.chain(naps, S("nap", 0, "last", immutable=True)))
        answer(run.uid)
    """
    uid = rig.call(source)
    until(lambda: sum(told(rig.folder).values()) == 4, "all have begun")
    rig.kill(first)
    rig.coordinator("-A", "proj")
    found = rig.call(f"run = app.run({uid!r}); answer(run.result(60))", patience=90)
    assert found == "last"
    assert set(told(rig.folder).values()) == {1}
    assert sum(told(rig.folder).values()) == 10


def test_a_program_that_died_is_followed_by_another(rig: Rig) -> None:
    """No store was named, so the program is the coordinator; what it had sent is not sent again."""
    start_celery(rig, "w@test", "-c", "2")
    source = """
        import os
        run = app.submit(celery.chain(S("nap", 3, "x"), S("add", "!")))
        until(lambda: os.path.exists("ledger.txt"), "it has begun")
        print("=" + json.dumps(run.uid), flush=True)
        os.kill(os.getpid(), 9)
    """
    with pytest.raises(AssertionError) as died:
        rig.call(source)
    uid = str(died.value).partition('="')[2].partition('"')[0]
    found = rig.call(f"run = app.run({uid!r}); run.resume(); answer(run.result(60))", patience=90)
    assert found == "x!"
    assert told(rig.folder) == {"x began": 1, "x ended": 1}


def test_queues_and_exchanges_of_their_own(tmp_path: Path) -> None:
    """A queue behind a topic exchange, declared by Celery with arguments of its own; RabbitMQ."""
    theirs = THEIRS.replace(
        '    @app.task(name="proj.add")',
        """
    from kombu import Exchange, Queue
    app.conf.task_queues = [
        Queue("celery"),
        Queue("aside", Exchange("media", type="topic"), routing_key="media.#",
              queue_arguments={"x-max-priority": 5}),
    ]
    @app.task(name="proj.add")""",
        1,
    )
    with vhost() as (broker, _):
        rig = Rig(tmp_path, broker=broker, backend=f"db+sqlite:///{tmp_path}/results.db",
                  project=OVER)  # fmt: skip
        (tmp_path / "theirs.py").write_text(textwrap.dedent(theirs))
        try:
            start_celery(rig, "w@test", "-c", "1")
            source = """
                run = app.submit(celery.chain(
                    celery.group(S("add", i, i) for i in range(5)), S("total"), S("aside")))
                answer(run.result(60))
            """
            assert rig.call(source, patience=90) == 120
        finally:
            rig.close()
