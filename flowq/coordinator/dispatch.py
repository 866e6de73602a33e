"""Dispatch by window: which READY nodes go out now, in which messages.

Broker queues are kept short. For each queue at most a window of messages is out, a small
multiple of the slots that live workers announce; the rest stays READY in SQL and is picked
from the index by priority, then round robin over runs. Nodes that became ready in this very
batch go out in its commit, without a query, as long as the queue has no backlog.

Tiny tasks share a message; a task of unknown or longer duration travels alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from flowq.broker.codec import VERSION, Bundle, Input, Item
from flowq.coordinator.batch import Batch, Message
from flowq.coordinator.values import Values
from flowq.coordinator.view import RunView
from flowq.core.graph import Bind, On, Spec
from flowq.core.states import TRANSITIONS, Event, RunState, State
from flowq.payload import NONE
from flowq.store import Store

#: Messages out at once, for each slot of the workers on a queue.
WINDOW_FACTOR = 4
#: Most nodes in one message; the work in one, in seconds; tasks above this travel alone.
BUNDLE, BUNDLE_SECONDS, ALONE_SECONDS = 64, 0.050, 0.005
_ARGS_PAGE = 256
#: READY nodes read at once, and how many a run may send before the next one's turn.
_PAGE, _TURN = 512, 16

assert TRANSITIONS[State.READY, Event.DISPATCHED] is State.QUEUED  # what `_queue` relies on


class Queue:
    """One queue of the lane, as the coordinator keeps books on it."""

    __slots__ = ("backlog", "cursor", "id", "name", "out")

    def __init__(self, key: int, name: str) -> None:
        self.id, self.name = key, name
        #: Messages published and not yet worked off.
        self.out: set[int] = set()
        #: Whether SQL may hold READY nodes that memory does not know of.
        self.backlog = True
        #: Last run served, for the round robin.
        self.cursor = 0


class Dispatcher:
    """Keeps the books of what is out, and turns READY nodes into messages.

    Args:
        store: For picking nodes and reading arguments and results.
        lane_id: The lane.
        slots: Slots of the live workers on a queue, by its name; 0 where nobody listens.
        view_of: The view of a run, loaded at need; None where it cannot be.
        store_id: Name of the store in messages.
    """

    def __init__(
        self,
        store: Store,
        lane_id: int,
        *,
        slots: Callable[[str], int],
        view_of: Callable[[int], RunView | None],
        store_id: str = "",
    ) -> None:
        self._store, self._lane_id, self._slots = store, lane_id, slots
        self._view_of, self._store_id = view_of, store_id
        self.values = Values(store)
        self.queues: dict[int, Queue] = {}
        self._names: dict[str, int] = {}
        #: Outbox id -> [queue, nodes still out, time of publishing].
        self.messages: dict[int, list[Any]] = {}
        #: Runs that the coordinator has set aside: their messages fill no window.
        self.broken: set[int] = set()
        #: Run being worked on; 0 while nothing is about a single one.
        self.at = 0
        self._next_id = 1
        #: Moving average of seconds a task takes, by name.
        self.seconds: dict[str, float] = {}
        #: The app's logical clock, carried in messages; the engine sets it.
        self.clock: Callable[[], int] = lambda: 0
        #: Task name -> epoch time from which a rate-limited task may start again; lanes of one
        #: coordinator share it.
        self.free_at: dict[str, float] = {}
        #: Starts a second of a rate-limited task that this coordinator may allow.
        self.rate_of: Callable[[Spec], float] = strictest
        #: Epoch time at which a rate limit lets a waiting node go; None: nothing waits so.
        self.rate_wake: float | None = None

    # -- books ---------------------------------------------------------------------------

    def queue_ids(self, names: set[str]) -> dict[str, int]:
        """Ids of queues by name; those not known yet are looked up, or made."""
        if not names <= self._names.keys():
            write = self._store.write
            self.learn(write(lambda cursor: self._store.queue_ids(self._lane_id, names, cursor)))
        return self._names

    def refresh(self) -> None:
        """Learn of queues that a submission made."""
        rows = self._store.rows(self._store.sql.queue_list, (self._lane_id,))
        self.learn({name: key for key, name in rows})

    def learn(self, ids: Mapping[str, int]) -> None:
        """Take note of queues, by name."""
        for name, key in ids.items():
            self._names[name] = key
            if key not in self.queues:
                self.queues[key] = Queue(key, name)

    def reload(self) -> None:
        """Read the outbox anew: at start, and after a failed commit."""
        self.messages.clear()
        self.queues.clear()  # some may have been made by a transaction that was undone
        self._names.clear()
        self.refresh()
        rows = self._store.rows(self._store.sql.outbox_list, (self._lane_id,))
        for key, name, _, items, remaining, settled in rows:
            self._next_id = max(self._next_id, key + 1)
            queue_id = self._names.get(name, 0)
            triples = msgspec.msgpack.decode(items)
            self.messages[key] = [queue_id, remaining, settled or 0.0, triples]
            if queue_id in self.queues and any(run not in self.broken for run, _, _ in triples):
                self.queues[queue_id].out.add(key)

    def is_out(self, view: RunView, index: int) -> bool:
        """Whether a message of this lane carries a node's attempt."""
        message = self.messages.get(view.outbox.get(index, 0))
        return message is not None and (view.run_id, index, view.attempt[index]) in {
            (run, idx, attempt) for run, idx, attempt in message[3]
        }

    def keep(self, batch: Batch, view: RunView, index: int) -> int:
        """Go on waiting for an attempt that a lane before this one has sent; gives the message."""
        batch.delta(view, index)
        key, spec = self._next_id, view.specs[view.spec_no[index]]
        self._next_id += 1
        triples = [(view.run_id, index, view.attempt[index])]
        batch.messages.append(Message(key, spec.queue, view.priority[index], triples))
        queue_id = self._names.get(spec.queue, 0)
        self.messages[key] = [queue_id, 1, batch.now, triples]
        if queue_id in self.queues:
            self.queues[queue_id].out.add(key)
        view.outbox[index] = key
        return key

    def left(self, batch: Batch, view: RunView, index: int) -> None:
        """A node has left the message that carried its attempt."""
        key = view.outbox.pop(index)
        message = self.messages.get(key)
        if message is None:
            return
        message[1] -= 1
        if message[1] > 0:
            batch.outbox_left[key] = message[1]
            return
        del self.messages[key]
        batch.outbox_left.pop(key, None)
        batch.outbox_gone.add(key)
        queue = self.queues.get(message[0])
        if queue is not None:
            queue.out.discard(key)

    def measured(self, task: str, seconds: float) -> None:
        """Learn how long a task took."""
        known = self.seconds.get(task)
        self.seconds[task] = seconds if known is None else known + 0.2 * (seconds - known)

    # -- choosing ------------------------------------------------------------------------

    def dispatch(self, batch: Batch) -> list[Bundle]:
        """Queue what the windows allow, in this batch; returns what to publish after it."""
        bundles: list[Bundle] = []
        if self.rate_wake is not None and batch.now >= self.rate_wake:
            self.rate_wake = None
        fresh: dict[int, list[tuple[RunView, int]]] = {}
        for view, index in batch.ready:
            if view.states[index] is State.READY and view.run_state is RunState.RUNNING:
                fresh.setdefault(view.queue[index], []).append((view, index))
        if fresh.keys() - self.queues.keys():
            self.refresh()
        for queue in self.queues.values():
            nodes = fresh.get(queue.id)
            if queue.backlog or nodes:
                self._fill(batch, queue, nodes or [], bundles)
        return bundles

    def _fill(
        self, batch: Batch, queue: Queue, nodes: list[tuple[RunView, int]], bundles: list[Bundle]
    ) -> None:
        """Fill one queue's window: what waits in SQL first, then what became ready just now."""
        room = self._slots(queue.name) * WINDOW_FACTOR - len(queue.out)
        if room > 0 and queue.backlog:
            room = self._from_backlog(batch, queue, room, bundles)
            nodes = [pair for pair in nodes if pair[0].states[pair[1]] is State.READY]
        if not nodes:
            return
        if room <= 0 or queue.backlog:
            queue.backlog = True
            return
        if len(nodes) > 1:
            nodes.sort(key=lambda pair: -pair[0].priority[pair[1]])
        if self._send(batch, queue, nodes, room, bundles) < len(nodes):
            queue.backlog = True

    def _from_backlog(self, batch: Batch, queue: Queue, room: int, bundles: list[Bundle]) -> int:
        """Fill the window from SQL, highest priority first; returns what room is left.

        Afterwards `queue.backlog` says whether READY nodes stayed behind.
        """
        queue.backlog = False
        below = 1 << 15  # above any priority that fits its column
        while room > 0:
            top = self._store.one(self._store.sql.ready_top, (queue.id, below))
            if top is None or top[0] is None:
                return room
            below = int(top[0])
            nodes, more = self._waiting(queue, below, room * BUNDLE)
            before = len(bundles)
            sent = self._send(batch, queue, nodes, room, bundles)
            room -= len(bundles) - before
            if sent:
                queue.cursor = nodes[sent - 1][0].run_id
            if more or sent < len(nodes):
                queue.backlog = True
        queue.backlog = True
        return room

    def _waiting(
        self, queue: Queue, priority: int, limit: int
    ) -> tuple[list[tuple[RunView, int]], bool]:
        """READY nodes of one priority in the order of fairness, and whether there are more.

        Runs take turns, `_TURN` nodes at a time, beginning behind the run served last.
        """
        found: dict[int, list[tuple[RunView, int]]] = {}
        start = after = queue.cursor
        count, more, wrapped = 0, False, start == 0
        page = min(_PAGE, max(limit, BUNDLE))
        while count < limit:
            params = (queue.id, priority, after, page)
            rows = self._store.rows(self._store.sql.ready_page, params)
            seen, view = 0, None
            for run_id, index in rows:
                if run_id != seen:
                    seen, view = run_id, self._view_of(run_id)
                if view is None or view.run_state is not RunState.RUNNING:
                    continue
                if view.states[index] is State.READY and (
                    not wrapped or run_id <= start or not start
                ):
                    found.setdefault(run_id, []).append((view, index))
                    count += 1
            if wrapped and start and rows and rows[-1][0] > start:
                break
            if len(rows) == page:
                more, after = True, rows[-1][0]
            elif wrapped:
                break
            else:
                wrapped, after = True, 0
        order: list[tuple[RunView, int]] = []
        lists = list(found.values())
        for turn in range(0, max(map(len, lists), default=0), _TURN):
            for nodes in lists:
                order += nodes[turn : turn + _TURN]
        return order, more

    # -- sending -------------------------------------------------------------------------

    def _send(
        self,
        batch: Batch,
        queue: Queue,
        nodes: list[tuple[RunView, int]],
        room: int,
        bundles: list[Bundle],
    ) -> int:
        """Put nodes into at most `room` messages; returns how many nodes went."""
        done = held = 0
        while done < len(nodes) and room > 0:
            view, index = nodes[done]
            spec = view.specs[view.spec_no[index]]
            if spec.is_rated:
                part = nodes[done : done + 1]
                if not self._rate_allows(spec, batch.now):
                    done, held = done + 1, held + 1
                    continue
            else:
                part = self._part(nodes, done)
            done += len(part)
            room -= 1
            bundles.append(self._bundle(batch, queue, part))
        return done - held

    def _rate_allows(self, spec: Spec, now: float) -> bool:
        """Whether a rate-limited task may start now; if so, the start is counted."""
        free_at = self.free_at.get(spec.task, 0.0)
        if free_at > now:
            self.rate_wake = min(self.rate_wake or free_at, free_at)
            return False
        self.free_at[spec.task] = max(free_at, now) + 1.0 / self.rate_of(spec)
        return True

    def _part(self, nodes: list[tuple[RunView, int]], start: int) -> list[tuple[RunView, int]]:
        """The next nodes that may share a message: tiny, of one priority, never crashed."""
        view, index = nodes[start]
        priority = view.priority[index]
        seconds = 0.0
        end = start
        while end < len(nodes) and end - start < BUNDLE and seconds < BUNDLE_SECONDS:
            view, index = nodes[end]
            spec = view.specs[view.spec_no[index]]
            if view.priority[index] != priority or spec.is_rated or (spec.foreign and end > start):
                break
            cost = self.seconds.get(spec.task, 1.0)
            if cost > ALONE_SECONDS or view.crashes[index]:
                if end == start:
                    end += 1
                break
            seconds += cost
            end += 1
        return nodes[start:end]

    def _bundle(self, batch: Batch, queue: Queue, part: list[tuple[RunView, int]]) -> Bundle:
        key = self._next_id
        self._next_id += 1
        specs: dict[Spec, int] = {}
        runs: dict[int, bytes] = {}
        items: list[Item] = []
        for view, index in part:
            self.at = view.run_id
            self._queue(batch, view, index, key)
            spec = view.specs[view.spec_no[index]]
            runs[view.run_id] = view.uid.bytes
            items.append(self._item(view, index, specs.setdefault(spec, len(specs))))
        triples = [(item.run, item.idx, item.attempt) for item in items]
        first = part[0]
        priority = first[0].priority[first[1]]
        batch.messages.append(Message(key, queue.name, priority, triples))
        self.messages[key] = [queue.id, len(items), batch.now, triples]
        queue.out.add(key)
        return Bundle(
            VERSION, self._store_id, self._lane_id, key, self.clock(), queue.name, runs,
            list(specs), items,
        )  # fmt: skip

    def _queue(self, batch: Batch, view: RunView, index: int, key: int) -> None:
        batch.happened(view, index, "dispatched")
        view.states[index] = State.QUEUED
        view.attempt[index] += 1
        view.outbox[index] = key

    def again(self, key: int) -> Bundle | None:
        """The same attempts of a message once more, or None if none of them is out."""
        message = self.messages.get(key)
        if message is None:
            return None
        specs: dict[Spec, int] = {}
        runs: dict[int, bytes] = {}
        items: list[Item] = []
        for run_id, index, attempt in message[3]:
            view = self._view_of(run_id)
            if view is None or view.attempt[index] != attempt or index not in view.outbox:
                continue
            spec = view.specs[view.spec_no[index]]
            runs[run_id] = view.uid.bytes
            items.append(self._item(view, index, specs.setdefault(spec, len(specs))))
        if not items:
            return None
        queue = self.queues[message[0]]
        return Bundle(
            VERSION, self._store_id, self._lane_id, key, self.clock(), queue.name, runs,
            list(specs), items,
        )  # fmt: skip

    # -- filling an item -----------------------------------------------------------------

    def _item(self, view: RunView, index: int, spec: int) -> Item:
        group, position = view.group_of(index)
        return Item(
            view.run_id,
            index,
            view.attempt[index],
            spec,
            view.retries[index],
            self._args(view, index),
            self._inputs(view, index),
            group,
            position,
            self._own_id(view, index),
            view.priority[index],
            view.crashes[index],
            "",
            view.deadlines.get(index, 0.0),
        )

    def _own_id(self, view: RunView, index: int) -> str:
        """The id that a bare task keeps when it becomes a run; empty for nodes of any other."""
        if not view.to_backend or index != view.results[0]:
            return ""
        if view.alias is None:
            row = self._store.one(self._store.sql.aliases, (view.run_id,))
            view.alias = str(row[0]) if row else ""
        return view.alias

    def _args(self, view: RunView, index: int) -> bytes:
        frame = view.args.pop(index, None)
        if frame is None:
            rows = self._store.rows(
                self._store.sql.node_args_get,
                (view.run_id, index, index + _ARGS_PAGE, _ARGS_PAGE),
            )
            for idx, args in rows:
                view.args.setdefault(idx, bytes(args or b""))
            frame = view.args.pop(index, None)
        if frame is None:
            row = self._store.one(self._store.sql.node_arg, (view.run_id, index))
            frame = bytes(row[0] or b"") if row else b""
        return frame

    def _inputs(self, view: RunView, index: int) -> list[Input]:
        found: list[Input] = []
        paths: dict[int, list[Any]] | None = None
        failed = False
        for edge in view.in_edges(index):
            if edge.bind == Bind.NONE:
                continue
            state = view.states[edge.parent]
            if edge.on == On.FAILURE:
                if state is State.FAILURE and not failed:  # an errback is told the first failure
                    frame = self.values.error(view, edge.parent, shown=True)
                    found.append(Input(edge.parent, edge.bind, None, frame))
                    failed = True
                continue
            if state is State.SUCCESS:
                frame = self.values.value(view, edge.parent)
            elif state in (State.FAILURE, State.SKIPPED, State.REVOKED):
                frame = self.values.error(view, edge.parent)
            else:
                frame = NONE
            path = None
            if edge.bind == Bind.TEMPLATE:
                if paths is None:
                    paths = self._paths(view, index)
                path = paths[edge.slot]
            found.append(Input(edge.parent, edge.bind, path, frame))
        return found

    def _paths(self, view: RunView, index: int) -> dict[int, list[Any]]:
        rows = view.paths.get(index)  # of what may not be committed yet
        if rows is None:
            rows = self._store.rows(self._store.sql.edge_path, (view.run_id, index))
        return {slot: msgspec.json.decode(bytes(path)) for slot, path in rows}


def strictest(spec: Spec) -> float:
    """The rate of a task where there is one worker: that of each one, or of all."""
    return min(rate for rate in (spec.rate, spec.global_rate) if rate)
