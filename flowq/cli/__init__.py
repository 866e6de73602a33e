"""The command line: parse, call, print.

stdout carries data only; progress, warnings, hints and errors go to stderr. Starting has to be
quick, so only the module of the command that was asked for is imported, and whatever is heavy
is imported by what needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and end the process with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--version"]:
        given[0] = "version"
    sys.exit(run(given))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors are printed."""
    from flowq.cli import problems
    from flowq.cli.commands import build

    try:
        _check_text(arguments)
        command = build(arguments)
        found = command.main(args=arguments, prog_name="flowq", standalone_mode=False)
        return int(found or 0)
    except KeyboardInterrupt:
        problems.say("stopped")
        return 130
    except Exception as exc:
        return problems.report(exc)


def _check_text(arguments: list[str]) -> None:
    """Refuse bytes that are no text in the locale's encoding: no store and no file could take them.

    Raises:
        typer.BadParameter: An argument, or the name of the folder we are in, is none.
    """
    import os

    try:
        folder = os.getcwd()
    except OSError:  # removed meanwhile
        folder = ""
    for what, text in (*(("argument", text) for text in arguments), ("folder", folder)):
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            import typer

            raise typer.BadParameter(
                f"the {what} {ascii(os.fsencode(text))[1:]} is no text in the encoding "
                f"{sys.getfilesystemencoding()}: rename it, or set LC_ALL=C.UTF-8"
            )
