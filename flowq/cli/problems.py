"""Errors in words: one sentence, what the user's own code has to do with it, what to try."""

from __future__ import annotations

import sys
from typing import Any

from flowq.errors import FlowqError

#: Error class -> what to try, where the message does not say it.
_TRIES = {
    "UnknownId": "flowq list",
    "WrongState": "flowq show RUN",
    "StoreError": "flowq db check",
    "StoreUnavailable": "another place, with --store sqlite:///path/file.db",
    "SchemaMismatch": "a newer flowq, or another store with --store URL",
    "CorruptStore": "flowq db check",
    "ImproperlyConfigured": "flowq config show",
    "CanvasError": "correct the canvas, and look at it with flowq run TARGET --dry-run",
    "UnserialisableArgument": "pass plain data: an id, a path, a dict",
    "RenderError": "another format, as in: flowq graph pipeline.py -o graph.svg",
    "BrokerError": "check the URL given with --broker",
    "NoReply": "flowq worker, or wait longer with --timeout 5s",
    "Refused": "flowq inspect stats",
    "OutputError": "another place for what it writes",
    "RunFailed": "flowq show @last",
    "TimeoutError": "flowq show RUN",
    "FlowqError": "flowq --help",
}


def say(text: str) -> None:
    """One line to stderr; nothing if nobody can read it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return


def report(exc: BaseException) -> int:
    """Print an error and return the exit code that belongs to it."""
    if hasattr(exc, "format_message"):  # a mistake in the command line, found by Typer
        return _usage(exc)
    if type(exc).__name__ in ("Abort", "Exit"):
        return int(getattr(exc, "exit_code", 1))
    if not isinstance(exc, FlowqError):
        return _unexpected(exc)
    sentence, hint = split(exc)
    details = getattr(exc, "details", "")
    say(f"error: {sentence}")
    if details:
        say(details)
    say(f"try: {hint}")
    return exc.exit_code


def split(exc: FlowqError) -> tuple[str, str]:
    """What is wrong, and what to try: what the text says behind its last semicolon, or as a
    command of ours, else what usually helps."""
    text = str(exc) or type(exc).__name__
    sentence, mark, hint = text.rpartition("; ")
    if not mark:
        sentence, mark, hint = text.partition(": flowq ")
        hint = f"flowq {hint}"
    if mark and len(hint) < 300:
        return sentence, hint
    tries = (_TRIES.get(cls.__name__) for cls in type(exc).__mro__)
    return text, next(found for found in tries if found)


def _usage(exc: Any) -> int:
    text = str(exc.format_message()).strip()
    if type(exc).__name__ == "NoArgsIsHelpError":
        say(text)
        return int(exc.exit_code)
    context = getattr(exc, "ctx", None)
    path = context.command_path if context is not None else "flowq"
    say(f"error: {text.rstrip('.')}")
    say(f"try: {path} --help")
    return int(exc.exit_code)


def _unexpected(exc: BaseException) -> int:
    import traceback

    say("".join(traceback.format_exception(exc)).rstrip())
    say("error: this is a mistake in flowq, not in your program; nothing that was stored is lost")
    say("try: flowq show @last, and report the lines above")
    return 70
