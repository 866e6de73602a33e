"""Bad input: one clear sentence, what to try, the right exit code, nothing stored or lost."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.shells.cli import Shell

pytestmark = pytest.mark.slow

HEAD = """
from flowq import Flow, Flowq, chain, signature
app = Flowq("bad")
@app.task
def add(x): return x + 1
"""
CYCLE = """
import networkx
def pipeline():
    graph = networkx.DiGraph()
    for name in "abc":
        graph.add_node(name, signature=add.si(1))
    graph.add_edges_from([("a", "b"), ("b", "c"), ("c", "b")])
    return Flow.from_networkx(graph)
"""
PROGRAMS = {
    "cycle": (CYCLE, ["cycle", "b -> c -> b"]),
    "unknown task": ("pipeline = signature('bad.ad', app=app) | add.s()", ["'bad.ad'"]),
    "unserialisable": ("class Row: pass\npipeline = add.s(Row())", ["Row", "args[0]"]),
    "syntax error": ("def f(:\n    pass", ["bad.py:6"]),
    "no canvas": ("x = 1", ["no canvas"]),
    "two canvases": ("one = add.s(1)\nother = add.s(2)", ["one", "other"]),
    "import error": ("import no_such_module", ["'no_such_module'"]),
    "empty chain": ("pipeline = chain()", ["empty"]),
}


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.mark.parametrize("case", PROGRAMS)
def test_a_program_that_cannot_run_is_refused_and_nothing_is_stored(
    shell: Shell, case: str
) -> None:
    text, words = PROGRAMS[case]
    (shell.folder / "bad.py").write_text(HEAD + text + "\n")
    done = shell("run", "bad.py", code=7)
    assert done.says(*words)
    assert done.out == ""
    assert not shell.stored or not shell("list", "--json").out


def test_a_syntax_error_is_pointed_at(shell: Shell) -> None:
    (shell.folder / "bad.py").write_text(HEAD + "def f(:\n    pass\n")
    assert "    def f(:\n          ^" in shell("run", "bad.py", code=7).err


# -- stores -------------------------------------------------------------------------------------


def test_a_corrupt_store_is_told_and_not_touched(shell: Shell) -> None:
    folder = shell.folder / ".flowq"
    folder.mkdir()
    noise = os.urandom(50_000)
    (folder / "flowq.db").write_bytes(noise)
    for command in (["run", "two.py"], ["list"], ["show"], ["db", "upgrade"]):
        assert shell(*command, code=78).says("damaged")
    shell("db", "check", code=78)
    assert (folder / "flowq.db").read_bytes() == noise


def test_a_store_damaged_inside_is_found_by_check(shell: Shell) -> None:
    shell("run", "two.py")
    path = shell.folder / ".flowq" / "flowq.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 40_000)
    done = shell("db", "check", "--json", code=78)
    assert done.json["ok"] is False
    assert shell("run", "two.py", code=78).says("damaged")


def test_check_recounts(shell: Shell) -> None:
    shell("run", "two.py")
    with sqlite3.connect(shell.folder / ".flowq" / "flowq.db") as connection:
        connection.execute("UPDATE flowq_run SET open_count = 1")
        connection.execute("INSERT INTO flowq_edge VALUES (99, 1, 0, 0, 0, 0, NULL)")
    found = shell("db", "check", "--json", code=78).json["found"]
    assert any("unfinished nodes" in text for text in found)
    assert any("flowq_edge" in text for text in found)


def test_a_store_of_a_newer_version_is_refused_and_not_touched(shell: Shell) -> None:
    shell("run", "two.py")
    with sqlite3.connect(shell.folder / ".flowq" / "flowq.db") as connection:
        connection.execute("UPDATE flowq_schema_version SET version_num = '9999'")
    for command in (["run", "two.py"], ["list"], ["show"], ["db", "upgrade"], ["cancel", "@last"]):
        assert shell(*command, code=78).says("9999", "newer")
    with sqlite3.connect(shell.folder / ".flowq" / "flowq.db") as connection:
        assert connection.execute("SELECT COUNT(*) FROM flowq_run").fetchone() == (1,)


@pytest.mark.parametrize(
    "url", ["mysql://host/db", "sqlite://relative.db", "postgresql+psycopg://u@127.0.0.1:1/none"]
)
def test_a_store_that_cannot_be_is_refused(shell: Shell, url: str) -> None:
    done = shell("run", "two.py", "--store", url, code=None)
    assert done.code == (69 if "postgresql" in url else 78)
    assert done.says()


Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount a small file system in memory; skips where that is not allowed."""
    made: list[Path] = []

    def do(what: str) -> Path:
        place = tmp_path / f"mount{len(made)}"
        place.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", what, "tmpfs", str(place)], capture_output=True
        )
        if done.returncode:
            pytest.skip("mounting is not allowed here")
        made.append(place)
        return place

    yield do
    for place in made:
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def test_a_folder_that_cannot_be_written(shell: Shell, mount: Mount) -> None:
    place = mount("ro")
    for path in (place / "flowq.db", place / "deeper" / "flowq.db"):
        done = shell("run", "two.py", "--store", f"sqlite:///{path}", code=69)
        assert done.says(str(place))
        assert "--store" in done.err


def test_a_full_disk_at_the_start(shell: Shell, mount: Mount) -> None:
    place = mount("size=60k")
    assert shell("run", "two.py", "--store", f"sqlite:///{place}/flowq.db", code=69).says()


def test_a_disk_that_fills_up_loses_nothing(shell: Shell, mount: Mount) -> None:
    place = mount("size=3m")
    shell.write(
        "big.py",
        """
        from flowq import Flowq, chain
        app = Flowq("big")
        @app.task
        def blob(n): return "x" * n
        @app.task
        def size(text): return len(text)
        pipeline = chain(*[blob.si(900_000 + i) for i in range(6)], size.s())
        """,
    )
    store = f"sqlite:///{place}/flowq.db"
    done = shell("run", "big.py", "--store", store, code=69)
    assert done.says("full")
    subprocess.run(["mount", "-o", "remount,size=60m", str(place)], check=True)
    assert shell("resume", "--store", store).out == "900005\n"
    assert shell("db", "check", "--store", store, "--json").json["ok"] is True


# -- values -------------------------------------------------------------------------------------


def test_an_unserialisable_result_fails_its_node_and_the_errback_runs(shell: Shell) -> None:
    shell.write(
        "bad.py",
        """
        from flowq import Flowq
        app = Flowq("bad")
        @app.task
        def make(): return object()
        @app.task
        def tell(request, exc, traceback):
            print("told:", type(exc).__name__)
        pipeline = make.s().on_error(tell.s())
        """,
    )
    done = shell("run", "bad.py", code=1)
    assert "EncodeError" in done.err
    assert "told: EncodeError" in shell("logs").out
    assert shell("show", "@last", "tell", "--json").json["state"] == "SUCCESS"


def test_ten_megabytes_go_in_and_out(shell: Shell) -> None:
    shell.write(
        "big.py",
        """
        from flowq import Flowq
        app = Flowq("big")
        @app.task
        def twice(text): return text + text
        @app.task
        def size(text): return len(text)
        pipeline = twice.s("x" * 10_000_000) | size.s()
        """,
    )
    assert shell("run", "big.py").out == "20000000\n"


def test_get_inside_a_task_raises_at_once(shell: Shell) -> None:
    shell.write(
        "bad.py",
        """
        from flowq import Flowq
        app = Flowq("bad")
        @app.task
        def inner(): return 1
        @app.task
        def outer(): return inner.delay().get(timeout=60)
        pipeline = outer.s()
        """,
    )
    done = shell("run", "bad.py", "--timeout", "30s", code=1)
    assert "get() inside the task" in done.err


def test_a_pool_that_is_none_and_a_wrong_variable_are_named(shell: Shell) -> None:
    assert shell("run", "two.py", "-P", "nonsense", code=2).says("'nonsense'", "prefork, threads")
    for wrong in ("0", "-3", "x"):
        done = shell("run", "two.py", code=78, FLOWQ_CONCURRENCY=wrong)
        assert done.says("FLOWQ_CONCURRENCY", "at least 1")
