"""`Flowq`: the application object. It owns tasks, settings and a clock, and finds the engine.

Creating one opens nothing and starts nothing: settings files are read at the first look-up, the
engine is made at the first submission.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from flowq import errors
from flowq.app import current
from flowq.app.bound import Bound
from flowq.app.clock import LamportClock
from flowq.app.framework import framework, import_related
from flowq.app.overcelery import OverCelery
from flowq.config import Settings
from flowq.registry import INTERACTIVE, Registry

if TYPE_CHECKING:
    from flowq.app.control import Control
    from flowq.app.result import AsyncResult, GroupResult, ResultSet
    from flowq.app.task import Task as BaseTask
    from flowq.broker.queues import Router


class Flowq(OverCelery):
    """An application: tasks by name, settings, and where runs go.

    Args:
        main: First part of the names of tasks that the program file itself defines.
        broker: Broker URL; none: `FLOWQ_BROKER`, a settings file, or in this process.
        backend: Result backend URL of bare tasks; none: likewise.
        store: Store URL; none: likewise, at last a SQLite file under `.flowq/`.
        include: Modules that define tasks, imported before tasks are looked up.
        config_source: What `config_from_object` takes.
        namespace: Prefix of the names in `config_source`.
        set_as_current: Become the current app of the process.
        task_cls: Base class of this app's tasks, or its import name; none: flowq.Task.
        strict_typing: Check arguments against the function's signature at each call.
        conf: More settings by name.
    """

    #: Base class of tasks when `task_cls` is not given; an import name is looked up when needed.
    task_cls: type[BaseTask] | str | None = None

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        store: str | None = None,
        include: Iterable[str] | str = (),
        config_source: Any = None,
        namespace: str | None = None,
        set_as_current: bool = True,
        task_cls: type[BaseTask] | str | None = None,
        strict_typing: bool = True,
        **conf: Any,
    ) -> None:
        urls = {"broker_url": broker, "result_backend": backend, "store_url": store}
        self.main = main
        #: Settings in force; see `flowq.config`.
        self.conf = Settings(conf, **{k: v for k, v in urls.items() if v is not None})
        if include:
            self.conf.include = include
        if config_source is not None:
            self.conf.config_from_object(config_source, namespace=namespace)
        #: Lamport clock, carried in messages and events.
        self.clock = LamportClock()
        self.strict_typing = strict_typing
        self.finalized = False
        if task_cls is not None:
            self.task_cls = task_cls
        self._tasks = Registry()
        self._router: Router | None = None
        self._declared: dict[str, BaseTask] = {}
        self._engine_now: Any = None
        self._engine_pid = os.getpid()
        #: A parent's engine, kept from being collected: closing its files here would be felt there.
        self._left_behind: Any = None
        self._loaded = False
        self._lock = threading.RLock()
        self._session_source: Any = None
        self.framework = framework()
        #: Arguments of `autodiscover_tasks` calls that wait for `load`.
        self._to_discover: list[tuple[Any, str]] = []
        if set_as_current:
            self.set_current()
        current.announce(self)
        self.on_init()

    def on_init(self) -> None:
        """Hook for subclasses, called at the end of creation."""

    # -- current app ------------------------------------------------------------------------

    def set_current(self) -> None:
        """Make this the current app of the process."""
        current.set_current(self)

    set_default = set_current

    # -- tasks ------------------------------------------------------------------------------

    @property
    def tasks(self) -> Registry:
        """Tasks by name, the built-in and the shared ones among them."""
        if not self.finalized:
            self.finalize()
        return self._tasks

    def finalize(self) -> None:
        """Register the built-in and the shared tasks. Repeating: does nothing."""
        with self._lock:
            if self.finalized:
                return
            self.finalized = True
            from flowq.app import builtins

            builtins.register(self)
            for register in current.shared():
                register(self)

    def load(self) -> None:
        """Import the modules named in `imports` and `include`, once, so that their tasks are known.

        Raises:
            errors.ImproperlyConfigured: A module does not exist; the import error is chained.
        """
        with self._lock:
            if self._loaded:
                return
            self._loaded = True
        if self.framework is not None:
            self.framework.set_up()
        while self._to_discover:
            import_related(self.framework, *self._to_discover.pop(0))
        for module in [*self.conf.imports, *self.conf.include]:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as problem:
                self._loaded = False
                raise errors.ImproperlyConfigured(
                    f"the app {self.main!r} includes the module {module!r}, which cannot be "
                    f"imported: {problem}; correct include= or the folder you start from"
                ) from problem
        annotations = self.conf.task_annotations
        if annotations:
            from flowq.app.making import annotate

            for task in self.tasks.values():
                annotate(task, annotations)

    @property
    def Task(self) -> type[BaseTask]:
        """Base class of this app's tasks; subclass it for class-based tasks."""
        base = self.task_cls
        if base is None and self.framework is not None:
            base = self.framework.task_cls
        if base is None:
            from flowq.app.task import Task

            return Task
        if isinstance(base, str):
            module, _, name = base.replace(":", ".").rpartition(".")
            found: type[BaseTask] = getattr(importlib.import_module(module), name)
            return found
        return base

    @overload
    def task(self, fun: Callable[..., Any], /, **options: Any) -> BaseTask: ...

    @overload
    def task(self, **options: Any) -> Callable[[Callable[..., Any]], BaseTask]: ...

    def task(self, *args: Any, **options: Any) -> Any:  # type: ignore[misc]
        """Make a task of a callable: ``@app.task`` or ``@app.task(name=..., bind=True, ...)``.

        Takes functions, lambdas and partials (with `name=`), callable objects, built-in functions,
        and Task classes. Options become attributes of the task; `base=` is its class.

        Raises:
            errors.AlreadyRegistered: The name belongs to another function.
            errors.CanvasError: Another decorator stands above ``@app.task``, or it was applied
                twice.
        """
        if args and not callable(args[0]):
            raise errors.ImproperlyConfigured(
                f"app.task() takes a callable, not {args[0]!r}; give options by keyword"
            )
        if len(args) > 1:
            raise errors.ImproperlyConfigured("app.task() takes one callable and keyword options")
        if args:
            return self._task_from_fun(args[0], **options)
        return functools.partial(self._task_from_fun, **options)

    def _task_from_fun(
        self,
        fun: Callable[..., Any],
        name: str | None = None,
        base: type[BaseTask] | None = None,
        bind: bool = False,
        **options: Any,
    ) -> BaseTask:
        from flowq.app.making import make_task

        task = make_task(self, fun, name=name, base=base, bind=bind, **options)
        return self._register(task)

    def register_task(self, task: Any, **options: Any) -> BaseTask:
        """Register a class-based task, given as a class or an object; returns the task.

        Repeating: the same class again replaces the task; a different one under its name is
            refused.
        """
        from flowq.app.making import adopt

        return self._register(adopt(self, task, **options))

    def _register(self, task: BaseTask) -> BaseTask:
        with self._lock:
            stub = self._declared.pop(task.name, None)
            if stub is not None:  # somebody holds the stand-in: it becomes the task
                stub._become(task)
                task = stub
            return self._tasks.register(task)  # type: ignore[no-any-return]

    def _declare(self, name: str) -> BaseTask:
        """A stand-in for a task that is not defined yet; it becomes that task when it is.

        For unpickling: functions that a pool child gets may name tasks that come after them.
        """
        from flowq.app.making import declared_task

        with self._lock:
            if name in self.tasks:
                return self._tasks[name]  # type: ignore[no-any-return]
            if name not in self._declared:
                self._declared[name] = declared_task(self, name)
            return self._declared[name]

    def gen_task_name(self, name: str, module: str, file: str = "") -> str:
        """Name a task: `module.name`, in the program itself `main.name`.

        The program is the module `__main__`, the file that `flowq run` was pointed at, and cells.
        With a broker, tasks of that file are named after it, as a worker that imports it does.
        """
        program = current.program_file()
        loaded = bool(program) and file == program and not self.conf.has_fleet
        if module == "__main__" or file == INTERACTIVE or loaded:
            return f"{self.main or _program_stem()}.{name}"
        return f"{module}.{name}"

    def autodiscover_tasks(
        self,
        packages: Iterable[str] | Callable[[], Iterable[str]] = (),
        related_name: str = "tasks",
    ) -> None:
        """Import `<package>.<related_name>` of each package that has it.

        It is done now; in a Django project when tasks are looked up, for models can be imported
        only then.

        Args:
            packages: Import names, or a function that gives them; none: Django's installed apps.
            related_name: Module to import; empty: the package itself.
        """
        if self.framework is not None and not self._loaded:
            self._to_discover.append((packages, related_name))
        else:
            import_related(self.framework, packages, related_name)

    def config_from_object(
        self, obj: Any, *, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Take settings from an object, a module or an import name; `force` reads it now."""
        self.conf.config_from_object(obj, silent=silent, namespace=namespace)
        if force:
            self.conf.source("broker_url")

    @property
    def control(self) -> Control:
        """Looks at workers and steers them: ``app.control.inspect().active()``, ``.revoke(id)``."""
        from flowq.app.control import Control

        return Control(self)

    # -- making values ----------------------------------------------------------------------

    def signature(self, *args: Any, **kwargs: Any) -> Any:
        """A signature bound to this app, from a name, a task, a dict or another signature."""
        from flowq.app.canvas import signature

        return signature(*args, app=self, **kwargs)

    @property
    def AsyncResult(self) -> Bound[AsyncResult]:
        """The class, bound: the result of a node or bare task by its id; asks nobody yet."""
        from flowq.app.result import AsyncResult

        return Bound(self, AsyncResult)

    @property
    def GroupResult(self) -> Bound[GroupResult]:
        """The class, bound. Without `results` the members are looked up by the id when needed."""
        from flowq.app.result import GroupResult

        return Bound(self, GroupResult)

    @property
    def ResultSet(self) -> Bound[ResultSet]:
        """The class, bound: results to be waited for together."""
        from flowq.app.result import ResultSet

        return Bound(self, ResultSet)

    # -- running ----------------------------------------------------------------------------

    def _engine(self) -> Any:
        """The engine of this app in this process; the first call makes it and loads `include`."""
        if self._engine_now is None or self._engine_pid != os.getpid():
            with self._lock:
                if self._engine_pid != os.getpid():  # forked: that engine is the parent's
                    self._left_behind, self._engine_now = self._engine_now, None
                if self._engine_now is None:
                    self.load()
                    make = current.engine_factory() or self._engine_class()
                    self._engine_pid, self._engine_now = os.getpid(), make(self)
        return self._engine_now

    def _engine_class(self) -> Callable[[Flowq], Any]:
        """Who does the work: this process, or with a broker that leads elsewhere, a fleet."""
        if self.conf.has_fleet:
            from flowq.app.fleet import FleetEngine

            return FleetEngine
        from flowq.app.embedded import Engine

        return Engine

    @property
    def router(self) -> Router:
        """The queues there are, and the way of each task to one; made at the first look."""
        if self._router is None:
            from flowq.broker.queues import Router

            self._router = Router(self.conf)
        return self._router

    def submit(
        self,
        canvas: Any,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        tags: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        session: Any = None,
        target: str | None = None,
    ) -> Any:
        """Submit a canvas or a flow and return its Run.

        Args:
            canvas: A signature, a composition of them, or a Flow.
            args: Prepended to the arguments of the canvas, as at any call.
            kwargs: Merged over the keyword arguments of the canvas.
            name: Name of the run in lists.
            tags: Marks to find the run by.
            idempotency_key: A second submission of the same canvas under it gives the same run.
            session: SQLAlchemy session on the store's database; the run exists if it commits.
            target: What `flowq resume` has to load, when it is not the program file.

        Raises:
            errors.CanvasError: The canvas cannot be compiled; nothing was stored.
            errors.IdempotencyConflict: The key was used for another canvas.
        """
        return self._engine().submit(
            canvas,
            tuple(args),
            dict(kwargs or {}),
            name=name,
            tags=tags or {},
            idempotency_key=idempotency_key,
            session=session,
            target=target,
        )

    def use_session(self, source: Any) -> None:
        """Say which SQLAlchemy session `*_on_commit` goes by where none is given.

        Args:
            source: A scoped session, or a function without arguments that returns the session in
                use, or None where there is none. None: there is none.
        """
        self._session_source = source

    def _current_session(self) -> Any:
        return self._session_source() if self._session_source is not None else None

    def send_task(
        self,
        name: str,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send a task by name, known here or not; takes what ``apply_async`` takes."""
        from flowq.app.calling import send

        return send(self, name, tuple(args or ()), dict(kwargs or {}), options)

    def runs(self, **filters: Any) -> Any:
        """Runs in the store, the latest first; takes what the engine's `runs` takes."""
        return self._engine().runs(**filters)

    def run(self, ref: str) -> Any:
        """One run by id, unique prefix, `@last` or name; raises errors.UnknownId."""
        return self._engine().run(ref)

    def defines_module(self, module: str) -> bool:
        """Whether a task of this app is defined in a module; exceptions of such may be rebuilt."""
        return any(t.__module__ == module for t in self._tasks.values())

    def close(self) -> None:
        """Stop the engine, if there is one. Repeating: does nothing; a later call starts anew."""
        with self._lock:
            engine, self._engine_now = self._engine_now, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> Flowq:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        return _app_by_main, (self.main,)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.main or '__main__'}>"


def _app_by_main(main: str | None) -> Flowq:
    """Unpickle an app: the one of that name in this process, made if there is none."""
    return current.app_named(main) or Flowq(main)


def _task_by_name(main: str | None, name: str) -> BaseTask:
    """Unpickle a task: that of the app in this process; a stand-in when it is not defined yet."""
    return _app_by_main(main)._declare(name)


def _program_stem() -> str:
    file = current.program_file() or getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).stem if file else "__main__"


current.set_default_maker(lambda: Flowq("default", set_as_current=False))
