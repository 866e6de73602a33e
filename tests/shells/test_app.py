"""The app: laziness, the current app, shared tasks, what goes to the engine, and result objects."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flowq
from flowq import (
    AsyncResult,
    EagerResult,
    Flowq,
    GroupResult,
    ResultSet,
    allow_join_result,
    at_least,
    chain,
    chord,
    current_app,
    current_task,
    errors,
    expand,
    group,
    maybe_signature,
    result_from_tuple,
    shared_task,
    signature,
)
from flowq.app import current
from flowq.app.outcome import Outcome
from flowq.worker import request as calls
from flowq.worker.request import Context
from tests.shells.fake_engine import FakeEngine, failure, success

ROOT = str(Path(flowq.__file__).parents[1])


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    before, shared = current.current_or_none(), current.shared()
    fake = FakeEngine()
    current.set_engine_factory(lambda app: fake)
    yield fake
    current.set_engine_factory(None)
    current.set_current(before)
    current._shared[:] = shared


@pytest.fixture
def app(engine: FakeEngine) -> Flowq:
    made = Flowq("tasks")

    @made.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @made.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @made.task(name="fail")
    def fail(*_: Any) -> None:
        raise ValueError("bad")

    @made.task(name="upto")
    def upto(n: int) -> list[int]:
        return list(range(n))

    @made.task(name="same")
    def same(value: Any) -> Any:
        return value

    return made


def run_python(code: str) -> str:
    """Run a program in a clean interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    return done.stdout


# -- laziness -----------------------------------------------------------------------------------


def test_creating_an_app_opens_and_starts_nothing() -> None:
    code = """
import sys
from flowq import Flowq
warm = Flowq("warm")
warm.task(lambda: 1, name="x")
warm.signature("x") | warm.signature("x")
watched = ("open", "socket.", "subprocess.", "os.fork", "os.posix_spawn", "sqlite3.", "os.mkdir",
           "_thread.start_new_thread", "import", "os.listdir", "os.scandir")
seen = []
sys.addaudithook(lambda event, args: seen.append((event, args)) if event.startswith(watched) else 0)
app = Flowq("tasks", broker="redis://nowhere", store="sqlite:////nowhere/x.db", include=["nowhere"],
            config_source="nowhere", worker_concurrency=2)
app.task(len)
app.signature("builtins.len") | app.signature("x")
assert not seen, seen
import threading
assert threading.active_count() == 1
print("quiet")
"""
    assert run_python(code) == "quiet\n"


def test_import_loads_nothing_heavy_and_costs_little() -> None:
    code = """
import sys, time
before = time.process_time()
import asyncio
standard = time.process_time() - before
before = time.process_time()
import flowq
flowq.Flowq, flowq.chain, flowq.Task, flowq.AsyncResult, flowq.Flow
took = time.process_time() - before
heavy = {"networkx", "sqlalchemy", "kombu", "alembic", "rich", "typer", "graphviz", "cloudpickle"}
print(sorted(heavy & set(sys.modules)), took / standard)
"""
    outputs = [run_python(code).split("] ") for _ in range(5)]
    assert outputs[0][0] == "["
    # With asyncio's import before it as the measure of the machine: about 2 when this was written.
    assert min(float(ratio) for _, ratio in outputs) < 3


def test_public_names_exist() -> None:
    for name in flowq.__all__:
        if name != "Run":
            assert getattr(flowq, name) is not None
    assert set(flowq.__all__) <= set(dir(flowq))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = flowq.nothing
    assert (Path(flowq.__file__).parent / "py.typed").exists()


# -- the app ------------------------------------------------------------------------------------


def test_current_app(engine: FakeEngine) -> None:
    one = Flowq("one")
    assert current_app == one
    assert current_app.main == "one"
    two = Flowq("two", set_as_current=False)
    assert current_app == one
    two.set_current()
    assert current_app == two
    seen = []
    thread = threading.Thread(target=lambda: seen.append(current_app.main))
    thread.start()
    thread.join(10)
    assert seen == ["two"]
    current.set_current(None)
    assert current_app.main == "default"


def test_hook_clock_conf_and_close(engine: FakeEngine) -> None:
    class Mine(Flowq):
        def on_init(self) -> None:
            self.seen = self.conf.broker_url

    app = Mine("m", broker="redis://b", store="sqlite:///s", task_serializer="yaml")
    assert app.seen == "redis://b"
    assert app.conf.task_serializer == "yaml"
    assert [app.clock.forward(), app.clock.adjust(10), app.clock.adjust(3)] == [1, 11, 12]
    with pytest.raises(errors.ImproperlyConfigured, match="did you mean broker_url"):
        Flowq("m", broker_ur="x")
    app.close()
    assert not engine.closed
    app._engine()
    app.close()
    app.close()
    assert engine.closed


def test_include_is_imported_at_first_use(
    engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "included_tasks.py").write_text(
        "from flowq import shared_task\n@shared_task\ndef far(): return 'far'\n"
    )
    app = Flowq("inc", include=["included_tasks"])
    assert "included_tasks.far" not in app.tasks
    app._engine()
    assert app.tasks["included_tasks.far"]() == "far"
    with pytest.raises(errors.ImproperlyConfigured, match="no_such_tasks"):
        Flowq("inc", include=["no_such_tasks"])._engine()


def test_annotations_change_tasks(app: Flowq) -> None:
    app.conf.task_annotations = {"add": {"priority": 7}, "*": {"rate_limit": "1/s"}}
    app.load()
    assert (app.tasks["add"].priority, app.tasks["total"].priority) == (7, None)
    assert app.tasks["total"].rate_limit == "1/s"


def test_shared_task_is_in_every_app(engine: FakeEngine) -> None:
    before = Flowq("before")
    assert len(before.tasks) > 0

    @shared_task(name="shared", bind=True)
    def fun(self: Any) -> str:
        return str(self.app.main)

    after = Flowq("after")
    assert before.tasks["shared"]() == "before"
    assert after.tasks["shared"]() == "after"
    assert fun() == "after"
    assert fun.name == "shared"
    before.set_current()
    assert fun() == "before"
    assert fun.s().apply().get() == "before"
    assert isinstance(fun, flowq.Task)


def test_a_shared_task_that_is_refused_spoils_no_later_app(engine: FakeEngine) -> None:
    app, shared = Flowq("one"), current.shared()
    app.task(lambda: 1, name="held")
    with pytest.raises(errors.ImproperlyConfigured, match="callable"):
        shared_task(3)
    with pytest.raises(errors.ImproperlyConfigured, match="callable"):
        shared_task(name="x")(3)
    with pytest.raises(TypeError, match="name=3"):
        shared_task(name=3)(lambda: 1)
    with pytest.raises(TypeError, match="max_retries='3'"):
        shared_task(lambda: 1, name="given", max_retries="3")
    with pytest.raises(errors.AlreadyRegistered, match="'held'"):
        shared_task(name="held")(lambda: 2)
    assert current.shared() == shared
    assert "held" not in Flowq("two").tasks
    task = shared_task(lambda: 5, name="given", queue="q")
    assert (task.name, task(), task.queue) == ("given", 5, "q")


def test_builtin_tasks(app: Flowq) -> None:
    assert app.tasks["celery.ping"]() == "pong"
    assert app.tasks["celery.accumulate"](1, 2) == [1, 2]
    assert app.tasks["celery.accumulate"](1, 2, index=1) == 2
    add = app.tasks["add"]
    assert add.starmap([(1, 2), (3, 4)])() == [3, 7]
    assert app.tasks["total"].map([[1], [2, 3]])() == [1, 5]
    assert app.tasks["celery.map"](add.s(10), [1, 2]) == [11, 12]
    assert set(app.tasks.regular()) == {"add", "total", "fail", "upto", "same"}


def test_current_task(app: Flowq) -> None:
    assert not current_task

    @app.task
    def who() -> str:
        return str(current_task.name)

    assert who() == who.name


# -- what goes to the engine ----------------------------------------------------------------------


def test_delay_is_sent_bare(app: Flowq, engine: FakeEngine) -> None:
    add = app.tasks["add"]
    result = add.delay(1, y=2)
    assert isinstance(result, AsyncResult)
    assert result.id == "bare-1"
    assert (result.name, result.run) == ("add", None)
    name, args, kwargs, options = engine.bare[0]
    assert (name, args, kwargs) == ("add", (1,), {"y": 2})
    assert options["serializer"] == "json"
    add.apply_async((1, 2), queue="q", expires=9, task_id="chosen", link=[], countdown=None)
    assert engine.bare[1][3]["queue"] == "q"
    assert engine.bare[1][3]["task_id"] == "chosen"
    assert not engine.submitted


def test_signature_delay_is_sent_bare_with_its_options(app: Flowq, engine: FakeEngine) -> None:
    sig = app.tasks["add"].s(2).set(priority=4)
    sig.delay(1)
    assert engine.bare[0][1] == (1, 2)
    assert engine.bare[0][3]["priority"] == 4
    app.signature("not here", (1,)).delay()
    assert engine.bare[1][0] == "not here"
    app.send_task("far.away", [1], {"k": 2}, queue="z")
    assert engine.bare[2][:3] == ("far.away", (1,), {"k": 2})


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 5},
        {"eta": "2030-01-01T00:00:00"},
        {"durable": True},
        {"tags": {"a": "b"}},
        {"idempotency_key": "k"},
    ],
)
def test_what_needs_a_run_is_submitted(
    app: Flowq, engine: FakeEngine, options: dict[str, Any]
) -> None:
    result = app.tasks["add"].apply_async((1, 2), **options)
    assert not engine.bare
    canvas, given = engine.submitted[0]
    assert canvas["task"] == "add"
    assert canvas.args == (1, 2)
    assert canvas.options == {k: v for k, v in options.items() if k in ("countdown", "eta")}
    assert given["tags"] == options.get("tags", {})
    assert given["idempotency_key"] == options.get("idempotency_key")
    assert result.id == "node-1"
    assert result.run.uid == "run-1"


def test_link_and_durable_task_are_submitted(app: Flowq, engine: FakeEngine) -> None:
    add = app.tasks["add"]
    add.apply_async((1, 2), link=add.s(1), link_error=[add.s(2)])
    assert set(engine.submitted[0][0].options) == {"link", "link_error"}
    add.s(1, 2).on_error(add.s(3)).delay()
    assert len(engine.submitted) == 2
    add.durable = True
    add.delay(1, 2)
    assert len(engine.submitted) == 3
    assert not engine.bare


def test_canvas_is_submitted_as_it_is(app: Flowq, engine: FakeEngine) -> None:
    add = app.tasks["add"]
    canvas = add.s(1) | add.s(2)
    result = canvas.apply_async((5,), queue="q", link=add.s(9), run_name="r")
    sent, given = engine.submitted[0]
    assert [t.args for t in sent.tasks] == [(5, 1), (2,)]
    assert sent.options["queue"] == "q"
    assert given["name"] == "r"
    assert "run_name" not in sent.options
    assert [t.args for t in canvas.tasks] == [(1,), (2,)]
    assert canvas.options == {}
    assert isinstance(result, AsyncResult)
    engine.result_is_group = True
    assert isinstance(group(add.s(1), add.s(2))(7), GroupResult)
    assert [t.args for t in engine.submitted[1][0].tasks] == [(7, 1), (7, 2)]
    chord([add.s(1, 1)])(app.tasks["total"].s())
    assert engine.submitted[2][0].body["task"] == "total"
    assert (add.s(1) | add.s(2))().id == "node-4"
    assert chain().delay() is None
    assert not chain()
    add.chunks([(1, 2)], 1)()
    add.chunks([(1, 2)], 1).apply_chunks()
    assert len(engine.submitted) == 6


def test_plain_call_of_a_signature_runs_here(app: Flowq, engine: FakeEngine) -> None:
    assert app.tasks["add"].s(1)(2) == 3
    assert app.tasks["add"].si(1, 2)(9) == 3
    assert expand(app.tasks["add"].s(1))([1, 2]) == [2, 3]
    assert not engine.bare
    assert not engine.submitted


def test_unserialisable_argument_is_refused_at_the_call(app: Flowq, engine: FakeEngine) -> None:
    class Model:
        """Stands for a row of somebody's ORM."""

    with pytest.raises(errors.UnserialisableArgument, match=r"same: .*args\[0\].*Model"):
        app.tasks["same"].delay(Model())
    with pytest.raises(TypeError):
        app.tasks["same"].delay({1, 2})
    assert not engine.bare


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"time_limit": "x"}, "time_limit: expected `float | null`, got `str`"),
        ({"soft_time_limit": -1}, "soft_time_limit=-1.0: give 0 or more seconds"),
        ({"compression": "foo"}, "unknown compression 'foo'"),
        ({"expires": "x"}, "expires='x' "),
        ({"expires": [1]}, "expires=[1] must be seconds or a datetime"),
        ({"headers": 3}, "headers=3 of t: give a dict"),
    ],
)
def test_wrong_options_of_a_call_are_named(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    before = current.current_or_none()
    with Flowq("options", store=f"sqlite:///{tmp_path}/s.db", worker_pool="solo") as app:
        task = app.task(lambda: 1, name="t")
        with pytest.raises(errors.CanvasError) as bare:
            task.apply_async(**options)
        with pytest.raises(errors.CanvasError) as node:
            app.submit(group(task.s().set(**options), task.s()))
    current.set_current(before)
    assert words in str(bare.value)
    assert words in str(node.value)


def test_call_in_a_task_belongs_to_it(app: Flowq, engine: FakeEngine) -> None:
    add = app.tasks["add"]
    app.conf.task_inherit_parent_priority = True
    context = Context(id="me", root_id="root", called_directly=False, delivery_info={"priority": 8})
    calls.push(add, context)
    try:
        result = add.delay(1, 2)
    finally:
        calls.pop()
    options = engine.bare[0][3]
    assert (options["root_id"], options["parent_id"], options["priority"]) == ("root", "me", 8)
    assert context.children == [result]


def test_always_eager(app: Flowq, engine: FakeEngine) -> None:
    app.conf.task_always_eager = True
    add, same = app.tasks["add"], app.tasks["same"]
    assert add.delay(1, 2).get() == 3
    assert same.delay((1, 2)).get() == [1, 2]
    assert (add.s(1, 2) | add.s(3)).delay().get() == 6
    with pytest.raises(errors.UnserialisableArgument):
        same.delay(object())
    assert not engine.bare
    assert not engine.submitted


# -- the public canvas ----------------------------------------------------------------------------


def test_operators_give_public_values_bound_to_the_app(app: Flowq) -> None:
    other = Flowq("other")
    add = app.tasks["add"]
    assert current_app == other
    for canvas in (
        add.s(1) | add.s(2),
        group(add.s(1)) | add.s(2),
        group([add.s(1), add.s(2)]),
        add.map([1]),
        add.chunks([(1, 2)], 1),
        add.chunks([(1, 2)], 1).group(),
        expand(add.s(1)),
        (add.s(1) | group(add.s(2), add.s(3)) | add.s(4)).clone(),
    ):
        assert type(canvas).__module__ == "flowq.app.canvas"
        assert canvas.app is app
    assert app.signature("add", (1,)).app is app
    assert signature("add").app is other


def test_json_round_trip_gives_public_values(app: Flowq) -> None:
    add, total = app.tasks["add"], app.tasks["total"]
    canvas = chain(add.s(1, 2), group(add.s(3), add.s(4)), total.s()).on_error(add.s(5))
    back = app.signature(json.loads(json.dumps(canvas)))
    assert type(back) is type(canvas)
    assert json.dumps(back) == json.dumps(canvas)
    assert back.apply().get() == canvas.apply().get() == 13
    assert pickle.loads(pickle.dumps(canvas)) == canvas
    assert maybe_signature({"plain": 1}) == {"plain": 1}
    assert maybe_signature(dict(add.s(1)))(2) == 3


def test_freeze_chooses_ids(app: Flowq) -> None:
    add, total = app.tasks["add"], app.tasks["total"]
    canvas = chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s())
    result = canvas.freeze("last")
    assert result.id == "last"
    header = result.parent
    assert isinstance(header, GroupResult)
    assert header.id == canvas.tasks[1].tasks.id
    assert [r.id for r in header] == [t.id for t in canvas.tasks[1].tasks.tasks]
    assert canvas.freeze().id == "last"
    tree = result.as_tuple()
    assert result_from_tuple(json.loads(json.dumps(tree))).as_tuple() == tree


# -- running a canvas here ----------------------------------------------------------------------


def test_apply_of_every_shape(app: Flowq) -> None:
    add, total, upto = app.tasks["add"], app.tasks["total"], app.tasks["upto"]
    cases: list[tuple[Any, Any]] = [
        (add.s(1, 2) | add.s(3) | add.s(4), 10),
        (group(add.s(i, i) for i in range(3)), [0, 2, 4]),
        (group(add.s(1, 1), group(add.s(2, 2), add.s(3, 3))), [2, 4, 6]),
        (chord([add.s(1, 1), add.s(2, 2)], total.s()), 6),
        (add.s(1, 1) | group(add.s(1), add.s(2)) | total.s() | add.s(1), 8),
        (group([]) | total.s(), 0),
        (upto.s(3) | expand(add.s(1)) | total.s(), 6),
        (upto.s(0) | expand(add.s(1)), []),
        (upto.s(3) | expand(upto.s() | expand(add.s(1))), [[], [1], [1, 2]]),
        (add.chunks([(1, 2), (3, 4), (5, 6)], 2), [[3, 7], [11]]),
        (add.starmap([(1, 2)]) | total.s(), 3),
        (chain(add.s(1, 2)), 3),
    ]
    for canvas, value in cases:
        assert canvas.apply().get() == value, canvas
        app.conf.task_always_eager = True
        assert canvas.delay().get() == value, canvas
        app.conf.task_always_eager = False


def test_apply_with_arguments_and_options(app: Flowq) -> None:
    add = app.tasks["add"]
    assert (add.s(1) | add.s(2)).apply((10,)).get() == 13
    assert group(add.s(1), add.si(2, 2)).apply((10,)).get() == [11, 4]
    seen = []

    @app.task(bind=True)
    def who(self: Any, *_: Any) -> None:
        seen.append((self.request.headers, self.request.delivery_info["routing_key"]))

    (who.s() | who.s().set(queue="b")).apply(headers={"h": 1}, queue="a")
    assert seen == [({"h": 1}, "a"), (None, "b")]


def test_apply_of_what_fails(app: Flowq) -> None:
    add, fail, total = app.tasks["add"], app.tasks["fail"], app.tasks["total"]
    seen: list[Any] = []

    @app.task
    def errback(request: Any, exc: Exception, traceback: Any) -> None:
        seen.append((request.task, type(exc).__name__))

    result = chain(add.s(1, 2), fail.s(), add.s(1)).on_error(errback.s()).apply()
    assert (result.state, str(result.result), seen) == ("FAILURE", "bad", [("fail", "ValueError")])
    assert (result.parent.state, result.parent.parent.get()) == ("FAILURE", 3)
    with pytest.raises(ValueError, match="bad"):
        result.get()
    seen.clear()
    result = chord([add.s(1, 2), fail.s(), fail.s()], total.s()).on_error(errback.s()).apply()
    assert (result.state, seen) == ("FAILURE", [("total", "ChordError")])
    assert isinstance(result.result, ValueError)
    assert result.parent.results[0].get() == 3
    seen.clear()
    group(fail.s(), add.s(1, 1), fail.s()).on_error(errback.s()).apply()
    assert seen == [("fail", "ValueError")] * 2
    with pytest.raises(ValueError, match="bad"):
        chain(fail.s(), add.s(1)).apply(throw=True)


@pytest.mark.parametrize(
    ("rule", "value"),
    [("any", [3]), (at_least(1), [3]), ("always", [3, "ValueError"]), (at_least(2), None)],
)
def test_apply_with_join_rules(app: Flowq, rule: str, value: Any) -> None:
    add, fail, same = app.tasks["add"], app.tasks["fail"], app.tasks["same"]
    result = (group(add.s(1, 2), fail.s(), join=rule) | same.s()).apply()
    if value is None:
        assert result.state == "FAILURE"
    else:
        shown = [type(v).__name__ if isinstance(v, Exception) else v for v in result.get()]
        assert shown == value


def test_apply_of_what_is_ignored(app: Flowq) -> None:
    @app.task
    def skip() -> None:
        raise errors.Ignore

    result = (skip.s() | app.tasks["add"].s(1)).apply()
    assert result.state == "IGNORED"
    with pytest.raises(errors.Ignore):
        result.get()


def test_links_of_a_canvas_run_here(app: Flowq) -> None:
    seen: list[Any] = []

    @app.task
    def note(value: Any) -> None:
        seen.append(value)

    add = app.tasks["add"]
    (add.s(1, 1) | add.s(1)).apply(link=[note.s()])
    canvas = group(add.s(1, 1), add.s(2, 2))
    canvas.link(note.s())
    canvas.apply()
    assert seen == [3, [2, 4]]


# -- results --------------------------------------------------------------------------------------


def test_unknown_id(app: Flowq) -> None:
    result = app.AsyncResult("nobody")
    assert (result.state, result.status, result.exists()) == ("PENDING", "PENDING", False)
    assert (result.result, result.traceback, result.ready(), result.children) == (
        None,
        None,
        False,
        [],
    )
    with pytest.raises(errors.UnknownId):
        result.get(timeout=5)
    with pytest.raises(errors.UnknownId):
        app.GroupResult("nobody").get()
    assert GroupResult.restore("nobody", app=app) is None
    with pytest.raises(errors.UnknownId, match="as text"):
        app.AsyncResult(None)  # type: ignore[arg-type]


def test_success(app: Flowq, engine: FakeEngine) -> None:
    engine.outcomes["a"] = success([1, 2], name="add", extra={"retries": 3}, parent="p")
    engine.outcomes["p"] = success(1, children=("a",))
    seen = []
    result = app.AsyncResult("a")
    assert result.successful()
    assert result.get(callback=lambda i, v: seen.append((i, v))) == [1, 2]
    assert seen == [("a", [1, 2])]
    assert (result.info, result.name, result.retries) == ([1, 2], "add", 3)
    assert result.parent == app.AsyncResult("p")
    assert result.parent.children == [result]
    assert [v for _, v in result.parent.collect()] == [1, [1, 2]]
    assert result.parent.get_leaf() == [1, 2]
    assert pickle.loads(pickle.dumps(result)) == result == "a"
    assert asyncio.run(_await(result)) == [1, 2]
    engine.outcomes.clear()
    assert result.get() == [1, 2]
    result.forget()
    assert not result.exists()


async def _await(result: Any) -> Any:
    return await result


class Local(Exception):
    """Defined where a task is defined."""


def test_failure(app: Flowq, engine: FakeEngine) -> None:
    engine.outcomes["f"] = failure(KeyError("k"))
    result = app.AsyncResult("f")
    assert result.failed()
    assert result.ready()
    with pytest.raises(KeyError, match="k"):
        result.get()
    assert isinstance(result.get(propagate=False), KeyError)
    assert "KeyError" in result.traceback
    with pytest.raises(KeyError):
        result.maybe_throw()
    with pytest.raises(KeyError):
        asyncio.run(_await(result))
    engine.outcomes["l"] = failure(Local("mine"))
    with pytest.raises(Local, match="mine"):
        app.AsyncResult("l").get()
    app.conf.task_remote_tracebacks = True
    assert "In the worker" in result.result.__notes__[0]


def test_revoked_skipped_and_retrying(app: Flowq, engine: FakeEngine) -> None:
    engine.outcomes.update(
        r=Outcome("REVOKED"), s=Outcome("SKIPPED"), w=failure(OSError(), "RETRY")
    )
    with pytest.raises(errors.TaskRevokedError):
        app.AsyncResult("r").get()
    with pytest.raises(errors.TaskSkipped):
        app.AsyncResult("s").get()
    engine.outcomes["i"] = failure(errors.Ignore(), "IGNORED")
    with pytest.raises(errors.TaskSkipped, match="raised Ignore"):
        app.AsyncResult("i").get()
    retrying = app.AsyncResult("w")
    assert retrying.state == "RETRY"
    assert isinstance(retrying.result, OSError)
    assert not retrying.ready()
    with pytest.raises(errors.TimeoutError):
        retrying.get(timeout=0)


def test_states_of_its_own_and_messages(app: Flowq, engine: FakeEngine) -> None:
    engine.outcomes["m"] = Outcome("STARTED", meta={"state": "HALF", "meta": {"done": 1}})
    result = app.AsyncResult("m")
    assert (result.state, result.info) == ("HALF", {"done": 1})
    engine.outcomes["q"] = Outcome("QUEUED")
    assert app.AsyncResult("q").state == "PENDING"
    seen: list[Any] = []

    def finish() -> None:
        engine.outcomes["m"] = success(5)

    value = result.get(on_message=seen.append, on_interval=finish, interval=0.01)
    assert value == 5
    assert [m["status"] for m in seen] == ["HALF", "SUCCESS"]
    assert seen[0]["result"] == {"done": 1}


def test_run_of_a_node(app: Flowq, engine: FakeEngine) -> None:
    from uuid import uuid4

    from flowq.core.ids import node_id, run_uid

    uid = run_uid(1, 2)
    assert app.AsyncResult(node_id(uid, 5)).run == f"the run {uid}"
    engine.outcomes["alias"] = Outcome("PENDING", run="u")
    assert app.AsyncResult("alias").run == "the run u"
    assert app.AsyncResult(str(uuid4())).run is None
    app.AsyncResult("x").revoke(terminate=True, signal="SIGKILL")
    assert engine.orders == [("revoke", "x", True, "SIGKILL")]


def test_group(app: Flowq, engine: FakeEngine) -> None:
    from flowq import payload

    frames = [payload.encode(1), payload.encode(2)]
    engine.outcomes.update(
        g=Outcome("SUCCESS", payload.encode_list(frames), members=("a", "b")),
        a=success(1, parent="p"),
        b=success(2, parent="p"),
        p=success(0),
    )
    result = app.GroupResult("g")
    assert result.get() == [1, 2]
    assert result.join() == [1, 2]
    assert [r.id for r in result] == ["a", "b"]
    assert (len(result), result[1].get(), result.completed_count()) == (2, 2, 2)
    assert result.parent == app.AsyncResult("p")
    assert asyncio.run(_await(result)) == [1, 2]
    assert [v["result"] for _, v in result.iter_native()] == [1, 2]
    assert GroupResult.restore("g", app=app) == result
    restored = app.GroupResult.restore("g")
    assert (restored, restored.app, app.GroupResult.restore("nobody")) == (result, app, None)
    assert isinstance(restored, app.GroupResult)
    assert not isinstance(restored, app.AsyncResult)
    assert app.AsyncResult("a", app=app).get() == 1
    assert app.ResultSet.mro() == ResultSet.mro()
    assert result_from_tuple(result.as_tuple(), app) == result
    child = Outcome("SUCCESS", payload.encode(1), parent="g")
    engine.outcomes["c"] = child
    assert app.AsyncResult("c").parent == result


def test_group_that_fails(app: Flowq, engine: FakeEngine) -> None:
    engine.outcomes.update(
        g=failure(errors.ChordError("Dependency b raised"), members=("a", "b", "c")),
        a=success(1),
        b=failure(KeyError("first")),
        c=failure(OSError("second")),
    )
    result = app.GroupResult("g")
    assert result.failed()
    with pytest.raises(KeyError, match="first"):
        result.get()
    values = result.get(propagate=False)
    assert (values[0], [type(v) for v in values[1:]]) == (1, [KeyError, OSError])
    with pytest.raises(KeyError):
        result.maybe_throw()


def test_chord_that_fails(app: Flowq, engine: FakeEngine) -> None:
    broken = errors.ChordError("Dependency b raised")
    engine.outcomes.update(
        g=failure(broken, members=("a", "b")),
        a=success(1),
        b=failure(KeyError("first")),
        body=failure(broken, parent="g"),
        after=failure(broken, parent="body"),
        lone=failure(broken),
    )
    for chosen in ("body", "after", "g"):
        with pytest.raises(KeyError, match="first"):
            app.AsyncResult(chosen).get()
        with pytest.raises(errors.ChordError):
            app.AsyncResult(chosen).get(follow_parents=False)
        assert isinstance(app.AsyncResult(chosen).result, errors.ChordError)
    with pytest.raises(errors.ChordError):
        app.AsyncResult("lone").get()


def test_result_set(app: Flowq, engine: FakeEngine) -> None:
    engine.outcomes.update(a=success(1), b=Outcome("STARTED"))
    both = app.ResultSet([app.AsyncResult("a"), app.AsyncResult("b")])
    assert both.waiting()
    assert not both.ready()
    with pytest.raises(errors.TimeoutError):
        both.get(timeout=0)
    both.discard(app.AsyncResult("b"))
    both.add(app.AsyncResult("a"))
    assert both.get() == [1]
    with pytest.raises(KeyError):
        both.remove("b")
    both.revoke()
    assert len(engine.orders) == 1
    assert ResultSet([], app=app).get() == []


def test_get_in_a_task_is_refused(app: Flowq, engine: FakeEngine) -> None:
    engine.outcomes["a"] = success(1)
    result = app.AsyncResult("a")
    calls.push(app.tasks["add"], Context(id="t", task="add", called_directly=False))
    try:
        for wait in (result.get, app.ResultSet([result]).get, app.GroupResult("a").get):
            with pytest.raises(RuntimeError, match=r"allow_join_result\(\)"):
                wait(timeout=1)
        with pytest.raises(RuntimeError, match="inside the task 'add'"):
            asyncio.run(_await(result))
        with allow_join_result():
            assert result.get() == 1
        assert result.get(disable_sync_subtasks=False) == 1
        assert EagerResult("e", 5, "SUCCESS", app=app).get() == 5
    finally:
        calls.pop()
    assert result.get() == 1


def test_a_task_stands_for_its_call(app: Flowq) -> None:
    @app.task
    def one() -> int:
        return 1

    @app.task
    def more(x: int) -> int:
        return x + 1

    assert chain(one, more, more).apply().get() == 3
    assert (one.s() | more).apply().get() == 2
    assert chord([one, one], app.task(sum, name="summed")).apply().get() == 2
    assert group([one, one.s()]).apply().get() == [1, 1]
    callback = one.s()
    callback.link(more)
    assert callback.options["link"] == [more.s()]
