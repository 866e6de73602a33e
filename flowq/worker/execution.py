"""Run one item and say what came of it.

Whatever the body does (raises anything, exits, returns what cannot be serialised), the answer is
one report; the result is encoded before the attempt counts as a success. Hooks run here, with
``self.request`` in place; a hook that fails is logged and changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from flowq import errors
from flowq.broker.codec import Report, ReportKind
from flowq.payload import (
    DEFAULT_ACCEPT,
    MAX_BYTES,
    NONE,
    encode,
    encode_args,
    encode_error,
)
from flowq.payload.failure import format_exception
from flowq.payload.plain import to_wire_json
from flowq.worker import retrying
from flowq.worker.alarm import Timer, hard_limit, soft_limit, told_to_stop
from flowq.worker.call import NodeContext, error_arguments, fill, id_of
from flowq.worker.plan import Plan
from flowq.worker.request import pop, push

if TYPE_CHECKING:
    from flowq.broker.codec import Bundle, Item
    from flowq.core.graph import Spec
    from flowq.worker.coroutines import Coroutines

_log = logging.getLogger("flowq.worker")

_SUCCESS: Final = ReportKind.SUCCESS
_FAILURE: Final = ReportKind.FAILURE


_json = msgspec.json.Encoder().encode

#: Raises something in the coroutine that runs, from another thread.
Stop = Callable[[BaseException], None]


class Ended(BaseException):
    """Raised in a coroutine to end it: not an Exception, so that its body does not go on.

    Args:
        error: What its task fails with; None makes it LOST ("terminated").
    """

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(error)
        self.error = error


class ExceptionInfo:
    """What hooks get as `einfo`: the exception, its type and its traceback as text."""

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception
        self.type = type(exception)
        self.traceback = format_exception(exception)
        self.tb = exception.__traceback__

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"


class Executor:
    """Runs items, one at a time; each pool child and pool thread has its own.

    Args:
        tasks: Task name -> task; read at each item, so a definition may change.
        hostname: What ``self.request.hostname`` says.
        compile_fragment: Makes the bytes of an EXTEND report of the canvas given to replace().
        accept: Serializers that payloads may use.
        clock: Epoch seconds.
        emit: Takes a report that must not wait for the item's end; None drops those.
        alarm: Raises SoftTimeLimitExceeded in the body; None where that is impossible.
        max_bytes: Largest result.
        explain: Adds to "not registered" what is known of the reason.
        in_thread: Calls the first function elsewhere and gives its result, for coroutines where
            this thread cannot have an event loop; the second ends the coroutine.
    """

    def __init__(
        self,
        tasks: Mapping[str, Any],
        *,
        hostname: str = "",
        compile_fragment: Callable[[Any], bytes] | None = None,
        accept: Collection[str] = DEFAULT_ACCEPT,
        clock: Callable[[], float] = time.time,
        emit: Callable[[Report], None] | None = None,
        alarm: Timer | None = None,
        max_bytes: int = MAX_BYTES,
        explain: Callable[[str, errors.NotRegistered], errors.NotRegistered] | None = None,
        in_thread: Callable[[Callable[[], Report], Stop], Report] | None = None,
    ) -> None:
        self._explain = explain
        self._in_thread = in_thread
        self.tasks = tasks
        self._hostname = hostname
        self._compile_fragment = compile_fragment
        self._accept = accept
        self._clock = clock
        self._emit = emit
        self._alarm = alarm
        self._max_bytes = max_bytes
        #: Made when the first coroutine comes.
        self._coroutines: Coroutines | None = None
        self._in_body = False
        #: An item, and what was last asked to be raised in its coroutine.
        self._told: tuple[Item, BaseException] | None = None
        self._plans: dict[str, Plan] = {}
        self._modules: tuple[int, frozenset[str]] = (-1, frozenset())

    def run(self, bundle: Bundle, item: Item, spec: Spec) -> Report:
        """Run one item; never raises.

        Repeating: runs the body again.
        """
        context = NodeContext(bundle, item, spec, self._hostname, self._clock(), self._emit)
        try:
            plan = self._plan(spec.task)
            call = fill(item, self._accept, self.is_known_module)
            if call.failed is None:
                context.args = call.args
            else:
                context.args = error_arguments(call, plan.takes_error, self.is_known_module)
            context.kwargs = call.kwargs
        except Exception as exc:  # unknown task, broken frames: the node's failure, not ours
            return self._report(context, _FAILURE, self._error(context, exc))
        if plan.is_async and self._in_thread is not None:
            return self._in_thread(
                lambda: self._begin(plan, context), lambda exc: self.stop(item, exc)
            )
        return self._begin(plan, context)

    def _begin(self, plan: Plan, context: NodeContext) -> Report:
        push(plan.task, context)
        try:
            return self._attempt(plan, context)
        except BaseException as exc:  # a late alarm or interrupt between body and report
            return self._report(context, _FAILURE, self._error(context, exc))
        finally:
            pop()

    def _attempt(self, plan: Plan, context: NodeContext) -> Report:
        args, kwargs = context.args, context.kwargs
        try:
            if plan.before_start is not None:
                plan.before_start(context.id, args, kwargs)
            value = self._body(plan, context, args, kwargs)
        except BaseException as exc:
            return self._raised(plan, context, exc)
        try:
            frame = self._encode(value, context.spec)
        except errors.EncodeError as exc:
            return self._failed(plan, context, exc)
        report = self._report(context, _SUCCESS, frame)
        if plan.on_success is not None:
            _hook(plan.on_success, value, context.id, args, kwargs)
        if plan.after_return is not None:
            _hook(plan.after_return, "SUCCESS", value, context.id, args, kwargs, None)
        return report

    def _body(
        self, plan: Plan, context: NodeContext, args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        limit = context.spec.soft_time_limit
        self._in_body = True
        try:
            if plan.is_async:
                return self._complete(plan.body(*args, **kwargs), context)
            if limit and self._alarm is not None:
                with self._alarm.after(limit):
                    return plan.body(*args, **kwargs)
            return plan.body(*args, **kwargs)
        finally:
            self._in_body = False

    def _complete(self, coroutine: Any, context: NodeContext) -> Any:
        coroutines = self._coroutines
        if coroutines is None:
            # asyncio takes longer to import than everything else here together
            from flowq.worker.coroutines import Coroutines

            coroutines = self._coroutines = Coroutines()
        spec, item = context.spec, context.item
        limit, hard = spec.soft_time_limit, spec.time_limit
        alarms: list[tuple[float, Callable[[], BaseException]]] = []
        if limit:
            alarms.append((limit, lambda: soft_limit(limit)))
        if self._in_thread is not None:  # whichever thread: its loop goes when this is done
            try:
                return coroutines.run(coroutine, alarms, item, partial(self._told_of, item))
            finally:
                coroutines.close()
        if self._alarm is None:  # nobody outside can end it either
            if hard:
                alarms.append((hard, lambda: Ended(hard_limit(spec.task, hard))))
            return coroutines.run(coroutine, alarms, item, partial(self._told_of, item))
        if not limit:
            return coroutines.run(coroutine, (), item)
        with self._alarm.after(limit, self._divert):
            return coroutines.run(coroutine, (), item)

    def _divert(self, exc: BaseException) -> None:
        """Raise in the body, from a signal handler: also where a coroutine waits."""
        call = self._coroutines.call if self._coroutines is not None else None
        if call is None:
            raise exc
        call.interrupt(exc)

    def stop(self, item: Item, exc: BaseException) -> None:
        """Raise something in the coroutine that an item is in, or is about to begin.

        From any thread. Does nothing where the item is no coroutine, or not running any more.
        """
        self._told = (item, exc)  # before the look: who begins meanwhile looks at this
        call = self._coroutines.call if self._coroutines is not None else None
        if call is not None and call.owner is item:
            call.stop(exc)

    def _told_of(self, item: Item) -> BaseException | None:
        told = self._told
        return told[1] if told is not None and told[0] is item else None

    def close(self) -> None:
        """Close the event loop, if there is one. A second call does nothing."""
        if self._coroutines is not None:
            self._coroutines.close()

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise SoftTimeLimitExceeded in the body that runs; a signal handler."""
        if self._in_body:
            self._divert(told_to_stop(number))

    def _encode(self, value: object, spec: Spec) -> bytes:
        if value is None:
            return NONE
        try:
            return encode(value, spec.serializer, max_bytes=self._max_bytes, where="the result")
        except errors.EncodeError:
            if spec.ignore_result:
                return b""  # nobody reads it; an empty frame says that there is no value
            raise

    # -- ends that are no success ---------------------------------------------------------------

    def _raised(self, plan: Plan, context: NodeContext, exc: BaseException) -> Report:
        if isinstance(exc, Ended):
            return self._ended_early(plan, context, exc)
        if isinstance(exc, errors.Ignore):
            return self._report(context, ReportKind.IGNORED)
        if isinstance(exc, errors.Reject) and exc.requeue:
            return self._report(context, ReportKind.RETURNED)
        try:
            if isinstance(exc, errors.Replaced):
                return self._replaced(context, exc)
            retry = exc if isinstance(exc, errors.Retry) else None
            if retry is None:
                retry = retrying.autoretry(plan.task, exc, context.retries)
            if retry is not None:
                return self._retried(plan, context, exc, retry)
        except Exception as broken:  # new arguments or a replacement that cannot be encoded
            exc = broken
        return self._failed(plan, context, exc)

    def _ended_early(self, plan: Plan, context: NodeContext, ended: Ended) -> Report:
        if ended.error is not None:
            error = ended.error.with_traceback(ended.__traceback__)
            return self._failed(plan, context, error)
        report = self._report(context, ReportKind.LOST)
        report.extra = "terminated"
        return report

    def _replaced(self, context: NodeContext, exc: errors.Replaced) -> Report:
        if self._compile_fragment is None:
            raise errors.CanvasError("this worker cannot replace a task; run it through an app")
        try:
            fragment = self._compile_fragment(exc.canvas)
        except errors.NotRegistered:
            if context.item.run or not context.item.request:
                raise
            fragment = b""  # it came as a message: its worker sends the canvas by name
        report = self._report(context, ReportKind.EXTEND, fragment)
        if not context.item.run:  # a bare task: what follows it is in its message
            try:
                report.args = to_wire_json(exc.canvas, "the canvas")
            except errors.EncodeError as error:
                report.extra = f"a coordinator, for it cannot be sent: {error}"
        return report

    def _retried(
        self, plan: Plan, context: NodeContext, exc: BaseException, retry: errors.Retry
    ) -> Report:
        delay = retrying.asked_delay(plan.task, retry.when)
        args = b""
        if retry.new_args is not None or retry.new_kwargs is not None:
            args = encode_args(
                context.args if retry.new_args is None else retry.new_args,
                context.kwargs if retry.new_kwargs is None else retry.new_kwargs,
                context.spec.serializer,
                max_bytes=self._max_bytes,
            )
        reason = retry.exc if isinstance(retry.exc, BaseException) else exc
        report = self._report(context, ReportKind.RETRY, self._error(context, reason))
        report.extra = delay
        report.args = args
        _ended(plan.on_retry, plan.after_return, "RETRY", context, reason)
        return report

    def _failed(self, plan: Plan, context: NodeContext, exc: BaseException) -> Report:
        if isinstance(exc, SystemExit):  # its process stays, but whoever reads it knows this name
            exc = errors.WorkerLostError(f"it called sys.exit({exc.code!r})").with_traceback(
                exc.__traceback__
            )
        report = self._report(context, _FAILURE, self._error(context, exc))
        _ended(plan.on_failure, plan.after_return, "FAILURE", context, exc)
        return report

    # -- parts ------------------------------------------------------------------------------

    def _plan(self, name: str) -> Plan:
        task = self.tasks.get(name)
        plan = self._plans.get(name)
        if plan is not None and plan.task is task and task is not None:
            return plan
        if task is None:
            task = self._missing(name)
        plan = self._plans[name] = Plan(task)
        return plan

    def _missing(self, name: str) -> Any:
        """Raise NotRegistered with near names; a registry says it itself."""
        try:
            return self.tasks[name]
        except errors.NotRegistered as exc:
            unknown = exc
        except KeyError:
            unknown = errors.NotRegistered(f"no task is registered as {name!r}")
        raise unknown if self._explain is None else self._explain(name, unknown)

    def is_known_module(self, module: str) -> bool:
        """Whether a module defines a registered task, so that its exceptions may be rebuilt."""
        count, known = self._modules
        if count != len(self.tasks):
            known = frozenset(
                str(getattr(task, "__module__", "")) for task in list(self.tasks.values())
            )
            self._modules = (len(self.tasks), known)
        return module in known

    def _error(self, context: NodeContext, exc: BaseException) -> bytes:
        node = id_of(context.bundle, context.item)
        return encode_error(exc, node_id=node, task=context.spec.task)

    def _report(self, context: NodeContext, kind: ReportKind, frame: bytes = b"") -> Report:
        item = context.item
        ended = self._clock()
        report = Report(
            item.run, item.idx, item.attempt, kind, context.began, ended, frame, id=item.id
        )
        if not item.run and "_children" in context.__dict__:
            report.args = _json([[[str(child.id), None], None] for child in context.children])
        return report


def _ended(
    hook: Callable[..., Any] | None,
    after_return: Callable[..., Any] | None,
    status: str,
    context: NodeContext,
    exc: BaseException,
) -> None:
    """Call the hooks of an attempt that ended with an exception."""
    if hook is None and after_return is None:
        return
    info = ExceptionInfo(exc)
    asked = (context.id, context.args, context.kwargs, info)
    if hook is not None:
        _hook(hook, exc, *asked)
    if after_return is not None:
        _hook(after_return, status, exc, *asked)


def _hook(hook: Callable[..., Any], *args: Any) -> None:
    """Call a user's hook; what it raises is logged and changes nothing."""
    try:
        hook(*args)
    except Exception:
        _log.exception("the hook %s failed", getattr(hook, "__qualname__", hook))


def run_item(
    tasks: Mapping[str, Any],
    bundle: Bundle,
    item: Item,
    *,
    hostname: str = "",
    compile_fragment: Callable[[Any], bytes] | None = None,
    accept: Collection[str] = DEFAULT_ACCEPT,
    clock: Callable[[], float] = time.time,
    emit: Callable[[Report], None] | None = None,
) -> Report:
    """Run one item in this thread and give its report; for single calls, see `Executor`."""
    executor = Executor(
        tasks,
        hostname=hostname,
        compile_fragment=compile_fragment,
        accept=accept,
        clock=clock,
        emit=emit,
    )
    try:
        return executor.run(bundle, item, bundle.specs[item.spec])
    finally:
        executor.close()
