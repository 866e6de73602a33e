"""A fleet of real processes on every mixture of broker, result backend and store.

The table at the end of the file names each cell; one that is left out says why. Each cell runs the
same program and must give what it gives in one process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import PROJECT, Rig
from tests.started import Server

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]

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


@pytest.fixture
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """Servers for one cell, with a worker and a coordinator where the broker leads elsewhere."""
    broker, backend, store = request.param
    made = Rig(
        tmp_path,
        broker=_broker(request, broker),
        backend=_backend(request, backend),
        store=_store(request, store, tmp_path),
    )
    yield made
    made.close()


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


def test_a_rate_of_the_whole_fleet(redis_server: Server, tmp_path: Path) -> None:
    """Two workers and two coordinators; the limit holds for all of them together."""
    limited = """
    @app.task(global_rate_limit="20/s")
    def ticks():
        import time
        return time.time()
    """
    rig = Rig(
        tmp_path,
        broker=f"redis://127.0.0.1:{redis_server.port}/0",
        backend=f"redis://127.0.0.1:{redis_server.port}/1",
        store=f"sqlite:///{tmp_path}/fleet.db",
        project=PROJECT + limited,
    )
    try:
        for _ in range(2):
            rig.coordinator()
            rig.worker("-c", "2")
        runs = "[app.submit(group(ticks.si() for _ in range(10))) for _ in range(4)]"
        times = sorted(rig.call(f"answer(sum([run.result(60) for run in {runs}], []))"))
        between = (times[-1] - times[0]) / (len(times) - 1)
        assert between > 0.8 / 20, "faster than the limit"
    finally:
        rig.close()


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


def test_a_retry_that_becomes_a_run_keeps_its_id(redis_server: Server, tmp_path: Path) -> None:
    later = """
    @app.task(bind=True, max_retries=3)
    def later(self, times):
        if self.request.retries < times:
            raise self.retry(countdown=1.2)
        return [self.request.id, self.request.retries]
    """
    rig = Rig(
        tmp_path,
        broker=f"redis://127.0.0.1:{redis_server.port}/0",
        backend=f"redis://127.0.0.1:{redis_server.port}/1",
        store=f"sqlite:///{tmp_path}/fleet.db",
        project=PROJECT + later,
    )
    try:
        rig.worker("-c", "1", "--with-coordinator")
        found = rig.call("result = later.delay(2); answer([result.id, result.get(timeout=30)])")
        assert found == [found[0], [found[0], 2]]
        assert "later" in rig.flowq("list").stdout
    finally:
        rig.close()


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


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_a_bare_task_sends_is_among_the_children_of_its_result(
    redis_server: Server, tmp_path: Path, pool: str
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

    rig = Rig(
        tmp_path,
        broker=f"redis://127.0.0.1:{redis_server.port}/0",
        backend=f"redis://127.0.0.1:{redis_server.port}/1",
        store=f"sqlite:///{tmp_path}/fleet.db",
        project=PROJECT + sends,
    )
    try:
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
    finally:
        rig.close()
