"""Views that write lines: plain ones for logs and pipes, and JSON objects."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flowq.cli.output import Output, iso, to_json, write_data, write_words
from flowq.cli.views import View
from flowq.render import label

if TYPE_CHECKING:
    from flowq.cli.follow import Progress, Tally
    from flowq.store import Store
    from flowq.store.rows import TransitionRow

#: Members of a larger group get no lines of their own while all goes well.
_LISTED = 20
#: A group of this size has milestones.
_MILESTONES = 4


class Following(View):
    """A view that reads the run; made at the first look, so that a short run costs nothing."""

    replay = True
    _progress: Progress | None = None

    @property
    def progress(self) -> Progress:
        """The run as read so far."""
        if self._progress is None:
            from flowq.cli.follow import Progress

            self._progress = Progress(self._store, self._run_id, replay=self.replay)
        return self._progress

    def prepare(self) -> None:
        self.replay = False
        _ = self.progress

    def end(self) -> None:
        self.tick()


class JsonView(Following):
    """One JSON object a line for each line of the story, to stderr or to `stream`."""

    in_words = False

    def __init__(self, out: Output, store: Store, run_id: int, stream: Any = None) -> None:
        super().__init__(out, store, run_id)
        self._stream = stream or sys.stderr
        self._ended = ""

    def begun(self, uid: str) -> None:
        self._write(run_event(uid, "RUNNING"))

    def tick(self) -> None:
        progress = self.progress
        for row in progress.poll():
            self._write(event_of(progress, row))
        state = progress.row.state
        if state != self._ended and state != "RUNNING":
            self._ended = state
            self._write(run_event(progress.row.uid, state))

    def _write(self, fields: Mapping[str, Any]) -> None:
        if self._stream is sys.stdout:
            write_data(to_json(fields))
        else:
            write_words(to_json(fields))

    def note(self, text: str) -> None:
        """Kept out of the stream of objects."""


def run_event(uid: str, state: str) -> dict[str, Any]:
    """The state of a run as an object of JSON streams."""
    return {"schema": 1, "event": "run", "run": uid, "state": state}


def event_of(progress: Progress, row: TransitionRow) -> dict[str, Any]:
    """One line of the story as the object that JSON streams give."""
    return {
        "schema": 1,
        "event": "node",
        "run": progress.row.uid,
        "seq": row.seq,
        "node": row.idx,
        "name": progress.names[row.idx],
        "before": row.before,
        "after": row.after,
        "cause": row.cause,
        "attempt": row.attempt,
        "at": iso(row.at),
        "began_at": iso(row.began_at),
        "ended_at": iso(row.ended_at),
    }


class PlainView(Following):
    """One line for each change of interest, time first, for pipes and logs."""

    def __init__(self, out: Output, store: Store, run_id: int) -> None:
        super().__init__(out, store, run_id)
        self._started: dict[int, float] = {}
        self._lines: list[tuple[float, str]] = []
        self._paused = False

    def tick(self) -> None:
        progress = self.progress
        for piece in progress.output():
            name = progress.names[piece.idx]
            for line in piece.text.splitlines():
                self._lines.append((piece.at, f"{name} | {label.plain(line)}"))
        for row in progress.poll():
            self._tell(progress, row)
        paused = progress.row.state == "PAUSED"
        if paused != self._paused:
            self._paused = paused
            self._lines.append((self._store.now(), "run paused" if paused else "run goes on"))
        lines, self._lines = self._lines, []
        for at, text in sorted(lines, key=lambda pair: pair[0]):
            self.out.say(f"{iso(at)} {text}")

    def _tell(self, progress: Progress, row: TransitionRow) -> None:
        if progress.kinds[row.idx]:
            return
        text = self._words(progress, row)
        if text:
            at = row.began_at if row.after == "STARTED" else row.ended_at
            self._lines.append((at or row.at, f"{progress.names[row.idx]} {text}"))
        if row.after in ("SUCCESS", "FAILURE"):
            for tally in progress.groups_of.get(row.idx, ())[:1]:
                self._milestone(tally, row)

    def _words(self, progress: Progress, row: TransitionRow) -> str:
        groups = progress.groups_of.get(row.idx, ())
        quiet = any(tally.total > _LISTED for tally in groups)
        if row.after == row.before:
            return ""
        match row.after:
            case "STARTED":
                self._started[row.idx] = row.began_at or row.at
                return "" if quiet else "started"
            case "SUCCESS" if row.idx in self._started:
                began = self._started.pop(row.idx)
                took = label.duration((row.ended_at or row.at) - began)
                return "" if quiet else f"succeeded in {took}"
            case "RETRY":
                return f"will be tried again after attempt {row.attempt}: {_error(row)}"
            case "FAILURE":
                return f"failed: {_error(row)}"
            case "READY" if "lost" in row.cause:
                return f"lost its process in attempt {row.attempt} and is dispatched again"
        return ""

    def _milestone(self, tally: Tally, row: TransitionRow) -> None:
        if tally.total < _MILESTONES:
            return
        percent = tally.done * 4 // tally.total * 25
        if percent > tally.shown:
            tally.shown = percent
            name = tally.label or "flow"
            words = label.sentence({k: n for k, n in tally.counts.items() if n})
            self._lines.append((row.ended_at or row.at, f"{name}: {percent} % ({words})"))


def _error(row: TransitionRow) -> str:
    from flowq.store.reading import one_line

    return label.plain(one_line(bytes(row.detail))) if row.detail else "no error recorded"
