"""Canvas values: how they are built, copied, changed, shown and written down."""

from __future__ import annotations

import copy
import json
import pickle
import random
from typing import Any

import pytest
from hypothesis import given, settings

from flowq.core.canvas import (
    Signature,
    at_least,
    chain,
    chord,
    chunks,
    expand,
    group,
    is_signature_dict,
    maybe_signature,
    signature,
    xmap,
    xstarmap,
)
from flowq.core.flow import Flow
from flowq.errors import CanvasError, CycleFound
from tests.canvases import canvas_by, canvases, flows


def t(name: str, *args: Any, **options: Any) -> Signature:
    return Signature(name, args, {}, options)


a, b, c, d = (t(name) for name in "abcd")


def shape(value: Any) -> Any:
    """A canvas as nested tuples: what kind, of what."""
    if isinstance(value, chain):
        return ("chain", *map(shape, value.tasks))
    if isinstance(value, group):
        return ("group", *map(shape, value.tasks))
    if isinstance(value, chord):
        return ("chord", shape(value.tasks), shape(value.body))
    if isinstance(value, expand):
        return ("expand", shape(value.body))
    return value.task if type(value) is Signature else repr(value)


GB = ("group", "b")
GBC = ("group", "b", "c")


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (a | b, ("chain", "a", "b")),
        (a | chain(b, c), ("chain", "a", "b", "c")),
        (chain(a, b) | c, ("chain", "a", "b", "c")),
        (chain(a, b) | chain(c, d), ("chain", "a", "b", "c", "d")),
        (chain(chain(a, b), c), ("chain", "a", "b", "c")),
        (a | group(b, c), ("chain", "a", GBC)),
        (a | group([b]), ("chain", "a", GB)),
        (group(b, c) | a, ("chord", GBC, "a")),
        (group([b]) | a, ("chord", GB, "a")),
        (group(b, c) | group(a, d), ("chord", GBC, ("group", "a", "d"))),
        (group(b, c) | chain(a, d), ("chord", GBC, ("chain", "a", "d"))),
        ((a | group(b, c)) | d, ("chain", "a", ("chord", GBC, "d"))),
        (chain(a, group(b, c), d), ("chain", "a", ("chord", GBC, "d"))),
        (chain(group([b]), d), ("chain", ("chord", GB, "d"))),
        (chord([b], c) | d, ("chord", GB, ("chain", "c", "d"))),
        (chord([b], c) | chain(a, d), ("chord", GB, ("chain", "c", "a", "d"))),
        (chord([b], c) | group(a, d), ("chord", GB, ("chain", "c", ("group", "a", "d")))),
        (chain(a, chord([b], c)) | d, ("chain", "a", ("chord", GB, ("chain", "c", "d")))),
        (chord(b, c), ("chord", GB, "c")),
        (chord((x for x in [b, c]), d), ("chord", GBC, "d")),
        (chord([], b), ("chord", ("group",), "b")),
        (group([]) | b, ("chord", ("group",), "b")),
        (chain(a, group([]), b), ("chain", "a", "b")),
        (chain(a, group([])), ("chain", "a")),
        (chain(chain(), a, chain()), ("chain", "a")),
        (chain([a, b]), ("chain", "a", "b")),
        (chain(x for x in [a, b]), ("chain", "a", "b")),
        (group(x for x in [b, c]), GBC),
        (group(group(b, c)), GBC),
        (group(b, group(c, d)), ("group", "b", ("group", "c", "d"))),
        (chunks(a, [1, 2, 3], 2).group(), ("group", "a.starmap([1, 2])", "a.starmap([3])")),
        (
            b | chunks(a, [1, 2], 2) | c,
            ("chain", "b", ("chord", ("group", "a.starmap([1, 2])"), "c")),
        ),
        (xmap("a", [1]) | b, ("chain", "a.map([1])", "b")),
        (a | expand(b) | c, ("chain", "a", ("expand", "b"), "c")),
    ],
)
def test_composition_follows_the_table(built: Signature, expected: Any) -> None:
    assert shape(built) == expected


def test_operators_change_neither_operand() -> None:
    for left in (a, chain(a, b), group(a, b), chord([a], b), chain(a, group(b, c))):
        for right in (c, chain(c, d), group(c, d), chord([c], d)):
            before = (json.dumps(left), json.dumps(right))
            left | right
            assert (json.dumps(left), json.dumps(right)) == before


@pytest.mark.parametrize("other", [5, "b", None, len])
def test_only_signatures_compose(other: Any) -> None:
    with pytest.raises(TypeError):
        _ = a | other


def test_an_empty_chain_is_false_and_the_rest_is_true() -> None:
    assert not chain()
    assert group()
    assert chord([], a)
    assert chain(a)


def test_a_generator_is_consumed_once_when_the_group_is_made() -> None:
    made = group(t(str(i)) for i in range(3))
    assert [x.task for x in made.tasks] == ["0", "1", "2"] == [x.task for x in made.tasks]
    assert len(made) == 3
    assert made[0].task == "0"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: group(5), "takes signatures, not 5"),
        (lambda: chain(len), r"did you forget \.s\(\)"),
        (lambda: expand("x"), "takes signatures"),
        (lambda: group("ab"), "takes signatures"),
        (lambda: group(a, join="most"), "unknown join rule"),
        (lambda: at_least(0), "at least 1"),
        (lambda: group(a, b, join=at_least(3)), r"at_least\(3\) of 2 can never be"),
        (lambda: chord([a], c, join=at_least(2)), r"at_least\(2\) of 1 can never be"),
        (lambda: group(a, join="at_least:x"), "unknown join rule"),
        (lambda: a.clone().link(len), r"link\(\) takes signatures, not .*did you forget"),
        (lambda: a.clone().on_error(5), r"link_error\(\) takes signatures, not 5"),
        (lambda: at_least("2"), "at least 1"),  # type: ignore[arg-type]
        (lambda: chunks(a, [1], 0), "size of at least 1"),
        (lambda: Signature.from_dict({"task": "x"}), "not a signature"),
        (lambda: Signature.from_dict({}), "not a signature"),
        (
            lambda: Signature.from_dict({"task": "x", "kwargs": {}, "subtask_type": "knot"}),
            "unknown canvas type 'knot'",
        ),
        (lambda: chord([a]).link(b), "no body yet"),
    ],
)
def test_bad_compositions_are_refused_in_one_sentence(make: Any, words: str) -> None:
    with pytest.raises(CanvasError, match=words) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_join_rules_stand_in_the_options_of_the_group() -> None:
    assert group(a, b).options == {}
    assert group(a, b, join="any").options == {"join": "any"}
    assert chord([a, b], c, join=at_least(2)).tasks.options == {"join": "at_least:2"}
    assert (group(a, b, join="always") | c).tasks.options == {"join": "always"}


@pytest.mark.parametrize(
    "around", [lambda c: group(c, b), lambda c: chord([c], b), lambda c: expand(c)]
)
def test_what_is_nested_too_deeply_is_shown_in_part(around: Any) -> None:
    canvas: Any = a
    for _ in range(3000):
        canvas = around(canvas)
    assert "..." in repr(canvas)


def test_a_flow_that_refused_a_node_takes_its_name_later() -> None:
    flow = Flow()
    one = flow.add(a)
    with pytest.raises(CanvasError, match=r"at_least\(2\) of 1 can never be"):
        flow.add(b, after=[one], join=at_least(2), name="two")
    assert flow.add(b, after=[one], name="two").index == 1


# --- copying and changing ---------------------------------------------------------------------


def test_clone_puts_call_arguments_in_front_and_merges_the_rest() -> None:
    sig = Signature("t", (2,), {"k": 1, "x": 1}, {"queue": "slow"})
    made = sig.clone((1,), {"x": 2}, priority=3)
    assert made == Signature("t", (1, 2), {"k": 1, "x": 2}, {"queue": "slow", "priority": 3})
    assert sig == Signature("t", (2,), {"k": 1, "x": 1}, {"queue": "slow"})


def test_an_immutable_signature_takes_options_only() -> None:
    sig = Signature("t", (2,), {"k": 1}, immutable=True)
    made = sig.clone((1,), {"x": 2}, queue="q")
    assert (made.args, made.kwargs, made.options) == ((2,), {"k": 1}, {"queue": "q"})


def test_arguments_reach_the_first_of_a_chain_and_all_of_a_group() -> None:
    assert [x.args for x in chain(a, b).clone((1,)).tasks] == [(1,), ()]
    assert [x.args for x in group(a, b).clone((1,)).tasks] == [(1,), (1,)]
    made = chord([a, b], c).clone((1,))
    assert [x.args for x in made.tasks.tasks] == [(1,), (1,)]
    assert made.body.args == ()
    still = Signature("t", immutable=True)
    assert [x.args for x in group(a, still).clone((1,)).tasks] == [(1,), ()]


def test_copies_share_nothing_that_can_be_linked_or_set() -> None:
    for value in (t("a"), chain(a, b), group(a, b), chord([a], b), xmap("a", [1]), expand(a)):
        for made in (value.clone(), copy.copy(value), copy.deepcopy(value)):
            assert made == value
            assert type(made) is type(value)
            made.set(queue="q")
            made.link_error(d)
            assert "queue" not in value.options
            assert "link_error" not in value.options


def test_set_and_replace() -> None:
    sig = t("a", 1)
    assert sig.set(queue="q", immutable=True) is sig
    assert (sig.options, sig.immutable) == ({"queue": "q"}, True)
    made = sig.replace(args=(9,), kwargs={"z": 1}, options={})
    assert (made.args, made.kwargs, made.options) == ((9,), {"z": 1}, {})
    assert sig.args == (1,)


def test_set_immutable_reaches_the_parts_that_get_the_input() -> None:
    whole = chain(t("a"), t("b"))
    whole.set_immutable(True)
    assert [x.immutable for x in whole.tasks] == [True, False]
    many = group(t("a"), t("b"))
    many.set(immutable=True)
    assert [x.immutable for x in many.tasks] == [True, True]


def test_link_and_link_error_return_the_callback_on_error_the_owner() -> None:
    sig = t("a")
    assert sig.link(b) is b
    assert sig.link_error(c) is c
    assert sig.on_error(d) is sig
    assert sig.options == {"link": [b], "link_error": [c, d]}


def test_equal_links_are_kept_once() -> None:
    sig = t("a")
    for callback in (b, t("b"), json.loads(json.dumps(b))):
        sig.link(signature(callback))
    assert sig.options["link"] == [b]


def test_linking_a_chord_links_its_body() -> None:
    whole = chord([a], t("b"))
    whole.link(c)
    assert whole.body.options == {"link": [c]}
    assert whole.options == {}


def test_flatten_links_walks_callbacks_depth_first() -> None:
    first, second = t("a"), t("b")
    second.link(c)
    first.link(second)
    first.link(d)
    assert [x.task for x in first.flatten_links()] == ["a", "b", "c", "d"]


def test_errbacks_of_an_inner_chain_move_onto_its_elements() -> None:
    whole = chain(a, b).on_error(c) | d
    merged = chain(t("x"), whole)
    assert [x.options for x in merged.tasks] == [
        {},
        {"link_error": [c]},
        {"link_error": [c]},
        {"link_error": [c]},
    ]


def test_a_group_keeps_its_links_when_it_becomes_a_header() -> None:
    header = group(t("a"), t("b")).on_error(c)
    header.link(d)
    whole = header | t("x")
    assert whole.tasks.options == {"link_error": [c], "link": [d]}
    assert whole.options == {}  # else the errback runs for the member and for the chord


def test_skew_staggers_countdowns() -> None:
    made = group(t("a"), t("b"), t("c")).skew(start=1, step=2)
    assert [x.options["countdown"] for x in made.tasks] == [1, 3, 5]


def test_stamps_gather() -> None:
    assert t("a").stamp(x=1) is not None
    sig = t("a")
    sig.stamp(x=1)
    sig.stamp(y=2)
    assert sig.options["stamps"] == {"x": 1, "y": 2}


# --- the dict form ----------------------------------------------------------------------------


def test_a_signature_is_celerys_dict() -> None:
    assert dict(Signature("t", (1,), {"k": 2}, {"queue": "q"})) == {
        "task": "t",
        "args": (1,),
        "kwargs": {"k": 2},
        "options": {"queue": "q"},
        "subtask_type": None,
        "immutable": False,
    }


@pytest.mark.parametrize(
    "data",
    [
        {
            "task": "celery.chain",
            "args": [],
            "kwargs": {
                "tasks": [
                    {"task": "a", "args": [1], "kwargs": {}, "options": {}, "immutable": True},
                    {"task": "b", "args": [], "kwargs": {}, "options": {"link": [dict(c)]}},
                ]
            },
            "options": {},
            "subtask_type": "chain",
            "immutable": False,
        },
        {
            "task": "celery.chord",
            "args": [],
            "kwargs": {
                "kwargs": {},
                "header": {
                    "task": "celery.group",
                    "args": [],
                    "kwargs": {"tasks": [dict(a), dict(b)]},
                    "options": {},
                    "subtask_type": "group",
                    "immutable": False,
                },
                "body": dict(c),
            },
            "options": {"link_error": [dict(d)]},
            "subtask_type": "chord",
            "immutable": False,
        },
        {
            "task": "celery.chord",
            "kwargs": {"header": [dict(a)], "body": dict(b)},
            "subtask_type": "chord",
        },
        {
            "task": "celery.chunks",
            "args": [],
            "kwargs": {"task": dict(a), "it": [[1], [2]], "n": 1},
            "options": {},
            "subtask_type": "chunks",
            "immutable": True,
        },
    ],
)
def test_celerys_own_dicts_are_read(data: dict[str, Any]) -> None:
    value = Signature.from_dict(data)
    assert type(value).__name__ == data["subtask_type"]
    assert Signature.from_dict(json.loads(json.dumps(value))) == value
    repr(value)


@settings(max_examples=60, deadline=None)
@given(canvases(leaves=24))
def test_any_canvas_survives_json_and_pickle(canvas: Signature) -> None:
    text = json.dumps(canvas, sort_keys=True)
    again = Signature.from_dict(json.loads(text))
    assert type(again) is type(canvas)
    assert json.dumps(again, sort_keys=True) == text
    assert shape(again) == shape(canvas)
    assert json.dumps(pickle.loads(pickle.dumps(canvas)), sort_keys=True) == text
    assert json.dumps(canvas.clone(), sort_keys=True) == text
    assert repr(again)


def test_signature_dicts_are_recognised_and_everything_else_is_left_alone() -> None:
    assert is_signature_dict(dict(a))
    assert type(maybe_signature(dict(a))) is Signature
    assert maybe_signature(a) is a
    for other in (None, 5, "task", {"task": "x"}, [a]):
        assert maybe_signature(other) is other
        assert not is_signature_dict(other)


def test_signature_makes_from_names_tasks_and_dicts() -> None:
    class Task:
        name = "pkg.task"

    assert signature("t", (1,)) == t("t", 1)
    assert signature(Task()).task == "pkg.task"
    assert signature(dict(a)) == a
    copied = signature(a)
    assert copied == a
    assert copied is not a


# --- showing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Signature("add", (1, 2), {"z": 3, "k": "v"}), "add(1, 2, k='v', z=3)"),
        (chain(a, b), "a() | b()"),
        (chain(), "chain()"),
        (group(a, b), "group(a(), b())"),
        (group(a, join="any"), "group(a(), join='any')"),
        (chord([a], b), "chord([a()], b())"),
        (chord([a]), "chord([a()], None)"),
        (xmap("t", [1, 2]), "t.map([1, 2])"),
        (xstarmap("t", [(1, 2)]), "t.starmap([(1, 2)])"),
        (chunks("t", [1, 2], 2), "t.chunks(2 items, 2)"),
        (expand(a), "expand(a())"),
    ],
)
def test_repr(value: Signature, text: str) -> None:
    assert repr(value) == text


def test_repr_of_large_or_hostile_arguments_stays_short_and_does_not_raise() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert "unprintable Hostile" in repr(t("a", Hostile()))
    assert len(repr(t("a", "x" * 10_000))) < 100
    assert len(repr(group(a for _ in range(10_000)))) < 200


def test_values_compare_by_content_and_hash_by_identity() -> None:
    assert t("a", 1) == t("a", 1)
    assert t("a", 1) != t("a", 2)
    one = t("a")
    assert len({one, one, t("a")}) == 2


# --- flows ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(flows())
def test_any_flow_survives_json(flow: Flow) -> None:
    text = json.dumps(flow.to_dict(), sort_keys=True)
    assert json.dumps(Flow.from_dict(json.loads(text)).to_dict(), sort_keys=True) == text


def test_a_flow_goes_to_networkx_and_back() -> None:
    flow = Flow("report")
    one = flow.add(a, name="one")
    two = flow.add(b, after=[one], name="two")
    flow.add(Signature("c", ([one], two)), name="three")
    graph = flow.to_networkx()
    assert set(graph.edges) == {("one", "two"), ("one", "three"), ("two", "three")}
    assert graph.edges["one", "three"]["data"]
    assert not graph.edges["one", "two"]["data"]


def test_what_went_to_networkx_comes_back_the_same() -> None:
    import networkx

    flow = Flow("report")
    one, two = flow.add(a, name="zz"), flow.add(b)
    three = flow.add(Signature("c", (5, two), {"k": [one]}), after=[two, one], join="any")
    flow.add(c, name="aa", after=[two], on_failure=[three, one])
    flow.add(group(Signature("d", (i, three)) for i in range(2)), name="many")
    made = flow.to_networkx()
    assert Flow.from_networkx(made).to_dict() == flow.to_dict()
    assert Flow.from_networkx(made, "other").name == "other"
    moved = networkx.relabel_nodes(made.copy(), {"zz": "elsewhere"})
    assert Flow.from_networkx(moved).to_dict() == flow.to_dict()
    made.remove_edge("zz", 2)
    with pytest.raises(CanvasError, match="node 2 of the graph refers to node 0, but no data edge"):
        Flow.from_networkx(made)


@given(flows())
@settings(deadline=None)  # networkx is imported by the first
def test_any_flow_survives_networkx(flow: Flow) -> None:
    there = flow.to_networkx()
    assert Flow.from_networkx(there).to_dict() == flow.to_dict()


def test_networkx_edges_order_or_pass_data_and_cycles_are_named() -> None:
    import networkx

    graph = networkx.DiGraph()
    graph.add_node("x", signature=a)
    graph.add_node("y", signature=b)
    graph.add_edge("x", "y", data=True)
    flow = Flow.from_networkx(graph)
    assert [node.signature.task for node in flow.nodes] == ["a", "b"]
    assert flow.nodes[1].signature.args[0].index == 0
    graph.add_edge("y", "x")
    with pytest.raises(CycleFound, match=r"x -> y|y -> x"):
        Flow.from_networkx(graph)
    graph.remove_edge("y", "x")
    del graph.nodes["x"]["signature"]
    with pytest.raises(CanvasError, match="no signature"):
        Flow.from_networkx(graph)


@pytest.mark.parametrize("what", [5, "x", None, len])
def test_a_flow_takes_signatures_only(what: Any) -> None:
    with pytest.raises(CanvasError, match="takes a signature"):
        Flow().add(what)


def test_node_names_of_a_flow_are_used_once() -> None:
    flow = Flow()
    flow.add(a, name="x")
    with pytest.raises(CanvasError, match="rename one"):
        flow.add(b, name="x")


def test_random_canvases_are_the_same_for_the_same_numbers() -> None:
    one, two = (canvas_by(random.Random(5).randint) for _ in range(2))
    assert json.dumps(one) == json.dumps(two)
