"""Tasks: what may become one, what it is called, how it is checked, run here, and pickled."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import json
import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flowq import Flowq, Task, errors, group
from flowq.app import current
from flowq.worker import request as calls
from flowq.worker.request import Context


@pytest.fixture
def app() -> Iterator[Flowq]:
    before = current.current_or_none()
    app = Flowq("tasks", task_always_eager=False)
    yield app
    current.set_current(before)


def add(x: int, y: int) -> int:
    return x + y


class Greeter:
    """A callable object."""

    def __call__(self, name: str) -> str:
        return f"hello {name}"


# -- making -------------------------------------------------------------------------------------


def test_function_becomes_a_task(app: Flowq) -> None:
    task = app.task(add)
    assert isinstance(task, Task)
    assert task.name == f"{__name__}.add"
    assert task(2, 3) == 5
    assert task.run(2, 3) == 5
    assert task.__wrapped__ is add
    assert app.tasks[task.name] is task


def test_options_become_attributes(app: Flowq) -> None:
    @app.task(name="t", queue="q", max_retries=None, time_limit=None, priority=3, mine="x")
    def fun() -> None:
        """Says what it does."""

    assert (fun.name, fun.queue, fun.max_retries, fun.priority, fun.mine) == (
        "t",
        "q",
        None,
        3,
        "x",
    )
    assert fun.__doc__ == "Says what it does."
    assert fun.exec_options() == {
        "queue": "q",
        "priority": 3,
        "serializer": "json",
        "ignore_result": False,
    }


def test_any_callable_with_a_name(app: Flowq) -> None:
    assert app.task(lambda x: x + 1, name="inc")(1) == 2
    assert app.task(functools.partial(add, 10), name="ten")(1) == 11
    assert app.task(Greeter())("you") == "hello you"
    assert app.task(len).name == "builtins.len"
    assert app.task(len)([1, 2]) == 2
    assert app.task(json.dumps)({"a": 1}) == '{"a": 1}'
    assert app.task("abc".upper, name="abc")() == "ABC"


def test_what_has_no_name_needs_one(app: Flowq) -> None:
    with pytest.raises(errors.ImproperlyConfigured, match="name="):
        app.task(lambda: 1)
    with pytest.raises(errors.ImproperlyConfigured, match="name="):
        app.task(functools.partial(add, 1))
    with pytest.raises(errors.ImproperlyConfigured, match="callable"):
        app.task("not callable")
    with pytest.raises(errors.ImproperlyConfigured, match="callable, not of 3"):
        app.task(name="three")(3)
    assert "three" not in app.tasks


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"name": 3}, TypeError, "name=3 .* type int"),
        ({"name": ""}, ValueError, "name='' .* is empty"),
        ({"base": int}, TypeError, "base=.* no subclass"),
        ({"autoretry_for": "ValueError"}, TypeError, "autoretry_for='ValueError'.*no exception"),
        ({"autoretry_for": (ValueError, 1)}, TypeError, "1 is no exception class"),
        ({"dont_autoretry_for": int}, TypeError, "no exception class"),
        ({"throws": 3}, TypeError, "throws=3"),
        ({"max_retries": "3"}, TypeError, "max_retries='3' .* whole number"),
        ({"max_crashes": -1}, ValueError, "max_crashes=-1: give 0 or more"),
        ({"max_crashes": 1.5}, TypeError, "whole number"),
        ({"time_limit": "x"}, TypeError, "time_limit='x' .* seconds"),
        ({"soft_time_limit": -1}, ValueError, "0 or more"),
        ({"default_retry_delay": -1}, ValueError, "0 or more"),
        ({"expires": "tomorrow"}, TypeError, "seconds"),
        ({"retry_backoff": "x"}, TypeError, "retry_backoff"),
        ({"retry_kwargs": 3}, TypeError, "give a dict"),
        ({"retry_kwargs": {"countdown": -5}}, ValueError, "its countdown: give 0 or more"),
        ({"rate_limit": "abc/x"}, errors.ImproperlyConfigured, r"py:\d+ has the rate limit"),
        ({"global_rate_limit": -1}, errors.ImproperlyConfigured, "rate limit"),
        ({"serializer": "nope"}, ValueError, "there are json"),
        ({"compression": "foo"}, ValueError, "unknown compression 'foo'"),
        ({"queue": 3}, TypeError, "name of a queue"),
        ({"priority": "high"}, TypeError, "whole number"),
        ({"priority": 99_999}, ValueError, "10000"),
        ({"run": print}, TypeError, "run= is no option"),
        ({"app": None}, TypeError, "app= is no option"),
    ],
)
def test_wrong_options_are_refused_where_the_task_is_made(
    app: Flowq, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    before = set(app.tasks)
    with pytest.raises(error, match=words):
        app.task(**{"name": "t", **options})(add)
    if "name" not in options and "base" not in options:
        with pytest.raises(error, match=words):
            app.register_task(Adds(1), **options)
    if not {"name", "base", "run", "app"} & set(options):
        wrong = type("Wrong", (Adds,), options)
        with pytest.raises(error, match=words):
            app.register_task(wrong(1))
        with pytest.raises(error, match=words):
            app.task(add, base=wrong)
    assert set(app.tasks) == before


def test_setting_changed_later_still_counts(app: Flowq) -> None:
    task = app.task(add)
    assert task.serializer == "json"
    assert task.max_crashes == 5
    app.conf.task_serializer = "msgpack"
    app.conf.max_crashes = 1
    assert (task.serializer, task.max_crashes) == ("msgpack", 1)
    app.task(add, serializer="yaml", max_crashes=0)
    assert app.tasks[task.name].serializer == "yaml"
    assert app.tasks[task.name].max_crashes == 0


def test_bind_gives_self(app: Flowq) -> None:
    @app.task(bind=True)
    def who(self: Any, x: int) -> tuple[str, int]:
        return self.name, x

    assert who(1) == (who.name, 1)
    who.check_arguments((1,), {})
    with pytest.raises(TypeError):
        who.check_arguments((1, 2), {})


def test_class_based_tasks(app: Flowq) -> None:
    class Base(Task):
        calls = 0

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return super().__call__(*args, **kwargs)

    class Mine(Base):
        name = "mine"

        def run(self, x: int) -> int:
            return x * 2

    task = app.register_task(Mine)
    assert app.tasks["mine"] is task
    assert (task(4), task.calls) == (8, 1)
    assert task.apply((5,)).get() == 10
    assert task.calls == 2
    assert app.register_task(Mine()) is app.tasks["mine"]

    @app.task(base=Base)
    def other() -> int:
        return 1

    assert (other(), other.calls) == (1, 1)
    with pytest.raises(errors.ImproperlyConfigured, match=r"@app\.task"):
        app.register_task(add)


def test_call_overridden_by_the_user_is_still_the_workers_call(app: Flowq) -> None:
    seen = []

    class Base(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    @app.task(base=Base, bind=True)
    def outer(self: Any) -> None:
        seen.append((self.request.id, self.request.called_directly))
        inner()

    @app.task(base=Base, bind=True)
    def inner(self: Any) -> None:
        seen.append((self.request.id, self.request.called_directly))

    outer.apply(task_id="an-id")
    assert seen == [("an-id", False), (None, True)]


# -- names --------------------------------------------------------------------------------------


def test_program_tasks_are_named_after_the_app(app: Flowq) -> None:
    def fun() -> None: ...

    fun.__module__ = "__main__"
    assert app.task(fun).name == "tasks.fun"
    current.set_program_file(__file__)
    try:
        assert app.task(add).name == "tasks.add"
    finally:
        current.set_program_file(None)


def test_second_function_under_a_name_is_refused(app: Flowq) -> None:
    app.task(add, name="taken")

    def other() -> None: ...

    with pytest.raises(errors.AlreadyRegistered) as caught:
        app.task(other, name="taken")
    assert str(caught.value).count("test_task.py:") == 2
    assert app.tasks["taken"](1, 1) == 2


def test_same_definition_again_replaces(app: Flowq) -> None:
    def define(n: int) -> Any:
        @app.task(name="same")
        def fun(k: int = 1, *, lock: Any = object()) -> int:  # noqa: B008 - cannot be compared
            return n + k

        return fun

    define(1)
    second = define(1)
    assert app.tasks["same"] is second
    assert app.tasks["same"]() == 2
    for options in ({"queue": "a"}, {"queue": "b"}):
        app.task(add, name="again", **options)
        app.task(functools.partial(add, [1, {"a": Scale(2)}]), name="partial")
        app.task(Scale(2), name="object")
        app.task(Scale(2).twice, name="method")
        app.register_task(Adds(2), name="class")
        app.task("abc".upper, name="builtin")


class Scale:
    """A callable object with state."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return self.factor * x

    def twice(self, x: int) -> int:
        return 2 * self.factor * x


class Adds(Task):
    def __init__(self, n: int) -> None:
        self.n = n

    def run(self, x: int) -> int:
        return self.n + x


def _unwrapped(fun: Any) -> Any:
    def wrapper() -> Any:
        return fun()

    return wrapper


def _one() -> int:
    return 1


def _two() -> int:
    return 2


def _made(n: int, m: Any = None) -> Any:
    def fun(k: Any = m, *, o: Any = m) -> Any:
        return n, k, o

    return fun


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda n: _made(n), "'n' of its closure"),
        (lambda n: _made(0, n), "default"),
        (lambda n: functools.partial(add, n), "argument 1 of the partial"),
        (lambda n: functools.partial(add, x=n), "argument 'x' of the partial"),
        (lambda n: functools.partial(functools.partial(add, n), 1), "argument 1 of the partial"),
        (lambda n: functools.partial(_made, *range(n)), "of the partial"),
        (Scale, "'factor'"),
        (lambda n: Scale(n).twice, "'factor'"),
        (lambda n: functools.partial(add, [{"a": Scale(n)}]), "'factor'"),
        (lambda n: functools.lru_cache(_made(n)), "'n' of its closure"),
        (lambda n: _unwrapped((_one, _two)[n - 1]), "'fun' of its closure"),
        (lambda n: str(n).upper, "its object"),
        (lambda n: (lambda: 1, lambda: 2)[n - 1], "the function"),
    ],
)
def test_another_function_of_the_same_place_is_refused(app: Flowq, make: Any, part: str) -> None:
    first = app.task(make(1), name="t")
    with pytest.raises(errors.AlreadyRegistered, match=part) as caught:
        app.task(make(2), name="t")
    assert "one is defined at" in str(caught.value)
    assert "the other at" in str(caught.value)
    assert app.tasks["t"] is first


def test_another_class_based_task_of_the_same_place_is_refused(app: Flowq) -> None:
    def make(n: int) -> type[Task]:
        class Made(Task):
            def run(self) -> int:
                return n

        return Made

    app.register_task(Adds(1), name="object")
    with pytest.raises(errors.AlreadyRegistered, match="the attribute 'n'"):
        app.register_task(Adds(2), name="object")
    app.register_task(make(1), name="class")
    app.register_task(make(1), name="class", queue="other")
    with pytest.raises(errors.AlreadyRegistered, match="'n' of its closure"):
        app.register_task(make(2), name="class")


def _cell(app: Flowq, source: str, number: int) -> None:
    exec(compile(source, f"<ipython-input-{number}-abc>", "exec"), {"app": app})


def test_cell_run_again_replaces(app: Flowq) -> None:
    _cell(app, "@app.task(name='c')\ndef fun(): return 1", 1)
    _cell(app, "\n\n@app.task(name='c')\ndef fun(): return 2", 2)
    assert app.tasks["c"]() == 2
    with pytest.raises(errors.AlreadyRegistered, match="earlier cell"):
        _cell(app, "@app.task(name='c')\ndef other(): return 2", 3)
    for number, k in ((4, 1), (5, 2)):
        _cell(app, f"def fun(k={k}): return k\napp.task(lambda: fun, name='d')", number)
    with pytest.raises(errors.AlreadyRegistered, match="default"):
        _cell(app, "for k in (1, 2):\n def fun(k=k): ...\n app.task(fun, name='e')", 6)


def _module(app: Flowq, path: Any, source: str) -> None:
    path.write_text(source)
    exec(compile(source, str(path), "exec"), {"app": app, "__name__": "mod"})


def test_module_loaded_again_replaces_but_two_definitions_in_it_clash(
    app: Flowq, tmp_path: Any
) -> None:
    path = tmp_path / "mod.py"
    one = "@app.task(name='m')\ndef fun(): return 1\n"
    _module(app, path, one)
    _module(app, path, f"# edited\n\n{one}")
    _module(app, path, one.replace("()", "(k=1)"))
    _module(app, path, one.replace("()", "(k=2)"))
    with pytest.raises(errors.AlreadyRegistered, match=r"mod\.py:\d.*mod\.py:\d"):
        _module(app, path, one + one)


def test_unknown_task_lists_near_names(app: Flowq) -> None:
    app.task(add, name="tasks.add")
    with pytest.raises(errors.NotRegistered, match=r"did you mean tasks\.add\?"):
        app.tasks["tasks.ad"]
    with pytest.raises(errors.NotRegistered, match=r"did you mean tasks\.add\?"):
        app.tasks["other.add"]
    with pytest.raises(errors.NotRegistered, match="include="):
        app.tasks["zzz"]
    assert app.tasks.get("zzz") is None


def test_decorators_in_the_wrong_order(app: Flowq) -> None:
    def loud(fun: Any) -> Any:
        @functools.wraps(fun)
        def wrapper(*args: Any) -> Any:
            return fun(*args)

        return wrapper

    task = app.task(add, name="one")
    with pytest.raises(errors.CanvasError, match="is a task already"):
        app.task(task)
    with pytest.raises(errors.CanvasError, match=r"put @app\.task on top"):
        app.task(loud(task))
    assert app.task(loud(add), name="two")(1, 2) == 3


# -- arguments ----------------------------------------------------------------------------------


def shapes() -> list[Any]:
    def plain(a: int, b: int = 2) -> None: ...
    def star(a: int, *rest: int, k: int, **more: int) -> None: ...
    def only(a: int, /, b: int, *, c: int = 1) -> None: ...
    def none() -> None: ...

    return [
        (plain, [((1,), {}), ((1, 2), {}), ((), {"a": 1})], [((), {}), ((1, 2, 3), {})]),
        (plain, [((), {"b": 1, "a": 1})], [((1,), {"z": 1}), ((1,), {"a": 1})]),
        (star, [((1, 2, 3), {"k": 1, "z": 2})], [((1,), {}), ((), {"k": 1})]),
        (only, [((1, 2), {}), ((1,), {"b": 1, "c": 2})], [((), {"a": 1, "b": 2}), ((1, 2, 3), {})]),
        (none, [((), {})], [((1,), {})]),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(5))
def test_arguments_are_checked_as_python_would(app: Flowq, number: int) -> None:
    fun, right, wrong = shapes()[number]
    task = app.task(fun, name="checked")
    for args, kwargs in right:
        task.check_arguments(args, kwargs)
    for args, kwargs in wrong:
        with pytest.raises(TypeError):
            task.check_arguments(args, kwargs)


def test_check_names_the_function_and_can_be_turned_off(app: Flowq) -> None:
    with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument: 'y'"):
        app.task(add).delay(1)
    app.task(add, name="loose", typing=False).check_arguments((1, 2, 3), {})
    easy = Flowq("easy", strict_typing=False, set_as_current=False)
    easy.task(add).check_arguments((), {})
    app.task(dict.get, name="unknown signature").check_arguments(({}, 1, 2), {})


# -- running here -------------------------------------------------------------------------------


def test_retry_in_apply_uses_up_its_budget(app: Flowq) -> None:
    seen = []

    @app.task(bind=True, max_retries=2)
    def flaky(self: Any, x: int) -> int:
        seen.append(self.request.retries)
        if x < 12:
            raise self.retry(args=(x + 1,), countdown=100)
        return x

    assert flaky.apply((10,)).get() == 12
    assert seen == [0, 1, 2]
    result = flaky.apply((5,))
    assert result.state == "FAILURE"
    assert isinstance(result.result, errors.MaxRetriesExceededError)
    assert "max_retries is 2" in str(result.result)


def test_retry_gives_the_delay_and_the_reason(app: Flowq) -> None:
    task = app.task(add, name="r", default_retry_delay=7)
    task.push_request(id="i", called_directly=False, retries=1)
    try:
        with pytest.raises(errors.Retry) as caught:
            task.retry(exc=ValueError("why"), kwargs={"x": 1})
        assert (caught.value.when, str(caught.value.exc)) == (7.0, "why")
        assert caught.value.new_kwargs == {"x": 1}
        assert caught.value.new_args is None
        soon = datetime.now(UTC) + timedelta(seconds=60)
        assert 50 < (task.retry(eta=soon, throw=False).when or 0) <= 60
        assert task.retry(countdown=0, throw=False).when == 0
        with pytest.raises(KeyError):
            task.retry(exc=KeyError("last"), max_retries=1)
    finally:
        task.pop_request()


def test_retry_of_a_direct_call_raises_the_reason(app: Flowq) -> None:
    @app.task(bind=True)
    def fun(self: Any) -> None:
        raise self.retry(exc=ValueError("direct"))

    with pytest.raises(ValueError, match="direct"):
        fun()


def test_autoretry(app: Flowq) -> None:
    tries = []

    @app.task(autoretry_for=(OSError,), dont_autoretry_for=(PermissionError,), max_retries=3)
    def fun(error: type[Exception]) -> None:
        tries.append(error)
        raise error("x")

    assert isinstance(fun.apply((OSError,)).result, OSError)
    assert len(tries) == 4
    assert isinstance(fun.apply((PermissionError,)).result, PermissionError)
    assert len(tries) == 5
    fun.apply((ValueError,))
    assert len(tries) == 6


def test_one_exception_class_stands_for_itself(app: Flowq) -> None:
    tries: list[int] = []

    @app.task(autoretry_for=LookupError, dont_autoretry_for=IndexError, throws=OSError)
    def fun(error: str) -> None:
        tries.append(1)
        raise KeyError("k") if error == "key" else IndexError("i")

    assert (fun.autoretry_for, fun.throws) == ((LookupError,), (OSError,))
    assert fun.apply(("index",)).state == "FAILURE"
    assert len(tries) == 1
    fun.apply(("key",))
    assert len(tries) == 5

    class Klass(Task):
        autoretry_for = KeyError
        max_retries = 1

        def run(self) -> None:
            tries.append(1)
            raise KeyError

    tries.clear()
    app.register_task(Klass).apply()
    assert len(tries) == 2


def test_hooks_are_called_in_order(app: Flowq) -> None:
    seen: list[str] = []

    class Base(Task):
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            seen.append("before")

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            seen.append(f"success {retval}")

        def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            seen.append(f"retry {exc!r}")

        def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            assert "ValueError" in str(einfo)
            seen.append(f"failure {exc!r}")

        def after_return(
            self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
        ) -> None:
            seen.append(f"after {status}")

    @app.task(base=Base, bind=True, max_retries=1)
    def fun(self: Any, fail: bool) -> int:
        if fail:
            raise self.retry(exc=ValueError("v"))
        return 1

    fun.apply((False,))
    assert seen == ["before", "success 1", "after SUCCESS"]
    seen.clear()
    fun.apply((True,))
    value = "ValueError('v')"
    assert seen == [
        "before",
        f"retry {value}",
        "after RETRY",
        "before",
        f"failure {value}",
        "after FAILURE",
    ]


def test_apply_tells_the_task_about_itself(app: Flowq) -> None:
    @app.task(bind=True)
    def fun(self: Any, x: int) -> dict[str, Any]:
        r = self.request
        return {
            "id": r.id,
            "eager": r.is_eager,
            "direct": r.called_directly,
            "args": list(r.args),
            "headers": r.headers,
            "task": r.task,
        }

    assert fun.apply((1,), task_id="me", headers={"h": 1}).get() == {
        "id": "me",
        "eager": True,
        "direct": False,
        "args": [1],
        "headers": {"h": 1},
        "task": fun.name,
    }
    assert fun(1)["direct"] is True
    assert fun.request.id is None


def test_apply_of_what_ends_otherwise(app: Flowq) -> None:
    @app.task
    def fun(error: Exception) -> None:
        raise error

    assert fun.apply((errors.Ignore(),)).state == "IGNORED"
    assert fun.apply((errors.Reject("no"),)).state == "REJECTED"
    with pytest.raises(ValueError, match="up"):
        fun.apply((ValueError("up"),), throw=True)
    app.conf.task_eager_propagates = True
    with pytest.raises(ValueError, match="up"):
        fun.apply((ValueError("up"),))


def test_async_function(app: Flowq) -> None:
    @app.task
    async def fun(x: int) -> int:
        return x + 1

    assert fun.apply((1,)).get() == 2
    assert asyncio.run(fun(1)) == 2  # a call is the function's: it gives the coroutine

    class Called:
        async def __call__(self, x: int, y: int) -> int:
            return x + y

    assert app.task(Called()).apply((1, 2)).get() == 3
    assert app.task(functools.partial(Called(), 1), name="part").apply((2,)).get() == 3


def test_an_async_function_is_applied_where_a_loop_runs_already(app: Flowq) -> None:
    flavour = contextvars.ContextVar("flavour", default="plain")

    @app.task(bind=True, max_retries=1)
    async def fun(self: Any, x: int) -> tuple[int, str, str]:
        await asyncio.sleep(0)
        if not self.request.retries:
            raise self.retry()
        return x + 1, flavour.get(), self.request.id

    async def main() -> Any:
        flavour.set("own")
        return fun.apply((1,), task_id="an-id").get()

    assert asyncio.run(main()) == (2, "own", "an-id")


def test_links_and_errbacks_of_apply(app: Flowq) -> None:
    seen: list[Any] = []

    @app.task
    def note(*args: Any) -> None:
        seen.append(args)

    @app.task
    def new_style(request: Any, exc: Exception, traceback: str, extra: int) -> None:
        seen.append((request.id, str(exc), "ValueError" in traceback, extra))

    @app.task
    def old_style(task_id: str) -> None:
        seen.append(task_id)

    @app.task
    def fail() -> None:
        raise ValueError("bad")

    task = app.task(add, name="linked")
    task.apply((1, 2), link=[note.s("x"), note.si("alone")])
    assert seen == [(3, "x"), ("alone",)]
    seen.clear()
    fail.apply(task_id="f", link=note.s(), link_error=[new_style.s(5), old_style.s()])
    assert seen == [("f", "bad", True, 5), "f"]


# -- replace and states -------------------------------------------------------------------------


def test_replace(app: Flowq) -> None:
    plus = app.task(add, name="plus")
    seen = []

    @app.task(bind=True)
    def grow(self: Any, n: int) -> Any:
        return self.replace(group(plus.s(i, 1) for i in range(n)))

    grow.on_replace = seen.append
    assert grow.apply((3,)).get() == [1, 2, 3]
    assert len(seen) == 1
    with pytest.raises(errors.WrongState, match="outside a running task"):
        grow.replace(plus.s(1, 1))
    with pytest.raises(errors.WrongState, match="outside a running task"):
        grow(1)


def test_replace_in_a_worker_raises_the_canvas(app: Flowq) -> None:
    plus = app.task(add, name="plus")
    plus.push_request(id="i", called_directly=False)
    try:
        with pytest.raises(errors.Replaced) as caught:
            plus.replace(plus.s(1, 2))
        assert caught.value.canvas == plus.s(1, 2)
        with pytest.raises(errors.CanvasError, match=r"forget \.s\(\)"):
            plus.replace(plus)
        with pytest.raises(errors.ImproperlyConfigured, match="empty"):
            plus.replace(app.signature({"task": "celery.chain", "args": (), "kwargs": {"tasks": []},
                                        "options": {}, "subtask_type": "chain"}))  # fmt: skip
        with pytest.raises(errors.ImproperlyConfigured, match="another chord"):
            plus.replace(plus.s(1, 2).set(chord={}))
    finally:
        plus.pop_request()


def test_update_state(app: Flowq) -> None:
    shown: list[Any] = []
    task = app.task(add, name="shown")
    task.update_state(state="NOBODY LISTENS")
    context = Context(id="me", called_directly=False)
    context.report_progress = lambda state, meta: shown.append((state, meta))
    calls.push(task, context)
    try:
        task.update_state(state="HALF", meta={"done": 1})
        with pytest.raises(errors.WrongState, match="its own state"):
            task.update_state(task_id="another", state="X")
    finally:
        calls.pop()
    assert shown == [("HALF", {"done": 1})]


# -- pickling -----------------------------------------------------------------------------------


def test_task_and_app_pickle_as_names(app: Flowq) -> None:
    task = app.task(add)
    assert pickle.loads(pickle.dumps(task)) is task
    assert pickle.loads(pickle.dumps(app)) is app
    sig = pickle.loads(pickle.dumps(task.s(1, 2)))
    assert sig() == 3
    text = pickle.dumps([task, app])
    assert b"function add" not in text
    assert len(text) < 300


def test_name_unpickled_before_its_task_is_defined(app: Flowq) -> None:
    text = pickle.dumps(app.task(add, name="later"))
    app.tasks.unregister("later")
    early = pickle.loads(text)
    with pytest.raises(errors.NotRegistered):
        early(1, 2)
    assert "later" not in app.tasks
    defined = app.task(add, name="later")
    assert early is defined
    assert early(1, 2) == 3


def test_task_knows_the_module_whose_import_registers_it(
    app: Flowq, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "registers_far.py").write_text(
        "import json\nfrom flowq import current_app, shared_task\n"
        "dumps = current_app.task(json.dumps)\n"
        "@shared_task(name='registers_far.s')\ndef s(): ...\n"
    )
    before = current.shared()
    import registers_far  # type: ignore[import-not-found]

    assert registers_far.dumps.registered_in == "registers_far"
    assert registers_far.s.registered_in == "registers_far"
    assert Flowq("later").tasks["registers_far.s"].registered_in == "registers_far"
    assert app.task(add).registered_in in ("__main__", "__channelexec__")  # or xdist
    current._shared[:] = before


def test_definition_travels_and_makes_the_task_again(app: Flowq) -> None:
    task = app.task(bind=True, name="moved", queue="q")(lambda self, x: (self.name, x))
    fun, options = task.portable_definition
    other = Flowq("tasks", set_as_current=False)
    again = other._task_from_fun(fun, **options)
    assert (again.name, again.queue, again(1)) == ("moved", "q", ("moved", 1))
