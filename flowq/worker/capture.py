"""What a task writes to stdout, stderr and logging, kept per attempt.

Two stand-ins for the streams and one logging handler ask at each write which capture is current:
that of the pool thread (a context variable, set once per thread), else that of the process (a
pool child runs one item at a time, so threads a task starts are captured too), else none, and
then the text goes where it would have gone. So an item that writes nothing costs nothing.
What a task's subprocesses write is not captured.
"""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

STDOUT: Final = 1
STDERR: Final = 2
LOGGING: Final = 3

#: Characters kept of one attempt where nobody says how many; the rest is left out.
LIMIT: Final = 64 * 1024
#: An attempt that runs longer than this sends what it wrote so far, at most that often (seconds).
STREAM_AFTER: Final = 0.2
#: A line that is not ended is waited for, so that it is not shown in pieces; so long (seconds).
_LINE_WAITS: Final = 2.0

Chunk = tuple[int, str]


class Capture:
    """What the attempt that is running now has written so far."""

    __slots__ = ("_emit", "_limit", "_lines", "_since", "_size", "chunks", "passing")

    def __init__(
        self, emit: Callable[[list[Chunk]], None] | None = None, limit: int = LIMIT
    ) -> None:
        self._limit = limit
        #: Written and not yet taken; neighbours of one stream are joined when taken.
        self.chunks: list[Chunk] = []
        #: Whether what is written goes where it would have gone without a capture.
        self.passing = False
        #: Stream -> what was printed and not ended yet, while it passes.
        self._lines: dict[int, str] = {}
        self._size = 0
        self._since = 0.0
        self._emit = emit

    def begin(self, now: float) -> None:
        """Forget the attempt before; `now` is on the monotonic clock, in seconds."""
        self._since = now
        if self._size:
            self._size = 0
            self.chunks = []

    def write(self, stream: int, text: str) -> None:
        """Keep text, up to the limit; hands on what is there when the attempt runs long."""
        room = self._limit - self._size
        if room < 0 or not text:
            return
        self._size += len(text)
        if len(text) > room:
            text = f"{text[:room]}\n... output over {_size(self._limit)} is left out\n"
        self.chunks.append((stream, text))
        if self._emit is not None:
            now = time.monotonic()
            waited = now - self._since
            if waited > STREAM_AFTER and (text.endswith("\n") or waited > _LINE_WAITS):
                self._since = now
                taken = self.take()
                if taken:
                    self._emit(taken)

    def pass_on(self, stream: int, text: str, level: int) -> None:
        """Log what is printed, line by line."""
        *lines, self._lines[stream] = (self._lines.get(stream, "") + text).split("\n")
        for line in lines:
            _log_line(line, level)

    def end_line(self) -> None:
        """Log what was printed last, where it has no end."""
        if self._lines:
            lines, self._lines = self._lines, {}
            for line in lines.values():
                _log_line(line, _redirect)

    def take(self) -> list[Chunk] | None:
        """Give what was written since the last call, in order; None for nothing."""
        chunks, self.chunks = self.chunks, []
        if not chunks:
            return None
        joined: list[Chunk] = []
        run: list[str] = []
        stream = chunks[0][0]
        for number, text in chunks:
            if not text.isascii():  # lone surrogates have no form in a message
                text = text.encode("utf-8", "replace").decode("utf-8")
            if number != stream:
                joined.append((stream, "".join(run)))
                run, stream = [], number
            run.append(text)
        joined.append((stream, "".join(run)))
        return joined


def _size(characters: int) -> str:
    return f"{characters // 1024} KiB" if characters >= 1024 else f"{characters} characters"


_of_thread: ContextVar[Capture | None] = ContextVar("flowq_capture", default=None)
_of_process: Capture | None = None
#: Level at which lines are logged that are printed where a capture passes them on; 0 for no log.
_redirect = 0
_logging: ContextVar[bool] = ContextVar("flowq_redirecting", default=False)
_printed = logging.getLogger("flowq.redirected")


def redirect(level: int) -> None:
    """Log what is printed while a capture passes it on; 0 has it printed."""
    global _redirect
    _redirect = level


def _log_line(line: str, level: int) -> None:
    if not line.strip():
        return
    token = _logging.set(True)  # a handler may write to what stands for stderr
    try:
        _printed.log(level, "%s", line)
    finally:
        _logging.reset(token)


def current() -> Capture | None:
    """The capture that a write in this thread belongs to, or None."""
    capture = _of_thread.get() or _of_process
    return None if capture is None or capture.passing else capture


def use_in_thread(capture: Capture | None) -> None:
    """Capture what this thread (and the coroutines it runs) writes from now on."""
    _of_thread.set(capture)


def use_in_process(capture: Capture | None) -> None:
    """Capture what any thread of this process writes that has no capture of its own."""
    global _of_process
    _of_process = capture


class _Bytes(io.BufferedIOBase):
    """Stands for ``sys.stdout.buffer``; a character must not be cut in two by two writes."""

    def __init__(self, stream: _Stream) -> None:
        super().__init__()
        self._stream = stream

    def write(self, data: Any) -> int:
        view = memoryview(data)
        if current() is not None:
            self._stream.write(bytes(view).decode("utf-8", "replace"))
        elif self._stream.original is not None:
            self._stream.original.buffer.write(view)
        return view.nbytes

    def flush(self) -> None:
        self._stream.flush()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        """Stay open, as the stream does."""


class _Stream(io.TextIOBase):
    """Stands for sys.stdout or sys.stderr."""

    def __init__(self, number: int, original: Any) -> None:
        super().__init__()
        self.number = number
        self.original = original
        self.buffer = _Bytes(self)

    def write(self, text: str) -> int:
        capture = _of_thread.get() or _of_process
        if capture is not None:
            if not isinstance(text, str):
                raise TypeError(f"write() argument must be str, not {type(text).__name__}")
            if not capture.passing:
                capture.write(self.number, text)
            elif _redirect and not _logging.get():
                capture.pass_on(self.number, text, _redirect)
            elif self.original is not None:
                self.original.write(text)
        elif self.original is not None:
            self.original.write(text)
        return len(text)

    def flush(self) -> None:
        if self.original is not None and current() is None:
            self.original.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return current() is None and self.original is not None and bool(self.original.isatty())

    def fileno(self) -> int:
        if self.original is None:
            raise io.UnsupportedOperation("fileno")
        return int(self.original.fileno())

    def close(self) -> None:
        """Stay open: a task that closes sys.stdout must not silence the next one."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["original"], name)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self.original, "encoding", None) or "utf-8"


class _Handler(logging.Handler):
    """Gives log records to the current capture; outside of tasks it does nothing."""

    def __init__(self) -> None:
        super().__init__()
        form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
        self.setFormatter(logging.Formatter(form))

    def emit(self, record: logging.LogRecord) -> None:
        capture = current()
        if capture is None:
            return
        try:
            text = self.format(record)
        except Exception:  # a wrong format string must not fail the task
            text = f"{record.levelname} {record.name}: {record.msg!r}"
        capture.write(LOGGING, text + "\n")


_handler: _Handler | None = None
_users = 0


def install(level: int | None = None) -> None:
    """Put the stand-ins in place; every call needs its `uninstall`.

    Args:
        level: Level for a root logger that nobody configured; None leaves it alone.
    """
    global _handler, _users
    _users += 1
    if _users > 1:
        return
    ensure()
    _handler = _Handler()
    root = logging.getLogger()
    if level is not None and root.level in (logging.NOTSET, logging.WARNING):
        root.setLevel(level)
    root.addHandler(_handler)


def ensure() -> None:
    """Put the stand-ins back where somebody put other streams in their place since `install`."""
    if not isinstance(sys.stdout, _Stream):
        sys.stdout = _Stream(STDOUT, sys.stdout)
    if not isinstance(sys.stderr, _Stream):
        sys.stderr = _Stream(STDERR, sys.stderr)


def uninstall() -> None:
    """Put the original streams back, where nobody has replaced them meanwhile."""
    global _handler, _users
    _users = max(_users - 1, 0)
    if _users or _handler is None:
        return
    if isinstance(sys.stdout, _Stream):
        sys.stdout = sys.stdout.original
    if isinstance(sys.stderr, _Stream):
        sys.stderr = sys.stderr.original
    logging.getLogger().removeHandler(_handler)
    _handler = None
