"""``-a KEY=VALUE``: texts into values, by the annotations of the function that takes them."""

from __future__ import annotations

import difflib
import enum
import inspect
import json
import types
import typing
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Union

from flowq.errors import TargetError

Pair = tuple[str, str]

_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})
_MOMENTS: Mapping[Any, str] = {
    datetime: "a date and time, as in 2026-01-31T08:30",
    date: "a date, as in 2026-01-31",
    time: "a time, as in 08:30",
}
_LISTS = (list, tuple, set, frozenset, Sequence, Iterable)
_BY_NAME = {t.__name__: t for t in (int, float, bool, str, list, dict, tuple, set, Path)}


def split(arguments: Iterable[str]) -> list[Pair]:
    """``KEY=VALUE`` texts as pairs.

    Raises:
        TargetError: One has no equals sign or no key.
    """
    pairs = []
    for text in arguments:
        key, sign, value = text.partition("=")
        if not sign or not key.isidentifier():
            raise TargetError(f"-a {text!r} is not KEY=VALUE; write it as in -a speed=10")
        pairs.append((key, value))
    return pairs


def bind(
    function: Callable[..., Any], pairs: Sequence[Pair], shown: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments for a call: positional ones, where it takes no keyword, and the others by name.

    A key given several times is a list, if its parameter is one; ``*paths`` takes ``-a paths=``.

    Raises:
        TargetError: One is unknown, missing, given twice, or not of its parameter's type.
    """
    signature = _signature(function)
    parameters = dict(signature.parameters)
    texts: dict[str, list[str]] = {}
    for key, value in pairs:
        if key not in parameters:
            _check_known(key, parameters, shown)
        texts.setdefault(key, []).append(value)
    values: dict[str, Any] = {}
    for key, given in texts.items():
        try:
            values[key] = convert(given, _kind_of(key, parameters))
        except (ValueError, TypeError, ArithmeticError) as exc:
            raise TargetError(
                f"-a {key}={given[-1]} of {shown}: {exc}; give it once more, as it is expected"
            ) from None
    needed = [p.name for p in parameters.values() if _is_needed(p) and p.name not in values]
    if needed:
        more = " ".join(f"-a {name}=..." for name in needed)
        raise TargetError(f"{shown} needs {' and '.join(needed)}; give {more}")
    return _called(signature, values)


def _called(
    signature: inspect.Signature, values: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Values as a call passes them; defaults are filled in before those that have no name."""
    parameters = signature.parameters
    keywords = next((p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD), "")
    rest = {name: value for name, value in values.items() if name not in parameters}
    nameless = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    named = {name: value for name, value in values.items() if name in parameters}
    if keywords in named:
        rest[keywords] = named.pop(keywords)
    if not any(parameters[name].kind in nameless for name in named):
        return (), {**named, **rest}
    bound = inspect.BoundArguments(signature, OrderedDict(named))
    bound.apply_defaults()
    if keywords:
        bound.arguments[keywords] = rest
    return bound.args, bound.kwargs


def convert(texts: Sequence[str], kind: Any) -> Any:
    """Texts given for one parameter as a value of its type.

    Raises:
        ValueError: They do not fit; the text says what is expected.
    """
    origin = typing.get_origin(kind) or kind
    if origin in (Union, types.UnionType):
        return _one_of(texts, typing.get_args(kind))
    if origin in _LISTS:
        inner = next(iter(typing.get_args(kind)), str)
        items = [convert([item], inner) for text in texts for item in _items(text)]
        return origin(items) if origin in (tuple, set, frozenset) else items
    if len(texts) > 1:
        raise ValueError("it is given twice, but it is no list")
    return _single(texts[0], kind, origin)


def _single(text: str, kind: Any, origin: Any) -> Any:
    if kind in (str, Any, inspect.Parameter.empty, object):
        return text
    if origin is typing.Literal:
        for value in typing.get_args(kind):
            if str(value) == text:
                return value
        raise ValueError(f"expected one of {', '.join(map(str, typing.get_args(kind)))}")
    if kind is bool:
        if text.lower() in _YES | _NO:
            return text.lower() in _YES
        raise ValueError("expected true or false")
    if kind is int:
        return _number(int, text, "a whole number")
    if kind is float:
        return _number(float, text, "a number, or inf")
    if origin in (dict, Mapping):
        return _json(text)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _member(kind, text)
    if kind in _MOMENTS:
        return _moment(kind, text)
    if callable(origin):
        return origin(text)
    return text


def _moment(kind: Any, text: str) -> Any:
    try:
        return kind.fromisoformat(text)
    except ValueError:
        raise ValueError(f"expected {_MOMENTS[kind]}") from None


def _number(kind: type, text: str, words: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"expected {words}") from None


def _one_of(texts: Sequence[str], kinds: Sequence[Any]) -> Any:
    if type(None) in kinds and texts[-1].lower() in ("none", "null"):
        return None
    problem = ValueError("it fits none of its types")
    for kind in sorted((k for k in kinds if k is not type(None)), key=lambda k: k is str):
        try:
            return convert(texts, kind)
        except (ValueError, TypeError) as exc:
            problem = ValueError(str(exc))
    raise problem


def _member(kind: type[enum.Enum], text: str) -> enum.Enum:
    for member in kind:
        if text in (member.name, str(member.value)):
            return member
    raise ValueError(f"expected one of {', '.join(m.name for m in kind)}")


def _items(text: str) -> list[str]:
    if text.lstrip().startswith("["):
        found = json.loads(text)
        return [item if isinstance(item, str) else json.dumps(item) for item in found]
    return [part.strip() for part in text.split(",")] if text else []


def _json(text: str) -> Any:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError('expected a JSON object, as in {"a": 1}')
    return found


def _kind_of(key: str, parameters: Mapping[str, inspect.Parameter]) -> Any:
    """The type that the texts of a key are converted to."""
    found = parameters.get(key)
    if found is None:
        found = next((p for p in parameters.values() if p.kind is p.VAR_KEYWORD), None)
    if found is None:
        return str
    kind = _kind(found.annotation, found.default)
    if found.kind is not found.VAR_POSITIONAL:
        return kind
    return tuple if kind is inspect.Parameter.empty else types.GenericAlias(tuple, (kind,))


def _kind(annotation: Any, default: Any) -> Any:
    """The type to convert to: the annotation, else the type of the default."""
    if isinstance(annotation, str):
        annotation = _BY_NAME.get(annotation.partition("[")[0], str)
    if annotation is inspect.Parameter.empty and type(default) in _BY_NAME.values():
        return type(default)
    return annotation


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, SyntaxError, TypeError, AttributeError):
        return inspect.signature(function)


def _is_needed(parameter: inspect.Parameter) -> bool:
    stars = (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in stars


def _check_known(key: str, parameters: Mapping[str, inspect.Parameter], shown: str) -> None:
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    names = list(parameters)
    if not names:
        raise TargetError(f"{shown} takes no arguments; leave out -a {key}")
    near = difflib.get_close_matches(key, names, n=2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it takes {', '.join(names)}"
    raise TargetError(f"{shown} has no argument {key!r}; {hint}")
