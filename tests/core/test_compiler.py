"""The compiler: paths, names, laws, and what it refuses."""

from __future__ import annotations

import random
from typing import Any

import pytest

from flowq.core.canvas import Signature, chain, chord, chunks, expand, group, xmap
from flowq.core.compiler import compile_canvas
from flowq.core.flow import Flow
from flowq.core.graph import Bind, Graph, Kind, On, decode_graph
from flowq.errors import CanvasError, LimitExceeded
from tests.canvases import canvas_by, flow_by
from tests.driver import Binder


def compiled(canvas: Any, **limits: int) -> Graph:
    return compile_canvas(canvas, Binder(), **limits)


def t(name: str, *args: Any, **options: Any) -> Signature:
    return Signature(f"pkg.{name}", args, {}, options)


a, b, c, d = (t(name) for name in "abcd")


def paths(canvas: Any) -> set[str]:
    return {node.path for node in compiled(canvas).nodes}


@pytest.mark.parametrize(
    ("canvas", "expected"),
    [
        (a, {""}),
        (chain(a, group(b, c), d), {"c0", "c1/g0", "c1/g1", "c1/j", "c1/b"}),
        (group(a, group(b, c)), {"g0", "g1/g0", "g1/g1", "j"}),
        (group(a, group(b, c, join="any")), {"g0", "g1/g0", "g1/g1", "g1/j", "j"}),
        (group(a, chain(b, group(c))), {"g0", "g1/c0", "g1/c1/g0", "g1/c1/j", "j"}),
        (chord([], b), {"j", "b"}),
        (group(), {"j"}),
        (chunks(a, [[1], [2], [3]], 2), {"g0", "g1", "j"}),
        (xmap(a, [1, 2]), {""}),
        (chain(a, expand(b)), {"c0", "c1"}),
    ],
)
def test_paths_tell_the_place_in_the_canvas(canvas: Signature, expected: set[str]) -> None:
    assert paths(canvas) == expected


def test_paths_of_callbacks_and_errbacks_hang_under_their_element() -> None:
    first = t("a")
    first.link(b)
    first.link(c)
    whole = chain(first, group(t("x"), t("y"))).on_error(d)
    assert paths(whole) == {
        *("c0", "c0/l0", "c0/l1", "c1/g0", "c1/g1", "c1/j"),
        *("e0", "c1/g0/e0", "c1/g1/e0"),
    }


def test_errbacks_of_a_nested_group_hang_under_the_member_itself() -> None:
    whole = chain(a, group(b, group(c, d))).on_error(t("e"))
    assert {"c1/g1/g0/e0", "c1/g1/g1/e0"} <= paths(whole)


def test_names_are_unique_short_and_tell_members_apart() -> None:
    graph = compiled(group(a, a, chain(b, b)))
    assert sorted(n.name for n in graph.nodes) == ["a[0]", "a[1]", "b[2]", "b[2]#2", "join"]


def test_equal_links_are_kept_once() -> None:
    sig = t("a")
    for _ in range(3):
        sig.link(b)
        sig.link_error(c)
    assert len(compiled(sig).nodes) == 3


def test_a_template_reference_is_an_edge_with_a_place() -> None:
    flow = Flow()
    one = flow.add(a)
    flow.add(Signature("pkg.b", ([0, one],), {"k": {"deep": one}}))
    edges = [(e.parent, e.child, e.bind, e.path) for e in compiled(flow).edges]
    assert edges == [
        (0, 1, Bind.TEMPLATE, b"[0,0,1]"),
        (0, 1, Bind.TEMPLATE, b'[1,"k","deep"]'),
    ]


def test_a_failure_edge_keeps_company_with_other_needs() -> None:
    flow = Flow()
    one, two = flow.add(a), flow.add(b)
    flow.add(Signature("pkg.c", (two,)), on_failure=[one], after=[two])
    node = compiled(flow).nodes[2]
    assert (node.need, node.unmet) == (3, 3)


@pytest.mark.parametrize("number", range(60))
def test_laws_of_every_graph(number: int) -> None:
    source = random.Random(number).randint
    canvas = flow_by(source) if number % 3 == 2 else canvas_by(source)
    graph = compiled(canvas)
    again = compiled(canvas)
    assert graph.encode() == again.encode() == decode_graph(graph.encode()).encode()
    assert len({node.name for node in graph.nodes}) == len(graph.nodes)
    assert len({node.path for node in graph.nodes}) == len(graph.nodes)
    into: dict[int, list[int]] = {}
    for edge in graph.edges:
        into.setdefault(edge.child, []).append(edge.parent)
    for index, node in enumerate(graph.nodes):
        parents = into.get(index, [])
        assert node.unmet == len(parents)
        assert (node.spec < 0) == (node.kind != Kind.TASK)
        slots = [e.slot for e in graph.edges if e.child == index]
        assert len(set(slots)) == len(slots)
    _assert_acyclic(len(graph.nodes), into)
    assert all(0 <= result < len(graph.nodes) for result in graph.results)


def _assert_acyclic(count: int, into: dict[int, list[int]]) -> None:
    done: set[int] = set()
    while len(done) < count:
        more = {i for i in range(count) if i not in done and done.issuperset(into.get(i, ()))}
        assert more, "cycle"
        done |= more


def test_compiling_changes_nothing_in_the_canvas() -> None:
    canvas = canvas_by(random.Random(3).randint)
    before = repr(dict(canvas))
    compiled(canvas)
    assert repr(dict(canvas)) == before


def test_serialising_first_makes_no_difference() -> None:
    import json

    for number in range(40):
        canvas = canvas_by(random.Random(number).randint)
        again = Signature.from_dict(json.loads(json.dumps(canvas)))
        assert compiled(canvas).encode() == compiled(again).encode()
        assert compiled(canvas).encode() == compiled(canvas.clone()).encode()


def test_chain_is_associative() -> None:
    one = compiled((a | b) | (c | d))
    assert one.encode() == compiled(a | (b | (c | d))).encode()
    assert one.encode() == compiled(chain(a, chain(b, c), d)).encode()


def test_layers_of_chords_stay_linear_in_size() -> None:
    canvas: Signature = t("start")
    for _ in range(6):
        canvas = canvas | group(t("x") for _ in range(10)) | t("join")
    graph = compiled(canvas)
    assert len(graph.nodes) == 1 + 6 * 12
    assert len(graph.encode()) < 64 * 1024


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (chain(), "nothing to run"),
        (chord([a]), "needs a body"),
        (Flow("empty"), "nothing to run"),
        ("x", "give a signature"),
        (None, "give a signature"),
        (Signature("t", countdown="soon"), "seconds or a datetime|no ISO time"),
        (Signature("t", expires=float("nan")), "seconds or a datetime"),
        (Signature("t", eta="never"), "no ISO time"),
    ],
)
def test_refused_with_one_clear_sentence(bad: Any, words: str) -> None:
    with pytest.raises(CanvasError, match=words) as refused:
        compiled(bad)
    assert "\n" not in str(refused.value)


def test_limits() -> None:
    assert len(compiled(group(a for _ in range(99)), max_nodes=100).nodes) == 100
    with pytest.raises(LimitExceeded, match="more than 100 nodes"):
        compiled(group(a for _ in range(100)), max_nodes=100)
    deep: Signature = a
    for _ in range(60):
        deep = group(chain(deep, b))
    assert compiled(deep, max_nesting=120)
    with pytest.raises(LimitExceeded, match="nests deeper than 119"):
        compiled(deep, max_nesting=119)


def test_a_task_linked_to_itself_has_no_end_and_is_refused() -> None:
    sig = t("a")
    sig.link(sig)
    with pytest.raises(LimitExceeded):
        compiled(sig)


def test_a_handle_of_another_flow_is_refused() -> None:
    one, two = Flow("one"), Flow("two")
    handle = one.add(a)
    with pytest.raises(CanvasError, match="same flow"):
        two.add(b, after=[handle])


def test_errbacks_wait_for_failure_at_all_places_of_their_chain() -> None:
    graph = compiled(chain(a, chord([b], c)).on_error(d))
    errback = next(i for i, node in enumerate(graph.nodes) if node.path == "e0")
    edges = [e for e in graph.edges if e.child == errback]
    assert {graph.nodes[e.parent].path for e in edges} == {"c0", "c1/j", "c1/b"}
    assert {e.on for e in edges} == {On.FAILURE}
    assert graph.nodes[errback].need == 1


def test_a_last_node_stays_the_result_of_a_flow_when_an_errback_is_put_on_it() -> None:
    flow = Flow("f")
    a = flow.add(t("a"))
    b = flow.add(t("b", a))
    flow.add(t("e"), on_failure=[b])
    assert compiled(flow).results == [1]
