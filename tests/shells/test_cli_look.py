"""Commands that look: list, show, result, logs, graph, config, db, version, help."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from flowq.cli.commands import COMMANDS
from tests.shells.cli import Done, Shell

pytestmark = pytest.mark.slow

KEYS = [
    *("schema", "id", "name", "app", "state", "title", "target", "tags", "priority", "generation"),
    *("nodes", "counts", "submitted_at", "started_at", "finished_at", "rerun_of"),
]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A folder with one good run, tagged, and one that failed after it."""
    made = Shell(tmp_path_factory.mktemp("look"))
    made("run", "two.py", "--name", "good", "--tag", "day=monday")
    made("run", "broken.py", code=1)
    return made


@pytest.fixture
def empty(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


# -- list ---------------------------------------------------------------------------------------


def test_list_shows_runs_the_latest_first(shell: Shell) -> None:
    lines = shell("list").out.splitlines()
    assert lines[0].split()[:4] == ["RUN", "NAME", "STATE", "NODES"]
    assert [line.split()[1] for line in lines[1:]] == ["broken", "good"]
    assert shell("ls").out == shell("list").out


def test_list_filters(shell: Shell) -> None:
    assert [run["name"] for run in shell("list", "--state", "failure", "--json").lines] == [
        "broken"
    ]
    assert [run["name"] for run in shell("list", "--name", "go*", "--json").lines] == ["good"]
    assert [run["name"] for run in shell("list", "--tag", "day=monday", "--json").lines] == ["good"]
    assert len(shell("list", "--since", "1h", "--limit", "1", "--json").lines) == 1


def test_objects_have_stable_keys(shell: Shell) -> None:
    for run in shell("list", "--json").lines:
        assert list(run) == KEYS


def test_without_a_store_there_are_no_runs_and_none_is_made(empty: Shell) -> None:
    assert empty("list").out == ""
    assert empty("list", "--json").out == ""
    assert empty("show", code=4).says("no store")
    assert empty("result", "x", code=4).says("no store")
    assert "no store yet" in empty("db", "check").err
    assert not empty.stored


# -- show, result, logs -------------------------------------------------------------------------


def test_show_a_run(shell: Shell) -> None:
    out = shell("show", "good").out
    assert "result     42" in out
    assert "tags       day=monday" in out
    assert "two.py:pipeline" in out
    assert "✓ start" in out


def test_show_a_failed_run(shell: Shell) -> None:
    assert "ValueError: bad row 2" in shell("show", "@last").out
    found = shell("show", "@last", "--json", "--nodes").json
    assert found["failures"][0]["not_run"] == 1
    assert [node["name"] for node in found["all_nodes"]][:2] == ["source", "join"]
    assert "raise ValueError" in shell("show", "@last", "--failed").out
    assert "FAILURE" in shell("show", "@last", "--nodes").out


def test_show_a_node(shell: Shell) -> None:
    out = shell("show", "@last", "check[1]").out
    assert "check[1]  FAILURE" in out
    assert "raise ValueError" in out
    assert "checking 2" in out
    found = shell("show", "@last", "check[1]", "--json").json
    assert found["args"] == [[2], {}]
    assert found["story"][-1]["after"] == "FAILURE"
    assert "(20)" in shell("show", "good", "start").out


def test_a_run_is_found_by_id_prefix_name_and_last(shell: Shell) -> None:
    uid = shell("show", "good", "--json").json["id"]
    for ref in (uid, uid[:18], "good", "@last:good"):
        assert shell("result", ref).out == "42\n"
    assert shell("show", "nope", code=4).says("'nope'")
    assert shell("show", "good", "nope", code=4).says("'nope'")


def test_results(shell: Shell) -> None:
    assert shell("result", "good", "start").out == "21\n"
    assert shell("result", "good", "start", "--json").json["result"] == 21
    assert shell("result", "good", "--json").json["result"] == 42
    failed = shell("result", "broken", code=1)
    assert failed.out == ""
    assert "bad row 2" in failed.err
    assert shell("result", "broken", "check[0]").out == "1\n"
    assert shell("result", "broken", "check[1]", code=1).out == ""


def test_logs(shell: Shell) -> None:
    assert sorted(shell("logs", "broken").out.splitlines()) == [
        "check[0] | checking 1",
        "check[1] | checking 2",
    ]
    assert shell("logs", "broken", "check[1]").out == "checking 2\n"
    first = shell("logs", "broken", "check[1]", "--json").lines[0]
    assert (first["stream"], first["text"], first["schema"]) == ("out", "checking 2\n", 1)
    assert shell("logs", "broken", "--attempt", "2").out == ""


# -- graph --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("g.svg", "<svg"),
        ("g.dot", "digraph"),
        ("g.mmd", "flowchart"),
        ("g.html", "<!DOCTYPE html>"),
        ("g.txt", "nodes"),
        ("g.json", "{"),
    ],
)
def test_graph_writes_what_the_file_name_asks_for(shell: Shell, name: str, start: str) -> None:
    for what in ("two.py", "good"):
        shell("graph", what, "-o", name)
        text = (shell.folder / name).read_text().lstrip()
        assert start in text[:300]
        assert "finish" in text


def test_graph_without_a_file_is_dot_when_piped(shell: Shell) -> None:
    assert shell("graph", "two.py").out.startswith("digraph")
    assert shell("graph", "good", "-f", "text").out.startswith("good")
    assert shell("graph", "slow.py", "-a", "steps=2").out.count("nap") >= 2


def test_graph_refuses_what_it_cannot_write(shell: Shell) -> None:
    assert shell("graph", "two.py", "-o", "g.xyz", code=7).says("g.xyz")
    assert shell("graph", "two.py", "-o", "no/such/g.svg", code=7).says("no/such")
    assert shell("graph", "nope", code=4).says("'nope'")


# -- the rest -----------------------------------------------------------------------------------


def test_config_shows_values_sources_and_no_passwords(shell: Shell) -> None:
    out = shell("config", "show", FLOWQ_BROKER="redis://me:secret@host/0").out
    assert "redis://me:***@host/0" in out
    assert "(FLOWQ_BROKER)" in out
    assert "store_url" in out
    found = shell("config", "show", "--json", FLOWQ_POOL="threads").json["settings"]
    assert found["worker_pool"] == {"value": "threads", "source": "FLOWQ_POOL"}


def test_version(shell: Shell) -> None:
    import flowq

    assert shell("version").out == f"flowq {flowq.__version__}\n"
    assert shell("version", "--json").json["flowq"] == flowq.__version__


def test_check_upgrade_and_prune(empty: Shell) -> None:
    empty("run", "two.py")
    assert empty("db", "check", "--json").json["ok"] is True
    assert "already" in empty("db", "upgrade").err
    assert empty("db", "prune", "--older-than", "1h", "--json").json["removed"] == 0
    assert empty("db", "prune", "--older-than", "0s", code=8).says("1 run", "for good")
    assert "1 run would be" in empty("db", "prune", "--older-than", "0s", "--dry-run").err
    assert empty("db", "prune", "--older-than", "0s", "--json", "--yes").json["removed"] == 1
    assert empty("list", "--json").out == ""
    assert empty("db", "check", "--json").json["ok"] is True


def test_runs_older_than_the_retention_go_when_another_runs(empty: Shell) -> None:
    empty("run", "two.py")
    with sqlite3.connect(empty.folder / ".flowq" / "flowq.db") as connection:
        connection.execute("UPDATE flowq_run SET submitted_at = 1, finished_at = 2")
    empty("run", "slow.py", "-a", "seconds=0.1", FLOWQ_RUN_RETENTION="1h")
    assert [run["name"] for run in empty("list", "--json").lines] == ["slow"]


def test_every_command_has_help(shell: Shell) -> None:
    whole = shell("--help").out
    for name in COMMANDS:
        assert f"\n  {name} " in whole
    for args in (["run"], ["show"], ["db", "prune"], ["config", "show"]):
        assert "Usage: flowq" in shell(*args, "--help").out


@pytest.mark.parametrize(
    "args",
    [
        ["frobnicate"],
        ["run"],
        ["run", "two.py", "--frob"],
        ["run", "two.py", "-c", "0"],
        ["run", "two.py", "-c", "two"],
        ["run", "two.py", "--timeout", "5x"],
        ["run", "two.py", "--progress", "loud"],
        ["run", "two.py", "--tag", "monday"],
        ["list", "--since", "soon"],
        ["list", "--limit", "0"],
        ["db", "prune"],
        ["graph", "two.py", "-f", "jpeg"],
    ],
)
def test_wrong_usage_exits_2_with_what_to_try(shell: Shell, args: list[str]) -> None:
    assert shell(*args, code=2).says()


def test_a_reader_that_leaves_is_no_error(shell: Shell) -> None:
    command = f"{sys.executable} -m flowq list --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=shell.folder, env=shell.env, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


def loaded(*args: str, shell: Shell) -> set[str]:
    """Modules that a command has imported when it ends."""
    program = (
        "import sys, json\nfrom flowq.cli import run\n"
        f"run({list(args)!r})\nprint(json.dumps(list(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=shell.folder, env=shell.env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_commands_load_no_more_than_they_need(empty: Shell) -> None:
    heavy = {"sqlalchemy", "networkx", "alembic", "graphviz", "rich", "pydantic", "asyncio"}
    assert not loaded("--help", shell=empty) & (heavy | {"kombu", "cloudpickle"})
    assert not loaded("list", shell=empty) & (heavy | {"kombu", "cloudpickle"})
    empty("run", "two.py")  # making the tables needs sqlalchemy
    assert not loaded("run", "two.py", shell=empty) & (heavy - {"asyncio"})


LOUD = """
    from flowq import Flowq
    app = Flowq("loud")
    @app.task
    def shout():
        print("\\x1b[31mred\\x1b[0m")
        return "\\x1b]0;title\\x07"
    pipeline = shout.si()
"""


def test_what_a_task_wrote_cannot_command_the_terminal(tmp_path: Path) -> None:
    shell = Shell(tmp_path, {"loud.py": LOUD})
    shell("run", "loud.py")
    assert shell("logs").out == "shout | \\x1b[31mred\\x1b[0m\n"
    assert shell("logs", "--raw").out == "shout | \x1b[31mred\x1b[0m\n"
    assert shell("logs", "@last", "shout", "--raw").out == "\x1b[31mred\x1b[0m\n"
    for args in (["show"], ["show", "@last", "shout"]):
        assert "\x1b" not in shell(*args).out
    assert shell("result").out == "\x1b]0;title\x07\n"  # a program reads it


def test_a_full_disk_is_told_in_a_sentence(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell("run", "two.py")
    for command in ("list", "show", "result", "graph two.py", "list --json", "run two.py"):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "flowq", *command.split()],
                cwd=tmp_path, env=shell.env, stdout=full, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert done.returncode == 74, (command, done.stderr)
        assert Done(74, "", done.stderr).says("No space left")


def test_a_picture_can_be_asked_for_by_the_ending_of_its_file_and_as_json(shell: Shell) -> None:
    assert shell("graph", "two.py", "-f", "txt").out == shell("graph", "two.py", "-f", "text").out
    assert json.loads(shell("graph", "two.py", "--json").out)["nodes"]
    assert shell("graph", "two.py", "-f", "jpeg", code=2).says("jpeg", "text, svg, html")


def test_a_state_that_is_none_is_refused_with_a_near_one(shell: Shell) -> None:
    assert shell("list", "--state", "FAILUR", code=2).says("'FAILUR'", "did you mean FAILURE?")
    both = shell("list", "--json", "--state", "failure,success").lines
    assert len(both) == len(shell("list", "--json").lines)


def test_version_is_an_option_too(shell: Shell) -> None:
    assert shell("--version").out == shell("version").out


def test_bytes_that_are_no_text_are_refused_in_a_sentence(shell: Shell) -> None:
    assert shell("run", "two.py", "--name", "b\udcff", code=2).says("'b\\xff'", "LC_ALL=C.UTF-8")
