"""`Task`: a registered callable, and everything that can be done with it.

Attributes are Celery's. Those that a setting gives a default to are read from the app's settings
when they are asked for, so a setting changed after the task was made still counts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from flowq import errors
from flowq.app import current
from flowq.app.alike import Defined
from flowq.app.display import Shown
from flowq.app.oncommit import TaskOnCommit
from flowq.worker import request as calls
from flowq.worker.request import Context, RequestStack

if TYPE_CHECKING:
    from flowq.app.result import AsyncResult, EagerResult


class _FromSetting:
    """An attribute whose default is a setting of the task's app."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def __get__(self, task: Any, owner: type | None = None) -> Any:
        return None if task is None else task.app.conf[self.setting]


def is_from_setting(attribute: Any) -> bool:
    """Whether a class attribute takes its value from a setting."""
    return isinstance(attribute, _FromSetting)


class _CurrentApp:
    """The app of a task that was not registered in one."""

    def __get__(self, task: Any, owner: type | None = None) -> Any:
        return current.get_current()


#: Attributes that, where they are set, become options of each call.
_CALL_OPTIONS = (
    "queue",
    "exchange",
    "routing_key",
    "priority",
    "expires",
    "serializer",
    "compression",
    "delivery_mode",
    "time_limit",
    "soft_time_limit",
    "ignore_result",
)


class Task(Defined, TaskOnCommit, Shown):
    """A task. Make one with ``@app.task``, or subclass it, define `run`, and `register_task` it."""

    #: Unique name; made of module and function when not given.
    name: Any = None
    #: The app it belongs to.
    app: Any = _CurrentApp()
    #: Whether arguments are checked at the call; None: as the app says.
    typing: bool | None = None
    #: Retries by `self.retry` and autoretry before giving up; None: without limit.
    max_retries: int | None = 3
    #: Seconds before a retry that names no delay.
    default_retry_delay: float = 180
    #: Exceptions that cause a retry by themselves.
    autoretry_for: ClassVar[Any] = ()
    #: Exceptions that never do, though `autoretry_for` covers them.
    dont_autoretry_for: ClassVar[Any] = ()
    #: Arguments of those retries: max_retries, countdown ...
    retry_kwargs: ClassVar[dict[str, Any]] = {}
    #: True or a factor in seconds: each automatic retry waits twice as long as the one before.
    retry_backoff: Any = False
    #: Longest wait of a backoff, in seconds.
    retry_backoff_max: float = 600
    #: Whether a backoff is drawn at random between nothing and its full length.
    retry_jitter: bool = True
    #: Deaths of a worker process with this task in it before it fails; 0: never run again.
    max_crashes: Any = _FromSetting("max_crashes")
    #: Exceptions that are no surprise: logged without a traceback.
    throws: ClassVar[Any] = ()
    #: Whether to keep no result.
    ignore_result: Any = _FromSetting("task_ignore_result")
    store_errors_even_if_ignored: Any = _FromSetting("task_store_errors_even_if_ignored")
    store_eager_result: Any = _FromSetting("task_store_eager_result")
    track_started: Any = _FromSetting("task_track_started")
    backend: Any = None  #: URL of its own result backend, for calls of the task alone
    acks_late: Any = _FromSetting("task_acks_late")
    acks_on_failure_or_timeout: Any = _FromSetting("task_acks_on_failure_or_timeout")
    reject_on_worker_lost: Any = _FromSetting("task_reject_on_worker_lost")
    #: How often it may begin on each worker: 10, "10/s", "10/m", "10/h".
    rate_limit: Any = _FromSetting("task_default_rate_limit")
    #: How often it may begin in the whole fleet; for nodes of runs.
    global_rate_limit: Any = None
    #: Seconds before the process is killed; None: no limit.
    time_limit: Any = _FromSetting("task_time_limit")
    #: Seconds before SoftTimeLimitExceeded is raised in the task; None: no limit.
    soft_time_limit: Any = _FromSetting("task_soft_time_limit")
    serializer: Any = _FromSetting("task_serializer")
    compression: Any = _FromSetting("task_compression")
    priority: Any = _FromSetting("task_default_priority")
    queue: Any = None
    exchange: Any = None
    routing_key: Any = None
    delivery_mode: Any = None
    expires: Any = None
    #: Whether a single call is a persisted run too.
    durable: bool = False
    #: Longest repr of a result in logs.
    resultrepr_maxsize: int = 1024
    send_events: bool = True
    #: Whether calls made inside count as children of the result.
    trail: bool = True
    Request: Any = None
    Strategy: Any = None

    _head: Callable[..., None] | None = None
    _head_made = False
    _bound: bool = True

    # -- running here -----------------------------------------------------------------------

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The body; class-based tasks define it."""
        raise NotImplementedError(f"the task class {type(self).__name__} must define run()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body in this process, now, and return or raise what it does."""
        top = calls.current()
        if (
            top is not None
            and not top.called_directly
            and "_entered" not in top.__dict__
            and calls.of(self) is top
        ):  # a worker's call that went through an overridden __call__ is still that call
            top.__dict__["_entered"] = True
            return self.run(*args, **kwargs)
        calls.push(self, Context(args=args, kwargs=kwargs))
        try:
            return self.run(*args, **kwargs)
        finally:
            calls.pop()

    @property
    def request(self) -> Context:
        """What is known of the call that runs; an empty Context outside of one."""
        return calls.of(self) or Context()

    @property
    def request_stack(self) -> RequestStack:
        """This task's view of the thread's stack of calls."""
        return RequestStack(self)

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Begin a call by hand, with these fields; tests use it."""
        calls.push(self, Context(*args, **kwargs))

    def pop_request(self) -> None:
        """End the call that `push_request` began."""
        calls.pop()

    def apply(
        self, args: Any = None, kwargs: Any = None, *, throw: bool | None = None, **options: Any
    ) -> EagerResult:
        """Run the task in this process as a worker would: retries, links and hooks included.

        `throw`: raise the task's error here; None: as `task_eager_propagates` says.
        """
        from flowq.app.eager import apply_task

        return apply_task(self, tuple(args or ()), dict(kwargs or {}), throw=throw, **options)

    # -- sending ----------------------------------------------------------------------------

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult:
        """Send the task with these arguments; ``apply_async`` takes options too."""
        from flowq.app.calling import send

        self.check_arguments(args, kwargs)
        sent: AsyncResult = send(self.app, self.name, args, kwargs, {}, task=self)
        return sent

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult:
        """Send the task.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
            task_id: Id to give it; none: a new one.
            producer: Accepted for Celery's sake.
            link: Signature, or list of them, to run with the result.
            link_error: Signature, or list of them, to run if it fails.
            shadow: Name to show instead of its own.
            options: countdown (seconds), eta (datetime), expires (seconds or datetime), queue,
                priority, serializer, compression, ignore_result, time_limit, soft_time_limit,
                headers, durable (make it a persisted run), run_name, tags and idempotency_key of
                that run, and what a broker takes.

        Raises:
            TypeError: The arguments do not fit the function.
            errors.UnserialisableArgument: An argument cannot travel; the text says what to pass.
        """
        from flowq.app.calling import send

        args = tuple(args or ())
        kwargs = dict(kwargs or {})
        self.check_arguments(args, kwargs)
        shadow = shadow or self.shadow_name(args, kwargs, options)
        given = {"task_id": task_id, "shadow": shadow, "link": link, "link_error": link_error}
        options.update({key: value for key, value in given.items() if value})
        sent: AsyncResult = send(self.app, self.name, args, kwargs, options, task=self)
        return sent

    def check_arguments(self, args: Any, kwargs: Any) -> None:
        """Raise TypeError when the arguments do not fit the function's signature."""
        if self._head is None:
            if self._head_made:
                return
            self._make_head()
            if self._head is None:
                return
        self._head(*args, **kwargs)

    def _make_head(self) -> None:
        self._head_made = True
        typing = self.typing
        if typing if typing is not None else self.app.strict_typing:
            from flowq.app.making import head_of

            self._head = head_of(self.run, str(self.name).rpartition(".")[2])

    def exec_options(self) -> dict[str, Any]:
        """Options of a call that names none: those attributes that are set."""
        found = {}
        for key in _CALL_OPTIONS:
            value = getattr(self, key)
            if value is not None:
                found[key] = value
        return found

    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str | None:
        """Hook: another name to show for a call; None for the task's own."""
        return None

    # -- signatures -------------------------------------------------------------------------

    def signature(self, args: Any = None, *more: Any, **options: Any) -> Any:
        """A signature of this task: arguments as a sequence, then options, as in Celery."""
        from flowq.app.canvas import Signature

        sig = Signature(self.name, args, *more, **options)
        sig._app = self.app
        return sig

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Any:
        """A signature with these arguments; a parent's result is prepended."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Any:
        """An immutable signature: it ignores its parent's result."""
        return self.signature(args, kwargs, immutable=True)

    def map(self, it: Iterable[Any]) -> Any:
        """One node that calls the task for each item."""
        from flowq.app.canvas import xmap

        return xmap(self.s(), it)

    def starmap(self, it: Iterable[Any]) -> Any:
        """One node that calls the task for each item, a sequence of arguments."""
        from flowq.app.canvas import xstarmap

        return xstarmap(self.s(), it)

    def chunks(self, it: Iterable[Any], n: int) -> Any:
        """A group of nodes that call the task for `n` items each."""
        from flowq.app.canvas import chunks

        return chunks(self.s(), it, n)

    def expand(self, **options: Any) -> Any:
        """Fan out at run time: this task for each item of the list that arrives."""
        from flowq.app.canvas import expand

        return expand(self.s(), **options)

    def signature_from_request(
        self,
        request: Any = None,
        args: Any = None,
        kwargs: Any = None,
        queue: str | None = None,
        **extra: Any,
    ) -> Any:
        """A signature of the call that runs, with other arguments where they are given."""
        context = request or self.request
        options = {"task_id": context.id, "headers": context.headers, "queue": queue, **extra}
        sig = self.signature(
            context.args if args is None else args,
            dict((context.kwargs if kwargs is None else kwargs) or {}),
        )
        return sig.set(**{k: v for k, v in options.items() if v is not None})

    subtask_from_request = signature_from_request

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult:
        """The result of a call of this task by its id."""
        found: AsyncResult = self.app.AsyncResult(task_id, task_name=self.name, **kwargs)
        return found

    # -- inside a running task ------------------------------------------------------------------

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> errors.Retry:
        """Ask for another attempt of the call that runs. It does not come back: it raises.

        Args:
            args: Other positional arguments for the next attempt; None keeps them.
            kwargs: Other keyword arguments; None keeps them.
            exc: Why; raised when no retries are left.
            throw: False returns the signal instead, for ``raise self.retry(throw=False)``.
            eta: When; a time without a zone is UTC.
            countdown: Seconds from now; without both, `default_retry_delay`.
            max_retries: Another limit for this call; None keeps the task's.
            options: Kept with the signal.

        Raises:
            errors.Retry: Always, but for the cases below.
            errors.MaxRetriesExceededError: No retries are left and there is no `exc`.
            Exception: `exc`, when no retries are left or the task was called as a function.
        """
        context = self.request
        if context.called_directly:
            _raise_cause(exc or errors.Retry("this task can be retried", None))
        limit = self.max_retries if max_retries is None else max_retries
        if limit is not None and context.retries >= limit:
            if exc is not None:
                _raise_cause(exc)
            raise errors.MaxRetriesExceededError(
                f"the task {self.name}[{context.id}] asked for retry {context.retries + 1}, but "
                f"max_retries is {limit}; raise it, or give retry(exc=...) the error to end with"
            )
        if exc is None:
            pending = sys.exc_info()[1]
            exc = pending if isinstance(pending, Exception) else None
        signal = errors.Retry(
            exc=exc,
            when=_seconds_until(eta, countdown, self.default_retry_delay),
            args=None if args is None else tuple(args),
            kwargs=None if kwargs is None else dict(kwargs),
        )
        signal.options = options  # type: ignore[attr-defined]
        if not throw:
            return signal
        raise signal

    def replace(self, sig: Any) -> Any:
        """Have a canvas take the place of this call: its id, links, group and what follows.

        It does not come back. Eagerly the canvas runs here, and its value is this call's.

        Raises:
            errors.WrongState: Called outside a running task.
            errors.ImproperlyConfigured: The canvas is empty, or it has a chord of its own.
        """
        context = calls.of(self)
        if context is None or context.called_directly:
            raise errors.WrongState(
                f"{self.name}.replace() was called outside a running task; call it in a task with "
                "bind=True that a worker runs"
            )
        from flowq.app.canvas import ready_to_replace

        sig = ready_to_replace(self.app, sig)
        self.on_replace(sig)
        raise errors.Replaced(sig)

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **_: Any
    ) -> None:
        """Show a state of your own, with data, while the task runs; `AsyncResult.info` has it.

        Repeating: the last one counts. It never changes the course of a run.
        """
        context = self.request
        if task_id is not None and task_id != context.id:
            raise errors.WrongState(
                f"update_state() of {task_id}: a task can only show its own state, {context.id}"
            )
        if context.report_progress is not None:
            context.report_progress(state, meta)

    # -- hooks ----------------------------------------------------------------------------------

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Hook: about to run."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Hook: the body returned."""

    def on_retry(
        self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Hook: it will be tried again."""

    def on_failure(
        self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Hook: it failed for good."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Hook: it ended, however that was."""

    def on_replace(self, sig: Any) -> None:
        """Hook: a canvas is about to take its place."""

    # -- as a value -----------------------------------------------------------------------------

    @property
    def portable_definition(self) -> tuple[Callable[..., Any], dict[str, Any]] | None:
        """(callable, options) that make this task again by ``app._task_from_fun(fun, **options)``.

        None for class-based tasks, whose class has to travel: see `portable_class`.
        """
        return self._definition

    @property
    def portable_class(self) -> tuple[type[Task], dict[str, Any] | None, dict[str, Any]]:
        """(class, state, options) that make a class-based task again by ``app.register_task``.

        The state is that of the object before it was used; None where a class was registered.
        """
        as_object, options = self._given
        state = self._made_with if as_object else None
        return type(self), state, {**options, "name": self.name}

    def _become(self, other: Task) -> None:
        """Take over another task's class and state; whoever holds this object has that task now."""
        self.__class__ = other.__class__
        self.__dict__.clear()
        self.__dict__.update(other.__dict__)

    def __reduce__(self) -> Any:
        from flowq.app.base import _task_by_name

        return _task_by_name, (self.app.main, self.name)

    def __repr__(self) -> str:
        return f"<@task: {self.name} of {self.app.main or '__main__'}>"


def _seconds_until(eta: datetime | None, countdown: float | None, default: float) -> float:
    if eta is not None:
        moment = eta if eta.tzinfo else eta.replace(tzinfo=UTC)
        return max(0.0, (moment - datetime.now(UTC)).total_seconds())
    return float(default if countdown is None else countdown)


def _raise_cause(exc: BaseException) -> NoReturn:
    """Raise an exception from the one that is being handled, if that is another one."""
    pending = sys.exc_info()[1]
    if pending is None or pending is exc:
        raise exc
    raise exc from pending
