"""Pickling what a program defines by value, for processes that cannot import it.

cloudpickle does most of it. Added here: file names, so that tracebacks still show source lines, and
things that pickle as a name although nobody can look that name up, such as a function with
``functools.lru_cache``. Locks and the like are made anew over there.
"""

from __future__ import annotations

import contextvars
import functools
import io
import operator
import pickle
import random
import sys
import threading
import types
import typing
from collections import ChainMap
from collections.abc import Callable, Iterable
from typing import Any

import cloudpickle


def dumps(value: Any) -> bytes:
    """Pickle a value by value, as far as other processes cannot import its parts.

    Raises:
        Exception: A part of it cannot be pickled, or only as a name that they do not know.
    """
    with io.BytesIO() as file:
        _Pickler(file).dump(value)
        return file.getvalue()


_reduce_code = cloudpickle.Pickler.dispatch_table[types.CodeType]


def _with_file(code: types.CodeType) -> Any:
    """cloudpickle drops the file name since 3.1.3, and a traceback then shows no source line."""
    make, arguments, *_ = _reduce_code(code)
    return _make_code, (make, arguments, code.co_filename)


def _make_code(make: Any, arguments: Any, file: str) -> types.CodeType:
    code: types.CodeType = make(*arguments)
    return code.replace(co_filename=file)


# -- what pickles as a name ---------------------------------------------------------------------


def _cached(fun: Any) -> Any:
    return _make_cached, (fun.__wrapped__, fun.cache_parameters())


def _make_cached(fun: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(fun)


def _single(fun: Any) -> Any:
    return _make_single, (fun.registry[object], list(fun.registry.items()))


def _make_single(default: Callable[..., Any], implementations: Iterable[tuple[Any, Any]]) -> Any:
    fun = functools.singledispatch(default)
    for cls, implementation in implementations:
        fun.register(cls, implementation)
    return fun


def _new_type(made: Any) -> Any:
    return _make_new_type, (made.__qualname__, made.__supertype__, made.__module__)


def _make_new_type(name: str, supertype: Any, module: str) -> Any:
    made: Any = typing.NewType(name, supertype)  # type: ignore[misc]  # as it was named there
    made.__module__ = module
    return made


def _parameters(made: Any) -> Any:
    return type(made), (made.__name__,)


#: Type of things that pickle as a name -> how they are made again.
_NAMED: dict[Any, Callable[[Any], Any]] = {
    type(functools.lru_cache(len)): _cached,
    typing.NewType: _new_type,
    typing.ParamSpec: _parameters,
    typing.TypeVarTuple: _parameters,
}
#: Functions that `functools.singledispatch` makes all have this code.
_SINGLE_DISPATCH = functools.singledispatch(len).__code__  # type: ignore[attr-defined]


# -- what every process has of its own -----------------------------------------------------------


def _lock(_: Any) -> Any:
    return threading.Lock, ()


def _rlock(_: Any) -> Any:
    return threading.RLock, ()


def _local(_: Any) -> Any:
    return threading.local, ()


def _system_random(_: Any) -> Any:
    return random.SystemRandom, ()


def _variable(variable: contextvars.ContextVar[Any]) -> Any:
    try:
        default: tuple[Any, ...] = (contextvars.Context().run(variable.get),)
    except LookupError:
        default = ()
    return _make_variable, (variable.name, default)


def _make_variable(name: str, default: tuple[Any, ...]) -> contextvars.ContextVar[Any]:
    if default:
        return contextvars.ContextVar(name, default=default[0])
    return contextvars.ContextVar(name)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table = ChainMap(
        {
            types.CodeType: _with_file,
            type(threading.Lock()): _lock,
            type(threading.RLock()): _rlock,
            threading.local: _local,
            random.SystemRandom: _system_random,
            contextvars.ContextVar: _variable,
        },
        cloudpickle.Pickler.dispatch_table,
    )

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        make = _NAMED.get(kind)
        if kind is types.FunctionType and obj.__code__ is _SINGLE_DISPATCH:
            make = _single
        if make is not None and not _can_be_found(obj):
            return make(obj)
        usual = super().reducer_override(obj)
        if usual is NotImplemented and kind not in self.dispatch_table and _is_of_program(obj):
            usual = obj.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
            if isinstance(usual, str):
                raise pickle.PicklingError(f"{obj!r} can only be imported by its name, {usual}")
        return usual


def _is_of_program(obj: Any) -> bool:
    module = getattr(obj, "__module__", None)
    return module == "__main__" or module in cloudpickle.list_registry_pickle_by_value()


def _can_be_found(obj: Any) -> bool:
    """Whether other processes find an object by its module and name."""
    if _is_of_program(obj):
        return False
    name = str(getattr(obj, "__qualname__", "") or getattr(obj, "__name__", ""))
    try:
        return operator.attrgetter(name)(sys.modules[obj.__module__]) is obj
    except (KeyError, AttributeError):
        return False
