"""One item, one report: whatever the body does."""

from __future__ import annotations

import sys
import time
from typing import Any
from uuid import UUID

import pytest

from flowq import Flowq, errors
from flowq.app.task import Task
from flowq.broker.codec import Bundle, Input, Item, Report, ReportKind
from flowq.core.graph import Bind, Spec
from flowq.core.ids import node_id, run_uid
from flowq.payload import decode, decode_args, decode_error, encode, encode_args, encode_error
from flowq.worker import capture
from flowq.worker.alarm import Alarm
from flowq.worker.execution import Executor, run_item
from flowq.worker.retrying import backoff_delay

UID: UUID = run_uid(1_700_000_000_000, 12345)


@pytest.fixture
def app() -> Flowq:
    return Flowq("exec", set_as_current=False)


def one(
    task: str,
    *args: Any,
    inputs: list[Input] | None = None,
    retries: int = 0,
    bare: str = "",
    spec: dict[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[Bundle, Item]:
    item = Item(
        0 if bare else 4,
        0 if bare else 2,
        1,
        0,
        retries,
        encode_args(args, kwargs),
        inputs or [],
        id=bare,
        name="node",
    )
    runs = {} if bare else {4: UID.bytes}
    return Bundle(1, "s", 1, 1, 0, "q", runs, [Spec(task, **(spec or {}))], [item]), item


def run(app: Flowq, task: Any, *args: Any, **kwargs: Any) -> Report:
    bundle, item = one(task.name, *args, **kwargs)
    return run_item(app.tasks, bundle, item, hostname="here")


def error_of(report: Report) -> Exception:
    exc = decode(report.frame, allowed=lambda _: True)
    assert isinstance(exc, Exception)
    return exc


# -- success --------------------------------------------------------------------------------


def test_a_result_is_reported_with_its_times(app: Flowq) -> None:
    add = app.task(lambda a, b: a + b, name="add")
    before = time.time()
    report = run(app, add, 1, b=2)
    assert (report.kind, decode(report.frame)) == (ReportKind.SUCCESS, 3)
    assert (report.run, report.idx, report.attempt) == (4, 2, 1)
    assert before <= report.began <= report.ended <= time.time()


def test_inputs_are_prepended_in_order_and_put_into_the_template(app: Flowq) -> None:
    show = app.task(lambda *args, **kwargs: [args, kwargs], name="show")
    inputs = [
        Input(0, Bind.PREPEND, None, encode("first")),
        Input(1, Bind.TEMPLATE, [1, "deep", 0], encode("filled")),
        Input(3, Bind.PREPEND, None, encode("second")),
        Input(4, Bind.NONE, None, b""),
    ]
    report = run(app, show, "own", inputs=inputs, deep=[None, 1])
    assert decode(report.frame) == [["first", "second", "own"], {"deep": ["filled", 1]}]


def test_a_place_that_does_not_exist_fails_the_node(app: Flowq) -> None:
    show = app.task(lambda *args: args, name="show")
    report = run(app, show, inputs=[Input(0, Bind.TEMPLATE, [0, 5], encode(1))])
    assert isinstance(error_of(report), errors.DecodeError)


def test_the_request_has_celerys_fields(app: Flowq) -> None:
    @app.task(name="look", bind=True)
    def look(self: Task, *args: Any) -> Any:
        r = self.request
        return {
            "id": r.id,
            "root": r.root_id,
            "parent": r.parent_id,
            "run": r.run_id,
            "retries": r.retries,
            "args": r.args,
            "hostname": r.hostname,
            "queue": r.delivery_info["routing_key"],
            "direct": r.called_directly,
            "name": r.node_name,
            "group": r.group,
            "task": r.task,
        }

    report = run(app, look, 5, inputs=[Input(1, Bind.PREPEND, None, encode(4))], retries=2)
    assert decode(report.frame) == {
        "id": node_id(UID, 2),
        "root": str(UID),
        "parent": node_id(UID, 1),
        "run": str(UID),
        "retries": 2,
        "args": [4, 5],
        "hostname": "here",
        "queue": "q",
        "direct": False,
        "name": "node",
        "group": None,
        "task": "look",
    }
    assert look.request.called_directly


def test_a_bare_task_keeps_its_own_id(app: Flowq) -> None:
    look = app.task(lambda self: [self.request.id, self.request.run_id], name="look", bind=True)
    report = run(app, look, bare="abc")
    assert (report.id, report.run) == ("abc", 0)
    assert decode(report.frame) == ["abc", None]


def test_a_coroutine_is_run(app: Flowq) -> None:
    @app.task(name="soon")
    async def soon(x: int) -> int:
        return x + 1

    assert decode(run(app, soon, 1).frame) == 2


def test_a_task_that_calls_another_keeps_its_request(app: Flowq) -> None:
    inner = app.task(lambda self: self.request.called_directly, name="inner", bind=True)
    outer = app.task(lambda self: [inner(), self.request.id], name="outer", bind=True)
    assert decode(run(app, outer).frame) == [True, node_id(UID, 2)]


# -- failure --------------------------------------------------------------------------------


def test_an_exception_is_a_failure_with_the_users_part_of_the_traceback(app: Flowq) -> None:
    @app.task(name="bad")
    def bad() -> None:
        raise ValueError("no")

    report = run(app, bad)
    info = decode_error(report.frame)
    assert report.kind == ReportKind.FAILURE
    assert (info.type, info.message, info.task) == ("ValueError", "no", "bad")
    assert info.node_id == node_id(UID, 2)
    assert "raise ValueError" in info.traceback
    assert "worker/execution.py" not in info.traceback


@pytest.mark.parametrize("exc", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_leaving_the_process_fails_only_the_task(app: Flowq, exc: BaseException) -> None:
    def leave() -> None:
        raise exc

    task = app.task(leave, name="leave")
    report = run(app, task)
    assert report.kind == ReportKind.FAILURE
    info = decode_error(report.frame)
    if isinstance(exc, SystemExit):
        assert (info.type, info.message) == ("WorkerLostError", "it called sys.exit(3)")
        assert "raise exc" in info.traceback
    else:
        assert info.type == type(exc).__name__


def test_wrong_arguments_are_a_failure(app: Flowq) -> None:
    task = app.task(lambda a: a, name="one")
    assert isinstance(error_of(run(app, task)), TypeError)


def test_an_unknown_task_fails_and_near_names_are_listed(app: Flowq) -> None:
    app.task(lambda: 1, name="pkg.report")
    bundle, item = one("pkg.raport")
    report = run_item(app.tasks, bundle, item)
    assert report.kind == ReportKind.FAILURE
    exc = error_of(report)
    assert isinstance(exc, errors.NotRegistered)
    assert "pkg.report" in str(exc)


def test_a_result_that_cannot_be_encoded_is_a_failure_and_no_success_hook_runs(app: Flowq) -> None:
    seen: list[str] = []

    class Base(Task):
        def on_success(self, *args: Any) -> None:
            seen.append("success")

        def on_failure(self, *args: Any) -> None:
            seen.append("failure")

    task = app.task(lambda: {1, 2}, name="set", base=Base)
    exc = error_of(run(app, task))
    assert isinstance(exc, errors.EncodeError)
    assert "the result: set" in str(exc)
    assert seen == ["failure"]


def test_an_ignored_result_need_not_be_encodable(app: Flowq) -> None:
    task = app.task(lambda: {1, 2}, name="set")
    report = run(app, task, spec={"ignore_result": True})
    assert (report.kind, report.frame) == (ReportKind.SUCCESS, b"")


def test_pickled_arguments_are_refused_unless_accepted(app: Flowq) -> None:
    task = app.task(lambda x: len(x), name="count")
    bundle, item = one(task.name)
    item.args = encode([[{1, 2}], {}], "pickle")
    assert isinstance(error_of(run_item(app.tasks, bundle, item)), errors.ContentDisallowed)
    report = run_item(app.tasks, bundle, item, accept=("json", "pickle"))
    assert decode(report.frame) == 2


# -- steering -------------------------------------------------------------------------------


def test_ignore_and_reject(app: Flowq) -> None:
    def steer(what: str) -> None:
        raise {
            "ignore": errors.Ignore(),
            "reject": errors.Reject("bad", requeue=False),
            "requeue": errors.Reject("later", requeue=True),
        }[what]

    task = app.task(steer, name="steer")
    assert run(app, task, "ignore").kind == ReportKind.IGNORED
    assert run(app, task, "requeue").kind == ReportKind.RETURNED
    report = run(app, task, "reject")
    assert report.kind == ReportKind.FAILURE
    assert isinstance(error_of(report), errors.Reject)


def test_self_retry_reports_delay_reason_and_new_arguments(app: Flowq) -> None:
    @app.task(name="again", bind=True)
    def again(self: Task, x: int, y: int = 0) -> None:
        try:
            raise KeyError("gone")
        except KeyError as exc:
            raise self.retry(countdown=7, args=(x + 1,), exc=exc)  # noqa: B904

    report = run(app, again, 1, y=2)
    assert (report.kind, report.extra) == (ReportKind.RETRY, 7.0)
    assert isinstance(error_of(report), KeyError)
    assert decode_args(report.args) == ([2], {"y": 2})


def test_a_retry_without_new_arguments_carries_none(app: Flowq) -> None:
    task = app.task(lambda self: self.retry(), name="again", bind=True)
    report = run(app, task)
    assert (report.kind, report.extra, report.args) == (ReportKind.RETRY, 180.0, b"")


def test_retries_end_with_the_exception_or_max_retries_exceeded(app: Flowq) -> None:
    with_exc = app.task(
        lambda self: self.retry(exc=KeyError("k")), name="a", bind=True, max_retries=2
    )
    without = app.task(lambda self: self.retry(), name="b", bind=True, max_retries=2)
    assert run(app, with_exc, retries=1).kind == ReportKind.RETRY
    ended = run(app, with_exc, retries=2)
    assert ended.kind == ReportKind.FAILURE
    assert isinstance(error_of(ended), KeyError)
    assert isinstance(error_of(run(app, without, retries=2)), errors.MaxRetriesExceededError)


def test_new_arguments_that_cannot_travel_fail_the_node(app: Flowq) -> None:
    task = app.task(lambda self: self.retry(args=({1},)), name="a", bind=True)
    assert isinstance(error_of(run(app, task)), errors.EncodeError)


def _raise(exc: BaseException) -> None:
    raise exc


def test_autoretry_by_class_and_its_exceptions(app: Flowq) -> None:
    def fail(name: str) -> None:
        raise {"os": OSError, "missing": FileNotFoundError, "value": ValueError}[name]("x")

    task = app.task(
        fail,
        name="auto",
        autoretry_for=(OSError,),
        dont_autoretry_for=(FileNotFoundError,),
        retry_kwargs={"max_retries": 1, "countdown": 3},
    )
    report = run(app, task, "os")
    assert (report.kind, report.extra) == (ReportKind.RETRY, 3.0)
    assert run(app, task, "missing").kind == ReportKind.FAILURE
    assert run(app, task, "value").kind == ReportKind.FAILURE
    last = run(app, task, "os", retries=1)
    assert last.kind == ReportKind.FAILURE
    assert isinstance(error_of(last), OSError)


def test_signals_are_not_retried_by_autoretry(app: Flowq) -> None:
    task = app.task(lambda: _raise(errors.Ignore()), name="i", autoretry_for=(Exception,))
    assert run(app, task).kind == ReportKind.IGNORED


def test_backoff_doubles_up_to_its_limit_and_jitter_stays_below() -> None:
    def plain(retries: int) -> float:
        return backoff_delay(factor=2.0, retries=retries, maximum=100.0, jitter=False)

    assert [plain(n) for n in range(7)] == [2, 4, 8, 16, 32, 64, 100]
    assert plain(5000) == 100
    drawn = {backoff_delay(factor=2.0, retries=4, maximum=100.0, jitter=True) for _ in range(50)}
    assert len(drawn) > 10
    assert all(0 <= delay <= 32 for delay in drawn)


def test_backoff_is_used_for_autoretry(app: Flowq) -> None:
    task = app.task(
        lambda: _raise(OSError()),
        name="b",
        autoretry_for=(OSError,),
        retry_backoff=3,
        retry_jitter=False,
    )
    assert run(app, task, retries=2).extra == 12.0


def test_replace_reports_the_compiled_fragment(app: Flowq) -> None:
    task = app.task(lambda: _raise(errors.Replaced("canvas")), name="r")
    bundle, item = one(task.name)
    report = run_item(
        app.tasks, bundle, item, compile_fragment=lambda canvas: b"compiled " + canvas.encode()
    )
    assert (report.kind, report.frame) == (ReportKind.EXTEND, b"compiled canvas")


def test_a_replacement_that_does_not_compile_fails_the_node(app: Flowq) -> None:
    task = app.task(lambda: _raise(errors.Replaced("canvas")), name="r")
    bundle, item = one(task.name)

    def refuse(canvas: Any) -> bytes:
        raise errors.CycleFound("a -> a")

    report = run_item(app.tasks, bundle, item, compile_fragment=refuse)
    assert report.kind == ReportKind.FAILURE
    assert isinstance(error_of(report), errors.CycleFound)


def test_update_state_is_sent_at_once(app: Flowq) -> None:
    sent: list[Report] = []

    @app.task(name="slow", bind=True)
    def slow(self: Task) -> int:
        self.update_state(state="HALF", meta={"done": 1})
        return len(sent)

    bundle, item = one(slow.name)
    report = run_item(app.tasks, bundle, item, emit=sent.append)
    assert decode(report.frame) == 1
    assert sent[0].kind == ReportKind.PROGRESS
    assert decode(b"j" + sent[0].frame.lstrip(b"j")) == {"state": "HALF", "meta": {"done": 1}}


# -- errbacks -------------------------------------------------------------------------------


def failed_input() -> list[Input]:
    try:
        raise ValueError("boom", 7)
    except ValueError as exc:
        frame = encode_error(exc, node_id="failed-id", task="broken.task")
    return [Input(1, Bind.PREPEND, None, frame)]


def test_a_new_style_errback_gets_request_exception_and_traceback(app: Flowq) -> None:
    @app.task(name="on_error")
    def on_error(request: Any, exc: Exception, traceback: str, extra: int) -> Any:
        return [request.id, request.task, type(exc).__name__, exc.args, extra, traceback]

    *found, traceback = decode(run(app, on_error, 9, inputs=failed_input()).frame)
    assert found == ["failed-id", "broken.task", "ValueError", ["boom", 7], 9]
    assert "boom" in traceback


def test_an_old_style_errback_gets_the_failed_id(app: Flowq) -> None:
    single = app.task(lambda failed: failed, name="single")
    bound = app.task(lambda self, failed, x: [failed, x], name="bound", bind=True)

    class Classy(Task):
        name = "classy"

        def run(self, failed: str, x: int) -> Any:
            return [failed, x]

    classy = app.register_task(Classy())
    assert decode(run(app, single, inputs=failed_input()).frame) == "failed-id"
    assert decode(run(app, bound, 3, inputs=failed_input()).frame) == ["failed-id", 3]
    assert decode(run(app, classy, 3, inputs=failed_input()).frame) == ["failed-id", 3]


def test_an_errback_with_varargs_is_new_style(app: Flowq) -> None:
    task = app.task(lambda *args: len(args), name="any")
    assert decode(run(app, task, inputs=failed_input()).frame) == 3


# -- hooks ----------------------------------------------------------------------------------


class Recording(Task):
    seen: list[Any] = []

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        self.seen.append(("before", task_id == self.request.id, args, kwargs))

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        self.seen.append(("success", retval))

    def on_failure(
        self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        self.seen.append(("failure", exc, "Traceback" in str(einfo)))

    def on_retry(
        self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        self.seen.append(("retry", exc))

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        self.seen.append(("after", status, retval))


@pytest.fixture
def seen() -> list[Any]:
    Recording.seen = []
    return Recording.seen


def test_hooks_of_a_success_run_in_order(app: Flowq, seen: list[Any]) -> None:
    task = app.task(lambda x: x + 1, name="t", base=Recording)
    run(app, task, 1)
    assert seen == [("before", True, [1], {}), ("success", 2), ("after", "SUCCESS", 2)]


def test_hooks_of_a_failure_and_a_retry(app: Flowq, seen: list[Any]) -> None:
    problem = OSError("x")
    task = app.task(
        lambda: _raise(problem),
        name="t",
        base=Recording,
        autoretry_for=(OSError,),
        max_retries=1,
    )
    run(app, task)
    assert seen[1:] == [("retry", problem), ("after", "RETRY", problem)]
    seen.clear()
    run(app, task, retries=1)
    assert seen[1:] == [("failure", problem, True), ("after", "FAILURE", problem)]


def test_a_failing_hook_changes_nothing_but_before_start(app: Flowq) -> None:
    class Broken(Task):
        def on_success(self, *args: Any) -> None:
            raise RuntimeError("hook")

    class Refusing(Task):
        def before_start(self, *args: Any) -> None:
            raise RuntimeError("not today")

    assert run(app, app.task(lambda: 1, name="a", base=Broken)).kind == ReportKind.SUCCESS
    refused = run(app, app.task(lambda: 1, name="b", base=Refusing))
    assert isinstance(error_of(refused), RuntimeError)


def test_an_overridden_call_wraps_the_body_in_the_same_request(app: Flowq) -> None:
    class Wrapping(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return ["wrapped", super().__call__(*args, **kwargs)]

    task = app.task(lambda self: self.request.id, name="w", bind=True, base=Wrapping)
    assert decode(run(app, task).frame) == ["wrapped", node_id(UID, 2)]


def test_a_task_defined_anew_runs_with_its_new_code(app: Flowq) -> None:
    tasks: dict[str, Any] = {"t": app.task(lambda: "old", name="t")}
    executor = Executor(tasks)
    bundle, item = one("t")
    assert decode(executor.run(bundle, item, bundle.specs[0]).frame) == "old"
    tasks["t"] = Flowq("other", set_as_current=False).task(lambda: "new", name="t")
    assert decode(executor.run(bundle, item, bundle.specs[0]).frame) == "new"


# -- limits and output ----------------------------------------------------------------------


def test_the_soft_limit_is_raised_in_the_body_and_may_be_caught(app: Flowq) -> None:
    def spin(catch: bool) -> str:
        try:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                pass
        except errors.SoftTimeLimitExceeded:
            if not catch:
                raise
            return "cleaned up"
        return "never"

    task = app.task(spin, name="spin")
    executor = Executor(app.tasks, alarm=Alarm())
    bundle, item = one("spin", True, spec={"soft_time_limit": 0.03})
    assert decode(executor.run(bundle, item, bundle.specs[0]).frame) == "cleaned up"
    bundle, item = one(task.name, False, spec={"soft_time_limit": 0.03})
    report = executor.run(bundle, item, bundle.specs[0])
    assert isinstance(error_of(report), errors.SoftTimeLimitExceeded)


def test_a_capture_takes_streams_in_order_and_joins_neighbours() -> None:
    capture.install()
    try:
        held = capture.Capture()
        capture.use_in_thread(held)
        try:
            sys.stdout.write("a\n")
            sys.stdout.write("b\n")
            sys.stderr.write("c\n")
        finally:
            capture.use_in_thread(None)
        assert held.take() == [(1, "a\nb\n"), (2, "c\n")]
        assert held.take() is None
    finally:
        capture.uninstall()


def test_a_capture_stops_at_its_limit() -> None:
    held = capture.Capture()
    held.begin(time.monotonic())
    for _ in range(100):
        held.write(1, "x" * 1024)
    taken = held.take()
    assert taken is not None
    [(_, text)] = taken
    assert len(text) < capture.LIMIT + 100
    assert "left out" in text


def test_a_capture_that_runs_long_sends_what_it_has() -> None:
    sent: list[Any] = []
    held = capture.Capture(sent.append)
    held.begin(time.monotonic() - 1)
    held.write(1, "early \ud800\n")
    held.write(1, "late")
    assert sent == [[(1, "early ?\n")]]
    assert held.take() == [(1, "late")]


def test_a_line_that_is_written_in_pieces_is_sent_whole_unless_its_end_is_long_in_coming() -> None:
    sent: list[Any] = []
    held = capture.Capture(sent.append)
    held.begin(time.monotonic() - 1)
    for piece in ("fetched", " ", "1", "\n"):  # as print("fetched", 1) writes it
        held.write(1, piece)
    assert sent == [[(1, "fetched 1\n")]]
    held.begin(time.monotonic() - 10)
    held.write(1, "no end yet")
    assert sent[1:] == [[(1, "no end yet")]]


def test_outside_of_a_task_streams_go_where_they_went(capsys: pytest.CaptureFixture[str]) -> None:
    capture.install()
    try:
        sys.stdout.write("seen\n")
    finally:
        capture.uninstall()
    assert capsys.readouterr().out == "seen\n"


@pytest.mark.parametrize("apart", [True, False], ids=["in a thread apart", "in this thread"])
def test_a_coroutine_that_is_about_to_begin_is_stopped_too(app: Flowq, apart: bool) -> None:
    began: list[int] = []

    @app.task
    async def soon() -> None:
        began.append(1)

    bundle, item = one(soon.name)
    stops = errors.SoftTimeLimitExceeded("told to stop")

    def in_thread(call: Any, stop: Any) -> Any:
        stop(stops)
        return call()

    made = Executor(app.tasks, in_thread=in_thread if apart else None)
    if not apart:
        made.stop(item, stops)
    report = made.run(bundle, item, bundle.specs[0])
    assert (report.kind, str(error_of(report))) == (ReportKind.FAILURE, "told to stop")
    assert not began
    if not apart:  # the next one is not meant
        _, other = one(soon.name)
        assert made.run(bundle, other, bundle.specs[0]).kind == ReportKind.SUCCESS
    made.close()
