"""flowq and Celery 5.7 at either end: who calls, who works, what is asked for, in which form.

Four pairs of client and worker, eleven things, over Redis in two forms and over RabbitMQ with
rpc://: each is a test of its own. For a pair one client process asks for all, and says what came.
Celery runs as programs of its own; FLOWQ_TEST_CELERY_PYTHON names another interpreter for them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.interop.sides import CELERY, redis, start_celery, vhost, without_celery
from tests.rig import Rig, until

pytestmark = [pytest.mark.services, pytest.mark.timeout(180), *without_celery()]

TASKS = """
    @app.task(name="proj.add")
    def add(x, y): return x + y
    @app.task(name="proj.total")
    def total(xs): return sum(xs)
    @app.task(name="proj.fail")
    def fail(text): raise ValueError(text)
    @app.task(name="proj.flaky", bind=True, max_retries=3)
    def flaky(self, times):
        if self.request.retries < times:
            raise self.retry(countdown=0.05)
        return self.request.retries
    @app.task(name="proj.swap", bind=True)
    def swap(self, x):
        add = lambda *args: app.signature("proj.add", args=args)
        return self.replace(add(x, 100) | add(1000))
    @app.task(name="proj.note")
    def note(value):
        with open("notes.txt", "a") as out: out.write(f"{value}\\n")
    @app.task(name="proj.nap")
    def nap(seconds):
        import threading
        with open("naps.txt", "a") as out: out.write("began\\n")
        threading.Event().wait(seconds)
"""
OURS = """
    import os
    from flowq import Flowq, chain, chord, group
    app = Flowq("proj")
    app.conf.update(accept_content=["json", "msgpack"], task_serializer=os.environ["SERIALIZER"],
                    result_serializer=os.environ["SERIALIZER"])
"""
THEIRS = """
    import os
    from celery import Celery, chain, chord, group
    app = Celery("proj", broker=os.environ["FLOWQ_BROKER"], backend=os.environ["FLOWQ_BACKEND"])
    app.conf.update(accept_content=["json", "msgpack"], task_serializer=os.environ["SERIALIZER"],
                    result_serializer=os.environ["SERIALIZER"],
                    broker_connection_retry_on_startup=True)
"""
#: What the client programs begin with: `S` makes a signature of a task by its name.
CLIENTS = {
    ("celery", "celery"): "from theirs import *",
    ("celery", "flowq"): "from theirs import *",
    ("flowq", "flowq"): "from ours import *",
    ("flowq", "celery"): """
        import theirs
        from flowq import Flowq, chain, chord, group
        app = Flowq.from_celery(theirs.app)
    """,
}
PROGRAM = """
    import json, os, threading
    BASE = {"celery": 20, "flowq": 30}[os.environ["CLIENT"]]
    S = lambda name, *args: app.signature("proj." + name, args=args)
    found = {}
    def asked(name, call):
        try: found[name] = call()
        except Exception as exc: found[name] = f"{type(exc).__name__}: {exc}"
    def revoked():
        result = S("nap", 60).apply_async()
        while not os.path.exists("naps.txt"): threading.Event().wait(0.02)
        result.revoke(terminate=True)
        try: result.get(timeout=20)
        except Exception as exc: return type(exc).__name__
    def failed():
        result = S("fail", "no").apply_async(link_error=S("note"))
        try: result.get(timeout=20)
        except Exception as exc: return [type(exc).__name__, str(exc), result.id]
    asked("task", lambda: S("add", 1, 2).delay().get(timeout=20))
    asked("retry", lambda: S("flaky", 2).delay().get(timeout=20))
    asked("chain", lambda: chain(S("add", 1, 1), S("add", 2), S("add", 3)).delay().get(timeout=20))
    asked("group", lambda: list(group(S("add", i, i) for i in range(4)).delay().get(timeout=20)))
    asked("chord", lambda: chord([S("add", i, i) for i in range(9)])(S("total")).get(timeout=20))
    if not os.environ["NO_REPLACE"]:
        chained = lambda: chain(S("add", 1, 1), S("swap"), S("add", 3)).delay().get(timeout=20)
        asked("replace", lambda: S("swap", 1).delay().get(timeout=20))
        asked("replace in a chain", chained)
    asked("link", lambda: S("add", 2, BASE).apply_async(link=S("note")).get(timeout=20))
    asked("errback", failed)
    asked("revoke", revoked)
    asked("ping", lambda: sorted(app.control.inspect(timeout=3).ping()))
    print("=" + json.dumps(found))
"""
WANTED = {
    "task": 3,
    "retry": 2,
    "chain": 7,
    "group": [0, 2, 4, 6],
    "chord": 72,
    "replace": 1101,
    "replace in a chain": 1105,
    "revoke": "TaskRevokedError",
    "ping": ["w@test"],
}
FEATURES = (*WANTED, "link", "errback")
#: Serializer, or backend, and what it stands for.
FORMS = {
    "json": "Redis, json",
    "msgpack": "Redis, msgpack",
    "rpc": "RabbitMQ with `rpc://`, json",
}


#: Celery's rpc:// counts no chords, and says so in the client, whoever works.
NO_CHORDS = 'NotImplementedError: The "rpc" result backend does not support chords!'
#: Celery's worker has what replaced a task sent to a reply queue of its own, which nobody reads.
NO_REPLACE = ("celery", "rpc")


class Pair(NamedTuple):
    """A worker that is up, and where."""

    rig: Rig
    worker: str
    form: str


@pytest.fixture(
    scope="module",
    params=[(w, f) for w in ("celery", "flowq") for f in FORMS],
    ids=lambda param: f"worker-{param[0]}-{param[1]}",
)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """A worker of one kind, on servers that nobody else uses."""
    kind, form = request.param
    folder = tmp_path_factory.mktemp(f"{kind}-{form}")
    for name, head in (("ours", OURS), ("theirs", THEIRS)):
        (folder / f"{name}.py").write_text(textwrap.dedent(head) + textwrap.dedent(TASKS))
    with vhost() if form == "rpc" else redis(folder) as (broker, backend):
        store = f"sqlite:///{folder}/store.db" if kind == "flowq" else None
        rig = Rig(folder, broker=broker, backend=backend, store=store)
        rig.env["SERIALIZER"] = "msgpack" if form == "msgpack" else "json"
        try:
            if kind == "flowq":
                words = ["-A", "ours", "-c", "2", "-n", "w@test", "--with-coordinator"]
                rig._start(["worker", *words], "ready", True, {})
            else:
                start_celery(rig, "w@test", "-c", "2")
            yield Pair(rig, kind, form)
        finally:
            rig.close()


_answers: dict[tuple[str, str, str], dict[str, Any]] = {}


def answers(pair: Pair, client: str) -> dict[str, Any]:
    """What a client process of one kind says, asked once."""
    key = (client, pair.worker, pair.form)
    if key not in _answers:
        rig = pair.rig
        (rig.folder / "naps.txt").unlink(missing_ok=True)
        path = rig.folder / f"client_{client}.py"
        path.write_text(textwrap.dedent(CLIENTS[client, pair.worker]) + textwrap.dedent(PROGRAM))
        lost = (pair.worker, pair.form) == NO_REPLACE
        env = {**rig.env, "CLIENT": client, "NO_REPLACE": "1" if lost else ""}
        if client == "flowq" and pair.worker == "celery":
            env.pop("FLOWQ_STORE", None)  # then the client is the coordinator
        done = subprocess.run(
            [CELERY if client == "celery" else sys.executable, str(path)],
            cwd=rig.folder, env=env, capture_output=True, text=True, timeout=150,
        )  # fmt: skip
        lines = [line[1:] for line in done.stdout.splitlines() if line.startswith("=")]
        assert lines, f"{done.stdout}\n{done.stderr}\n{rig.words()}"
        _answers[key] = json.loads(lines[-1])
    return _answers[key]


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("client", ["celery", "flowq"])
def test_cell(pair: Pair, client: str, feature: str) -> None:
    if feature.startswith("replace") and (pair.worker, pair.form) == NO_REPLACE:
        pytest.skip("Celery's worker loses the reply of a task that was replaced")
    found = answers(pair, client)[feature]
    notes = pair.rig.folder / "notes.txt"
    if feature == "errback":
        assert found[:2] == ["ValueError", "no"], found
        until(lambda: found[2] in notes.read_text().split(), "the errback ran")
        return
    if feature == "link":
        assert found == {"celery": 22, "flowq": 32}[client], found
        until(lambda: str(found) in notes.read_text().split(), "the callback ran")
        return
    if (feature, client, pair.form) == ("chord", "celery", "rpc"):
        assert found.startswith(NO_CHORDS), found
        return
    assert found == WANTED[feature], f"{found!r}\n{pair.rig.words()}"
