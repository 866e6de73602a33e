"""From what a worker reports of a bare task to what a result backend keeps of it."""

from __future__ import annotations

import time

import msgspec

from flowq.backends import TaskMeta
from flowq.broker.codec import Report, ReportKind
from flowq.errors import Ignore, TaskRevokedError, WorkerLostError
from flowq.payload import encode_error

_STATES = {
    ReportKind.STARTED: "STARTED",
    ReportKind.SUCCESS: "SUCCESS",
    ReportKind.FAILURE: "FAILURE",
    ReportKind.RETRY: "RETRY",
    ReportKind.LOST: "FAILURE",
    ReportKind.EXPIRED: "REVOKED",
    ReportKind.IGNORED: "IGNORED",
    ReportKind.REVOKED: "REVOKED",
}


def meta_of(report: Report) -> TaskMeta | None:
    """The state that a report means; None for one that means none (output, a replacement)."""
    kind = ReportKind(report.kind)
    if kind is ReportKind.PROGRESS:
        fields = msgspec.json.decode(report.frame[1:])
        return TaskMeta(fields.get("state") or "STARTED", meta=report.frame[1:])
    state = _STATES.get(kind)
    if state is None:
        return None
    if kind in (ReportKind.STARTED, ReportKind.RETRY):
        return TaskMeta(state, report.frame)
    return TaskMeta(state, _frame(kind, report), report.ended or time.time())


def _frame(kind: ReportKind, report: Report) -> bytes:
    if kind is ReportKind.LOST:
        lost = WorkerLostError(f"the process that ran it ended: {report.extra}")
        return encode_error(lost, node_id=report.id)
    if kind is ReportKind.EXPIRED:
        return encode_error(TaskRevokedError("expired"), node_id=report.id)
    if kind is ReportKind.REVOKED:
        return encode_error(TaskRevokedError(str(report.extra or "revoked")), node_id=report.id)
    if kind is ReportKind.IGNORED:
        return encode_error(Ignore(), node_id=report.id)
    return report.frame
