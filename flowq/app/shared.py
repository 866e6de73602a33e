"""`shared_task`: tasks of libraries, which know no app."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowq import errors
from flowq.app import current

if TYPE_CHECKING:
    from flowq.app.base import Flowq


def shared_task(*args: Any, **options: Any) -> Any:
    """Make a task for every app, those that exist and those that come; for libraries.

    Used as ``@shared_task`` or ``@shared_task(name=..., ...)``. What it returns stands for the task
    of the app that is current when it is used.

    Raises:
        TypeError, ValueError: An option is wrong; no app is told of the task then.
        errors.AlreadyRegistered: An app has another task of its name.
    """
    if len(args) > 1 or (args and not callable(args[0])):
        raise errors.ImproperlyConfigured(
            f"shared_task() takes one callable, not {args!r}; give options by keyword"
        )
    if args:
        return _shared(args[0], **options)
    return functools.partial(_shared, **options)


def _shared(fun: Callable[..., Any], /, **options: Any) -> Any:
    from flowq.app.making import check_definition, importing_module

    check_definition(fun, options)
    names: weakref.WeakKeyDictionary[Flowq, str] = weakref.WeakKeyDictionary()
    module = importing_module()

    def register(app: Flowq) -> None:
        names[app] = app._task_from_fun(fun, registered_in=module, **options).name

    def find() -> Any:
        app = current.get_current()
        tasks = app.tasks
        return tasks[names[app]]

    current.share(register)
    return current.Proxy(find, getattr(fun, "__name__", "shared task"))
