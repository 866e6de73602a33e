"""Notebooks: what shows itself how, live displays, redefined tasks, the first notebook."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowq import AsyncResult, Flow, Flowq, chain, chord, expand, group, signature
from flowq.app import live

ROOT = Path(__file__).parents[2]
SVG_NAMESPACE = "http://www.w3.org/2000/svg"


@pytest.fixture
def app(tmp_path):
    app = Flowq("nb", store=f"sqlite:///{tmp_path / 'nb.db'}", worker_pool="threads")

    @app.task(name="nb.add", max_retries=5)
    def add(x, y=0):
        """Add two numbers.

        Nothing more."""
        return x + y

    @app.task(name="nb.total")
    def total(xs):
        return sum(xs)

    @app.task(name="nb.fail")
    def fail(x):
        raise ValueError(f"no {x}")

    yield app
    app.close()


# -- bundles ------------------------------------------------------------------------------------


def canvases(app: Flowq) -> list[Any]:
    add, total = app.tasks["nb.add"], app.tasks["nb.total"]
    flow = Flow("etl")
    first = flow.add(add.s(1), name="extract")
    flow.add(add.s(first, first), name="load")
    return [
        add.s(1),
        chain(add.s(1), add.s(2)),
        group(add.s(i) for i in range(3)),
        chord([add.s(i) for i in range(30)], total.s()),
        add.map([1, 2]),
        add.starmap([(1, 2)]),
        add.chunks([(1, 2), (3, 4)], 1),
        total.s([]) | expand(add.s()),
        flow,
    ]


def test_each_canvas_shows_html_svg_and_one_line(app):
    for canvas in canvases(app):
        found = canvas._repr_mimebundle_()
        assert list(found) == ["text/html", "image/svg+xml", "text/plain"], canvas
        assert found["text/html"].startswith('<div class="fq"'), canvas
        assert found["image/svg+xml"].startswith("<svg"), canvas
        assert found["text/plain"] == repr(canvas)
        assert "\n" not in found["text/plain"]
        assert canvas._repr_html_() == found["text/html"]


def test_a_task_shows_how_it_is_called(app):
    found = app.tasks["nb.add"]._repr_mimebundle_()
    assert "add(x, y=0)" in found["text/html"]
    assert "Add two numbers." in found["text/html"]
    assert "max_retries=5" in found["text/html"]
    assert found["text/plain"] == "<@task: nb.add of nb>"


def test_what_cannot_be_submitted_shows_its_structure_and_its_error(app):
    add = app.tasks["nb.add"]
    cases = [
        (group(add.s(object()), add.s(1)), "UnserialisableArgument", "add[1]"),
        (signature("nb.unknown", (1,), app=app) | add.s(1), "NotRegistered", "unknown"),
        (chord([add.s(1), add.s(2)]), "CanvasError", "add[1]"),
    ]
    for canvas, error, node in cases:
        found = canvas._repr_mimebundle_()
        assert f"✗ {error}" in found["text/html"], canvas
        assert node in found["text/html"], canvas
        assert found["text/plain"].count("\n") == 1
    empty = chain()._repr_mimebundle_()
    assert list(empty) == ["text/html", "text/plain"]
    assert "CanvasError" in empty["text/html"]


def test_no_repr_raises(app):
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    add = app.tasks["nb.add"]
    for canvas in (add.s(Broken()), group(add.s(Broken())), add.s(1) | add.s(Broken())):
        assert "unprintable Broken: RuntimeError" in canvas._repr_mimebundle_()["text/plain"]


def test_markup_in_names_and_values_is_text(app):
    add = app.tasks["nb.add"]
    assert "<script>" not in add.s("<script>")._repr_mimebundle_()["text/html"]
    result = add.s("<script>", "!").apply()
    assert "&lt;script&gt;!" in result._repr_mimebundle_()["text/html"]


def test_results_show_their_run_or_themselves(app):
    add, fail = app.tasks["nb.add"], app.tasks["nb.fail"]
    canvas = (add.s(1) | add.s(2)).delay()
    assert canvas.get(timeout=20) == 3
    html = canvas._repr_mimebundle_()["text/html"]
    assert "2/2 nodes" in html
    assert "<code>3</code>" in html
    bare = fail.delay(1)
    with pytest.raises(ValueError, match="no 1"):
        bare.get(timeout=20)
    assert "ValueError" in bare._repr_mimebundle_()["text/html"]
    assert "nobody knows" in AsyncResult("nonsense", app=app)._repr_mimebundle_()["text/plain"]
    eager = group(add.s(1), add.s(2)).apply()
    assert "add[1]" in eager._repr_mimebundle_()["text/html"]


def test_a_large_value_is_not_shown(app):
    run = app.submit(app.tasks["nb.add"].s("x" * 100_000, "y"))
    run.result(timeout=20)
    found = run._repr_mimebundle_()
    assert "(100,0" in found["text/html"]
    assert len(found["text/html"]) < 50_000


# -- live ---------------------------------------------------------------------------------------


class Shell:
    """As much of a kernel's shell as a live display uses."""

    def __init__(self) -> None:
        self.kernel, self.display_pub, self.user_ns = object(), self, {}
        self.events = SimpleNamespace(callbacks={}, register=self._register)
        self.published: list[tuple[str, bool, dict[str, str], str]] = []
        self.ended = threading.Event()

    def _register(self, name: str, function: Any) -> None:
        self.events.callbacks.setdefault(name, []).append(function)

    def publish(self, data: Any, *, transient: Any, update: bool) -> None:
        thread = threading.current_thread().name
        self.published.append((transient["display_id"], update, data, thread))
        if "image/svg+xml" in data:
            self.ended.set()


@pytest.fixture
def shell(monkeypatch):
    shell = Shell()
    fake = SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", fake)
    yield shell
    live._stop_all()


def test_a_run_is_shown_live_and_ends_as_a_static_picture(app, shell):
    gate = threading.Event()

    @app.task
    def wait(x):
        assert gate.wait(20)
        return x

    run = app.submit(wait.s(1) | app.tasks["nb.add"].s(1))
    run._ipython_display_()
    run._ipython_display_()  # a second display is one of its own
    assert all(thread.daemon for thread in threading.enumerate() if "display" in thread.name)
    gate.set()
    assert run.result(timeout=20) == 2
    shell.events.callbacks["post_run_cell"][0](None)  # the cell that waited has ended
    assert shell.ended.wait(20)
    ids = {id for id, *_ in shell.published}
    assert len(ids) == 2
    for display in ids:
        mine = [entry for entry in shell.published if entry[0] == display]
        assert [update for _, update, *_ in mine] == [False, *[True] * (len(mine) - 1)]
        assert 'data-state="RUNNING"' in mine[0][2]["text/html"]
        assert 'data-state="SUCCESS"' in mine[-1][2]["text/html"]
        assert list(mine[-1][2]) == ["text/html", "image/svg+xml", "text/plain"]
    assert not live._live
    with pytest.raises(NotImplementedError):  # IPython then asks for the bundle
        run._ipython_display_()


def test_a_live_display_follows_without_any_cell(app, shell):
    run = app.submit(app.tasks["nb.add"].s(1).set(countdown=0.4))
    run._ipython_display_()
    assert shell.ended.wait(20)
    assert {thread for *_, thread in shell.published[1:]} == {"flowq-display"}


def test_outside_of_a_kernel_nothing_is_live(app):
    run = app.submit(app.tasks["nb.add"].s(1))
    with pytest.raises(NotImplementedError):
        run._ipython_display_()


def test_a_display_does_not_keep_the_process_alive(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from types import SimpleNamespace

            from flowq import Flowq

            events = SimpleNamespace(callbacks={}, register=lambda name, function: None)
            publisher = SimpleNamespace(publish=lambda *args, **options: None)
            shell = SimpleNamespace(kernel=1, display_pub=publisher, events=events, user_ns={})
            sys.modules["IPython"] = SimpleNamespace(get_ipython=lambda: shell)
            app = Flowq("alive", worker_pool="threads")

            @app.task
            def later():
                return 1

            run = app.submit(later.s().set(countdown=3600))
            run._ipython_display_()
            print(run.state.value)
            """
        )
    )
    ended = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "RUNNING\n", "")


# -- in a kernel --------------------------------------------------------------------------------


def execute(notebook: Any, folder: Path) -> Any:
    """Run a notebook in a kernel of its own."""
    nbclient = pytest.importorskip("nbclient")
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")
        client = nbclient.NotebookClient(
            notebook,
            timeout=90,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
        )
        client.execute()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell: Any) -> str:
    """What a cell printed, and its value as text."""
    return "".join(
        output.get("text") or output.data["text/plain"]
        for output in cell.outputs
        if output.output_type in ("stream", "execute_result")
    )


def test_the_first_notebook(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    source = ROOT / "notebooks" / "first_canvas.ipynb"
    notebook = nbformat.read(source, 4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    cells = execute(notebook, tmp_path)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    text = str(outputs).replace(SVG_NAMESPACE, "")
    assert not re.search(r"https?:|//cdn|<script", text)
    pictures = {
        cell.source.strip().splitlines()[-1]: output.data
        for cell in cells
        for output in cell.outputs
        if "data" in output and "text/html" in output.data
    }
    assert set(pictures) == {"price_of", "shopping", "run", "run.retry()"}
    for name, data in pictures.items():
        assert set(data) == {"text/html", "image/svg+xml", "text/plain"}, name
    assert 'data-state="SUCCESS"' in pictures["run.retry()"]["text/html"]
    assert 'data-state="FAILURE"' in pictures["run"]["text/html"]
    by_source = {cell.source: text_of(cell) for cell in cells}
    assert [by_source[s] for s in by_source if s.startswith("run.result")] == ["11.6"]
    attempts = next(value for source, value in by_source.items() if "node.attempt" in source)
    assert sorted(eval(attempts).values()) == [1] * 8 + [2]
    child, kernel = map(int, re.findall(r"process (\d+)", "".join(by_source.values())))
    assert child != kernel  # the redefined task ran its new code, with its helper, elsewhere


CELLS = """
import os
from flowq import Flowq, group
app = Flowq("nb", worker_concurrency=2)
class Odd(Exception): pass
class Scale:
    factor = 1
def helper(x): return x * Scale.factor
@app.task
def inner(x): return helper(x)
@app.task
def outer(x): return [inner(x), os.getpid() != HOME]
@app.task
def fail(x): raise Odd("no", x)
HOME = os.getpid()
#%%
app.submit(outer.s(2)).result(30), outer.name
#%%
class Scale:
    factor = 10
await app.submit(outer.s(2))
#%%
def helper(x): return -x
(await outer.delay(2))
#%%
@app.task
def inner(x): return helper(x) - 1
(await app.submit(outer.s(2))), outer(2)
#%%
import asyncio
await asyncio.gather(*(app.submit(inner.s(i)) for i in range(3)))
#%%
run = app.submit(group(inner.s(1), fail.s(2)))
try:
    run.result(30)
except Exception as exc:
    print(type(exc).__name__, type(exc.__cause__) is Odd, exc.__cause__.args)
#%%
@app.task
def fail(x): return x
run.retry().result(30), [node.attempt for node in run.nodes if node.task], run.row.target
#%%
import sqlite3
connection = sqlite3.connect(":memory:")
@app.task
def fail(x): return connection.execute("select 1")
try:
    app.submit(fail.s(1))
except Exception as exc:
    print(type(exc).__name__, exc)
#%%
%load_ext flowq
print(get_ipython().find_line_magic("flowq") is not None)
"""


def test_redefined_tasks_await_and_errors_in_a_kernel(tmp_path):
    nbformat = pytest.importorskip("nbformat")
    cells = [nbformat.v4.new_code_cell(part.strip()) for part in CELLS.split("#%%")]
    done = execute(nbformat.v4.new_notebook(cells=cells), tmp_path)
    said = [text_of(cell).strip() for cell in done]
    assert said[:8] == [
        "",
        "([2, True], 'nb.outer')",
        "[20, True]",
        "[-2, True]",
        "([-3, True], [-3, False])",
        "[-1, -2, -3]",
        "RunFailed True ('no', 2)",
        "([-2, 2], [1, 2], '<notebook>')",
    ]
    assert "the task nb.fail cannot be sent to pool children" in said[8]
    assert said[9] == "True"


BUSY = """
import os, time
from pathlib import Path
from flowq import Flowq
app = Flowq("busy")
@app.task
def long():
    Path("pid").write_text(str(os.getpid()))
    time.sleep(600)
os.mkfifo("pid")
run = app.submit(long.s())
display(run)
print(Path("pid").read_text())
"""


def test_a_kernel_ends_at_once_though_a_task_runs(tmp_path, monkeypatch):
    manager = pytest.importorskip("jupyter_client.manager")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    kernel, client = manager.start_new_kernel(kernel_name="python3", cwd=str(tmp_path))
    said: list[str] = []
    child = -1
    try:
        client.execute_interactive(
            BUSY,
            timeout=60,
            output_hook=lambda message: said.append(message["content"].get("text", "")),
        )
        child = os.pidfd_open(int("".join(said)))
    finally:
        kernel.shutdown_wait_time = 80  # it would be killed after that
        began = time.monotonic()
        kernel.shutdown_kernel()
        client.stop_channels()
    assert time.monotonic() - began < 20
    end = select.poll()  # select() cannot wait for large descriptors
    end.register(child, select.POLLIN)
    assert end.poll(20_000)  # it ends with its kernel
    os.close(child)
    assert Flowq("busy", store=f"sqlite:///{tmp_path}/.flowq/flowq.db").runs()[0].state == "RUNNING"
