"""The worker's log as tasks see it: how its lines look, and what pool processes write to it.

What nodes write is kept per attempt (`worker.capture`). What bare tasks log and print goes straight
to the worker's log, each process appending for itself, so that a line is there when it was said.
"""

from __future__ import annotations

import logging
import sys

import msgspec

from flowq.worker import capture
from flowq.worker.request import current

FORMAT = "[%(asctime)s: %(levelname)s/%(process)d] %(message)s"
_IN_TASK = "[%(asctime)s: %(levelname)s/%(process)d] %(task_name)s[%(task_id)s]: %(message)s"


class Logs(msgspec.Struct, array_like=True):
    """How a process of a worker logs."""

    #: Least level of what is logged.
    level: int = logging.WARNING
    #: Path of the log file; empty: stderr.
    path: str = ""
    #: Whether handlers that the project gave to the root logger are taken off.
    hijack: bool = True
    #: Level of lines that bare tasks print; 0: they are printed as they are.
    redirect: int = 0


class Formatter(logging.Formatter):
    """Puts the name and the id of the task before what is logged in its body."""

    def __init__(self) -> None:
        super().__init__(FORMAT)
        self._in_task = logging.Formatter(_IN_TASK)

    def format(self, record: logging.LogRecord) -> str:
        """One record as text."""
        context = current()
        if context is None or context.called_directly:
            return super().format(record)
        record.task_name, record.task_id = context.task, context.id
        return self._in_task.format(record)


def set_up(logs: Logs, *, of_child: bool = False) -> None:
    """Have the root logger write to the worker's log, unless the project's own setup is to stay.

    Args:
        logs: What is to be done.
        of_child: What nodes log is left out: it is kept with their attempts.

    Raises:
        OSError: The file cannot be written.
    """
    root = logging.getLogger()
    if root.handlers and not logs.hijack:
        return
    stream = sys.__stderr__ if of_child else sys.stderr
    handler = logging.FileHandler(logs.path) if logs.path else logging.StreamHandler(stream)
    handler.setFormatter(Formatter())
    if of_child:
        handler.addFilter(lambda record: capture.current() is None)
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logs.level)
    for noisy in ("amqp", "kombu"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logs.level))
