"""What was asked of the embedded engine's worker: not to run bare tasks, to end what runs.

Any thread may ask; the worker belongs to who makes a turn, so it is told in the next one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from flowq.broker.codec import Bundle, Report, ReportKind
from flowq.worker.pool import Target, signal_number

if TYPE_CHECKING:
    from flowq.broker.transport import MemoryTransport
    from flowq.worker.worker import Worker

#: Revoked ids that are remembered: a task sent later under one of them is not run.
_KEPT: Final = 50_000


class Revoking:
    """Orders to revoke and to kill, until the worker has heard of them."""

    def __init__(self) -> None:
        #: (id, signal to end it with where it runs; None: let it run).
        self._asked: deque[tuple[str, int | None]] = deque()
        self._kills: deque[tuple[Target, int]] = deque()
        self._ids: OrderedDict[str, None] = OrderedDict()
        #: To be killed if a hand, which was asked to give them back, has begun them instead.
        self._doomed: dict[str, int] = {}

    def ask(self, task_id: str, terminate: bool, signal: Any) -> None:
        """Have a bare task not run, and with `terminate` end it where it runs already.

        Raises:
            WrongState: There is no such signal.
        """
        self._asked.append((task_id, signal_number(signal or "SIGTERM") if terminate else None))

    def kill(self, node: tuple[int, int], signal: Any) -> None:
        """Have the process end that runs a node; the default signal is SIGKILL.

        Raises:
            WrongState: There is no such signal.
        """
        self._kills.append((node, signal_number(signal)))

    @property
    def is_asked(self) -> bool:
        """Whether there is something to tell the worker."""
        return bool(self._asked or self._kills)

    @property
    def is_idle(self) -> bool:
        """Whether `tell` would do nothing."""
        return not (self._asked or self._kills or self._doomed)

    def covers(self, task_id: str) -> bool:
        """Whether a bare task was revoked, as far as the worker was told."""
        return task_id in self._ids

    def tell(self, worker: Worker, transport: MemoryTransport) -> list[Report]:
        """Tell the worker; gives the ends of tasks that waited on the way to it."""
        while self._kills:
            worker.kill(*self._kills.popleft())
        doomed, self._doomed = self._doomed, {}
        for task_id, number in doomed.items():
            self._end(worker, task_id, number)
        asked: set[str] = set()
        while self._asked:
            task_id, end_with = self._asked.popleft()
            asked.add(task_id)
            self._ids[task_id] = None
            if end_with is None:
                worker.revoke_task(task_id)
            else:
                self._end(worker, task_id, end_with)
        while len(self._ids) > _KEPT:
            self._ids.popitem(last=False)
        if not asked:
            return []
        waiting = transport.withdraw(lambda bundle: _bare_id(bundle) in asked)
        return [revoked(_bare_id(bundle)) for bundle in waiting]

    def sift(self, bundle: Bundle, publish: Callable[[Bundle], None]) -> list[Report]:
        """Publish a bare task, or give its end where it is one that was revoked."""
        task_id = _bare_id(bundle)
        if task_id in self._ids:
            return [revoked(task_id)]
        publish(bundle)
        return []

    def _end(self, worker: Worker, task_id: str, number: int) -> None:
        if worker.revoke_task(task_id):
            self._doomed[task_id] = number
        else:  # it runs, or is not here; then nobody is killed
            worker.kill(task_id, number)


def _bare_id(bundle: Bundle) -> str:
    """Id of the bare task that a bundle is; "" for nodes."""
    item = bundle.items[0]
    return "" if item.run else item.id


def revoked(task_id: str, why: str | None = None) -> Report:
    """The end of a bare task that is not run."""
    return Report(0, 0, 1, ReportKind.REVOKED, id=task_id, extra=why)


def judged(report: Report) -> Report:
    """A bare task whose process was ended on purpose is revoked, not lost."""
    if report.kind == ReportKind.LOST and report.extra == "terminated":
        report.kind = ReportKind.REVOKED
    return report
