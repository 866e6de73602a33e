"""Whether two tasks of one place are one definition made twice, or two different ones.

A function's place says where it was written, not what it was made of: a loop or a factory makes
many functions of one place, which differ in their closures, defaults and arguments. What cannot be
compared, such as a lock, counts as alike.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from flowq.registry import INTERACTIVE, Origin, file_of, origin_of, same_origin

#: A part of each of two things, and what to call it in a message.
Pair = tuple[Any, Any, str]
#: Pairs looked at before two graphs of objects count as alike.
_BUDGET = 10_000
_BUILTIN_METHODS = (types.BuiltinMethodType, types.MethodWrapperType)
_CACHED = type(functools.lru_cache(len))
_CODE = (type, types.FunctionType, types.MethodType, functools.partial, _CACHED)
_EMPTY = object()


class _DifferentError(Exception):
    pass


class Load(NamedTuple):
    """The execution of a module that led to a registration; its file is empty when none did."""

    file: str = ""
    code: weakref.ref[types.CodeType] | None = None

    def is_of(self, other: Load) -> bool:
        """Whether both are one execution."""
        return self.code is not None and other.code is not None and self.code() is other.code()

    def follows(self, other: Load) -> bool:
        """Whether this is another execution of the same file: its code is another object then."""
        return bool(self.file) and self.file == other.file and not self.is_of(other)


def load_of(frame: types.FrameType | None) -> Load:
    """The load of the module that a frame executes."""
    if frame is None:
        return Load()
    return Load(file_of(frame.f_code.co_filename), weakref.ref(frame.f_code))


class Defined:
    """Part of Task: what it was made of, and where."""

    #: Module whose import registered it, `__main__` for what no import repeats. Children import
    #: it, or get the code; its function may be of another one, as with ``app.task(json.dumps)``.
    registered_in: str = "__main__"
    #: The load of that module; another one may bring an edited form of the same definition.
    loaded_by: Load = Load()
    #: The callable and options it was made of by ``@app.task``; None for class-based tasks.
    _definition: tuple[Callable[..., Any], dict[str, Any]] | None = None
    #: Attributes of a class-based task as it was made, before it was used.
    _made_with: ClassVar[dict[str, Any]] = {}
    #: Whether a class-based task was given as an object, and the options it was registered with.
    _given: tuple[bool, dict[str, Any]] = (False, {})

    @property
    def origin(self) -> Origin:
        """Where it was defined."""
        return origin_of(self._definition[0] if self._definition else type(self))

    def difference_from(self, other: Defined) -> str:
        """What tells it apart from an older task of its place.

        A module that is loaded again may have been edited, and so may a cell that is run again:
        what they define at the same place counts as the same.

        Returns:
            Name of a part that differs; empty when this is one definition made twice.
        """
        in_cells = self.origin.file == INTERACTIVE
        if self.loaded_by.follows(other.loaded_by) and not in_cells:
            return ""
        one_cell = self.loaded_by.file == INTERACTIVE and self.loaded_by.is_of(other.loaded_by)
        try:
            pairs = _parts_of_tasks(other, self)
            _compare(pairs, values=one_cell or not in_cells)
        except _DifferentError as found:
            return str(found)
        return ""


def _parts_of_tasks(old: Defined, new: Defined) -> list[Pair]:
    if old._definition and new._definition:
        return [(old._definition[0], new._definition[0], "the function")]
    states = _by_key(old._made_with, new._made_with, "the attribute {!r}")
    return [(type(old), type(new), "the class"), *states]


def _compare(pairs: list[Pair], *, values: bool) -> None:
    """Raise _DifferentError with the name of the first part that differs.

    Args:
        pairs: What to compare.
        values: False to compare only which functions and classes there are.
    """
    seen: set[tuple[int, int]] = set()
    while pairs and len(seen) < _BUDGET:
        one, other, what = pairs.pop(0)
        if one is other or (id(one), id(other)) in seen:
            continue
        seen.add((id(one), id(other)))
        if values or (isinstance(one, _CODE) and isinstance(other, _CODE)):
            pairs.extend(_inside(one, other, what))


def _inside(one: Any, other: Any, what: str) -> list[Pair]:
    """Parts of two things that are left to compare; _DifferentError when they differ already."""
    if isinstance(one, type) and isinstance(other, type):
        return _inside_classes(one, other, what)
    _demand(_name(type(one)) == _name(type(other)), what)
    if isinstance(one, types.FunctionType):
        return _inside_functions(one, other, what)
    if isinstance(one, functools.partial):
        return [
            (one.func, other.func, "the function of the partial"),
            *_in_order(one.args, other.args, "argument {} of the partial"),
            *_by_key(one.keywords, other.keywords, "the argument {!r} of the partial"),
        ]
    if isinstance(one, types.MethodType):
        return [(one.__func__, other.__func__, what), (one.__self__, other.__self__, "its object")]
    if isinstance(one, _BUILTIN_METHODS):
        _demand(one.__name__ == other.__name__, what)
        return [(one.__self__, other.__self__, "its object")]
    if isinstance(one, _CACHED):
        return [(one.__wrapped__, other.__wrapped__, what)]
    if isinstance(one, list | tuple):
        return _in_order(one, other, what)
    if isinstance(one, dict):
        return _by_key(one, other, what)
    return _inside_objects(one, other, what)


def _inside_functions(one: Any, other: Any, what: str) -> list[Pair]:
    mine, others = one.__code__, other.__code__
    if mine is not others:
        places = _place(mine), _place(others)
        _demand(same_origin(*places), what)
        if mine != others:  # edited and loaded again; two lambdas of one line are no edit
            _demand(mine.co_name != "<lambda>" or places[0].line != places[1].line, what)
            return []
    cells = [[_content(cell) for cell in f.__closure__ or ()] for f in (one, other)]
    names = mine.co_freevars
    return [
        *_in_order(one.__defaults__ or (), other.__defaults__ or (), "the default of a parameter"),
        *_by_key(one.__kwdefaults__ or {}, other.__kwdefaults__ or {}, "the default of {!r}"),
        *((a, b, f"{n!r} of its closure") for a, b, n in zip(*cells, names, strict=True)),
    ]


def _place(code: types.CodeType) -> Origin:
    return Origin(file_of(code.co_filename), code.co_firstlineno, code.co_qualname)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return _EMPTY


def _inside_classes(one: type, other: type, what: str) -> list[Pair]:
    _demand(_name(one) == _name(other), what)
    return [
        (value, vars(other).get(key, value), f"{key}() of {what}")
        for key, value in vars(one).items()
        if isinstance(value, types.FunctionType)
    ]


def _inside_objects(one: Any, other: Any, what: str) -> list[Pair]:
    try:
        if one == other:
            return []
    except Exception:  # an array has no single answer
        return []
    states = _state(one), _state(other)
    if states[0] or states[1]:
        return [(type(one), type(other), what), *_by_key(*states, f"{{!r}} of {what}")]
    _demand(_has_no_equality(type(one)), what)
    return []


def _state(thing: Any) -> dict[str, Any]:
    slots = [n for c in type(thing).__mro__ for n in _names(vars(c).get("__slots__", ()))]
    found = {name: getattr(thing, name) for name in slots if hasattr(thing, name)}
    return {**found, **getattr(thing, "__dict__", {})}


def _names(slots: Any) -> Sequence[str]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _in_order(one: Sequence[Any], other: Sequence[Any], what: str) -> list[Pair]:
    _demand(len(one) == len(other), what.format("count"))
    return [(a, b, what.format(i)) for i, (a, b) in enumerate(zip(one, other, strict=True), 1)]


def _by_key(one: Mapping[Any, Any], other: Mapping[Any, Any], what: str) -> list[Pair]:
    missing = [key for key in (*one, *other) if key not in one or key not in other]
    _demand(not missing, what.format(*missing[:1] or ("",)))
    return [(one[key], other[key], what.format(key)) for key in one]


def _has_no_equality(cls: Any) -> bool:
    return bool(cls.__eq__ is object.__eq__)


def _name(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _demand(alike: bool, what: str) -> None:
    if not alike:
        raise _DifferentError(what)
