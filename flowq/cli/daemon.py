"""A server process by itself: in the background, with a pidfile and a log file."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
from pathlib import Path

from flowq.errors import ImproperlyConfigured
from flowq.worker.livelog import Logs, set_up

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Pidfile:
    """Says which process it is, and keeps a second one from starting.

    The file is locked as long as the process lives; a file left by a dead one is taken over.

    Args:
        path: Where; an empty path makes none.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._fd = -1

    def take(self) -> None:
        """Make it, or take it over; what it says is for `write`.

        Raises:
            ImproperlyConfigured: A live process has it, or it cannot be written.
        """
        if self._path is None:
            return
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise ImproperlyConfigured(
                f"cannot write the pidfile {self._path}: {exc.strerror}; name another with "
                "--pidfile"
            ) from exc
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.read(self._fd, 32).decode(errors="replace").strip()
            os.close(self._fd)
            self._fd = -1  # it is the other's: not to be removed here
            raise ImproperlyConfigured(
                f"process {pid} has the pidfile {self._path}: it runs already; stop it, or name "
                "another with --pidfile"
            ) from None

    def write(self) -> None:
        """Write this process's number."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def drop(self) -> None:
        """Remove it. A second call does nothing."""
        if self._fd >= 0 and self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._fd)
            self._fd = -1


def set_up_logging(level: str, logfile: str = "", *, hijack: bool = True) -> Logs:
    """Log to stderr, or to a file, from a level on; gives what child processes need to do so.

    Args:
        level: Name of the level.
        logfile: Path; empty: stderr.
        hijack: Whether it is done also where the project has set up the root logger.

    Raises:
        ImproperlyConfigured: No such level, or the file cannot be written.
    """
    name = level.upper()
    if name not in LEVELS:
        raise ImproperlyConfigured(f"no log level is called {level!r}: use {', '.join(LEVELS)}")
    logs = Logs(int(getattr(logging, name)), os.path.abspath(logfile) if logfile else "", hijack)
    try:
        set_up(logs)
    except OSError as exc:
        raise ImproperlyConfigured(
            f"cannot write the log file {logfile}: {exc.strerror}; name another with --logfile"
        ) from exc
    return logs


def into_background(logfile: str) -> None:
    """Go on as a process of its own, without a terminal; returns in that process only."""
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    target = logfile or os.devnull
    null = os.open(os.devnull, os.O_RDWR)
    words = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(null, 0)
    os.dup2(words, 1)
    os.dup2(words, 2)
    os.close(null)
    os.close(words)
