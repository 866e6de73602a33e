"""What a person sees while a run goes on; which view it is decides ``--progress``.

A view is told to `tick` about eight times a second; it reads what has changed and shows it.
"""

from __future__ import annotations

import os
import sys

from flowq.cli.output import Output
from flowq.errors import OutputError
from flowq.store import Store


class View:
    """Shows nothing.

    Args:
        out: Where words go.
        store: Where the run is.
        run_id: Which run.
    """

    #: Seconds between two looks.
    every = 0.125
    #: Whether what is said at a run's start and end is for people.
    in_words = True
    _broken = False

    def __init__(self, out: Output, store: Store, run_id: int) -> None:
        self.out, self._store, self._run_id = out, store, run_id

    def begun(self, uid: str) -> None:
        """Say that a run began in this command."""
        self.out.say(f"run {uid}")

    def prepare(self) -> None:
        """Show nothing of what happened so far; for a run that goes on."""

    def tick(self) -> None:
        """Show what has changed."""

    def look(self, last: bool = False) -> None:
        """`tick`, or `end`; a display that cannot go on says so once and must not stop a run."""
        if self._broken:
            return
        try:
            if last:
                self.end()
            else:
                self.tick()
        except OutputError:  # the data itself is what cannot be written
            raise
        except Exception as exc:
            self._broken = True
            self.out.say(f"the display stopped ({type(exc).__name__}: {exc}); the run goes on")

    def note(self, text: str) -> None:
        """Say something between."""
        self.out.once(text)

    def end(self) -> None:
        """The last look; nothing is shown after it."""


def view_for(how: str, out: Output, store: Store, run_id: int) -> View:
    """The view that ``--progress`` asks for; `auto` looks at stderr."""
    if out.quiet or how == "none":
        return View(out, store, run_id)
    from flowq.cli.lines import JsonView, PlainView

    if how == "json":
        return JsonView(out, store, run_id)
    if how in ("live", "auto") and _can_live(how):
        from flowq.cli.live import LiveView

        return LiveView(out, store, run_id)
    return PlainView(out, store, run_id)


def _can_live(how: str) -> bool:
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return False
    return how == "live" or not os.environ.get("CI")
