"""A new run of an old run's graph, with or without the old results.

What is copied, and what was decided:

- The graph is that of the submission. Fragments (what `replace` and `expand` had spliced in)
  are not copied: a replaced node is a task again, and if it has to run it may replace itself
  anew, with another fragment.
- With `from_`, every node that was SUCCESS and is neither that node nor behind it keeps state
  and result. A replaced node that is kept has the value of what had replaced it as its own.
  All others wait anew: failed, skipped and revoked ones too, wherever they stand.
- `from_` may name a node of a fragment: the node it had replaced is meant.
- A replaced node gets back the rule "all its in-edges" (an errback: "one failure of them"):
  the rule of a Flow node with another `join` is not recorded once it was replaced.
- Chosen task ids stay with the old run; times given as dates count as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from flowq.backends.recorded import Recorded
from flowq.core.graph import Kind, On
from flowq.core.states import State
from flowq.payload import NONE
from flowq.store.copying import Copy, copy_run

if TYPE_CHECKING:
    from flowq.app.client import Client
    from flowq.app.run import Run


class Source(NamedTuple):
    """One node of the old run."""

    idx: int
    path: str
    kind: int
    need: int
    state: str


Step = tuple[int, int, int]  #: parent, child, on


def rerun(engine: Client, run: Run, from_: str | None = None, code_hash: str | None = None) -> Run:
    """Submit the graph of a run again, here; a second call makes another run.

    Args:
        engine: Where the new run goes.
        run: The old one; it may still run, and stays as it is.
        from_: Name, id or index of the first node to run anew; None: all of them.
        code_hash: Fingerprint of the program now; None: the old run's.

    Raises:
        UnknownId: The run has no such node.
        NotRegistered: A task of the run is not defined here.
    """
    from flowq.app.run import Run
    from flowq.app.submission import new_uid

    store = engine.open()
    start = None if from_ is None else store.find_node(run.run_id, from_)
    nodes = [Source(*row) for row in store.rows(store.sql.copy_source, (run.run_id,))]
    steps = [(r[0], r[1], r[3]) for r in store.rows(store.sql.view_edges, (run.run_id,))]
    copy = plan(nodes, steps, start)
    recorded = Recorded(store)
    for node in nodes[: copy.count]:
        if node.kind == Kind.PASS and node.idx in copy.kept:
            copy.values[node.idx] = recorded.value(run.run_id, node.idx) or NONE
    for (name,) in store.rows(store.sql.spec_tasks, (run.run_id,)):
        engine.app.check_known(name)
    engine.start()
    uid = new_uid()
    run_id = copy_run(store, run.run_id, copy, uid, engine.lane_id, code_hash)
    engine.submitted()
    return Run(engine, run_id, uid)


def plan(nodes: list[Source], steps: Iterable[Step], start: int | None) -> Copy:
    """Decide which nodes are kept and what the others wait for."""
    count = next((n.idx for n in nodes if "r" in n.path.split("/")), len(nodes))
    steps = [step for step in steps if step[0] < count and step[1] < count]
    kept: set[int] = set()
    if start is not None:
        again = _behind(_original(nodes, start, count), steps)
        success = {n.idx for n in nodes[:count] if n.state == State.SUCCESS}
        kept = success - again
    unmet, hits, needs = [0] * count, [0] * count, [node.need for node in nodes[:count]]
    failures = [0] * count
    degree = [0] * count
    for parent, child, on in steps:
        degree[child] += 1
        failures[child] += on == On.FAILURE
        if parent not in kept:
            unmet[child] += 1
        elif on != On.FAILURE:
            hits[child] += 1
    for node in nodes[:count]:
        if node.kind == Kind.PASS:
            failed = failures[node.idx]
            needs[node.idx] = degree[node.idx] - failed + min(failed, 1)
    return Copy(count, kept, unmet, hits, needs, {})


def _original(nodes: list[Source], start: int, count: int) -> int:
    """The node of the submitted graph in whose place a fragment's node stood."""
    if start < count:
        return start
    segments = nodes[start].path.split("/")
    path = "/".join(segments[: segments.index("r")])
    return next((n.idx for n in nodes[:count] if n.path == path), 0)


def _behind(start: int, steps: Iterable[Step]) -> set[int]:
    """A node and all that waits for it, however far."""
    children: dict[int, list[int]] = {}
    for parent, child, _ in steps:
        children.setdefault(parent, []).append(child)
    found, todo = {start}, [start]
    while todo:
        for child in children.get(todo.pop(), ()):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found
