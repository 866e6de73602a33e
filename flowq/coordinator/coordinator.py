"""The coordinator of one lane: take what happened, decide, commit once, then tell the world.

One `step` is one turn of the loop, without a thread, a clock or a socket of its own: all of
those are handed in, so that the simulator drives the very same code. It never blocks but in
the commit.

A run whose rows or payloads are broken is set aside and hurts no other: `dispatcher.at` names the
run that is being worked on when something raises. If the commit itself fails because rows had
changed, everything in memory is dropped and the same facts are folded again run by run. What
was acknowledged by nobody comes again; what a commit that only seemed to fail has done already
is discarded then.
"""

from __future__ import annotations

import contextlib
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
from flowq.errors import (
    BrokerError,
    CorruptStore,
    IdempotencyConflict,
    LaneLost,
    SchemaMismatch,
    StoreUnavailable,
)
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
#: Seconds after which a timer of a run that is set aside is looked at again.
_ASIDE_SECONDS = 60.0
#: Errors that say nothing about a run: the turn is given up and comes again.
_DOWN = (LaneLost, StoreUnavailable, CorruptStore, SchemaMismatch)


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
        #: Runs set aside; the dispatcher looks at it too.
        self._broken: set[int] = set()
        #: Whether the dispatcher's books have to be read anew.
        self._stale = True
        self.dispatcher = Dispatcher(
            store, fence.lane_id, slots=slots, view_of=self._view, store_id=store_id
        )
        self.dispatcher.broken = self._broken
        self._folder = Folder(
            store,
            fence.lane_id,
            inline_bytes=inline_bytes,
            queue_ids=self.dispatcher.queue_ids,
        )
        self._folder.left_message = self.dispatcher.left
        self._folder.value_frame = self.dispatcher.values.value
        self._folder.error_frame = self.dispatcher.values.error
        self._folder.is_out, self._folder.keep = self.dispatcher.is_out, self._keep
        self._next_timer: float | None = 0.0
        self._swept = 0.0
        self._published: list[int] = []
        #: Submissions of this process that wait for the next commit; any thread may append.
        self.submissions: deque[Submission] = deque()
        #: Set when the inbox may hold something; the caller's hint.
        self.inbox_rung = True
        #: Turns, commits and folded reports so far.
        self.steps = self.commits = self.folded = 0

    # -- the loop ------------------------------------------------------------------------

    def start(self) -> None:
        """Read the outbox; messages that may not have gone out are published again.

        Raises:
            LaneLost: Another coordinator owns the lane by now.
        """
        self._check_lane()
        self._refresh()
        for key in list(self.dispatcher.messages):
            if not self._again(key, self._now()):
                return

    def step(self) -> bool:
        """One turn: fold what is there, commit, acknowledge, publish. True if anything was done.

        Raises:
            LaneLost: Another coordinator owns the lane; this one must end.
            StoreUnavailable: The store failed; what was not acknowledged comes again.
        """
        self.steps += 1
        now = self._now()
        self._refresh()
        facts = self._gather(now)
        try:
            done = self._turn(facts, now)
        except _DOWN as exc:
            self._forget()
            for submission in facts.submissions:
                submission.fail(exc)
            raise
        except Exception:
            culprit = self.dispatcher.at
            if culprit and all(culprit != new.run_id for new in facts.submissions):
                self._forget()
                self._set_aside(culprit)
                self.submissions.extendleft(reversed(facts.submissions))
                return True
            log.warning("a batch could not be applied; redoing it run by run", exc_info=True)
            self._forget(rewind=False)
            done = self._redo(facts, now)
        self._updates.ack(len(facts.reports))
        if not now - RESEND_SECONDS < self._swept <= now:  # also if the clock was put back
            self._sweep(now)
        return done

    def wake_at(self) -> float:
        """Epoch time at which a turn is due even if nothing is heard."""
        sweep = self._swept + RESEND_SECONDS if self._swept <= self._now() else 0.0
        times = (sweep, self._next_timer, self.dispatcher.rate_wake)
        return min(time for time in times if time is not None)

    def _gather(self, now: float) -> Facts:
        sql, lane = self._store.sql, self._fence.lane_id
        inbox: list[tuple[Any, ...]] = []
        timers: list[tuple[Any, ...]] = []
        try:
            if self.inbox_rung:
                self.inbox_rung = False
                inbox = self._store.rows(sql.inbox_take, (lane, BATCH))
                if len(inbox) == BATCH:
                    self.inbox_rung = True
            if self._next_timer is not None and now >= self._next_timer:
                timers = self._store.rows(sql.timer_due, (lane, now, BATCH))
        except BaseException:
            self.inbox_rung = True
            raise
        submissions: list[Submission] = []
        while self.submissions and len(submissions) < SUBMISSIONS:
            submissions.append(self.submissions.popleft())
        return Facts(inbox, timers, self._updates.take(BATCH), submissions)

    def _turn(self, facts: Facts, now: float, dispatch: bool = True) -> bool:
        self.dispatcher.at = 0
        batch = Batch(now)
        for row in facts.inbox:
            if row[2] == "retry" and row[1] in batch.runs:
                self.inbox_rung = True  # on what is committed only: the next turn takes the rest
                break
            self._command(batch, row)
        for run_id, index, kind in facts.timers:
            view = self._view(run_id)
            if view is not None:
                self._folder.timer(batch, view, index, kind)
            elif run_id in self._broken:
                due = now + _ASIDE_SECONDS
                batch.timers.append((run_id, index, kind, self._fence.lane_id, due))
            else:
                batch.timer_run_drops.append((run_id,))
        self._fold(batch, facts.reports)
        if facts.submissions:
            bundles = self._store.write(lambda cursor: self._admit(cursor, batch, facts))
        else:
            bundles = self.dispatcher.dispatch(batch) if dispatch else []
            self.dispatcher.at = 0
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
        self.dispatcher.at = 0
        batch.settled, self._published = self._published, []
        batch.write(self._store, cursor, self._fence)
        return bundles

    def _admit_one(self, cursor: Any, batch: Batch, submission: Submission) -> None:
        new, graph = submission.new, submission.graph
        try:
            found = self._store.insert_run(cursor, new, graph, batch.now)
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
        view.started_at = batch.now
        self._views[run_id] = view
        batch.fresh[run_id] = (view, graph, new.priority)
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

    def _keep(self, batch: Batch, view: RunView, index: int) -> None:
        self._published.append(self.dispatcher.keep(batch, view, index))

    def _after(self, batch: Batch, bundles: list[Bundle], facts: Facts, now: float) -> None:
        """What follows a commit: publish, tell waiters, keep memory small. Raises nothing, for
        what is committed must not be decided again."""
        refused = False
        for bundle in bundles:
            refused = refused or not self._send(bundle)
            if refused:  # the sweep sends the rest
                self.dispatcher.messages[bundle.outbox_id][2] = 0.0
            else:
                self._published.append(bundle.outbox_id)
        if batch.timers:
            first = min(row[4] for row in batch.timers)
            self._next_timer = first if self._next_timer is None else min(self._next_timer, first)
        self._timers_known(now, facts)
        for view, _ in batch.runs.values():
            if len(view.frames) + len(view.errors) > _FRAMES and not view.open_count:
                view.frames.clear()
        try:
            self._on_change(list(batch.runs), batch.finished)
        except Exception:
            log.exception("a listener failed")
        for view in batch.finished:
            self._views.pop(view.run_id, None)
        if len(self._views) > VIEWS:
            self._shrink()

    def _send(self, bundle: Bundle) -> bool:
        """Publish; False if the broker refused, and then the sweep tries again."""
        try:
            self._publish(bundle)
        except BrokerError as exc:
            log.warning("a message is published later: %s", exc)
            return False
        return True

    def _timers_known(self, now: float, facts: Facts) -> None:
        if facts.timers or (self._next_timer is not None and now >= self._next_timer):
            self._next_timer = now  # should the store fail now, the next turn asks again
            with contextlib.suppress(StoreUnavailable):
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
        view = self._view(run_id)
        if view is None and run_id in self._broken:
            return  # it stays in the inbox, for the next start
        batch.inbox_done.append((key,))
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

    def _redo(self, facts: Facts, now: float) -> bool:
        """Fold the same facts run by run; a run that fails alone is set aside. What becomes
        READY is dispatched by the next turn."""
        try:
            for run_id in facts.runs():
                self._redo_run(facts.of(run_id), now, run_id)
        except _DOWN as exc:
            self._forget()
            for submission in facts.submissions:
                submission.fail(exc)
            raise
        self._admit_alone(facts.submissions)
        self._forget(rewind=False)
        return True

    def _redo_run(self, facts: Facts, now: float, run_id: int) -> None:
        self._refresh()
        try:
            self._turn(facts, now, dispatch=False)
        except _DOWN:
            raise
        except Exception:
            self._forget(rewind=False)
            self._set_aside(run_id)

    def _set_aside(self, run_id: int) -> None:
        """Leave a run alone until the next start; called while its exception is handled."""
        log.exception("run %s cannot be advanced and is set aside", run_id)
        self._broken.add(run_id)
        self._stale = True  # its messages take no room in the windows from now on

    # -- views ---------------------------------------------------------------------------

    def _view(self, run_id: int) -> RunView | None:
        """The view of a run of this lane; None for one that is unknown or set aside."""
        self.dispatcher.at = run_id
        view = self._views.get(run_id)
        if view is not None:
            return view
        if run_id in self._broken:
            return None
        head = self._store.one(self._store.sql.run_head, (run_id,))
        if head is None or head[2] != self._fence.lane_id:
            return None
        view = self._views[run_id] = RunView.load(self._store, run_id)
        return view

    def _shrink(self) -> None:
        """Drop the views loaded longest ago that have nothing out."""
        for run_id in list(self._views)[: VIEWS // 4]:
            if not self._views[run_id].outbox:
                del self._views[run_id]

    def _forget(self, rewind: bool = True) -> None:
        """After a failed commit memory may be ahead of the rows: read everything anew, and
        (unless they are to be acknowledged) take the same reports again."""
        self._views.clear()
        self._published.clear()
        self._store.forget_queues()
        self.inbox_rung = True
        self._next_timer = 0.0
        self._stale = True
        if rewind:
            self._updates.rewind()

    def _refresh(self) -> None:
        """Read the dispatcher's books if they are not what the store holds."""
        if self._stale:
            self.dispatcher.reload()
            self._stale = False

    # -- sweeping ------------------------------------------------------------------------

    def _sweep(self, now: float) -> None:
        """Publish again what nobody has: lost on the way, or dropped with a broker."""
        self._swept = now
        self._check_lane()
        held = self._held()
        if held is None:
            return
        for key, message in list(self.dispatcher.messages.items()):
            if now - RESEND_SECONDS < message[2] <= now:
                continue
            if any((run, idx, attempt) in held for run, idx, attempt in message[3]):
                continue
            if not self._again(key, now):
                return

    def _check_lane(self) -> None:
        """Notice that the lane is lost even while there is nothing to write."""
        lane = self._store.one(self._store.sql.lane_get, (self._fence.lane_id,))
        if lane is None or (lane[3], lane[4]) != (self._fence.owner, self._fence.epoch):
            raise LaneLost(f"lane {self._fence.lane_id} was taken over by another coordinator")

    def _again(self, key: int, now: float) -> bool:
        """Publish what is still out of a message once more; False if the broker refused."""
        try:
            bundle = self.dispatcher.again(key)
        except _DOWN:
            raise
        except Exception:
            self._set_aside(self.dispatcher.at)
            return True
        if bundle is None:
            return True
        if not self._send(bundle):
            return False
        self.dispatcher.messages[key][2] = now
        return True
