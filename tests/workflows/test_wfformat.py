"""The trace replay, checked on a small invented trace that is read here a second time."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

TRACE = Path(__file__).with_name("alloy.json")

Change = Callable[[dict[str, Any]], Any]


def tasks_of(trace: dict[str, Any]) -> list[dict[str, Any]]:
    return trace["workflow"]["specification"]["tasks"]  # type: ignore[no-any-return]


def runs_of(trace: dict[str, Any]) -> list[dict[str, Any]]:
    return trace["workflow"]["execution"]["tasks"]  # type: ignore[no-any-return]


def task(trace: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in tasks_of(trace) if entry["id"] == name)


def edges_of(flow: Any) -> set[tuple[str, str]]:
    return set(flow.to_networkx().edges)


def test_nodes_are_the_tasks_and_edges_the_parents(workflow: Any) -> None:
    flow = workflow("wfformat").pipeline(str(TRACE), math.inf)
    specified = tasks_of(json.loads(TRACE.read_text()))
    assert {node.name for node in flow.nodes} == {entry["id"] for entry in specified}
    assert len(flow) == len(specified)
    assert edges_of(flow) == {
        (parent, entry["id"]) for entry in specified for parent in entry["parents"]
    }


@pytest.mark.parametrize("speed", [0.5, 1.0, 40.0, math.inf])
def test_a_task_sleeps_its_recorded_time_divided_by_the_speed(workflow: Any, speed: float) -> None:
    flow = workflow("wfformat").pipeline(str(TRACE), speed)
    sleeps = {node.name: node.signature.args[3] for node in flow.nodes}
    executed = runs_of(json.loads(TRACE.read_text()))
    assert sleeps == {entry["id"]: entry["runtimeInSeconds"] / speed for entry in executed}


def test_a_task_refuses_what_its_parents_have_not_written(workflow: Any) -> None:
    replay = workflow("wfformat").replay
    assert replay({"a": ["x", "y"]}, {"a": ["x", "y"]}, ["z"], 0.0) == ["z"]
    for received in ({"a": ["x"]}, {"a": ["y", "x"]}, {}, {"b": ["x", "y"]}, {"a": None}):
        with pytest.raises(ValueError, match=r"a handed over .* instead of"):
            replay(received, {"a": ["x", "y"]}, ["z"], 0.0)
    with pytest.raises(ValueError, match="2 parents handed over files, not 1"):
        replay({"a": ["x"], "b": []}, {"a": ["x"]}, ["z"], 0.0)


def test_the_run_ends_with_the_files_of_the_last_tasks(workflow: Any, run: Any) -> None:
    wfformat = workflow("wfformat")
    flow = wfformat.pipeline(str(TRACE), math.inf)
    finished = run(wfformat, flow)
    trace = json.loads(TRACE.read_text())
    written = {entry["id"]: entry.get("outputFiles", []) for entry in tasks_of(trace)}
    parents = {parent for entry in tasks_of(trace) for parent in entry["parents"]}
    sinks = [node.name for node in flow.nodes if node.name not in parents]
    assert sorted(sinks) == ["clean_5", "verdict_4"]
    assert finished.result(timeout=10) == [written[name] for name in sinks]
    assert {node.name: node.state for node in finished.nodes} == dict.fromkeys(written, "SUCCESS")


def test_a_child_starts_after_its_parents_have_ended(
    workflow: Any, run: Any, tmp_path: Path
) -> None:
    wfformat = workflow("wfformat")
    finished = run(wfformat, wfformat.pipeline(str(TRACE), 100.0))
    names = {node.idx: node.name for node in finished.nodes}
    with closing(sqlite3.connect(tmp_path / "store.db")) as store:
        edges = store.execute("SELECT parent, child FROM flowq_edge").fetchall()
        story = store.execute(
            "SELECT seq, idx, before, after FROM flowq_transition ORDER BY seq"
        ).fetchall()
    specified = tasks_of(json.loads(TRACE.read_text()))
    assert {(names[parent], names[child]) for parent, child in edges} == {
        (parent, entry["id"]) for entry in specified for parent in entry["parents"]
    }
    ended = {idx: seq for seq, idx, _, after in story if after == "SUCCESS"}
    began = {idx: seq for seq, idx, before, _ in reversed(story) if before == "QUEUED"}
    assert len(ended) == len(specified)
    assert all(ended[parent] < began[child] for parent, child in edges)
    times = {node.name: (node.began_at, node.ended_at) for node in finished.nodes}
    assert all(times[names[p]][1] <= times[names[c]][0] for p, c in edges)
    assert all(
        times[entry["id"]][1] - times[entry["id"]][0] >= entry["runtimeInSeconds"] / 100.0
        for entry in runs_of(json.loads(TRACE.read_text()))
    )


def remove_parents(trace: dict[str, Any]) -> None:
    del task(trace, "melt_1")["parents"]


def remove_execution(trace: dict[str, Any]) -> None:
    del trace["workflow"]["execution"]


REFUSED: dict[str, tuple[Change, str]] = {
    "older version": (lambda t: t.update(schemaVersion="1.4"), "is WfFormat 1.4, but only 1.5"),
    "no version": (lambda t: t.pop("schemaVersion"), "is WfFormat None, but only 1.5"),
    "no workflow": (lambda t: t.pop("workflow"), "is not a WfFormat trace: it has no 'workflow'"),
    "no tasks": (lambda t: tasks_of(t).clear(), "has no tasks"),
    "no parents": (remove_parents, "does not follow WfFormat 1.5: no field 'parents'"),
    "no execution": (remove_execution, "no field 'execution'"),
    "not run": (lambda t: runs_of(t).pop(0), "the execution says nothing of melt_1"),
    "odd time": (
        lambda t: runs_of(t)[0].update(runtimeInSeconds=-1),
        "melt_1 cannot have taken -1.0 seconds",
    ),
    "no time": (
        lambda t: runs_of(t)[0].update(runtimeInSeconds="long"),
        "does not follow WfFormat 1.5: could not convert string to float",
    ),
    "unknown parent": (
        lambda t: task(t, "bend_2")["parents"].append("cast_0"),
        "bend_2 names the parent cast_0, which is no task",
    ),
    "same id": (lambda t: tasks_of(t).append(task(t, "melt_1")), "uses a task id twice"),
    "cycle": (
        lambda t: task(t, "melt_1")["parents"].append("verdict_4"),
        "has a cycle, so no task of it can begin: .*melt_1.* -> .*verdict_4",
    ),
    "own parent": (
        lambda t: task(t, "melt_1")["parents"].append("melt_1"),
        "has a cycle, so no task of it can begin: melt_1 -> melt_1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_trace_is_refused_in_one_sentence(workflow: Any, tmp_path: Path, case: str) -> None:
    change, sentence = REFUSED[case]
    trace = json.loads(TRACE.read_text())
    change(trace)
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(trace))
    with pytest.raises(ValueError, match=sentence) as refused:
        workflow("wfformat").pipeline(str(bad), math.inf)
    assert "\n" not in str(refused.value)
    assert "bad.json" in str(refused.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot read .*: No such file or directory; check the path"),
        ("", "is not a JSON file"),
        ("{", "is not a JSON file"),
        ("\x00\xff", "is not a JSON file"),
        ("[1, 2]", "is not a WfFormat trace"),
        ('{"schemaVersion": "1.5", "workflow": 3}', "does not follow WfFormat 1.5"),
        ('{"schemaVersion": "1.5", "workflow": {}}', "does not follow WfFormat 1.5: no field"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(
    workflow: Any, tmp_path: Path, content: str | None, sentence: str
) -> None:
    bad = tmp_path / "bad.json"
    if content is not None:
        bad.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=sentence):
        workflow("wfformat").pipeline(str(bad), math.inf)


@pytest.mark.parametrize("speed", [0.0, -1.0, math.nan])
def test_a_speed_must_be_above_zero(workflow: Any, speed: float) -> None:
    with pytest.raises(ValueError, match="must be a number above 0, or inf for no sleep"):
        workflow("wfformat").pipeline(str(TRACE), speed)
