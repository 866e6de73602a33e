"""`Settings`: the values in force, and where each came from.

The layers, the first that has a name wins: given in code, `config_from_object`, the environment,
`flowq.toml`, `[tool.flowq]` of `pyproject.toml`, the default. Objects, files and environment are
read at the first look-up and once; `reload` reads them again.
"""

from __future__ import annotations

import copy
import difflib
import importlib
import logging
import os
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from flowq import errors
from flowq.config.table import TABLE, Setting
from flowq.core.masking import mask_url

#: Every setting by name, in the order of the table.
SETTINGS: dict[str, Setting] = {setting.name: setting for setting in TABLE}

#: The same by the name of its environment variable.
_BY_ENV: dict[str, str] = {setting.env: setting.name for setting in TABLE}

#: A name that begins like this is meant as a setting even when there is no such setting.
_FAMILIES = ("task_", "worker_", "broker_", "result_", "beat_", "event_", "control_", "max_")

_log = logging.getLogger("flowq.config")


class UnknownSetting(errors.ImproperlyConfigured, AttributeError, KeyError):
    """Raised when there is no setting of that name; near names are in the text.

    An AttributeError and a KeyError as well, so that `hasattr`, `in` and `.get` work.
    """

    def __str__(self) -> str:
        return str(self.args[0])


class ShownSetting(NamedTuple):
    """One setting as `flowq config show` prints it; passwords in URLs are masked."""

    name: str
    value: Any
    source: str
    setting: Setting


class Settings(MutableMapping[str, Any]):
    """Every setting by attribute or by key; setting an unknown one is refused.

    Creating it reads nothing. Names are Celery's; Celery's old names in capitals
    (`CELERYD_CONCURRENCY`) and names with a `CELERY_` prefix are understood.
    """

    __slots__ = ("_cache", "_defaults", "_given", "_layers", "_objects")

    def __init__(self, given: Mapping[str, Any] | None = None, **more: Any) -> None:
        set_ = object.__setattr__
        set_(self, "_given", {})
        set_(self, "_objects", [])
        set_(self, "_layers", None)
        set_(self, "_cache", {})
        set_(self, "_defaults", {})
        for name, value in {**(given or {}), **more}.items():
            self.set(name, value)

    # -- reading

    def __getitem__(self, name: str) -> Any:
        try:
            return self._cache[name]
        except KeyError:
            value = self._cache[name] = self._find(_setting(name))[0]
            return value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    @property
    def has_fleet(self) -> bool:
        """Whether the broker leads to other processes."""
        return not str(self["broker_url"] or "memory:").startswith("memory:")

    def source(self, name: str) -> str:
        """Where the value comes from: `code`, a file's path, a variable's name or `default`."""
        return self._find(_setting(name))[1]

    def show(self) -> list[ShownSetting]:
        """Every setting with its value and source, in the table's order, passwords masked."""
        rows = []
        for setting in TABLE:
            value, source = self._find(setting)
            if isinstance(value, str):
                value = mask_url(value)
            elif setting.secret:
                value = dict.fromkeys(value, "****")
            rows.append(ShownSetting(setting.name, value, source, setting))
        return rows

    def changed(self) -> dict[str, Any]:
        """The settings that somebody gave, by name, passwords as they are."""
        return {s.name: self[s.name] for s in TABLE if not self._is_default(s)}

    def __iter__(self) -> Iterator[str]:
        return iter(SETTINGS)

    def __len__(self) -> int:
        return len(SETTINGS)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _canonical(name) is not None

    def __repr__(self) -> str:
        given = ", ".join(f"{r.name}={r.value!r}" for r in self.show() if r.source != "default")
        return f"<Settings {given}>" if given else "<Settings: all defaults>"

    # -- writing

    def set(self, name: str, value: Any, *, source: str = "code") -> None:
        """Give a setting a value that wins over every file and variable; a second call replaces it.

        Raises errors.ImproperlyConfigured when there is no such setting or the value cannot be one.
        """
        setting = _setting(name)
        self._given[setting.name] = (_parsed(setting, value, source), source)
        self._cache.clear()
        if setting.ignored:
            _log.info("%s is accepted and has no effect: %s", setting.name, setting.note)

    def __setitem__(self, name: str, value: Any) -> None:
        self.set(name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        self.set(name, value)

    def __delitem__(self, name: str) -> None:
        self._given.pop(_setting(name).name, None)
        self._cache.clear()

    def config_from_object(
        self, source: Any, *, namespace: str | None = None, silent: bool = False
    ) -> None:
        """Take settings from a module, an object, a mapping, or the import name of one of them.

        A name is imported at the first look-up, not now. With a `namespace` only names that begin
        with it and an underscore count. `silent` forgives a module that does not exist. Later
        objects win.
        """
        self._objects.append((source, namespace, silent))
        self.reload()

    def reload(self) -> None:
        """Forget what objects, environment and files said; the next look-up reads again."""
        object.__setattr__(self, "_layers", None)
        self._cache.clear()

    # -- the layers

    def _is_default(self, setting: Setting) -> bool:
        return self._find(setting)[1] == "default"

    def _find(self, setting: Setting) -> tuple[Any, str]:
        if setting.name in self._given:
            return self._given[setting.name]  # type: ignore[no-any-return]
        if self._layers is None:
            object.__setattr__(self, "_layers", self._read_layers())
        for layer in self._layers:
            if setting.name in layer:
                return layer[setting.name]  # type: ignore[no-any-return]
        if setting.name not in self._defaults:  # a copy of its own: users change lists and dicts
            default = setting.default
            self._defaults[setting.name] = (
                list(default) if isinstance(default, tuple) else copy.copy(default)
            )
        return self._defaults[setting.name], "default"

    def _read_layers(self) -> list[dict[str, tuple[Any, str]]]:
        layers = [_from_object(*entry) for entry in reversed(self._objects)]
        layers.append(_from_environment(os.environ))
        layers.extend(_from_files(Path.cwd()))
        return layers


def _setting(name: str) -> Setting:
    found = _canonical(name)
    if found is None:
        raise _unknown(name)
    return SETTINGS[found]


def _canonical(name: str) -> str | None:
    """The table's name for a name as users write it, or None when there is none."""
    if name in SETTINGS:
        return name
    low = name.lower()
    tries = [low]
    if low.startswith("celeryd_"):
        tries.append("worker_" + low[8:])
    elif low.startswith("celery_"):
        tries += [low[7:], "task_" + low[7:]]
    elif low.startswith("celerybeat_"):
        tries.append("beat_" + low[11:])
    return next((t for t in tries if t in SETTINGS and name != low), None)


def _unknown(name: str) -> UnknownSetting:
    near = difflib.get_close_matches(name.lower(), SETTINGS, n=3, cutoff=0.6)
    advice = f"did you mean {' or '.join(near)}?" if near else "`flowq config show` lists them all"
    return UnknownSetting(f"there is no setting {name!r}; {advice}")


def _parsed(setting: Setting, value: Any, source: str) -> Any:
    try:
        return setting.parse(value)
    except ValueError as problem:
        raise errors.ImproperlyConfigured(
            f"the setting {setting.name} (from {source}) must be {problem}"
        ) from None


def _from_object(source: Any, namespace: str | None, silent: bool) -> dict[str, tuple[Any, str]]:
    label = source if isinstance(source, str) else _label(source)
    if isinstance(source, str):
        try:
            source = _imported(source)
        except ImportError as problem:
            if silent:
                return {}
            raise errors.ImproperlyConfigured(
                f"config_from_object cannot import {label!r}: {problem}"
            ) from problem
    strict = isinstance(source, Mapping)
    pairs: Iterable[tuple[str, Any]] = (
        source.items() if strict else ((n, getattr(source, n)) for n in dir(source))
    )
    found: dict[str, tuple[Any, str]] = {}
    prefix = f"{namespace}_".lower() if namespace else ""
    for name, value in pairs:
        if not name.lower().startswith(prefix) or name.startswith("_"):
            continue
        bare = name[len(prefix) :].lower() if prefix else name
        known = _canonical(bare) or (_BY_ENV.get(name) if prefix else None)
        if known is not None:
            found[known] = (_parsed(SETTINGS[known], value, label), label)
        elif strict or (_looks_like_setting(bare) and not _is_code(value)):
            raise _unknown(bare)
    return found


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError:
        if attribute or "." not in module:
            raise
        module, _, attribute = module.rpartition(".")
        found = importlib.import_module(module)
    try:
        return getattr(found, attribute) if attribute else found
    except AttributeError as problem:
        raise ImportError(str(problem)) from problem


def _label(source: Any) -> str:
    if isinstance(source, Mapping):
        return "config_from_object"
    return str(getattr(source, "__name__", None) or type(source).__name__)


def _looks_like_setting(name: str) -> bool:
    return name.lower().startswith(_FAMILIES)


def _is_code(value: Any) -> bool:
    return isinstance(value, (ModuleType, type)) or callable(value)


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    return {s.name: (_parsed(s, environ[s.env], s.env), s.env) for s in TABLE if s.env in environ}


def _from_files(folder: Path) -> list[dict[str, tuple[Any, str]]]:
    """The tables of the nearest flowq.toml and pyproject.toml, up to the project's root."""
    own: dict[str, tuple[Any, str]] = {}
    for place in (folder, *folder.parents):
        if not own and (place / "flowq.toml").is_file():
            own = _from_toml(place / "flowq.toml", lambda data: data)
        if (place / "pyproject.toml").is_file():
            project = _from_toml(
                place / "pyproject.toml", lambda data: data.get("tool", {}).get("flowq", {})
            )
            return [own, project]
        if (place / ".git").exists():
            break
    return [own]


def _from_toml(
    path: Path, pick: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, tuple[Any, str]]:
    try:
        table = pick(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as problem:
        raise errors.ImproperlyConfigured(f"{path} cannot be read: {problem}") from problem
    return {
        _setting(name).name: (_parsed(_setting(name), value, str(path)), str(path))
        for name, value in table.items()
    }
