"""Loading targets and turning -a arguments into values."""

from __future__ import annotations

import enum
import sys
import textwrap
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from flowq.app import arguments, current, target
from flowq.core.canvas import Signature
from flowq.core.flow import Flow
from flowq.errors import TargetError

HEAD = """
from flowq import Flow, Flowq, chain
app = Flowq("program")
@app.task
def add(x, y=1): return x + y
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Write a program file and give its path; what loading leaves behind is undone."""
    app, modules, path = current.current_or_none(), set(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "program.py", head: str = HEAD) -> str:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(head + textwrap.dedent(text))
        return name

    yield write
    current.set_current(app)
    current.set_program_file(None)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def refused(text: str, *args: str) -> TargetError:
    with pytest.raises(TargetError) as caught:
        target.load(text).build(args)
    assert caught.value.exit_code == 7
    return caught.value


# -- finding ------------------------------------------------------------------------------------


def test_a_variable_called_pipeline_wins_over_other_canvases(program: Any) -> None:
    loaded = target.load(program("part = add.s(1)\npipeline = add.s(1) | add.s()\n"))
    assert loaded.name == "pipeline"
    assert loaded.build()["task"] == "celery.chain"
    assert loaded.app().main == "program"


def test_flow_is_the_other_name_and_holds_a_flow(program: Any) -> None:
    loaded = target.load(program("flow = Flow('f')\nflow.add(add.s(1))\n"))
    assert isinstance(loaded.build(), Flow)
    assert loaded.app(loaded.build()).main == "program"


def test_the_only_canvas_needs_no_name(program: Any) -> None:
    assert target.load(program("anything = add.s(1)\nagain = anything\n")).name == "anything"


def test_two_canvases_are_refused_naming_both(program: Any) -> None:
    problem = refused(program("one = add.s(1)\nother = add.s(2)\n"))
    assert "one" in str(problem)
    assert "other" in str(problem)
    assert "program.py:one" in str(problem)


def test_pipeline_and_flow_together_are_two_canvases(program: Any) -> None:
    assert "pipeline, flow" in str(refused(program("pipeline = add.s(1)\nflow = add.s(2)\n")))


def test_no_canvas_is_refused(program: Any) -> None:
    assert "no canvas" in str(refused(program("x = 1\n")))


def test_a_named_object_is_taken_whatever_else_is_there(program: Any) -> None:
    place = program("one = add.s(1)\nother = add.s(2)\n")
    assert target.load(f"{place}:other").build()["args"] == (2,)


def test_a_wrong_name_is_answered_with_near_ones(program: Any) -> None:
    place = program("report = add.s(1)\n")
    assert "did you mean report?" in str(refused(f"{place}:reprot"))


def test_what_is_no_canvas_is_refused(program: Any) -> None:
    place = program("number = 5\n")
    assert "not callable" in str(refused(f"{place}:number"))


def test_a_task_is_a_target_and_takes_its_arguments(program: Any) -> None:
    place = program("@app.task\ndef scale(x: int, by: float = 2.0): return x * by\n")
    built = target.load(f"{place}:scale").build(["x=3", "by=inf"])
    assert isinstance(built, Signature)
    assert built["kwargs"] == {"x": 3, "by": float("inf")}


def test_a_function_that_returns_nothing_is_told_so(program: Any) -> None:
    assert "return" in str(refused(program("def pipeline(): add.s(1)\n")))


def test_what_a_function_raises_is_one_sentence(program: Any) -> None:
    problem = refused(program("def pipeline(): raise ValueError('no such day')\n"))
    assert "no such day" in str(problem)
    assert not problem.details


def test_a_mistake_in_a_function_shows_the_users_frames_only(program: Any) -> None:
    problem = refused(program("def pipeline(): return {}['key']\n"))
    assert "KeyError" in str(problem)
    assert "program.py" in problem.details
    assert "flowq/app" not in problem.details


# -- loading ------------------------------------------------------------------------------------


def test_a_missing_file_is_answered_with_near_names(program: Any) -> None:
    program("pipeline = add.s(1)\n")
    assert "did you mean program.py?" in str(refused("progam.py"))


def test_a_folder_is_no_target(program: Any, tmp_path: Path) -> None:
    assert "folder" in str(refused(str(tmp_path)))


def test_a_syntax_error_names_file_and_line_and_points_at_it(program: Any) -> None:
    problem = refused(program("def f(:\n", head=""))
    assert "program.py:1" in str(problem)
    assert "^" in problem.details


def test_a_module_that_is_not_installed_is_named(program: Any) -> None:
    problem = refused(program("import no_such_module_here\n", head=""))
    assert "'no_such_module_here'" in str(problem)


def test_a_failing_import_is_cut_to_the_users_frames(program: Any) -> None:
    problem = refused(program("import json\ndef read(): json.loads('{')\nread()\n", head=""))
    assert problem.details.count("File") == 2
    assert "program.py" in problem.details


def test_leaving_the_program_while_loading_is_an_error(program: Any) -> None:
    assert "SystemExit" in str(refused(program("raise SystemExit(3)\n")))


def test_submitting_while_loading_is_refused(program: Any) -> None:
    assert "__main__" in str(refused(program("pipeline = add.s(1)\nadd.delay(1)\n")))


def test_the_main_guard_does_not_fire(program: Any, tmp_path: Path) -> None:
    guard = "if __name__ == '__main__':\n    open('fired', 'w')\n"
    target.load(program(f"pipeline = add.s(1)\n{guard}"))
    assert not (tmp_path / "fired").exists()


def test_tasks_are_named_after_the_app_and_the_file_is_loaded_once(program: Any) -> None:
    place = program("pipeline = add.s(1)\n")
    first = target.load(place)
    assert "program.add" in first.app().tasks
    assert target.load(place).module is first.module


def test_a_file_named_like_a_module_in_use_is_loaded_all_the_same(program: Any) -> None:
    import json

    loaded = target.load(program("pipeline = add.s(1)\n", "json.py"))
    assert loaded.build()["args"] == (1,)
    assert sys.modules["json"] is json


def test_a_module_is_found_from_here(program: Any) -> None:
    program("", "shop/__init__.py", head="")
    program("orders = add.s(1)\n", "shop/jobs.py", head=HEAD.replace("program", "shop"))
    loaded = target.load("shop.jobs:orders")
    assert loaded.target == "shop.jobs:orders"
    assert "shop.jobs.add" in loaded.app(loaded.build()).tasks


def test_packages_of_the_current_folder_are_found_from_a_file_elsewhere(program: Any) -> None:
    program("", "shop/__init__.py", head="")
    program("LIMIT = 7\n", "shop/limits.py", head="")
    place = program("from shop.limits import LIMIT\npipeline = add.s(LIMIT)\n", "jobs/daily.py")
    assert target.load(place).build()["args"] == (7,)


def test_a_module_that_is_not_there_is_refused(program: Any) -> None:
    assert "no module 'nowhere.jobs'" in str(refused("nowhere.jobs:orders"))


def test_a_module_written_like_a_file_gets_a_hint(program: Any) -> None:
    program("pipeline = add.s(1)\n")
    assert "program.py" in str(refused("program.x:pipeline")) or "program" in str(
        refused("programm:pipeline")
    )


def test_where_a_target_lies_is_told_without_loading_it(program: Any, tmp_path: Path) -> None:
    place = program("raise RuntimeError\n", "shop/jobs.py", head="")
    assert target.inside(str(tmp_path / place), tmp_path)
    assert target.inside("shop.jobs:x", tmp_path)
    assert not target.inside(str(tmp_path / place), tmp_path / "other")
    assert not target.inside("json:x", tmp_path)


def test_the_hash_follows_the_file(program: Any, tmp_path: Path) -> None:
    loaded = target.load(program("pipeline = add.s(1)\n"))
    before = loaded.code_hash
    assert len(before) == 32
    (tmp_path / "program.py").write_text("# changed\n")
    assert loaded.code_hash != before
    assert target.hash_of(str(tmp_path / "gone.py")) == ""


# -- arguments ----------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "r"


@pytest.mark.parametrize(
    ("kind", "texts", "value"),
    [
        (int, ["1_000"], 1000),
        (float, ["inf"], float("inf")),
        (float, ["2.5"], 2.5),
        (bool, ["yes"], True),
        (bool, ["0"], False),
        (str, ["a=b"], "a=b"),
        (Path, ["/x"], Path("/x")),
        (list[int], ["1,2", "3"], [1, 2, 3]),
        (list[str], ['["a", "b,c"]'], ["a", "b,c"]),
        (list, [""], []),
        (tuple[float, ...], ["1,2"], (1.0, 2.0)),
        (dict, ['{"a": [1]}'], {"a": [1]}),
        (Optional[int], ["none"], None),  # noqa: UP045 - as people write it
        (int | None, ["5"], 5),
        (int | str, ["five"], "five"),
        (Literal["a", 2], ["2"], 2),
        (Colour, ["RED"], Colour.RED),
        (date, ["2026-11-22"], date(2026, 11, 22)),
        (Any, ["x"], "x"),
    ],
)
def test_texts_become_values(kind: Any, texts: list[str], value: Any) -> None:
    assert arguments.convert(texts, kind) == value


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (int, ["1.5"]),
        (float, ["fast"]),
        (bool, ["maybe"]),
        (Literal["a"], ["b"]),
        (Colour, ["BLUE"]),
        (dict, ["[1]"]),
        (list[int], ["1,x"]),
        (int, ["1", "2"]),
    ],
)
def test_texts_that_do_not_fit_are_refused(kind: Any, texts: list[str]) -> None:
    with pytest.raises(ValueError):
        arguments.convert(texts, kind)


def test_a_default_tells_the_type_where_no_annotation_does() -> None:
    def pipeline(n=3, name="x", on=True):  # type: ignore[no-untyped-def]
        return n, name, on

    pairs = [("n", "4"), ("name", "5"), ("on", "no")]
    assert arguments.bind(pipeline, pairs, "it") == ((), {"n": 4, "name": "5", "on": False})


def test_parameters_without_a_name_and_of_any_name_are_filled_too() -> None:
    def many(a: int, /, b: int = 2, *rest: int, c: str = "c", **more: float) -> None: ...

    def bound(*pairs: str) -> Any:
        return arguments.bind(many, arguments.split(pairs), "it")

    assert bound("a=1", "b=5") == ((1, 5), {"c": "c"})
    assert bound("a=1", "rest=3,4", "rest=5") == ((1, 2, 3, 4, 5), {"c": "c"})
    assert bound("a=1", "c=x", "speed=2", "more=1") == (
        (1, 2), {"c": "x", "speed": 2.0, "more": 1.0},
    )  # fmt: skip
    for wrong in ("rest=x", "speed=x"):
        with pytest.raises(TargetError, match="expected a"):
            bound("a=1", wrong)


@pytest.mark.parametrize("kind", [date, datetime, time])
def test_a_moment_that_is_none_says_how_to_write_one(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"expected a .*, as in ") as caught:
        arguments.convert(["yesterday"], kind)
    kind.fromisoformat(str(caught.value).rpartition(" ")[2])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["spede=1", "file=x"], "did you mean speed?"),
        (["zzz=1", "file=x"], "it takes file, speed"),
        (["speed=1"], "needs file"),
        (["file=x", "speed=quick"], "a number, or inf"),
        (["file"], "not KEY=VALUE"),
        (["file=x", "file=y"], "given twice"),
    ],
)
def test_wrong_arguments_are_one_sentence(program: Any, given: list[str], words: str) -> None:
    place = program("def pipeline(file: str, speed: float = 1.0): return add.s(1)\n")
    assert words in str(refused(place, *given))


def test_a_canvas_takes_no_arguments(program: Any) -> None:
    assert "takes no -a x" in str(refused(program("pipeline = add.s(1)\n"), "x=1"))
    assert "takes no arguments" in str(
        refused(program("def pipeline(): return add.s(1)\n", "q.py"), "x=1")
    )


def test_any_key_is_taken_by_a_function_that_takes_any(program: Any) -> None:
    place = program("def pipeline(**more): return add.s(more['x'])\n")
    assert target.load(place).build(["x=1"])["args"] == ("1",)
