"""Options of tasks looked at when a task is made, where the mistake is, not when it is called.

Options that nobody knows become attributes of the task, as in Celery; they are not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from flowq import errors

#: What `flowq.payload` writes.
_SERIALIZERS = ("json", "msgpack", "yaml", "pickle")
#: Highest priority up and down.
HIGHEST_PRIORITY = 10_000
#: Options that are made of the function itself, or say where the task belongs.
_RESERVED = ("run", "app")


def checked(where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a task that are of the right types; single exception classes become tuples.

    Args:
        where: What the task is called in messages.
        options: By name; None leaves the matter to a setting.

    Raises:
        TypeError: An option is of the wrong type.
        ValueError: It has no such value.
        errors.ImproperlyConfigured: A rate limit is in no form that is known.
    """
    found = dict(options)
    for key, value in options.items():
        if key in _RESERVED:
            raise TypeError(f"{where}: {key}= is no option of a task; {key!r} is a part of it")
        check = _CHECKS.get(key)
        if check is not None and value is not None:
            found[key] = check(f"{where}: {key}={value!r}", value)
    return found


def checked_name(name: Any, where: str) -> str | None:
    """A task's name; TypeError or ValueError where it can be none. None: it is made up."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name={name!r} of {where} is of type {type(name).__name__}; give a str")
    if name is not None and not name.strip():
        raise ValueError(f"name={name!r} of {where} is empty; give a name, or leave name= out")
    return name


def exception_classes(value: Any) -> tuple[type[BaseException], ...]:
    """Exception classes of an option: one, or a collection of them; TypeError for others."""
    if isinstance(value, type) and issubclass(value, BaseException):
        return (value,)
    if isinstance(value, tuple | list | set | frozenset):
        return tuple(found for part in value for found in exception_classes(part))
    raise TypeError(f"{value!r} is no exception class; give one, or a tuple of them")


def _classes(text: str, value: Any) -> Any:
    try:
        return exception_classes(value)
    except TypeError as exc:
        raise TypeError(f"{text}: {exc}") from None


def _int(text: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{text} is of type {type(value).__name__}; give a whole number")
    return value


def _whole(text: str, value: Any) -> Any:
    return _not_negative(text, _int(text, value))


def _number(text: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{text} is of type {type(value).__name__}; give a number of seconds")
    return _not_negative(text, value)


def _not_negative(text: str, value: Any) -> Any:
    if value < 0 or math.isnan(value):
        raise ValueError(f"{text}: give 0 or more")
    return value


def _factor(text: str, value: Any) -> Any:
    return value if isinstance(value, bool) else _number(text, value)


def _priority(text: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{text} is of type {type(value).__name__}; give a whole number")
    if abs(value) > HIGHEST_PRIORITY:
        raise ValueError(f"{text}: use {-HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}")
    return value


def _retry_kwargs(text: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{text} is of type {type(value).__name__}; give a dict of arguments of retry()"
        )
    for key, check in (("max_retries", _int), ("countdown", _number)):
        if value.get(key) is not None:
            check(f"{text}: its {key}", value[key])
    return value


def _serializer(text: str, value: Any) -> Any:
    if value not in _SERIALIZERS:
        raise ValueError(f"{text} is unknown; there are {', '.join(_SERIALIZERS)}")
    return value


def compression(text: str, value: Any) -> Any:
    """Check the name of a compression; ValueError where there is none."""
    from flowq.broker.inflate import deflate

    if not isinstance(value, str):
        raise TypeError(f"{text} is of type {type(value).__name__}; give the name of a compression")
    try:
        deflate(b"", value)
    except errors.EncodeError as exc:
        raise ValueError(f"{text}: {exc}") from None
    return value


def _rate(text: str, value: Any) -> Any:
    from flowq.app.binding import per_second

    per_second(value, text.split(": ", 1)[0])
    return value


def _queue(text: str, value: Any) -> Any:
    name = getattr(value, "name", value)  # of kombu's Queue, as Celery takes it
    if not isinstance(name, str):
        raise TypeError(f"{text} is of type {type(value).__name__}; give the name of a queue")
    return name


def _key(text: str, value: Any) -> Any:
    if not isinstance(value, str):
        raise TypeError(f"{text} is of type {type(value).__name__}; give a str")
    return value


def _exchange(text: str, value: Any) -> Any:
    _key(text, getattr(value, "name", value))  # of kombu's Exchange, as Celery takes it
    return value


def _delivery_mode(text: str, value: Any) -> Any:
    if value not in (1, 2, "transient", "persistent"):
        raise ValueError(f"{text}: give 1 or 'transient', 2 or 'persistent'")
    return value


def _retry_policy(text: str, value: Any) -> Any:
    from flowq.broker.options import RETRY_POLICY

    if not isinstance(value, Mapping):
        raise TypeError(f"{text} is of type {type(value).__name__}; give a dict")
    for key in ("max_retries", *RETRY_POLICY):
        if value.get(key) is not None:
            _number(f"{text}: its {key}", value[key])
    return value


#: What a call says of its message alone.
_OF_MESSAGES: dict[str, Callable[[str, Any], Any]] = {
    "routing_key": _key,
    "exchange": _exchange,
    "delivery_mode": _delivery_mode,
    "retry_policy": _retry_policy,
}


def check_message(where: str, options: Mapping[str, Any]) -> None:
    """Check what a call says of its message.

    Raises:
        errors.CanvasError: An option is of the wrong type, or has no such value.
    """
    for key, check in _OF_MESSAGES.items():
        if options.get(key) is not None:
            try:
                check(f"{key}={options[key]!r}", options[key])
            except (TypeError, ValueError) as exc:
                raise errors.CanvasError(f"wrong option for {where}: {exc}") from None


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "autoretry_for": _classes,
    "dont_autoretry_for": _classes,
    "throws": _classes,
    "max_retries": _int,
    "max_crashes": _whole,
    "resultrepr_maxsize": _whole,
    "default_retry_delay": _number,
    "retry_backoff_max": _number,
    "time_limit": _number,
    "soft_time_limit": _number,
    "expires": _number,
    "retry_backoff": _factor,
    "retry_kwargs": _retry_kwargs,
    "priority": _priority,
    "serializer": _serializer,
    "compression": compression,
    "rate_limit": _rate,
    "global_rate_limit": _rate,
    "queue": _queue,
    **{key: _OF_MESSAGES[key] for key in ("routing_key", "exchange", "delivery_mode")},
}


def checked_of_class(where: str, cls: type, plain: type) -> None:
    """Check options that a user's class has as attributes; `plain` and what it inherits are ours.

    Raises:
        TypeError, ValueError, errors.ImproperlyConfigured: As `checked` does.
    """
    own = [part for part in cls.__mro__ if part not in plain.__mro__]
    given = {k: v for part in reversed(own) for k, v in vars(part).items() if k in _CHECKS}
    checked(where, {k: v for k, v in given.items() if not hasattr(v, "__get__")})
