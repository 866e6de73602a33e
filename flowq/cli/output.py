"""Where words and data go: stdout for data, stderr for everything else."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from flowq.errors import OutputError
from flowq.render import label
from flowq.worker import standard

SCHEMA = 1


class Output:
    """How one command writes.

    Args:
        json: Data as JSON.
        quiet: No words but errors.
        color: None: as the terminal and NO_COLOR say.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False, color: bool | None = None):
        self.json, self.quiet = json, quiet
        self.color = color if color is not None else not os.environ.get("NO_COLOR")
        self._said: set[str] = set()
        #: What was stdout, once nobody else is to write there.
        self._kept: Any = None

    def keep_stdout(self) -> None:
        """Have stdout for data alone; what others write there goes to stderr from now on.

        For commands whose tasks run in this process: a thread that a task starts, or a program
        that it calls, writes to the descriptor and asks nobody. Repeating: does nothing.
        """
        stream = sys.stdout
        try:
            if self._kept is not None or stream is None or stream.fileno() != 1:
                return
        except (OSError, ValueError):  # not a file: somebody else's idea of stdout
            return
        standard.occupy()
        stream.flush()
        self._kept = os.fdopen(os.dup(1), "w", encoding=stream.encoding, errors=stream.errors)
        os.dup2(2, 1)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)

    @property
    def columns(self) -> int:
        """Width of what data is written to; 80 where that is no terminal."""
        import shutil

        if self._kept is None or os.environ.get("COLUMNS"):
            return shutil.get_terminal_size().columns
        try:
            return os.get_terminal_size(self._kept.fileno()).columns
        except OSError:
            return 80

    def data(self, text: str, end: str = "\n") -> None:
        """Data to stdout, as it is, with a line end; nowhere if its reader has gone.

        Raises:
            OutputError: stdout is closed or cannot be written.
        """
        write_data(text, end, json=self.json, stream=self._stdout)

    def shown(self, text: str, end: str = "\n") -> None:
        """`data` that a task may have made, with what would command a terminal written out."""
        self.data(label.visible(text), end)

    def value(self, text: str) -> None:
        """`data` as it is for a program that reads it, `shown` on a terminal."""
        stream = self._stdout
        (self.shown if stream is not None and stream.isatty() else self.data)(text)

    def binary(self, data: bytes) -> None:
        """Bytes to stdout; as `data`."""
        stream = self._stdout
        with _writing(stream):
            stream.buffer.write(data)
            stream.buffer.flush()

    @property
    def _stdout(self) -> Any:
        return self._kept or sys.stdout

    def object(self, fields: dict[str, Any]) -> None:
        """One JSON object to stdout, on one line, with the schema's number."""
        self.data(to_json({"schema": SCHEMA, **fields}))

    def say(self, text: str) -> None:
        """Words to stderr, unless quiet."""
        if not self.quiet:
            write_words(label.visible(text))

    def once(self, text: str) -> None:
        """`say`, but the same words only once."""
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    @property
    def ascii(self) -> bool:
        """Whether stderr cannot show more than ASCII."""
        return not _is_unicode(sys.stderr)


def write_data(text: str, end: str = "\n", *, json: bool = True, stream: Any = None) -> None:
    """Data to stdout, or what was stdout; `json`: what its encoding cannot take as JSON escapes.

    Raises:
        OutputError: stdout is closed or cannot be written.
    """
    stream = stream or sys.stdout
    with _writing(stream):
        _write(stream, text, end, _json_escapes if json else _escapes)


def write_words(text: str) -> None:
    """One line to stderr; words that cannot be written end nothing."""
    with contextlib.suppress(OSError):
        _write(sys.stderr, text, "\n", _escapes)


@contextlib.contextmanager
def _writing(stream: Any) -> Iterator[None]:
    """Tell in a sentence that stdout cannot be written; stay quiet where its reader has gone."""
    if stream is None:  # closed before the program began
        raise OutputError("stdout is closed, the data cannot be written; open it, or use a file")
    try:
        yield
    except BrokenPipeError:
        _to_nowhere(stream)
    except OSError as exc:
        _to_nowhere(stream)  # else Python tries once more when it ends, and complains
        raise OutputError(
            f"stdout cannot be written: {exc.strerror}; make room, or write to another place"
        ) from exc


def _to_nowhere(stream: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _write(stream: Any, text: str, end: str, escaped: Callable[[str, str], str]) -> None:
    """Write what a stream's encoding can take, the rest escaped; nowhere if there is no reader."""
    if stream is None:  # closed before the program began
        return
    try:
        try:
            print(text, end=end, file=stream, flush=True)
        except UnicodeEncodeError:
            print(escaped(text, stream.encoding), end=end, file=stream, flush=True)
    except BrokenPipeError:  # as in: flowq list | head -1
        _to_nowhere(stream)


def _escapes(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _json_escapes(text: str, _encoding: str) -> str:
    import json

    return "".join(char if char < "\x7f" else json.dumps(char)[1:-1] for char in text)


def is_ascii(stream: Any) -> bool:
    """Whether a stream cannot show more than ASCII."""
    return not _is_unicode(stream)


def _is_unicode(stream: Any) -> bool:
    name = str(getattr(stream, "encoding", "") or "").lower().replace("-", "")
    return name.startswith("utf")


def to_json(value: Any) -> str:
    """JSON of any value on one line; what JSON has no form for is written as text."""
    import json

    try:
        return json.dumps(value, default=_plain, ensure_ascii=False, allow_nan=False)
    except ValueError:  # not a number, or infinite
        return json.dumps(_without_nan(value), default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value.timestamp()) if value.tzinfo else value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, set | frozenset | tuple):
        return list(value)
    return str(value)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value


def readable(value: Any, columns: int | None = None) -> str:
    """A value for a person: text as it is, anything else as Python writes it, so wide at most."""
    if isinstance(value, str):
        return value
    text = repr(value)
    if len(text) <= 80 or not isinstance(value, dict | list | tuple):
        return text
    import pprint
    import shutil

    width = columns or shutil.get_terminal_size().columns
    return pprint.pformat(value, width=min(width, 120), sort_dicts=False)


def iso(at: float | None) -> str | None:
    """An epoch time as ISO 8601 in UTC, with milliseconds."""
    if at is None:
        return None
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
