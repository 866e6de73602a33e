"""What a worker's log says of tasks, in Celery's words: a bare task's steps, nodes that failed.

A node's story is in the store, and there are thousands of them a second: only its failure is a
line here.
"""

from __future__ import annotations

import logging
from typing import Final

from flowq.broker.codec import Report, ReportKind
from flowq.errors import FlowqError
from flowq.payload import ErrorInfo, decode, decode_error, error_repr, frame_repr
from flowq.worker.baretask import Held

log = logging.getLogger("flowq.worker")

_TEXT: Final = 1024
#: Results with larger frames (bytes) are shown as they are written, which costs less.
_SMALL: Final = 4096
#: What is worth a line of a node too.
WORSE: Final = (ReportKind.FAILURE, ReportKind.LOST)


def of_bare(held: Held, report: Report | None) -> None:
    """Something became of a bare task: a report, or None when it was taken."""
    if report is None:
        if log.isEnabledFor(logging.INFO):
            eta = held.message.eta
            log.info("Task %s received%s", _name(held), f"  ETA:[{eta}]" if eta else "")
        return
    kind = report.kind
    if kind in WORSE and held.refused:
        return
    if kind in WORSE:
        _failed(held, report)
    elif not log.isEnabledFor(logging.INFO):
        return
    elif kind == ReportKind.SUCCESS:
        took = max(0.0, report.ended - report.began)
        log.info("Task %s succeeded in %.6gs: %s", _name(held), took, _result(report.frame))
    elif kind == ReportKind.RETRY:
        delay = report.extra if isinstance(report.extra, int | float) else 0
        info = decode_error(report.frame)
        log.info("Task %s retry: Retry in %gs: %s", _name(held), delay, error_repr(info))
    elif kind == ReportKind.IGNORED:
        log.info("Task %s ignored", _name(held))
    elif kind == ReportKind.EXPIRED:
        log.info("Discarding expired task: %s", _name(held))
    elif kind == ReportKind.REVOKED:
        if report.extra:
            log.info("Task %s was revoked: %s", _name(held), report.extra)
        else:
            log.info("Discarding revoked task: %s", _name(held))


def of_node(report: Report) -> None:
    """A node failed, or its process was lost."""
    if report.kind == ReportKind.LOST:
        what = f"node {report.idx} of run {report.run} (its number in the store)"
        log.error("A process was lost in %s: %s", what, report.extra)
        return
    info = decode_error(report.frame)
    log.error("Task %s[%s] raised unexpected: %s", info.task, info.node_id, error_repr(info))


def _failed(held: Held, report: Report) -> None:
    if report.kind == ReportKind.LOST:
        text = f"WorkerLostError('the process that ran it ended: {report.extra}')"
        log.error("Task %s raised unexpected: %s", _name(held), text)
        return
    info = decode_error(report.frame)
    if _is_one_of(info, held.policy.throws):
        log.info("Task %s raised expected: %s", _name(held), error_repr(info))
        return
    trace = f"\n{info.traceback.rstrip()}" if info.traceback else ""
    log.error("Task %s raised unexpected: %s%s", _name(held), error_repr(info), trace)


def _name(held: Held) -> str:
    message = held.message
    return f"{message.shadow or message.task}[{message.id}]"


def _result(frame: bytes) -> str:
    if not frame:
        return "None"
    if len(frame) > _SMALL:
        return frame_repr(frame, _TEXT)
    try:
        return repr(decode(frame, ("json", "msgpack")))[:_TEXT]
    except FlowqError:
        return frame_repr(frame, _TEXT)


def _is_one_of(info: ErrorInfo, expected: tuple[type[BaseException], ...]) -> bool:
    """Whether an error is of one of these classes, or of a class made from one."""
    classes = list(expected)
    for each in classes:
        if (each.__module__, each.__qualname__) == (info.module, info.type):
            return True
        classes += each.__subclasses__()
    return False
