"""`task_routes`: mappings, lists of pairs and functions become one kind of function. Pure."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from flowq.errors import ImproperlyConfigured

#: What a route may say.
_OPTIONS = (
    "queue", "exchange", "exchange_type", "routing_key", "binding_key", "priority", "delivery_mode",
)  # fmt: skip
#: What Celery's routes may say, too, and ours leave to the task.
_ELSEWHERE = frozenset((
    "serializer", "compression", "expires", "time_limit", "soft_time_limit", "ignore_result",
    "countdown", "eta", "retry", "retry_policy", "headers", "shadow", "link", "link_error",
    "immediate", "mandatory", "reply_to", "stamps", "max_retries", "max_crashes",
))  # fmt: skip
_FORM = "write task_routes = {'proj.*': {'queue': 'fast'}}"


class Call(NamedTuple):
    """One call of a task, as functions in `task_routes` are told of it.

    Of a node only what its signature says is known: results of earlier nodes are not there yet.
    """

    name: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    options: Mapping[str, Any] = {}
    #: The task itself; None where only its worker knows it.
    task: Any = None


Ask = Callable[[Call], Any]


class Routing(NamedTuple):
    """One entry of `task_routes`."""

    ask: Ask
    #: Whether it looks at more than the name.
    by_call: bool


def routing(given: Any) -> Routing:
    """One entry of `task_routes`.

    Raises:
        ImproperlyConfigured: It is of no form that can be read.
    """
    if isinstance(given, str):
        given = _imported(given)
    if isinstance(given, Mapping):
        return Routing(_by_name(given.items()), by_call=False)
    if isinstance(given, list | tuple):
        return Routing(_by_name(given), by_call=False)
    if hasattr(given, "route_for_task"):
        method = given.route_for_task
        return Routing(lambda call: method(call.name, call.args, call.kwargs), by_call=True)
    if callable(given):
        function = given
        return Routing(lambda call: function(*call[:4], task=call.task), by_call=True)
    raise ImproperlyConfigured(
        f"task_routes holds mappings, lists of pairs, functions and import paths, not {given!r}: "
        f"{_FORM}"
    )


def answer_of(found: Any, whose: str) -> Mapping[str, Any]:
    """What a router answered, as options; empty for no answer.

    Args:
        found: A queue's name, a queue, options, or nothing.
        whose: What was routed, for the error.

    Raises:
        ImproperlyConfigured: It is none of these, or names an option that there is not.
    """
    if not found:
        return {}
    if isinstance(found, str) or hasattr(found, "exchange"):
        return {"queue": found}
    if not isinstance(found, Mapping):
        raise ImproperlyConfigured(
            f"task_routes sends {whose} to {found!r}: a route is the name of a queue or a mapping "
            f"of options; {_FORM}"
        )
    for name in found:
        if name in _ELSEWHERE:
            raise ImproperlyConfigured(
                f"task_routes sends {whose} with {name}: a route says where a task goes "
                f"({', '.join(_OPTIONS)}); say {name} at @app.task, or at the call"
            )
        if name not in _OPTIONS:
            near = difflib.get_close_matches(str(name), _OPTIONS, 1)
            raise ImproperlyConfigured(
                f"task_routes sends {whose} with the option {name!r}, which there is not"
                + (f": did you mean {near[0]!r}?" if near else f"; {_FORM}")
            )
    return found


def _by_name(pairs: Iterable[Any]) -> Ask:
    exact: dict[str, Any] = {}
    patterns: list[tuple[re.Pattern[str], Any]] = []
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ImproperlyConfigured(
                f"task_routes: {pair!r} is no pair of a task's name and its route; {_FORM}, or a "
                "list that holds such mappings, or lists of pairs"
            )
        key, where = pair
        if not isinstance(key, str | re.Pattern):
            raise ImproperlyConfigured(
                f"task_routes names a task {key!r}: a name, a glob or a compiled pattern is text; "
                f"{_FORM}"
            )
        answer_of(where, key if isinstance(key, str) else str(key.pattern))
        if isinstance(key, re.Pattern):
            patterns.append((key, where))
        elif "*" in key:
            patterns.append((re.compile(fnmatch.translate(key)), where))
        else:
            exact[key] = where

    def look_up(call: Call) -> Any:
        if call.name in exact:
            return exact[call.name]
        return next((where for pattern, where in patterns if pattern.match(call.name)), None)

    return look_up


def _imported(path: str) -> Any:
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ImproperlyConfigured(f"task_routes: cannot import {path!r}: {exc}") from exc
    return found() if isinstance(found, type) else found
