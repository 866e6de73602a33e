"""Named caches for tasks: memcached or Redis, with a layer in the process in front.

The setting `caches` names them; ``flowq.cache.get("images")`` gives one. A cache never fails a
task: a server that is away behaves as an empty one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from flowq.cache.caches import Cache
from flowq.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from flowq.app.base import Flowq

__all__ = ["Cache", "get"]

_lock = threading.RLock()
_made: weakref.WeakKeyDictionary[Flowq, dict[str, Cache]] = weakref.WeakKeyDictionary()


def get(name: str = "default", app: Flowq | None = None) -> Cache:
    """The cache of that name; a second call gives the same one. Connects to nothing yet.

    Args:
        name: A key of the setting `caches`. Without the setting there is a `default` one, in the
            process's memory.
        app: Whose setting; none: the current app's.

    Raises:
        ImproperlyConfigured: There is no such cache, or its entry in the setting is wrong.
    """
    if app is None:
        from flowq.app.current import get_current

        app = get_current()
    with _lock:
        caches = _made.setdefault(app, {})
        if name not in caches:
            caches[name] = Cache(name, **_options(name, app.conf.caches))
        return caches[name]


def _options(name: str, setting: Mapping[str, Any]) -> dict[str, Any]:
    if name not in setting:
        if name == "default":
            return {"url": "memory://"}
        near = get_close_matches(name, setting, n=1) or sorted(setting)
        known = f"there is {', '.join(near)}" if near else "it names none"
        raise ImproperlyConfigured(f"no cache is called {name!r} in the setting caches: {known}")
    entry = setting[name]
    return {"url": entry} if isinstance(entry, str) else dict(entry)
