"""Replay the recorded run of a scientific workflow, from its WfFormat 1.5 trace.

WfFormat is how the WfCommons project writes down real workflow runs: a *specification* (the
tasks, which task is whose parent, which files they write) and an *execution* (how long each
task took). Here each task of the trace becomes one node of a `Flow` under the task's id, and
each parent becomes one edge; no node or edge is added. A node

1. checks that it was handed exactly the files that its parents have written,
2. sleeps as long as the task took, divided by `speed`, and
3. returns the ids of the files that the task wrote.

So a trace is a test of the engine with a shape that nobody made up. Run one at ten times the
speed, or with no sleep at all::

    flowq run workflows/wfformat.py -a file=montage.json -a speed=10
    flowq run workflows/wfformat.py -a file=montage.json -a speed=inf

The result is what the last tasks return, those that are nobody's parent: one list of file ids,
or a list of such lists. Traces: https://github.com/wfcommons/WfInstances
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from flowq import Flow, Flowq

app = Flowq("wfformat")

VERSION = "1.5"


class Job(NamedTuple):
    """One task of a trace."""

    id: str
    parents: list[str]
    outputs: list[str]
    seconds: float


@app.task
def replay(
    received: dict[str, list[str]],
    expected: dict[str, list[str]],
    outputs: list[str],
    seconds: float,
) -> list[str]:
    """Stand in for one task of the trace.

    Args:
        received: What each parent has returned, by the parent's id.
        expected: What each parent writes according to the specification.
        outputs: The ids of the files that this task writes, to be returned.
        seconds: How long to sleep, possibly 0.

    Raises:
        ValueError: A parent's files are not those of the specification.
    """
    for parent, files in expected.items():
        if received.get(parent) != files:
            raise ValueError(f"{parent} handed over {received.get(parent)} instead of {files}")
    if len(received) != len(expected):
        raise ValueError(f"{len(received)} parents handed over files, not {len(expected)}")
    time.sleep(seconds)
    return outputs


def pipeline(file: str, speed: float = 1.0) -> Flow:
    """Build the flow of a trace.

    Args:
        file: Path of a WfFormat 1.5 file.
        speed: How many times faster than recorded; ``inf`` for no sleep at all.

    Raises:
        ValueError: `speed` is not above 0, or the file is not a replayable trace.
    """
    if math.isnan(speed) or speed <= 0:
        raise ValueError(f"speed={speed} must be a number above 0, or inf for no sleep")
    jobs = read_trace(file)
    flow = Flow(Path(file).stem)
    handles: dict[str, Any] = {}
    for job in in_order(jobs, file):
        handles[job.id] = flow.add(
            replay.s(
                {parent: handles[parent] for parent in job.parents},
                {parent: jobs[parent].outputs for parent in job.parents},
                job.outputs,
                job.seconds / speed,
            ),
            name=job.id,
        )
    return flow


def read_trace(file: str) -> dict[str, Job]:
    """Read a trace into jobs by id, in the order of the file.

    Raises:
        ValueError: The file cannot be read, is not WfFormat 1.5, or contradicts itself.
    """
    workflow = read_json(file)["workflow"]
    try:
        executed = workflow["execution"]["tasks"]
        runtimes = {entry["id"]: float(entry["runtimeInSeconds"]) for entry in executed}
        listed = [read_job(entry, runtimes) for entry in workflow["specification"]["tasks"]]
    except KeyError as problem:
        raise ValueError(f"{file} does not follow WfFormat {VERSION}: no field {problem}") from None
    except (TypeError, ValueError, AttributeError) as problem:
        raise ValueError(f"{file} does not follow WfFormat {VERSION}: {problem}") from None
    jobs = {job.id: job for job in listed}
    if not jobs:
        raise ValueError(f"{file} has no tasks, so there is nothing to replay")
    if len(jobs) != len(listed):
        raise ValueError(f"{file} uses a task id twice; ids must be unique")
    for job in jobs.values():
        for parent in job.parents:
            if parent not in jobs:
                raise ValueError(f"{file}: {job.id} names the parent {parent}, which is no task")
    return jobs


def read_json(file: str) -> dict[str, Any]:
    """Read a file that should hold a trace of the right version."""
    try:
        trace = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as problem:
        raise ValueError(f"cannot read {file}: {problem.strerror}; check the path") from problem
    except ValueError as problem:
        raise ValueError(f"{file} is not a JSON file: {problem}") from problem
    if not isinstance(trace, dict) or "workflow" not in trace:
        raise ValueError(f"{file} is not a WfFormat trace: it has no 'workflow' object")
    version = trace.get("schemaVersion")
    if version != VERSION:
        raise ValueError(f"{file} is WfFormat {version}, but only {VERSION} can be replayed")
    return trace


def read_job(entry: dict[str, Any], runtimes: dict[str, float]) -> Job:
    """Read one task of the specification and look up how long it took."""
    name, parents = entry["id"], list(dict.fromkeys(entry["parents"]))
    if name not in runtimes:
        raise ValueError(f"the execution says nothing of {name}")
    if not 0 <= runtimes[name] < math.inf:
        raise ValueError(f"{name} cannot have taken {runtimes[name]} seconds")
    return Job(name, parents, list(entry.get("outputFiles", ())), runtimes[name])


def in_order(jobs: dict[str, Job], file: str) -> Iterator[Job]:
    """Give the jobs so that each comes after its parents, as `Flow.add` wants them.

    Raises:
        ValueError: There is no such order: some jobs wait for each other in a circle.
    """
    sorter = TopologicalSorter({job.id: job.parents for job in jobs.values()})
    try:
        order = list(sorter.static_order())
    except CycleError as problem:
        circle = " -> ".join(reversed(problem.args[1]))
        raise ValueError(f"{file} has a cycle, so no task of it can begin: {circle}") from None
    return (jobs[name] for name in order)
