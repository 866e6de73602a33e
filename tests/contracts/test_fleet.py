"""A fleet of real processes on every mixture of broker, result backend and store.

The table at the end of the file names each cell; one that is left out says why. Each cell runs the
same program and must give what it gives in one process.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from amqp.exceptions import NotFound

from flowq.broker.codec import Bundle, node_queue
from flowq.broker.connection import Broker
from flowq.coordinator.loop import CoordinatorLoop
from flowq.store import Store
from flowq.store.members import store_id
from tests.rig import PROJECT, Rig, until
from tests.servers import rabbit_channel, token
from tests.started import Server

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]

#: Makes a fleet; takes the source of more tasks.
OnRedis = Callable[[str], Rig]

BROKERS = ("rabbitmq", "redis", "memory")
BACKENDS = ("redis", "rpc", "postgresql", "memcached")
STORES = ("sqlite", "postgresql")
#: Cells that are left out: (broker, backend) -> why.
EXCLUDED = {
    ("memory", "rpc"): "in one process there is no broker to send a reply through",
}

PROGRAM = """
    found = {}
    found["bare"] = add.delay(1, 2).get(timeout=20)
    try:
        fail.delay("no").get(timeout=20)
    except ValueError as exc:
        found["error"] = str(exc)
    found["retried"] = flaky.delay(2).get(timeout=20)
    found["chain"] = chain(add.s(1, 1), add.s(2), add.s(3)).delay().get(timeout=20)
    found["chord"] = chord([add.s(i, i) for i in range(20)], total.s()).delay().get(timeout=20)
    found["nested"] = (group(add.s(i, 1) | add.s(1) for i in range(5)) | total.s()).delay().get(
        timeout=20)
    found["large"] = (big.s(300_000) | size.s()).delay().get(timeout=20)
    run = app.submit(fail.si("worse").on_error(errback.s()))
    run.wait(20)
    found["failed"] = run.state.value
    answer(found)
"""
WANTED = {
    "bare": 3,
    "error": "no",
    "retried": 2,
    "chain": 7,
    "chord": 380,
    "nested": 20,
    "large": 300_000,
    "failed": "FAILURE",
}


WHOSE = """
    @app.task
    def whose(): return os.environ.get("FLOWQ_TEST_WORKER")
"""


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """Servers for one cell, with a worker and a coordinator where the broker leads elsewhere."""
    broker, backend, store = request.param
    made = Rig(
        tmp_path,
        broker=_broker(request, broker),
        backend=_backend(request, backend),
        store=_store(request, store, tmp_path),
        project=PROJECT + WHOSE,
    )
    yield made
    made.close()


@pytest.fixture
def on_redis(redis_server: Server, tmp_path: Path) -> Iterator[OnRedis]:
    """Makes a fleet on Redis, with a store on disk and more tasks in its project."""
    with contextlib.ExitStack() as made:

        def make(tasks: str) -> Rig:
            rig = Rig(
                tmp_path,
                broker=f"redis://127.0.0.1:{redis_server.port}/0",
                backend=f"redis://127.0.0.1:{redis_server.port}/1",
                store=f"sqlite:///{tmp_path}/fleet.db",
                project=PROJECT + tasks,
            )
            made.callback(rig.close)
            return rig

        yield make


def _broker(request: pytest.FixtureRequest, kind: str) -> str | None:
    if kind == "redis":
        return f"redis://127.0.0.1:{request.getfixturevalue('redis_server').port}/0"
    return str(request.getfixturevalue("rabbitmq_url")) if kind == "rabbitmq" else None


def _backend(request: pytest.FixtureRequest, kind: str) -> str:
    if kind == "rpc":
        return "rpc://"
    if kind == "redis":
        return f"redis://127.0.0.1:{request.getfixturevalue('redis_server').port}/1"
    if kind == "memcached":
        return f"cache+memcached://127.0.0.1:{request.getfixturevalue('memcached_server').port}/"
    return "db+" + str(request.getfixturevalue("postgres_server")())


def _store(request: pytest.FixtureRequest, kind: str, folder: Path) -> str:
    if kind == "sqlite":
        return f"sqlite:///{folder}/fleet.db"
    return str(request.getfixturevalue("postgres_server")())


def _cells() -> Iterator[Any]:
    for broker in BROKERS:
        for backend in BACKENDS:
            for store in STORES:
                why = EXCLUDED.get((broker, backend))
                marks = [pytest.mark.skip(reason=why)] if why else []
                yield pytest.param(
                    (broker, backend, store), marks=marks, id=f"{broker}-{backend}-{store}"
                )


@pytest.mark.parametrize("rig", list(_cells()), indirect=True)
def test_every_cell_gives_the_same(rig: Rig) -> None:
    if "FLOWQ_BROKER" in rig.env:
        rig.coordinator()
        rig.worker("-c", "2")
    assert rig.call(PROGRAM) == WANTED
    assert (rig.folder / "errbacks.txt").read_text() == "worse\n"


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_nodes_and_their_reports_are_signed(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = _broker(request, broker)
    assert url is not None
    rig = Rig(tmp_path, broker=url, store=f"sqlite:///{tmp_path}/fleet.db")
    rig.env["FLOWQ_MESSAGE_SIGNING_KEYS"] = json.dumps({"main": "m" * 32})
    try:
        rig.coordinator()
        stranger = rig.worker("-c", "1", FLOWQ_MESSAGE_SIGNING_KEYS="{}")
        source = "run = (add.s(1, 1) | add.s(2)).delay().run; answer(run.id)"
        run = rig.call(source)
        until(lambda: "is signed, but" in rig.log_of(stranger), "it has no key")
        rig.stop(stranger)
        worker = rig.worker("-c", "1")
        assert rig.flowq("result", run).stdout.strip() == "4"  # waits for it
        with contextlib.closing(Store(rig.env["FLOWQ_STORE"])) as store:
            known = store_id(store)
        forged = Bundle(1, known, 1, 1, 0, "celery", {}, [], [])
        with contextlib.closing(Broker(url)) as loose:
            loose.publish_bundle(forged, known)
        until(lambda: "is not signed, but" in rig.log_of(worker), "it looks at signatures")
        assert rig.call("answer((add.s(1, 1) | add.s(2)).delay().get(timeout=20))") == 4
    finally:
        rig.close()


def test_watch_waits_for_a_run_of_a_fleet(redis_server: Server, tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}/0"
    rig = Rig(tmp_path, broker=url, store=f"sqlite:///{tmp_path}/fleet.db")
    try:
        rig.coordinator()
        run = rig.call("answer(app.submit(add.s(1, 1) | add.s(2)).id)")
        with ThreadPoolExecutor(1) as aside:
            watching = aside.submit(rig.flowq, "watch", run)
            rig.worker("-c", "1")
            assert "SUCCESS" in watching.result(60).stderr
    finally:
        rig.close()


@pytest.mark.parametrize("rig", [("rabbitmq", "redis", "sqlite")], indirect=True)
def test_a_worker_has_a_queue_of_its_own(rig: Rig) -> None:
    """`worker_direct`: bare tasks by queue and by Celery's exchange and key, and nodes."""
    rig.coordinator()
    for name in ("a@test", "b@test"):
        rig.worker("-c", "1", "-n", name, FLOWQ_WORKER_DIRECT="true", FLOWQ_TEST_WORKER=name)
    found = rig.call("""
        from flowq.broker.queues import worker_direct
        got = []
        for name in ["a@test", "b@test"] * 3:
            ways = {"queue": name + ".dq"}, {"exchange": "C.dq2", "routing_key": name}, {
                "queue": worker_direct(name)}
            got += [[name, whose.apply_async(**way).get(timeout=20)] for way in ways]
            run = app.submit(whose.si().set(queue=name + ".dq") | add.s("!"))
            got.append([name + "!", run.result(20)])
        answer(got)
    """)
    assert len(found) == 24
    assert all(asked == did for asked, did in found)
    told = rig.flowq("inspect", "active_queues", "-d", "a@test").stdout
    assert "a@test.dq" in told
    assert "b@test.dq" not in told


def test_a_rate_of_the_whole_fleet(on_redis: OnRedis) -> None:
    """Two workers and two coordinators; the limit holds for all of them together."""
    limited = """
    @app.task(global_rate_limit="20/s")
    def ticks():
        import time
        return time.time()
    """
    rig = on_redis(limited)
    for _ in range(2):
        rig.coordinator()
        rig.worker("-c", "2")
    runs = "[app.submit(group(ticks.si() for _ in range(10))) for _ in range(4)]"
    times = sorted(rig.call(f"answer(sum([run.result(60) for run in {runs}], []))"))
    between = (times[-1] - times[0]) / (len(times) - 1)
    assert between > 0.8 / 20, "faster than the limit"


@pytest.mark.parametrize("broker", [True, False], ids=["fleet", "embedded"])
def test_a_task_has_a_backend_of_its_own(
    broker: bool, redis_server: Server, tmp_path: Path
) -> None:
    import redis

    url = f"redis://127.0.0.1:{redis_server.port}"
    rig = Rig(
        tmp_path,
        broker=f"{url}/0" if broker else None,
        backend=f"{url}/1",
        project=PROJECT + f'\n    @app.task(backend="{url}/2")\n    def apart(x): return x\n',
    )
    try:
        if broker:
            rig.worker("-c", "1")
        source = "answer([apart.delay(5).get(timeout=20), add.delay(1, 2).get(timeout=20)])"
        assert rig.call(source) == [5, 3]
        for db in (1, 2):
            client = redis.Redis(port=redis_server.port, db=db)
            assert len(client.keys("celery-task-meta-*")) == 1
            client.close()
    finally:
        rig.close()


def test_an_ignored_result_is_none_at_once(redis_server: Server, tmp_path: Path) -> None:
    ignored = """
    @app.task(ignore_result=True)
    def quiet(): return 1
    """
    url = f"redis://127.0.0.1:{redis_server.port}"
    rig = Rig(tmp_path, broker=f"{url}/0", backend=f"{url}/1", project=PROJECT + ignored)
    found = rig.call("""
        import asyncio
        async def awaited(): return await quiet.delay()
        named = app.send_task("proj.add", (1, 2), ignore_result=True)
        loud = quiet.apply_async(ignore_result=False)
        answer([quiet.delay().get(), named.get(), asyncio.run(awaited()), loud.ignored])
    """)
    assert found == [None, None, None, False]


def test_a_broker_of_files_makes_its_folders(tmp_path: Path) -> None:
    rig = Rig(tmp_path, broker="filesystem://", backend=f"db+sqlite:///{tmp_path}/results.db")
    try:
        rig.worker("-c", "1")
        source = "answer([add.delay(1, 2).get(timeout=20), (add.s(1, 2) | add.s(3)).delay().get("
        assert rig.call(source + "timeout=20)])") == [3, 6]
        assert (tmp_path / ".flowq" / "messages").is_dir()
    finally:
        rig.close()


def test_a_broker_of_files_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    rig = Rig(tmp_path, broker="filesystem://", backend=f"db+sqlite:///{tmp_path}/results.db")
    (tmp_path / ".flowq").mkdir()
    (tmp_path / ".flowq" / "messages").write_text("no folder")
    said = rig.call("""
        try:
            add.delay(1, 2)
        except Exception as exc:
            answer(str(exc))
    """)
    assert "cannot use the folder" in said
    assert "broker_transport_options, as data_folder_in" in said


def test_a_loop_that_has_ended_may_be_told_to_stop() -> None:
    class Broken:
        def handles(self) -> list[int]:
            raise OSError("gone")

        def close(self) -> None: ...

    loop = CoordinatorLoop(Broken())  # type: ignore[arg-type]
    with pytest.raises(OSError, match="gone"):
        loop.run()
    loop.stop()
    with pytest.raises(ValueError, match="negative"):
        os.eventfd_write(loop._bell, 1)


def test_a_broadcast_has_no_queue_of_nodes(rabbitmq_url: str, tmp_path: Path) -> None:
    name = token()
    queues = f"""
    from flowq.broker.queues import Broadcast
    app.conf.task_queues = [Broadcast("all-{name}"), "{name}"]
    app.conf.task_default_queue = "{name}"
    """
    store = f"sqlite:///{tmp_path}/fleet.db"
    rig = Rig(tmp_path, broker=rabbitmq_url, store=store, project=PROJECT + queues)
    try:
        worker = rig.worker("-c", "1")
        rows = json.loads(rig.flowq("queues", "-A", "proj", "--json").stdout)["queues"]
        (mine,) = (row["name"] for row in rows if row["name"] != name)
        assert mine.startswith("bcast."), "the copy of the worker, and no other"
        known = Store(store)
        with rabbit_channel(rabbitmq_url) as channel:
            channel.queue_declare(node_queue(name, store_id(known)), passive=True)
            with pytest.raises(NotFound):
                channel.queue_declare(node_queue(mine, store_id(known)), passive=True)
        known.close()
        rig.stop(worker)
    finally:
        rig.close()


def test_a_wait_that_listens_names_the_seconds_it_was_given(
    redis_server: Server, tmp_path: Path
) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}"
    rig = Rig(tmp_path, broker=f"{url}/0", backend=f"{url}/1")
    said = rig.call("""
        try:
            add.delay(1, 2).get(timeout=0.7, on_message=print)
        except TimeoutError as exc:
            answer(str(exc))
    """)
    assert said.endswith("has not ended within 0.7 s")


def test_a_backend_in_memory_is_refused_by_who_waits(redis_server: Server, tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}"
    rig = Rig(tmp_path, broker=f"{url}/0", backend="memory://")
    said = rig.call("""
        try:
            add.delay(1, 2).get(timeout=20)
        except Exception as exc:
            answer(str(exc))
    """)
    assert "no other process reaches a backend in memory" in said


@pytest.mark.parametrize("broker", [True, False], ids=["fleet", "embedded"])
def test_expires_may_be_iso_text_and_wrong_options_are_named(
    broker: bool, redis_server: Server, tmp_path: Path
) -> None:
    url = f"redis://127.0.0.1:{redis_server.port}"
    rig = Rig(tmp_path, broker=f"{url}/0" if broker else None, backend=f"{url}/1")
    try:
        if broker:
            rig.worker("-c", "1")
        found = rig.call("""
            from flowq.errors import CanvasError
            late = "2099-01-01T00:00:00+00:00"
            found = [add.apply_async((1, 2), expires=late).get(timeout=20)]
            for wrong in ({"expires": "soon"}, {"headers": 3}):
                try:
                    add.apply_async((1, 2), **wrong)
                except CanvasError as exc:
                    found.append(str(exc))
            answer(found)
        """)
        assert found == [
            3, "expires='soon' is no ISO time and no number",
            "headers=3 of proj.add: give a dict",
        ]  # fmt: skip
    finally:
        rig.close()


@pytest.mark.parametrize("coordinator", [False, True])
def test_a_task_known_by_name_alone_may_be_sent_for_later(
    on_redis: OnRedis, coordinator: bool
) -> None:
    rig = on_redis("")
    rig.worker("-c", "1", *(["--with-coordinator"] if coordinator else []))
    found = rig.call("""
        import time
        from datetime import UTC, datetime, timedelta
        other = Flowq("other", broker=app.conf.broker_url, backend=app.conf.result_backend)
        found = []
        for key in ("countdown", "eta"):
            began, when = time.monotonic(), 1.5
            if key == "eta": when = datetime.now(UTC) + timedelta(seconds=1.5)
            found.append(other.send_task("proj.add", (1, 2), **{key: when}).get(timeout=30))
            found.append(time.monotonic() - began > 1)
        for key in ("countdown", "eta"):
            try:
                other.send_task("proj.add", (1, 2), **{key: "soon"})
            except Exception as exc:
                found.append(str(exc))
        answer(found)
    """)
    assert found[:4] == [3, True, 3, True]
    says = "{}='soon' is no ISO time and no number"
    assert found[4:] == [says.format("countdown"), says.format("eta")]


def test_a_retry_that_becomes_a_run_keeps_its_id(on_redis: OnRedis) -> None:
    later = """
    @app.task(bind=True, max_retries=3)
    def later(self, times):
        if self.request.retries < times:
            raise self.retry(countdown=1.2)
        return [self.request.id, self.request.retries]
    """
    rig = on_redis(later)
    rig.worker("-c", "1", "--with-coordinator")
    found = rig.call("result = later.delay(2); answer([result.id, result.get(timeout=30)])")
    assert found == [found[0], [found[0], 2]]
    assert "later" in rig.flowq("list").stdout


def test_a_bare_task_is_replaced_where_no_coordinator_is(
    redis_server: Server, tmp_path: Path
) -> None:
    swaps = """
    from flowq import expand
    def adds(n): return [add.s(i, i) for i in range(n)]
    CANVASES = {
        "task": lambda: add.s(1, 2),
        "chain": lambda: add.s(1, 2) | add.s(3),
        "group": lambda: group(adds(3)),
        "chord": lambda: chord(adds(4), total.s()),
        "expand": lambda: size.si("abc") | expand(add.s(1)),
    }
    @app.task(bind=True)
    def swap(self, kind): return self.replace(CANVASES[kind]())
    """
    rig = Rig(
        tmp_path,
        broker=f"redis://127.0.0.1:{redis_server.port}/0",
        backend=f"redis://127.0.0.1:{redis_server.port}/1",
        project=PROJECT + swaps,
    )
    try:
        rig.worker("-c", "1")
        found = rig.call("""
            found = {}
            for kind in CANVASES:
                try:
                    found[kind] = swap.delay(kind).get(timeout=20)
                except Exception as exc:
                    found[kind] = f"{type(exc).__name__}: {exc}"
            answer(found)
        """)
        assert "replaced by tasks, chains, groups and chords only" in found.pop("expand")
        assert found == {"task": 3, "chain": 6, "group": [0, 2, 4], "chord": 12}
    finally:
        rig.close()


def test_a_task_reads_results_through_its_worker(on_redis: OnRedis) -> None:
    reads = """
    from flowq import allow_join_result
    @app.task
    def reads(known):
        other = add.delay(1, 2)
        with allow_join_result():
            return [app.AsyncResult(known).get(timeout=20), other.get(timeout=20), other.state]
    """
    rig = on_redis(reads)
    rig.worker("-c", "3", "--with-coordinator")  # one for each that waits, and one
    found = rig.call("""
        known = add.delay(5, 5)
        known.get(timeout=30)
        run = app.submit(reads.s(known.id))
        answer([reads.delay(known.id).get(timeout=30), run.result(timeout=30)])
    """)
    assert found == [[10, 3, "SUCCESS"]] * 2


@pytest.mark.parametrize("coordinator", [False, True])
def test_a_bare_task_is_replaced_by_one_that_another_worker_knows(
    redis_server: Server, tmp_path: Path, coordinator: bool
) -> None:
    swaps = """
    if os.environ.get("ALSO"):
        @app.task(name="there.only", queue="other")
        def only(x): return x * 10
    @app.task(bind=True)
    def swap(self, x):
        return self.replace(app.signature("there.only", (x,), queue="other") | add.s(1))
    """
    url = f"redis://127.0.0.1:{redis_server.port}"
    rig = Rig(tmp_path, broker=f"{url}/0", backend=f"{url}/1", project=PROJECT + swaps)
    try:
        rig.worker("-c", "1", *(["--with-coordinator"] if coordinator else []))
        rig.worker("-c", "1", "-Q", "other", ALSO="1")
        assert rig.call("answer(swap.delay(4).get(timeout=20))") == 41
    finally:
        rig.close()


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_a_bare_task_sends_is_among_the_children_of_its_result(
    redis_server: Server, on_redis: OnRedis, pool: str
) -> None:
    sends = """
    @app.task
    def sends(fails=False):
        add.delay(1, 2)
        add.apply_async((0, 0), add_to_parent=False)
        (add.s(1, 1) | group(add.s(n) for n in range(2))).delay()
        if fails: raise ValueError("after it")
        return "sent"
    @app.task(trail=False)
    def forgets(): add.delay(1, 2)
    """
    import redis

    rig = on_redis(sends)
    rig.worker("-c", "1", "-P", pool, "--with-coordinator")
    found = rig.call("""
        def told(result):
            result.get(timeout=30, propagate=False)
            again = app.AsyncResult(result.id)
            until(lambda: all(child.ready() for child in again.children), "they end")
            return [child.get(timeout=30) for child in again.children]
        answer([told(sends.delay()), told(sends.delay(True)), told(forgets.delay())])
    """)
    assert found == [[3, [2, 3]], [3, [2, 3]], []]
    client = redis.Redis(port=redis_server.port, db=1)
    records = [json.loads(client.get(key)) for key in client.keys("celery-task-meta-*")]
    client.close()
    [record] = [each for each in records if each["result"] == "sent"]
    for (child, parent), nodes in record["children"]:
        assert isinstance(child, str)
        assert (parent, nodes) == (None, None)
