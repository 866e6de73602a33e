"""Pictures: what a drawing says, how a big one becomes small, and that no name can break out."""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowq.core import states
from flowq.core.canvas import Signature, chain, group
from flowq.core.compiler import compile_canvas
from flowq.errors import RenderError
from flowq.render import (
    FORMATS,
    Drawing,
    collapse,
    drawing_of,
    drawing_of_graph,
    engine,
    format_of,
    fragment,
    render,
    states_diagram,
)
from flowq.render.label import clip, columns, duration, plain, shorten
from flowq.render.palette import PALETTE, RUN_PALETTE
from flowq.render.timing import longest
from flowq.render.tree import Group, leaves
from tests.canvases import canvases, flows
from tests.driver import Binder


class Rows:
    """Rows of nodes and edges as the store gives them."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.edges: list[Any] = []

    def add(
        self,
        path: str,
        name: str,
        parents: Iterable[int] = (),
        *,
        state: str = "PENDING",
        took: float | None = None,
        on: str = "success",
        **more: Any,
    ) -> int:
        idx = len(self.nodes)
        times = {} if took is None else {"began_at": 100.0, "ended_at": 100.0 + took}
        task = "" if more.get("kind") == "join" else "app." + re.sub(r"\W.*|_\d+$", "", name)
        row = {"idx": idx, "path": path, "name": name, "task": task, "state": state}
        self.nodes.append(SimpleNamespace(**(row | times | more)))
        for parent in parents:
            self.edges.append(SimpleNamespace(parent=parent, child=idx, on=on, bind="prepend"))
        return idx

    def group(self, path: str, name: str, size: int, parents: Iterable[int], **more: Any) -> int:
        parents = list(parents)
        members = [self.add(f"{path}/g{i}", f"{name}[{i}]", parents, **more) for i in range(size)]
        return self.add(f"{path}/j", "join", members, kind="join", state=more.get("state", "READY"))

    def drawing(self, title: str = "etl", **more: Any) -> Drawing:
        return drawing_of(self.nodes, self.edges, title=title, **more)


def etl() -> Rows:
    rows = Rows()
    first = rows.add("c0", "extract", state="SUCCESS", took=0.5)
    members = [
        rows.add("c1/g0", "clean[0]", [first], state="SUCCESS", took=2.0),
        rows.add("c1/g1", "clean[1]", [first], state="SUCCESS", took=0.004, retries=2),
    ]
    join = rows.add("c1/j", "join", members, kind="join", state="SUCCESS")
    load = rows.add("c2", "load", [join], state="FAILURE", took=1.0, error="ValueError: no 'x'")
    rows.add("c3", "report", [load], state="SKIPPED")
    rows.add("c2/e0", "alert", [load], on="failure", state="SUCCESS", took=0.1)
    return rows


def big_map(size: int = 1000) -> Rows:
    rows = Rows()
    join = rows.group("c1", "crunch", size, [rows.add("c0", "plan", state="SUCCESS", took=1.0)])
    for at, row in enumerate(rows.nodes[1:-1]):
        row.state, row.began_at, row.ended_at = "SUCCESS", 100.0, 100.0 + at / 1000
    rows.nodes[58].state, rows.nodes[58].error = "FAILURE", "OSError: disk full"
    rows.nodes[13].state, rows.nodes[13].ended_at = "STARTED", None
    rows.add("c2", "report", [join])
    return rows


def many_groups(outer: int = 100, inner: int = 100) -> Rows:
    rows = Rows()
    joins = [rows.group(f"g{i}", "crunch", inner, ()) for i in range(outer)]
    rows.add("j", "join", joins, kind="join")
    return rows


def many_chains(count: int = 3000) -> Rows:
    rows, ends = Rows(), []
    for at in range(count):
        last = rows.add(f"g{at}/c0", f"load#{at}")
        last = rows.add(f"g{at}/c1", f"parse#{at}", [last])
        ends.append(rows.add(f"g{at}/c2", f"store#{at}", [last]))
    rows.add("j", "join", ends, kind="join")
    return rows


def flat_flow(size: int = 10_000) -> Rows:
    rows = Rows()
    for at in range(size):
        rows.add(f"f{at}", f"work#{at}")
    return rows


def layered_flow(layers: int = 20, width: int = 500) -> Rows:
    rows, dice = Rows(), random.Random(1)
    above: Sequence[int] = ()
    for layer in range(layers):
        above = [
            rows.add(
                f"f{len(rows.nodes)}",
                f"{'abcd'[layer % 4]}_{at}",
                dice.sample(above, 3) if above else (),
            )
            for at in range(width)
        ]
    return rows


def long_chain(size: int = 10_000) -> Rows:
    rows = Rows()
    for at in range(size):
        rows.add(f"c{at}", f"step#{at}", [at - 1] if at else ())
    return rows


BIG: dict[str, Callable[[], Rows]] = {
    "map": lambda: big_map(10_000),
    "groups": many_groups,
    "chains": many_chains,
    "flat": flat_flow,
    "layers": layered_flow,
    "chain": long_chain,
}


# --- what a drawing says ----------------------------------------------------------------------


def shape(item: str | Group) -> Any:
    return (
        item if isinstance(item, str) else (item.kind, [shape(member) for member in item.members])
    )


def test_groups_are_rebuilt_from_paths() -> None:
    root = etl().drawing().root
    inner = ("group", ["n1", "n2"])
    assert shape(root) == ("chain", ["n0", inner, ("links", ["n4", "n6"]), "n5"])
    frame = root.members[1]
    assert isinstance(frame, Group)
    assert (frame.label, frame.join) == ("clean × 2", "n3")


def test_lone_task_is_a_chain_of_one() -> None:
    rows = Rows()
    rows.add("", "only")
    assert shape(rows.drawing().root) == ("chain", ["n0"])


def test_chord_body_stands_behind_its_header() -> None:
    rows = Rows()
    join = rows.add("j", "join", [rows.add("g0", "a"), rows.add("g1", "b")], kind="join")
    rows.add("b", "body", [join])
    assert shape(rows.drawing().root) == ("chain", [("group", ["n0", "n1"]), "n3"])


def test_replacement_is_drawn_in_place_of_its_node() -> None:
    rows = Rows()
    first = rows.add("c0", "first")
    gone = rows.add("c1", "spread", [first], kind="pass")
    rows.add("c2", "last", [gone])
    inner = [rows.add(f"c1/r/g{i}", f"scan[{i}]") for i in range(2)]
    join = rows.add("c1/r/j", "join", inner, kind="join")
    rows.edges.append(SimpleNamespace(parent=join, child=gone, on="always", bind="none"))
    drawing = rows.drawing()
    frame = drawing.root.members[1]
    assert shape(frame) == ("chain", [("group", ["n3", "n4"]), "n1"])
    arrows = {(edge.parent, edge.child) for edge in drawing.edges}
    assert {("n0", "n3"), ("n0", "n4"), ("n5", "n1"), ("n1", "n2")} <= arrows
    assert ("n0", "n1") not in arrows, "the parent leads to what replaced the node"


def test_rows_without_paths_or_times_are_drawn_as_a_flow() -> None:
    bare = [SimpleNamespace(idx=0, task="app.a"), SimpleNamespace(idx=1, task="app.b")]
    drawing = drawing_of(bare, [SimpleNamespace(parent=0, child=1)])
    assert [node.name for node in drawing.nodes] == ["a", "b"]
    assert leaves(drawing.root) == ["n0", "n1"]
    assert drawing.counts == {"PENDING": 2}


def test_paths_of_another_form_lose_no_node() -> None:
    rows = Rows()
    for path in ("zz/0", "c0/c0/../x", "/".join(["r"] * 900), "c0", "c0", "g", "e\N{SNOWMAN}"):
        rows.add(path, path[:9] or "?")
    drawing = rows.drawing()
    assert sorted(leaves(drawing.root)) == sorted(node.id for node in drawing.nodes)
    for name in set(FORMATS) - {"png"}:
        assert render(drawing, name)


def test_compiled_graph_is_drawn_before_it_runs() -> None:
    a, b, c, d = (Signature(f"app.{name}") for name in "abcd")
    made = chain(a, group([b, c]), d)
    drawing = drawing_of_graph(compile_canvas(made, Binder()), title="t")
    assert next(node.name for node in drawing.nodes if node.kind == "task") == "a"
    assert drawing.total == 4
    assert [node.kind for node in drawing.nodes].count("join") == 1
    assert str(render(drawing, "text")).startswith("t  4 nodes\n├── ○ a\n├── ○ group × 2\n")


def test_critical_path_is_marked_once_the_run_is_over() -> None:
    over = etl().drawing(state="FAILURE", finished=104.0)
    marked = {node.name for node in over.nodes if node.critical}
    assert marked == {"extract", "clean[0]", "join", "load", "alert"}
    assert not any(node.critical for node in etl().drawing(state="RUNNING").nodes)


def test_longest_path_passes_over_cycles() -> None:
    assert longest({"a": 1.0, "b": 2.0, "c": 9.0}, [("a", "b"), ("c", "c")]) == ["a", "b"]
    assert longest({"a": 0.0}, []) == []


def test_running_nodes_show_their_time_so_far() -> None:
    rows = Rows()
    rows.add("", "slow", state="STARTED", began_at=10.0, ended_at=None)
    assert rows.drawing(state="RUNNING", now=14.0).nodes[0].seconds == 4.0
    assert rows.drawing(state="RUNNING").nodes[0].seconds is None


def test_drawing_travels_as_json() -> None:
    drawing = collapse(big_map().drawing(state="RUNNING"))
    assert msgspec.json.decode(render(drawing, "json"), type=Drawing) == drawing


# --- a big drawing becomes small --------------------------------------------------------------


def test_small_drawing_is_left_alone() -> None:
    drawing = etl().drawing()
    assert collapse(drawing) is drawing


def test_collapsed_map_counts_states_and_names_the_failed() -> None:
    drawing = collapse(big_map().drawing(state="RUNNING"))
    box = next(node for node in drawing.nodes if node.count > 1)
    assert (box.name, box.count, box.state) == ("crunch", 1000, "FAILURE")
    assert box.counts == {"SUCCESS": 998, "FAILURE": 1, "STARTED": 1}
    assert box.failed == ["crunch[57]"]
    assert box.error == "OSError: disk full"
    assert box.spread is not None
    assert box.spread[0] < box.spread[1] < box.spread[2] == pytest.approx(0.999)
    assert "998 ✓ 1 ● 1 ✗" in str(render(drawing, "mermaid"))
    assert [(edge.parent, edge.child) for edge in drawing.edges] == [
        ("n0", box.id),
        (box.id, "n1002"),
    ]


def test_chains_of_a_group_are_laid_on_each_other() -> None:
    drawing = collapse(many_chains(300).drawing())
    assert [(node.name, node.count) for node in drawing.nodes if node.kind == "task"] == [
        ("load", 300),
        ("parse", 300),
        ("store", 300),
    ]


def test_layers_of_a_flow_fold_by_task_and_depth() -> None:
    drawing = collapse(layered_flow().drawing())
    assert [(node.name, node.count) for node in drawing.nodes] == [
        (name, 500) for name in "abcd"
    ] * 5
    assert len(drawing.edges) == 19


def test_inner_groups_fold_before_the_outer_one() -> None:
    drawing = collapse(many_groups().drawing())
    boxes = [node for node in drawing.nodes if node.kind == "task"]
    assert len(boxes) == 100
    assert {node.count for node in boxes} == {100}


@pytest.mark.parametrize("name", BIG)
def test_ten_thousand_nodes_become_readable_in_half_a_second(name: str) -> None:
    rows = BIG[name]()
    began = time.process_time()
    drawing = rows.drawing(state="SUCCESS", finished=200.0)
    small = collapse(drawing)
    pictures = [render(small, form) for form in ("svg", "html", "text")]
    took = time.process_time() - began
    assert len([node for node in small.nodes if node.kind == "task"]) <= 200
    assert sum(node.count for node in small.nodes if node.kind == "task") == drawing.total
    assert all(len(picture) < 400_000 for picture in pictures)
    assert took < 1.5, "0.1 to 0.4 s where it was written; the rest is for slow machines"


@pytest.mark.parametrize("name", ["svg", "html", "mermaid"])
def test_renderers_collapse_what_the_caller_did_not(name: str) -> None:
    assert len(render(flat_flow(2000).drawing(), name)) < 60_000


@settings(max_examples=40, deadline=None)
@given(made=st.one_of(canvases(leaves=24, depth=4), flows()), limit=st.integers(2, 30))
def test_any_canvas_is_drawn_whole(made: Any, limit: int) -> None:
    drawing = drawing_of_graph(compile_canvas(made, Binder()), title="any")
    small = collapse(drawing, limit)
    for each in (drawing, small):
        assert sorted(leaves(each.root)) == sorted(node.id for node in each.nodes)
        assert each.total == sum(node.count for node in each.nodes if node.kind == "task")
        for name in set(FORMATS) - {"png"}:
            assert render(each, name)
        ElementTree.fromstring(render(each, "svg"))
    assert sum(node.kind == "task" for node in small.nodes) <= max(limit, 2)


# --- what the formats look like ---------------------------------------------------------------

TEXT = """\
etl  FAILURE · 6/6 nodes · 4.0 s
├── ✓ extract       500 ms  ◆
├── ✓ clean × 2     2 ✓
│   ├── ✓ clean[0]  2.0 s  ◆
│   └── ✓ clean[1]  4 ms · 2 retries
├── ✗ load          1.0 s  ◆  ValueError: no 'x'
├── ✓ alert         100 ms  ◆  ← error of load
└── ⊘ report        skipped
"""

ASCII = """\
etl  FAILURE, 6/6 nodes, 4.0 s
|-- ok    extract       500 ms  *
|-- ok    clean x 2     2 ok
|   |-- ok    clean[0]  2.0 s  *
|   `-- ok    clean[1]  4 ms, 2 retries
|-- FAIL  load          1.0 s  *  ValueError: no 'x'
|-- ok    alert         100 ms  *  <- error of load
`-- skip  report        skipped
"""

MAP = """\
etl  RUNNING · 1,000/1,002 nodes · 5.0 s
├── ✓ plan            1.0 s
├── ✗ crunch × 1,000  ━━━━━━━━━━━━━━━━━━━━━━━─  998 ✓ 1 ● 1 ✗
│   ├── ✗ crunch[57]  57 ms  OSError: disk full
│   └── ● crunch[12]  5.0 s
└── ○ report
"""

MERMAID = """\
flowchart LR
  n0("extract<br/>✓ 500 ms"):::success
  subgraph root_c1_group["clean × 2"]
    n1("clean[0]<br/>✓ 2.0 s"):::success
    n2("clean[1]<br/>✓ 4 ms · 2 retries"):::success
    n3((" ")):::dot
  end
  n4("load<br/>✗ 1.0 s"):::failure
  n6("alert<br/>✓ 100 ms"):::success
  n5("report<br/>⊘ skipped"):::skipped
  n0 --> n1
  n0 --> n2
  n1 --> n3
  n2 --> n3
  n3 --> n4
  n4 --> n5
  n4 -.-> n6
  linkStyle 0,2,4,6 stroke-width:3px
"""


def over() -> Drawing:
    return etl().drawing(state="FAILURE", finished=104.0)


def test_text() -> None:
    assert render(over(), "text") == TEXT


def test_text_in_ascii() -> None:
    assert render(over(), "text", ascii=True) == ASCII


def test_text_unfolds_of_a_big_map_what_a_reader_looks_for() -> None:
    assert render(big_map().drawing(state="RUNNING", now=105.0), "text") == MAP


def test_text_of_a_flow_names_what_each_node_waits_for() -> None:
    rows = Rows()
    first = rows.add("f0", "a")
    rows.add("f2", "c", [first, rows.add("f1", "b")])
    assert "○ c  ← a, b" in str(render(rows.drawing(), "text"))


@pytest.mark.parametrize("width", [30, 60, 100])
@pytest.mark.parametrize("ascii", [True, False])
def test_text_keeps_within_its_width(width: int, ascii: bool) -> None:
    rows = etl()
    rows.nodes[1].name = "界" * 80
    text = str(render(rows.drawing("t" * 200), "text", width=width, ascii=ascii))
    assert max(columns(line) for line in text.splitlines()) <= width
    assert not ascii or text.isascii()


def test_mermaid() -> None:
    text = str(render(over(), "mermaid"))
    assert text.startswith(MERMAID)
    rest = text.removeprefix(MERMAID).splitlines()
    assert all(line.startswith("  classDef ") for line in rest)


def test_dot_carries_ids_and_classes_for_recolouring() -> None:
    text = str(render(over(), "dot"))
    assert "id=n4" in text
    assert 'class="fq-node st-failure"' in text
    assert "subgraph cluster_root_c1_group {" in text
    assert re.search(r"rank=same\s+n2 -> n1 \[style=invis\]", text), "members top-down"
    assert re.search(r"n4 -> n6 \[.*style=dashed", text)
    assert text.count("Helvetica") == 3, "graph, node and cluster; edges have no text"


def test_svg_is_well_formed_and_tells_states() -> None:
    tree = ElementTree.fromstring(render(over(), "svg"))
    boxes = {
        part.get("id"): part
        for part in tree.iter("{http://www.w3.org/2000/svg}g")
        if "fq-node" in (part.get("class") or "")
    }
    assert sorted(boxes) == [f"n{i}" for i in range(7)]
    assert boxes["n4"].get("data-state") == "FAILURE"
    assert boxes["n4"].get("class") == "fq-node st-failure"
    assert render(over(), "svg") == render(over(), "svg")


def test_svg_of_five_hundred_boxes_is_quick() -> None:
    drawing = layered_flow(10, 50).drawing()
    began = time.process_time()
    assert str(render(drawing, "svg")).count("fq-node") == 500
    assert time.process_time() - began < 3


def test_html_stands_alone() -> None:
    text = str(render(over(), "html"))
    assert "<script" not in text
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?https?:", text)
    assert "prefers-color-scheme:dark" in text
    assert text.count("<details") == text.count("</details>") == 1
    assert "ValueError: no &#x27;x&#x27;" in text


def test_html_of_a_big_map_is_one_line_that_unfolds() -> None:
    text = fragment(big_map(900).drawing(state="RUNNING"))
    assert '<details class="fq-group fq-big st-failure">' in text
    assert "crunch[57]" in text.split("</details>")[1], "what failed is shown beside it"
    assert "and 600 more" in text
    assert len(text) < 150_000


# --- no name can break out --------------------------------------------------------------------

HOSTILE = [
    '<script>alert("x")</script>',
    "</text></svg><img src=x onerror=alert(1)>",
    '"]; click n0 "javascript:alert(1)"',
    "two\nlines\r\nand\ttabs",
    "\x1b[31mred\x00\x07",
    "back\\slash \\N \\l \\",
    "'single' \"double\" `tick` ${x} {{y}} %s #quot; &lt; &amp;",
    "<b>bold</b>",
    "<>",
    "\u202egnp.exe",
    "שלום עולם",
    "日本語タスク",
    "👩\u200d🔬 e\u0301",
    "\ud800",
    "end",
    "n" * 5000,
    "]]>",
    "--> <!--",
    "",
]


def hostile() -> Drawing:
    rows = Rows()
    last: list[int] = []
    for at, name in enumerate(HOSTILE):
        state, error = ("FAILURE", name) if at % 2 else ("SUCCESS", "")
        last = [rows.add(f"c{at}", name, last, state=state, took=1.0, error=error, task=name)]
    first = rows.add(f"c{len(HOSTILE)}/g0", HOSTILE[0], last, task=HOSTILE[0])
    second = rows.add(f"c{len(HOSTILE)}/g1", HOSTILE[0], last, task=HOSTILE[0])
    rows.add(f"c{len(HOSTILE)}/j", HOSTILE[0], [first, second], kind="join")
    return rows.drawing(HOSTILE[0], state="FAILURE")


@pytest.mark.parametrize("name", ["svg", "html"])
def test_hostile_names_stay_text_in_markup(name: str) -> None:
    text = str(render(hostile(), name))
    text.encode()
    markup = re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    tags = {tag.lower() for tag in re.findall(r"</?([a-zA-Z]+)", markup)}
    assert not tags & {"script", "img"}
    assert not {tag for tag in re.findall(r"<[^>]*>", markup) if "onerror" in tag.split('="')[0]}
    if name == "svg":
        ElementTree.fromstring(text)
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_hostile_names_stay_labels_in_dot() -> None:
    text = str(render(hostile(), "dot"))
    quoted = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
    assert "alert" not in quoted
    assert "<" not in quoted
    assert quoted.count('"') % 2 == 0
    assert re.search(r"label=<", text) is None


def test_hostile_names_stay_labels_in_mermaid() -> None:
    for line in str(render(hostile(), "mermaid")).splitlines():
        if "-->" in line and '"' not in line:
            continue
        body = re.sub(r'\(\["[^"]*"\]\)|\("[^"]*"\)|\["[^"]*"\]|\(\(" "\)\)', "", line)
        assert not re.search(r"[\"<>`]", body.replace("-->", "").replace("-.->", "")), line
    assert "click n0 #quot;" in str(render(hostile(), "mermaid"))


def test_hostile_names_stay_one_line_in_text() -> None:
    text = str(render(hostile(), "text"))
    assert len(text.splitlines()) == len(HOSTILE) + 4
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", text)
    assert str(render(hostile(), "text", ascii=True)).isascii()
    assert "\u2068שלום עולם\u2069" in text, "isolated, so that the rest of its line stays in order"


# --- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.0, "0 ms"),
        (0.0124, "12 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 m 00 s"),
        (125, "2 m 05 s"),
        (3599.6, "1 h 00 m"),
        (3840, "1 h 04 m"),
        (266_400, "3 d 02 h"),
        (-1, "0 ms"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_lines_are_cut_by_columns() -> None:
    assert clip("日本語", 4) == "日…"
    assert clip("abc", 3) == "abc"
    assert shorten("one_long_name_0007", 10) == "one…e_0007"
    assert plain("a\nb\x00") == "a b\ufffd"


def test_every_state_has_its_look() -> None:
    assert set(PALETTE) == set(states.State)
    assert set(RUN_PALETTE) == set(states.RunState)
    terminal = [PALETTE[state].glyph for state in states.TERMINAL]
    assert len(set(terminal)) == len(terminal)


# --- formats and programs ---------------------------------------------------------------------


def test_formats_by_file_name() -> None:
    assert format_of("a/b.SVG") == "svg"
    assert format_of("graph.gv") == "dot"
    assert [format_of(f"x{endings[0]}") for endings in FORMATS.values()] == list(FORMATS)
    with pytest.raises(RenderError, match=r"x\.bmp"):
        format_of("x.bmp")
    with pytest.raises(RenderError, match="unknown picture format 'bmp'"):
        render(etl().drawing(), "bmp")


def test_png_without_graphviz_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find", lambda: None)
    with pytest.raises(
        RenderError, match=r"install the dot program, or pip install flowq\[graph\]"
    ):
        render(etl().drawing(), "png")


def test_png_by_a_program_that_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    program = tmp_path / "graphviz-pure"
    program.write_text("#!/bin/sh\ncat >/dev/null\nprintf picture\n")
    program.chmod(0o755)
    monkeypatch.setattr(engine, "find", lambda: str(program))
    assert render(etl().drawing(), "png") == b"picture"
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(RenderError, match="drew nothing"):
        render(etl().drawing(), "png")


def test_a_program_beside_the_interpreter_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "graphviz-pure").write_text("#!/bin/sh\n")
    (tmp_path / "graphviz-pure").chmod(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert engine.find() == str(tmp_path / "graphviz-pure")


def test_rendering_loads_no_heavy_module() -> None:
    code = (
        "import sys, flowq.render as r\n"
        "d = r.drawing_of([], [])\n"
        "[r.render(d, f) for f in ('svg', 'html', 'text', 'mermaid', 'json')]\n"
        "print(*{'graphviz', 'networkx', 'rich', 'sqlalchemy', 'kombu'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# --- the diagram of states --------------------------------------------------------------------


def test_states_diagram_has_every_transition() -> None:
    mermaid, dot, table = (
        states_diagram.mermaid(),
        states_diagram.dot(),
        states_diagram.markdown(),
    )
    for (before, event), after in states.TRANSITIONS.items():
        assert re.search(rf"^  {before} --> {after}: .*\b{event}\b", mermaid, re.M)
        assert re.search(rf"{before} -> {after} \[label=.*{event}", dot)
        row = next(line for line in table.splitlines() if line.startswith(f"| {event} |"))
        assert f" {after} |" in row
    assert mermaid.startswith("stateDiagram-v2\n  [*] --> PENDING\n")
