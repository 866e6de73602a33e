"""The coordinator of one lane: take what happened, decide, commit once, then tell the world.

One `step` is one turn of the loop, without a thread, a clock or a socket of its own: all of
those are handed in, so that the simulator drives the very same code. It never blocks but in
the commit.

If a commit fails because rows had changed, or because one run's rows or payloads are broken,
everything in memory is dropped and the same facts are folded again run by run; a run that
fails alone is quarantined, so that it hurts no other.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from flowq.backends import UpdateLane
from flowq.broker.codec import Bundle, Report, ReportKind
from flowq.coordinator.admission import Submission
from flowq.coordinator.batch import Batch, Fence
from flowq.coordinator.dispatch import Dispatcher
from flowq.coordinator.folding import Folder
from flowq.coordinator.view import RunView
from flowq.errors import IdempotencyConflict, LaneLost, StoreError
from flowq.store import Store

log = logging.getLogger("flowq.coordinator")

#: Reports folded into one commit at most.
BATCH = 2000
#: Submissions written by one commit at most.
SUBMISSIONS = 200
#: Views kept in memory; the ones used longest ago go first.
VIEWS = 2000
#: A message of which nothing was heard for this long, and that no worker holds, is sent again.
RESEND_SECONDS = 5.0
_FRAMES = 20_000


class Facts(NamedTuple):
    """What one turn has to fold."""

    inbox: list[tuple[Any, ...]]
    timers: list[tuple[Any, ...]]
    reports: list[Report]
    submissions: list[Submission]

    def of(self, run_id: int) -> Facts:
        """Only what is about one run."""
        return Facts(
            [row for row in self.inbox if row[1] == run_id],
            [row for row in self.timers if row[0] == run_id],
            [report for report in self.reports if report.run == run_id],
            [],
        )

    def runs(self) -> list[int]:
        """Runs spoken of, in order of appearance."""
        found = dict.fromkeys(row[1] for row in self.inbox)
        found |= dict.fromkeys(row[0] for row in self.timers)
        return list(found | dict.fromkeys(report.run for report in self.reports))


class Coordinator:
    """Advances the runs of one lane.

    Args:
        store: The only truth.
        fence: The lane, and who writes to it.
        updates: Where workers' reports come in.
        publish: Puts a bundle on its queue; called after the commit that queued it.
        slots: Slots of the live workers on a queue, by name.
        held: Attempts (run, node, attempt) that live workers hold; None if not known.
        now: Epoch seconds by the store's clock.
        on_change: Called after each commit with the ids of the runs that changed, and of
            those that have ended.
        inline_bytes: Larger frames become payload rows.
    """

    def __init__(
        self,
        store: Store,
        fence: Fence,
        updates: UpdateLane,
        *,
        publish: Callable[[Bundle], None],
        slots: Callable[[str], int],
        held: Callable[[], set[tuple[int, int, int]] | None] = lambda: None,
        now: Callable[[], float] | None = None,
        on_change: Callable[[list[int], list[RunView]], None] = lambda changed, ended: None,
        inline_bytes: int = 64 * 1024,
        store_id: str = "",
    ) -> None:
        self._store, self._fence, self._updates = store, fence, updates
        self._publish, self._held, self._on_change = publish, held, on_change
        self._now = now or store.now
        self._views: OrderedDict[int, RunView] = OrderedDict()
        self._broken: set[int] = set()
        self.dispatcher = Dispatcher(
            store, fence.lane_id, slots=slots, view_of=self._view, store_id=store_id
        )
        self._folder = Folder(
            store,
            fence.lane_id,
            inline_bytes=inline_bytes,
            queue_ids=self.dispatcher.queue_ids,
        )
        self._folder.left_message = self.dispatcher.left
        self._folder.value_frame = self.dispatcher.value_frame
        self._next_timer: float | None = 0.0
        self._next_sweep = 0.0
        self._published: list[int] = []
        #: Submissions of this process that wait for the next commit; any thread may append.
        self.submissions: deque[Submission] = deque()
        #: Set when the inbox may hold something; the caller's hint.
        self.inbox_rung = True
        #: Turns, commits and folded reports so far.
        self.steps = self.commits = self.folded = 0

    # -- the loop ------------------------------------------------------------------------

    def start(self) -> None:
        """Read the outbox; messages that may not have gone out are published again."""
        self.dispatcher.reload()
        for key in list(self.dispatcher.messages):
            bundle = self.dispatcher.again(key)
            if bundle is not None:
                self._publish(bundle)

    def step(self) -> bool:
        """One turn: fold what is there, commit, acknowledge, publish. True if anything was done.

        Raises:
            LaneLost: Another coordinator owns the lane; this one must end.
            StoreError: The store failed; nothing was acknowledged, so a later call repeats it.
        """
        self.steps += 1
        now = self._now()
        facts = self._gather(now)
        try:
            done = self._turn(facts, now)
        except (LaneLost, StoreError) as exc:
            self._forget()
            self._updates.rewind()
            for submission in facts.submissions:
                submission.fail(exc)
            raise
        except Exception:
            log.warning("a batch could not be applied; redoing it run by run", exc_info=True)
            self._forget()
            done = self._one_by_one(facts, now)
            self._admit_alone(facts.submissions)
        self._updates.ack(len(facts.reports))
        if now >= self._next_sweep:
            self._sweep(now)
        return done

    def wake_at(self) -> float:
        """Epoch time at which a turn is due even if nothing is heard."""
        times = (self._next_sweep, self._next_timer, self.dispatcher.rate_wake)
        return min(time for time in times if time is not None)

    def _gather(self, now: float) -> Facts:
        sql, lane = self._store.sql, self._fence.lane_id
        inbox: list[tuple[Any, ...]] = []
        if self.inbox_rung:
            self.inbox_rung = False
            inbox = self._store.rows(sql.inbox_take, (lane, BATCH))
            if len(inbox) == BATCH:
                self.inbox_rung = True
        timers: list[tuple[Any, ...]] = []
        if self._next_timer is not None and now >= self._next_timer:
            timers = self._store.rows(sql.timer_due, (lane, now, BATCH))
        submissions: list[Submission] = []
        while self.submissions and len(submissions) < SUBMISSIONS:
            submissions.append(self.submissions.popleft())
        return Facts(inbox, timers, self._updates.take(BATCH), submissions)

    def _turn(self, facts: Facts, now: float) -> bool:
        batch = Batch(now)
        for row in facts.inbox:
            self._command(batch, row)
        for run_id, index, kind in facts.timers:
            view = self._view(run_id)
            if view is None:
                batch.timer_run_drops.append((run_id,))
            else:
                self._folder.timer(batch, view, index, kind)
        self._fold(batch, facts.reports)
        if facts.submissions:
            bundles = self._store.write(lambda cursor: self._admit(cursor, batch, facts))
        else:
            bundles = self.dispatcher.dispatch(batch)
            if batch.empty:
                self._timers_known(now, facts)
                return False
            batch.settled, self._published = self._published, []
            self._store.write(lambda cursor: batch.write(self._store, cursor, self._fence))
        self.commits += 1
        self._after(batch, bundles, facts, now)
        for submission in facts.submissions:
            submission.done.set()
        return True

    # -- submissions ---------------------------------------------------------------------

    def _admit(self, cursor: Any, batch: Batch, facts: Facts) -> list[Bundle]:
        """Write new runs and dispatch their roots, with the rest of the turn, in one commit."""
        for submission in facts.submissions:
            self._admit_one(cursor, batch, submission)
        bundles = self.dispatcher.dispatch(batch)
        batch.settled, self._published = self._published, []
        batch.write(self._store, cursor, self._fence)
        return bundles

    def _admit_one(self, cursor: Any, batch: Batch, submission: Submission) -> None:
        new, graph = submission.new, submission.graph
        try:
            found = self._store.submit_in(cursor, new, graph, announce=False)
        except IdempotencyConflict as exc:  # found before anything was written
            submission.error = exc
            return
        submission.run_id, submission.uid, submission.is_new = found
        if not submission.is_new:
            return
        names = {spec.queue for spec in graph.specs}
        ids = self._store.queue_ids(self._fence.lane_id, names, cursor)
        self.dispatcher.learn(ids)
        queues = [(ids[spec.queue], spec.priority + new.priority) for spec in graph.specs]
        run_id = submission.run_id
        view = RunView.fresh(run_id, submission.uid, graph, queues, new.to_backend)
        self._views[run_id] = view
        self._folder.begin(batch, view)

    def _admit_alone(self, submissions: list[Submission]) -> None:
        """After a batch that could not be applied: store what was to be submitted by itself."""
        for submission in submissions:
            try:
                found = self._store.submit(submission.new, submission.graph)
            except Exception as exc:
                submission.fail(exc)
                continue
            submission.run_id, submission.uid, submission.is_new = found
            self.inbox_rung = True
            submission.done.set()

    def _after(self, batch: Batch, bundles: list[Bundle], facts: Facts, now: float) -> None:
        """What follows a commit: publish, tell waiters, keep memory small."""
        for bundle in bundles:
            self._publish(bundle)
            self._published.append(bundle.outbox_id)
        if batch.timers and self._next_timer is not None:
            self._next_timer = min(self._next_timer, min(row[4] for row in batch.timers))
        elif batch.timers:
            self._next_timer = min(row[4] for row in batch.timers)
        self._timers_known(now, facts)
        for view, _ in batch.runs.values():
            if len(view.frames) + len(view.errors) > _FRAMES and not view.open_count:
                view.frames.clear()
        self._on_change(list(batch.runs), batch.finished)
        for view in batch.finished:
            self._views.pop(view.run_id, None)

    def _timers_known(self, now: float, facts: Facts) -> None:
        if facts.timers or (self._next_timer is not None and now >= self._next_timer):
            row = self._store.one(self._store.sql.timer_next, (self._fence.lane_id,))
            self._next_timer = row[0] if row else None

    # -- folding -------------------------------------------------------------------------

    def _fold(self, batch: Batch, reports: Iterable[Report]) -> None:
        success = ReportKind.SUCCESS
        for report in reports:
            view = self._view(report.run)
            if view is None:
                continue
            if self._folder.report(batch, view, report) and report.kind == success:
                spec = view.specs[view.spec_no[report.idx]]
                self.dispatcher.measured(spec.task, report.ended - report.began)
            self.folded += 1

    def _command(self, batch: Batch, row: tuple[Any, ...]) -> None:
        key, run_id, kind, body = row
        batch.inbox_done.append((key,))
        view = self._view(run_id)
        if view is None:
            return
        folder = self._folder
        if kind == "submitted":
            self.dispatcher.refresh()
            folder.begin(batch, view)
        elif kind == "cancel":
            folder.cancel(batch, view)
        elif kind in ("pause", "unpause"):
            folder.pause(batch, view, kind == "pause")
        elif kind == "retry":
            folder.reopen(batch, view)
        elif kind == "adopt":
            self.dispatcher.refresh()
            folder.adopt(batch, view)
        elif kind == "revoke":
            folder.revoke(batch, view, int(bytes(body).decode()))
        else:
            log.error("inbox row %s of run %s has unknown kind %r; dropped", key, run_id, kind)

    def _one_by_one(self, facts: Facts, now: float) -> bool:
        """Fold the same facts run by run; a run that fails alone is set aside."""
        for run_id in facts.runs():
            try:
                self._turn(facts.of(run_id), now)
            except (LaneLost, StoreError):
                self._updates.rewind()
                raise
            except Exception:
                log.exception("run %s cannot be advanced and is set aside", run_id)
                self._broken.add(run_id)
                self._forget()
                self._drop_inbox(facts.of(run_id))
        return True

    def _drop_inbox(self, facts: Facts) -> None:
        rows = [(row[0],) for row in facts.inbox]
        if rows:
            sql = self._store.sql
            self._store.write(lambda cursor: cursor.executemany(sql.inbox_delete, rows))

    # -- views ---------------------------------------------------------------------------

    def _view(self, run_id: int) -> RunView | None:
        """The view of a run of this lane; None for one that is unknown or set aside."""
        view = self._views.get(run_id)
        if view is not None:
            return view
        if run_id in self._broken:
            return None
        head = self._store.one(self._store.sql.run_head, (run_id,))
        if head is None or head[2] != self._fence.lane_id:
            return None
        view = self._views[run_id] = RunView.load(self._store, run_id)
        if len(self._views) > VIEWS:
            self._shrink()
        return view

    def _shrink(self) -> None:
        """Drop the views loaded longest ago that have nothing out."""
        for run_id in list(self._views)[: VIEWS // 4]:
            if not self._views[run_id].outbox:
                del self._views[run_id]

    def _forget(self) -> None:
        """After a failed commit memory may be ahead of the rows: read everything anew."""
        self._views.clear()
        self._published.clear()
        self._store.forget_queues()
        self.inbox_rung = True
        self._next_timer = 0.0
        self.dispatcher.reload()

    # -- sweeping ------------------------------------------------------------------------

    def _sweep(self, now: float) -> None:
        """Publish again what nobody has: lost on the way, or dropped with a broker."""
        self._next_sweep = now + RESEND_SECONDS
        held = self._held()
        if held is None:
            return
        for key, message in list(self.dispatcher.messages.items()):
            if now - message[2] < RESEND_SECONDS:
                continue
            if any((run, idx, attempt) in held for run, idx, attempt in message[3]):
                continue
            bundle = self.dispatcher.again(key)
            if bundle is not None:
                message[2] = now
                self._publish(bundle)
