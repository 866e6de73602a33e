"""How pool children come to know the parent's tasks.

Tasks of importable modules: their modules are imported in the zygote, before the first fork. Tasks
of the program file, of ``__main__`` and of notebook cells: their functions are pickled by value and
made tasks again over there. Both ways only over the parent's own pipe, never in a message or a row.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import sys
import threading
import types
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from flowq import errors

_decode = msgspec.msgpack.Decoder(tuple[bytes, list[str], bytes]).decode


class Definitions:
    """The tasks of an app in a form that children can load.

    Args:
        app: Pickles as a name; its tasks are read at each `refresh`.
        modules: Imported in children besides those that define tasks.
        program_modules: Modules that children cannot import by their name, such as a program file;
            what they define travels by value, as does what ``__main__`` defines.
        settings: Given to ``app.conf.update`` in children.
        home: Module that made the app, where it is the current one that other modules use.
    """

    def __init__(
        self,
        app: Any,
        *,
        modules: Iterable[str] = (),
        program_modules: Iterable[str] = (),
        settings: Mapping[str, Any] | None = None,
        home: str = "",
    ) -> None:
        self._app = app
        self._home = home
        self._extra = list(modules)
        self._program = set(program_modules)
        self._importable: set[str] = set()
        self._settings = dict(settings or {})
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] = ()
        #: Grows when something changed; a pool sends `blob` to who has an older one.
        self.version = 0
        #: What children load: the app if they make it, modules to import, a pickle of the rest.
        self.blob = b""
        #: Task name -> why it cannot be sent to children.
        self.problems: dict[str, str] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Look at the app's tasks again; call it in the thread that may define some.

        Returns:
            Whether something changed. Tasks that cannot be sent are named in `problems`.
        """
        with self._lock:
            self._seen = self._identities()
            travelling, modules = self._sort()
            body, problems = self._pickle(travelling)
            # no import there makes an app of the program; modules that ask for it need it before
            first = self._home and self._by_value(self._home)
            blob = msgspec.msgpack.encode(
                (pickle.dumps(self._app) if first else b"", modules, body)
            )
            if blob == self.blob:
                return False
            self.blob, self.problems = blob, problems
            self.version += 1
            return True

    def follow(self) -> None:
        """Do what `refresh` does where it may matter; cheap enough for each submission.

        In a program, code changes when tasks are registered; at a prompt or in a notebook any cell
        may have changed what a task calls.
        """
        main = sys.modules.get("__main__")
        if not hasattr(main, "__file__") or self._seen != self._identities():
            self.refresh()

    def _identities(self) -> tuple[int, ...]:
        return tuple(map(id, list(self._app.tasks.values())))

    def _sort(self) -> tuple[list[Any], list[str]]:
        """Split the tasks into those whose code travels and the modules of the others."""
        travelling: list[Any] = []
        modules = dict.fromkeys(self._extra)
        for task in list(self._app.tasks.values()):
            module = str(getattr(task, "__module__", "") or "")
            if module.startswith("flowq.app"):
                continue
            # a partial, a builtin or a library's function is a task only where it was made one
            made_in = str(getattr(task, "registered_in", None) or module)
            if self._by_value(module) or (made_in != module and self._by_value(made_in)):
                travelling.append(task)
            else:
                modules.update(dict.fromkeys((module, made_in)))
        return travelling, list(modules)

    def _by_value(self, module: str) -> bool:
        if module == "__main__":
            return True
        if module not in self._program and module not in self._importable:
            if _can_import(module):
                self._importable.add(module)
            else:
                self._program.add(module)
        return module in self._program

    def _pickle(self, travelling: list[Any]) -> tuple[bytes, dict[str, str]]:
        if not travelling:  # cloudpickle takes a while to import
            return pickle.dumps((self._app, self._settings, [], {})), {}
        import cloudpickle

        from flowq.worker import byvalue

        for module in self._program:
            found = sys.modules.get(module)
            if found is not None:
                cloudpickle.register_pickle_by_value(found)
        made = [_portable(task) for task in travelling]
        try:
            return byvalue.dumps((self._app, self._settings, made, {})), {}
        except Exception:
            sound, problems = [], {}
            for task, form in zip(travelling, made, strict=True):
                try:
                    byvalue.dumps(form)
                except Exception as exc:
                    problems[str(task.name)] = _sentence(task, exc)
                else:
                    sound.append(form)
            return byvalue.dumps((self._app, self._settings, sound, problems)), problems


def _can_import(name: str) -> bool:
    """Whether another process would find the same file under a module's name."""
    module = sys.modules.get(name)
    if module is None or getattr(module, "__spec__", None) is None:
        return False
    parent = sys.modules.get(name.rpartition(".")[0])
    path = getattr(parent, "__path__", None)
    try:
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path)
            if spec is not None:
                file = getattr(module, "__file__", None)
                return file is None or spec.origin is None or _same_file(spec.origin, file)
    except Exception:  # a strange finder; the child will say what it thinks of the name
        return True
    return False


def _same_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _portable(task: Any) -> tuple[str, Any, dict[str, Any]]:
    definition = getattr(task, "portable_definition", None)
    if definition is not None:
        function, options = definition
        return "function", function, dict(options)
    cls, state, options = task.portable_class
    if state and _travels(state):
        return "object", (cls, state), options
    return "class", cls, options


def _travels(state: dict[str, Any]) -> bool:
    """Whether an object's state can be sent; where not, children call its class for another one."""
    from flowq.worker import byvalue

    try:
        byvalue.dumps(state)
    except Exception:
        return False
    return True


def _sentence(task: Any, exc: BaseException) -> str:
    return (
        f"the task {task.name} cannot be sent to pool children: {exc}; make what it refers to"
        " inside the function, or move the task into a module that can be imported"
    )


class Loaded:
    """What a child knows of the parent's tasks."""

    def __init__(self) -> None:
        #: Task name -> task; a registry says itself what is near an unknown name.
        self.tasks: Mapping[str, Any] = {}
        #: Task name -> why it is missing; "" for what may concern any task.
        self.problems: dict[str, str] = {}

    def _import(self, modules: Iterable[str]) -> None:
        for module in modules:
            try:
                importlib.import_module(module)
            except (Exception, SystemExit) as exc:
                text = f"its pool cannot import {module}: {type(exc).__name__}: {exc}"
                self.problems[""] = text

    def load(self, blob: bytes) -> None:
        """Take over definitions; those that fail are noted in `problems`, the others count."""
        if not blob:
            return
        first, modules, body = _decode(blob)
        if first:
            pickle.loads(first)
        self._import(modules)  # before the rest: most apps are made there
        try:
            app, settings, made, problems = pickle.loads(body)
        except Exception as exc:
            self.problems[""] = f"its pool cannot load the program: {type(exc).__name__}: {exc}"
            return
        self.problems.update(problems)
        for name in problems:  # better none than what it was before
            app.tasks.pop(name, None)
        if settings:
            app.conf.update(settings)
        for kind, thing, options in made:
            name = str(options.get("name"))
            try:
                _define(app, kind, thing, dict(options))
                self.problems.pop(name, None)
            except Exception as exc:
                self.problems[name] = f"its pool cannot define it: {type(exc).__name__}: {exc}"
        self.tasks = app.tasks

    def explain(self, name: str, exc: errors.NotRegistered) -> errors.NotRegistered:
        """Say of "not registered" what is known of the reason."""
        known = self.problems.get(name) or self.problems.get("")
        if not known:
            return exc
        return errors.NotRegistered(f"{str(exc).partition('; ')[0]}; {known}")  # not its advice


def _define(app: Any, kind: str, thing: Any, options: dict[str, Any]) -> None:
    name = options.get("name")
    if kind != "function":
        app.tasks.pop(name, None)
        cls, state = thing if kind == "object" else (thing, None)
        app.register_task(cls if state is None else _object(cls, state), **options)
        _fill_module(cls.__module__, {cls.__name__: cls})
        return
    namespace = getattr(inspect.unwrap(thing), "__globals__", None)
    if namespace is not None:
        _fill_module(thing.__module__, namespace)
    held = app.tasks.pop(name, None)
    made = app._task_from_fun(thing, **options)
    if held is not None and held is not made:  # functions of this very blob may hold it
        held._become(made)


def _object(cls: type, state: dict[str, Any]) -> Any:
    made: Any = object.__new__(cls)
    vars(made).update(state)
    return made


def _fill_module(name: str, namespace: Mapping[str, Any]) -> None:
    """Have a module by that name hold what its functions refer to.

    So that exceptions of a program's own classes are found by name, and an import of the program
    file inside a task does not load it a second time.
    """
    module = sys.modules.get(name)
    if module is None:
        module = sys.modules[name] = types.ModuleType(name)
    for key, value in namespace.items():
        if not key.startswith("__"):
            setattr(module, key, value)
