"""Which commands there are, and the Typer application that holds them.

A call of a known command builds an application of that one command: making parameters of all of
them would cost more than the start of Python.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer

#: Command -> (module, function, other names); in the order of the help.
COMMANDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "run": ("flowq.cli.running", "run", ()),
    "list": ("flowq.cli.looking", "list_", ("ls",)),
    "show": ("flowq.cli.looking", "show", ()),
    "watch": ("flowq.cli.watching", "watch", ()),
    "result": ("flowq.cli.looking", "result", ()),
    "logs": ("flowq.cli.looking", "logs", ()),
    "resume": ("flowq.cli.again", "resume", ()),
    "retry": ("flowq.cli.again", "retry", ()),
    "rerun": ("flowq.cli.again", "rerun", ()),
    "cancel": ("flowq.cli.acting", "cancel", ()),
    "pause": ("flowq.cli.acting", "pause", ()),
    "unpause": ("flowq.cli.acting", "unpause", ()),
    "worker": ("flowq.cli.serving", "worker", ()),
    "coordinator": ("flowq.cli.serving", "coordinator", ()),
    "dev": ("flowq.cli.dev", "dev", ()),
    "status": ("flowq.cli.fleet", "status", ()),
    "queues": ("flowq.cli.fleet", "queues", ()),
    "purge": ("flowq.cli.fleet", "purge", ()),
    "inspect": ("flowq.cli.remote", "inspect", ()),
    "control": ("flowq.cli.remote", "control", ()),
    "events": ("flowq.cli.remote", "events", ()),
    "call": ("flowq.cli.remote", "call", ()),
    "graph": ("flowq.cli.graph", "graph", ()),
    "version": ("flowq.cli.about", "version", ()),
}
#: Group of commands -> (module, name of its Typer application).
GROUPS: dict[str, tuple[str, str]] = {
    "db": ("flowq.cli.database", "app"),
    "config": ("flowq.cli.about", "config"),
}
_SETTINGS = {"help_option_names": ["-h", "--help"]}


def build(arguments: Sequence[str] = ()) -> Any:
    """The command to call: of one command if `arguments` name it, else of all."""
    return _spared(typer.main.get_command(application(_named(arguments))))


def application(only: str = "") -> typer.Typer:
    """The Typer application; with `only`, of that one command or group."""
    app = typer.Typer(
        add_completion=not only,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_SETTINGS,
        help="Durable canvases: compose tasks, run them, kill anything, get every outcome.",
        no_args_is_help=True,
    )
    app.callback()(_root)
    for name, (module, function, others) in COMMANDS.items():
        if only in ("", name, *others):
            found = getattr(import_module(module), function)
            app.command(name, context_settings=_SETTINGS)(found)
            for other in others:
                app.command(other, hidden=True, context_settings=_SETTINGS)(found)
    for name, (module, attribute) in GROUPS.items():
        if only in ("", name):
            app.add_typer(getattr(import_module(module), attribute), name=name)
    return app


class _AsGiven:
    """Takes texts as they are."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        return value if value is not None else () if param.multiple or param.nargs == -1 else None


def _spared(command: Any) -> Any:
    """Keep Typer from loading its validation library (pydantic) for parameters that are text.

    Typer makes a reader for each parameter when it first needs one; text needs none. Where Typer
    has no such readers, nothing changes.
    """
    make_help = command.get_help_option
    command.get_help_option = lambda context: _take_as_given(make_help(context))
    for param in command.params:
        _take_as_given(param)
    for inner in getattr(command, "commands", {}).values():
        _spared(inner)
    return command


def _take_as_given(param: Any) -> Any:
    if hasattr(param, "_runtime_param"):
        param._runtime_param = _AsGiven()
    return param


def _root() -> None:
    """Durable canvases: compose tasks, run them, kill anything, get every outcome."""


def _named(arguments: Sequence[str]) -> str:
    """The command that is called, if it is plain and no shell asks for completion."""
    first = arguments[0] if arguments else ""
    known = {*COMMANDS, *GROUPS, *(o for _, _, others in COMMANDS.values() for o in others)}
    return first if first in known and "_FLOWQ_COMPLETE" not in os.environ else ""
