"""`Flowq.from_celery`: runs over the tasks of a Celery app, executed by Celery's own workers."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.sides import redis, start_celery, without_celery
from tests.rig import Rig

pytestmark = [pytest.mark.services, pytest.mark.timeout(180), *without_celery()]

THEIRS = """
    import os, threading
    from celery import Celery
    from celery.exceptions import Ignore
    app = Celery("proj", broker=os.environ["FLOWQ_BROKER"], backend=os.environ["FLOWQ_BACKEND"])
    app.conf.update(broker_connection_retry_on_startup=True, task_routes={
        "proj.aside": {"queue": "aside"}})

    @app.task(name="proj.add")
    def add(x, y): return x + y
    @app.task(name="proj.aside")
    def aside(x): return x + 100
    @app.task(name="proj.total")
    def total(xs): return sum(xs)
    @app.task(name="proj.silent", ignore_result=True)
    def silent(x): return x + 1
    @app.task(name="proj.fail")
    def fail(text): raise ValueError(text)
    @app.task(name="proj.unless")
    def unless(value, path):
        if not os.path.exists(path): raise LookupError(path)
        return str(value)
    @app.task(name="proj.note")
    def note(value):
        with open("notes.txt", "a") as out: out.write(f"{value}\\n")
    @app.task(name="proj.tell")
    def tell(request, exc, traceback): pass
    @app.task(name="proj.odd", bind=True)
    def odd(self):
        app.backend.client.set(app.backend.get_key_for_task(self.request.id), b"junk")
        raise Ignore()
    @app.task(name="proj.seen", bind=True)
    def seen(self):
        request = self.request
        return [request.root_id, request.id, request.timelimit, request.group_index]
    @app.task(name="proj.split", bind=True)
    def split(self, x): raise self.replace(add.s(x, 1))
    @app.task(name="proj.nap", track_started=True)
    def nap(seconds, mark=""):
        with open("ledger.txt", "a") as ledger: ledger.write(f"{mark} began\\n")
        threading.Event().wait(seconds)
        with open("ledger.txt", "a") as ledger: ledger.write(f"{mark} ended\\n")
        return mark
"""
OVER = """
    import theirs, celery
    from flowq import errors
    from flowq import Flowq, expand
    S = lambda name, *args, **kw: theirs.app.signature("proj." + name, args=args, **kw)
    app = Flowq.from_celery(theirs.app)
"""


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A Celery worker on a Redis of its own; a client is its own coordinator."""
    folder = tmp_path_factory.mktemp("over")
    with redis(folder) as (broker, backend):
        rig = Rig(folder, broker=broker, backend=backend, project=OVER)
        (folder / "theirs.py").write_text(textwrap.dedent(THEIRS))
        try:
            start_celery(rig, "w@test", "-c", "2", "-Q", "celery,aside")
            yield rig
        finally:
            rig.close()


def told(folder: Path, name: str = "ledger.txt") -> Counter[str]:
    """How often each line was written by tasks."""
    path = folder / name
    return Counter(path.read_text().splitlines() if path.exists() else ())


CANVASES = {
    "chain": ('celery.chain(S("add", 1, 1), S("add", 2), S("aside"))', 104),
    "group": ('celery.group(S("add", i, i) for i in range(3))', [0, 2, 4]),
    "chord": ('celery.chord([S("add", i, i) for i in range(5)], S("total"))', 20),
    "nested": (
        'celery.chain(celery.group(S("add", i, 1) | S("add", 1) for i in range(4)), S("total"), '
        'celery.group(S("add", 1), S("add", 2)))',
        [15, 16],
    ),
    "chunks": ("theirs.add.chunks([(1, 2), (3, 4), (5, 6)], 2)", [[3, 7], [11]]),
    "map": ("theirs.total.map([[1, 2], [3]])", [3, 3]),
    "starmap": ("theirs.add.starmap([(1, 2), (3, 4)])", [3, 7]),
    "ours": ('app.signature("proj.add", (1, 2)) | app.signature("proj.aside")', 103),
    "dict": ('dict(celery.chain(S("add", 1, 1), S("add", 2)))', 4),
    "immutable": ('celery.chain(S("add", 1, 1), S("add", 5, 5, immutable=True))', 10),
    "silent": ('celery.chain(S("silent", 1), S("add", 1))', 3),
    "replaced": ('celery.chain(S("split", 1), S("add", 1))', 3),
}


@pytest.mark.parametrize("name", CANVASES)
def test_canvases_of_celery_are_runs(over: Rig, name: str) -> None:
    text, wanted = CANVASES[name]
    found = over.call(f"run = app.submit({text}); answer(run.result(30))")
    assert found == wanted


def test_two_thousand_nodes(over: Rig) -> None:
    source = """
        run = app.submit(celery.chord([S("add", i, 1) for i in range(2000)], S("total")))
        answer(run.result(100))
    """
    assert over.call(source, patience=120) == sum(range(1, 2001))


def test_what_a_task_sees(over: Rig) -> None:
    source = """
        run = app.submit(celery.chain(S("add", 1, 1), S("seen", immutable=True).set(time_limit=9)))
        answer([run.result(30), run.uid, run["1"].id])
    """
    (root, own, limits, _), run, node = over.call(source)
    assert (root, own, limits) == (run, node, [9, None])


def test_a_failure_and_its_errback(over: Rig) -> None:
    source = """
        run = app.submit(celery.chain(S("fail", "worse"), S("add", 1)).on_error(S("note")))
        run.wait(30)
        answer([run["0"].id, run.state.value, {each.task: str(each.state) for each in run.nodes}])
    """
    failed, state, states = over.call(source)
    assert state == "FAILURE"
    assert states["proj.note"].endswith("SUCCESS"), states
    assert told(over.folder, "notes.txt")[failed] == 1


def test_what_failed_is_retried_in_the_same_run(over: Rig) -> None:
    source = """
        import os
        run = app.submit(celery.chain(S("add", 1, 1), S("unless", "there.txt"), S("add", "!")))
        run.wait(30)
        before = run.counts()
        open("there.txt", "w").close()
        run.retry().wait(30)
        again = run.rerun()
        answer([before, run.result(30), again.result(30)])
    """
    assert over.call(source) == [{"SUCCESS": 1, "FAILURE": 1, "SKIPPED": 1}, "2!", "2!"]


def test_results_that_cannot_be_read_fail_the_node(over: Rig) -> None:
    source = """
        run = app.submit(celery.chain(S("add", 1, 1), S("odd", immutable=True)))
        run.wait(30)
        answer([run.state.value, str(run["1"].error)])
    """
    state, error = over.call(source)
    assert state == "FAILURE"
    assert "cannot be read" in error


REFUSED = {
    "errback": ('S("fail", "x").on_error(S("tell"))', "(request, exc, traceback)"),
    "expand": ('app.signature("proj.split", (1,)) | expand(app.signature("proj.add"))', "expand()"),
    "unknown": ('S("ad", 1, 1)', "did you mean proj.add"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_at_once(over: Rig, name: str) -> None:
    text, wanted = REFUSED[name]
    source = f"""
        try: answer(repr(app.submit({text})))
        except errors.FlowqError as exc: answer(str(exc))
    """
    assert wanted in over.call(source)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        ('celery.Celery("x", broker=theirs.app.conf.broker_url)', "has no result backend"),
        ('celery.Celery("x", broker="memory://", backend="cache+memory://")', "no broker"),
    ],
)
def test_apps_that_cannot_be_composed(over: Rig, made: str, wanted: str) -> None:
    source = f"""
        try: answer(repr(Flowq.from_celery({made})))
        except errors.FlowqError as exc: answer(str(exc))
    """
    assert wanted in over.call(source)


def test_what_was_cancelled_before_it_began_never_runs(over: Rig) -> None:
    source = """
        first = app.submit(celery.group(S("nap", 2, f"first{i}") for i in range(2)))
        begun = lambda: [n for n in first.nodes if str(n.state).endswith("STARTED")]
        until(lambda: len(begun()) == 2, "both have begun")
        second = app.submit(S("nap", 0, "second"))
        third = app.submit(S("nap", 0, "third"))
        states = lambda: [str(run.nodes[0].state) for run in (second, third)]
        until(lambda: all(state.endswith("QUEUED") for state in states()), "both are queued")
        second.cancel()
        answer([first.result(30), third.result(30), second.wait(10), second.state.value])
    """
    assert over.call(source) == [["first0", "first1"], "third", True, "CANCELLED"]
    assert "second began" not in told(over.folder)
