"""What follows the end of a bare task, without servers."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowq.broker.protocol2 import TaskMessage, decode_task, encode_task
from flowq.core.canvas import Signature, chain, chord, chunks, expand, group, xmap
from flowq.errors import CanvasError, ChordError, EncodeError, FlowqError, MessageDecodeError
from flowq.payload import decode, decode_args, decode_error, encode, encode_args, encode_error
from flowq.payload.foreign import describe, from_record, split_part, to_record
from flowq.worker.chords import Joined, Part
from flowq.worker.embeds import (
    Following,
    FollowUp,
    Rules,
    failed,
    has_embeds,
    joined,
    replaced,
    succeeded,
    unjoinable,
)

RULES = Rules()
ERROR = encode_error(ValueError("no"))


def s(name: str, *args: Any, **options: Any) -> Signature:
    return Signature(name, args, {}, options)


def message(serializer: str = "json", **more: Any) -> TaskMessage:
    """A message with these embeds, as it comes out of the broker."""
    frame = encode_args((1,), {}, serializer)
    made = TaskMessage(task="proj.first", id="first", root_id="root", frame=frame, **more)
    return decode_task(*encode_task(made), accept=["json", "msgpack", "yaml", "pickle"])


def args_of(found: FollowUp) -> dict[str, Any]:
    """Task name -> arguments of what is sent."""
    sends = [*found.sends, *found.late]
    return {send.message.task: decode_args(send.message.frame)[0] for send in sends}


# --- success -----------------------------------------------------------------------------------


def test_nothing_follows_a_plain_message() -> None:
    assert not has_embeds(message())
    assert not succeeded(message(), encode(1), RULES)
    assert not failed(message(), ERROR, RULES)


@pytest.mark.parametrize("serializer", ["json", "msgpack", "yaml", "pickle"])
def test_a_result_comes_before_what_is_stored(serializer: str) -> None:
    immutable = Signature("im", (7,), immutable=True)
    given = message(serializer, callbacks=[s("a", 2), immutable, s("b")], chain=[s("d"), s("c", 3)])
    found = succeeded(given, encode([None]), RULES)
    frames = {send.message.task: send.message.frame for send in found.sends}
    args = {
        task: decode_args(f, ["pickle", "json", "msgpack", "yaml"])[0] for task, f in frames.items()
    }
    assert args == {"a": [[None], 2], "im": [7], "b": [[None]], "c": [[None], 3]}
    following = found.sends[-1].message
    assert [element["task"] for element in following.chain] == ["d"]
    assert {send.message.root_id for send in found.sends} == {"root"}
    assert {send.message.parent_id for send in found.sends} == {"first"}


def test_values_stay_as_they_came() -> None:
    moment = dt.datetime(2030, 1, 2, tzinfo=dt.UTC)
    typed = {"__type__": "datetime", "__value__": moment.isoformat()}
    given = message(callbacks=[s("a", typed, 10**30)])
    frame = succeeded(given, encode(moment), RULES).sends[0].message.frame
    assert decode_args(frame)[0] == [moment, moment, 10**30]
    packed = succeeded(given, encode(moment, "msgpack"), RULES).sends[0].message.frame
    assert packed == frame


def test_options_become_fields_and_the_rest_is_for_the_router() -> None:
    options = {
        "task_id": "mine", "countdown": 60, "expires": 90, "time_limit": 9, "soft_time_limit": 8,
        "queue": "fast", "routing_key": "k", "compression": "gzip", "priority": 3, "shadow": "x",
        "headers": {"own": 1, "task": "never"}, "stamped_headers": ["who"], "who": "me",
        "link": [s("l")], "link_error": s("e"), "reply_to": "r", "ignore_result": True,
        "group_id": "g", "group_index": 2, "retries": 1, "root_id": "other", "nothing": None,
    }  # fmt: skip
    send = succeeded(message(callbacks=[s("a", **options)]), encode(1), RULES).sends[0]
    made = send.message
    assert (made.id, made.timelimit, made.priority, made.shadow) == ("mine", (9, 8), 3, "x")
    assert (made.group, made.group_index, made.retries, made.root_id) == ("g", 2, 1, "root")
    assert made.due is not None
    assert made.expires_at is not None
    assert 25 < made.expires_at - made.due < 35
    assert (made.headers, made.stamps, made.ignore_result) == ({"own": 1}, {"who": "me"}, True)
    assert [made.callbacks[0]["task"], made.errbacks[0]["task"]] == ["l", "e"]
    assert send.options == {"queue": "fast", "routing_key": "k", "compression": "gzip"}


def test_what_the_worker_knows_lies_under_the_options() -> None:
    rules = Rules(
        defaults=lambda name: {"queue": f"{name}-q", "time_limit": 5}, inherit_priority=True
    )
    given = message(callbacks=[s("a"), s("b", queue="own", priority=1)], priority=7)
    one, two = succeeded(given, encode(1), rules).sends
    assert (one.options, one.message.priority) == ({"queue": "a-q"}, 7)
    assert (two.options, two.message.priority) == ({"queue": "own"}, 1)
    assert two.message.timelimit == (5, None)


def test_the_same_message_again_sends_the_same_ids() -> None:
    canvas = [s("a"), group(s("b"), chain(s("c"), s("d"))), chord([s("e"), s("f")], s("g"))]
    first, second = (succeeded(message(callbacks=canvas), encode(1), RULES) for _ in range(2))
    assert first == second
    ids = [send.message.id for send in first.sends]
    assert len(set(ids)) == len(ids) == 5


def test_a_chain_travels_reversed_and_hands_its_options_on() -> None:
    inner = chain(
        s("a"), s("b"), s("c"), queue="q", link=[s("l")], link_error=[s("e")], task_id="end"
    )
    found = succeeded(message(chain=[s("z"), inner]), encode(5), RULES)
    (send,) = found.sends
    assert send.options == {"queue": "q"}
    assert [element["task"] for element in send.message.chain] == ["z", "c", "b"]
    last = send.message.chain[1]["options"]
    assert last["task_id"] == "end"
    assert [x["task"] for x in last["link"]] == ["l"]
    assert [x["task"] for x in send.message.errbacks] == ["e"]
    assert args_of(found) == {"a": [5]}


def test_a_group_sends_each_member() -> None:
    canvas = group(s("a"), group(s("b"), s("c")), chunks(s("m"), [1, 2, 3], 2), task_id="gid")
    found = succeeded(message(callbacks=[canvas]), encode(5), RULES)
    assert [send.message.task for send in found.sends] == ["a", "b", "c"] + ["celery.starmap"] * 2
    assert {send.message.group for send in found.sends} == {"gid"}
    assert [send.message.group_index for send in found.sends] == [0, 1, 2, 3, 4]
    assert decode_args(found.sends[4].message.frame)[0] == []
    assert not found.counters


def test_a_chord_counts_every_end_in_textual_order() -> None:
    header = [
        s("a"),
        chain(s("b"), s("c")),
        group(s("d"), chain(s("e"), group(s("f"), s("g")))),
        chord([s("h"), s("i")], s("j")),
        xmap(s("k"), [1]),
    ]
    body = chain(s("body"), s("after"))
    found = succeeded(message(chain=[chord(header, body)]), encode(5), RULES)
    outer, inner = found.counters
    assert (outer.size, inner.size) == (7, 2)
    assert (len(outer.shape[1]), inner.shape) == (6, None)
    sent = {send.message.task: send.message for send in found.sends}
    assert set(sent) == {"a", "b", "d", "e", "h", "i", "celery.map"}
    places = {"a": sent["a"].group_index, "c": sent["b"].chain[0]["options"]["group_index"]}
    places["d"] = sent["d"].group_index
    places |= {
        x["task"]: x["options"]["group_index"] for x in sent["e"].chain[0]["kwargs"]["tasks"]
    }
    places["j"] = sent["h"].chord["options"]["group_index"]
    places["map"] = sent["celery.map"].group_index
    assert places == {"a": 0, "c": 1, "d": 2, "f": 3, "g": 4, "j": 5, "map": 6}
    assert sent["a"].chord["subtask_type"] == "chain"
    assert sent["h"].group == inner.group


def test_an_empty_header_sends_the_body_at_once() -> None:
    found = succeeded(message(callbacks=[chord([], s("body", 1))]), encode(5), RULES)
    assert args_of(found) == {"body": [[], 1]}
    assert not found.counters


def test_what_only_flowq_knows_is_submitted() -> None:
    found = succeeded(message(callbacks=[expand(s("a"))], chain=[s("b")]), encode([1]), RULES)
    (submission,) = found.submissions
    assert submission.canvas["subtask_type"] == "expand"
    assert (submission.first, submission.root_id, submission.parent_id) == (
        [b"j[1]"], "root", "first",
    )  # fmt: skip


# --- replace -----------------------------------------------------------------------------------


def test_a_replacement_takes_over_what_was_to_follow() -> None:
    body = s("body")
    given = message(
        callbacks=[s("l")], errbacks=[s("e")], chord=body, group="g", group_index=2,
        parent_id="parent", replaced_task_nesting=1,
    )  # fmt: skip
    moment = dt.datetime(2030, 1, 2, tzinfo=dt.UTC)
    (send,) = replaced(given, s("new", moment), RULES).sends
    new = send.message
    assert (new.id, new.task, new.group, new.group_index) == ("first", "new", "g", 2)
    assert (new.chord["task"], new.parent_id, new.replaced_task_nesting) == ("body", "parent", 2)
    assert [new.callbacks[0]["task"], new.errbacks[0]["task"]] == ["l", "e"]
    assert decode_args(new.frame)[0] == [moment]
    (send,) = replaced(given, chain(s("a"), s("b"), s("c")), RULES).sends
    last = send.message.chain[0]["options"]
    assert (last["task_id"], last["group_id"], last["group_index"]) == ("first", "g", 2)
    assert [last["link"][0]["task"], last["chord"]["task"]] == ["l", "body"]
    assert (send.message.chord, send.message.group) == (None, None)


def test_a_group_in_a_tasks_place_is_gathered() -> None:
    given = message(chain=[s("z"), s("y")])
    found = replaced(given, group(s("a"), s("b")), RULES)
    assert [send.message.task for send in found.sends] == ["a", "b"]
    gather = found.sends[0].message.chord
    assert (gather["task"], gather["options"]["task_id"]) == ("celery.accumulate", "first")
    assert [element["task"] for element in gather["options"]["chain"]] == ["z", "y"]
    assert found.counters[0].size == 2
    for broken in (expand(s("a")), chain(), {"task": "t"}, 7):
        with pytest.raises(CanvasError):
            replaced(given, broken, RULES)


# --- failure -----------------------------------------------------------------------------------


def test_a_failure_ends_the_rest_of_the_chain() -> None:
    body = s("body", task_id="outer-body")
    last = s("last", task_id="last", chord=body, group_id="g", group_index=4)
    middle = chord([s("h", task_id="h", chord=s("x"), group_id="no")], s("b", task_id="b"))
    tail = group(s("m", task_id="m"), s("n", task_id="n"), s("unnamed"))
    given = message(chain=[last, tail, middle], errbacks=[s("old", 1)])
    found = failed(given, ERROR, RULES)
    assert [stored.task_id for stored in found.stores] == ["h", "b", "m", "n", "last"]
    assert {stored.state for stored in found.stores} == {"FAILURE"}
    assert [(part.group, part.task_id, part.index) for part in found.parts] == [("g", "last", 4)]
    assert args_of(found) == {"old": ["first", 1]}
    assert not found.sends


def test_errbacks_old_and_new() -> None:
    known = {"new": True, "old": False}
    immutable = Signature("new", (3,), immutable=True)
    given = message(errbacks=[s("new", 1), s("old", 2), s("far"), immutable, chain(s("x"), s("y"))])
    found = failed(given, ERROR, Rules(takes_error=known.get))
    (call,) = found.inline
    assert (call.task, decode_args(call.frame)[0], call.parent_id) == ("new", [1], "first")
    info = decode_error(call.error)
    assert (info.node_id, info.task, info.type) == ("first", "proj.first", "ValueError")
    sent = [(x.message.task, decode_args(x.message.frame)[0]) for x in found.late]
    assert sent == [("old", ["first", 2]), ("far", ["first"]), ("new", [3]), ("x", ["first"])]
    assert len({x.message.id for x in found.late}) == 4


def test_no_errbacks_for_a_revoked_task() -> None:
    given = message(errbacks=[s("e")], chain=[s("n", task_id="n")], chord=s("b"), group="g")
    found = failed(given, ERROR, RULES, state="REVOKED")
    assert not found.late
    assert [(x.task_id, x.state) for x in found.stores] == [("n", "REVOKED")]
    assert [(x.task_id, x.state) for x in found.parts] == [("first", "REVOKED")]


def test_a_broken_chord_ends_its_body() -> None:
    errback = s("e")
    body = s("body", task_id="b", link_error=[errback], chain=[s("after", task_id="after")])
    error = encode_error(ChordError("Dependency x raised y"))
    part = Part("g", "t", "FAILURE", ERROR, dict(body), root_id="root")
    found = joined(Joined(part, "token", error=error, cause=ERROR), RULES)
    assert [(x.task_id, decode_error(x.frame).type) for x in found.stores] == [
        ("b", "ChordError"), ("after", "ChordError"),
    ]  # fmt: skip
    assert args_of(found) == {"e": ["b"]}
    part.body = dict(group(s("m", task_id="m", link_error=[errback]), s("n", task_id="n")))
    found = unjoinable(Joined(part, "token", error=error, cause=ERROR), RULES)
    assert [(x.task_id, decode_error(x.frame).type) for x in found.stores] == [
        ("m", "ValueError"), ("n", "ValueError"),
    ]  # fmt: skip
    assert args_of(found) == {"e": ["m"]}


def test_without_redis_a_chord_is_refused_in_words() -> None:
    given = message(callbacks=[chord([s("a")], s("b"))], chord=s("c"), group="g")
    following = Following(
        send=print, store=print, inline=print, submit=print, chords=None, rules=RULES
    )
    found = succeeded(given, encode(1), RULES)
    with pytest.raises(CanvasError, match="needs a Redis result backend"):
        following.begin(found)
    following.finish(found)


# --- hostile embeds ----------------------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats()
OPTIONS = (
    "task_id", "group_id", "group_index", "chord", "chain", "link", "link_error", "eta",
    "countdown", "expires", "headers", "stamps", "stamped_headers", "serializer", "root_id",
    "priority", "time_limit",
)  # fmt: skip
kinds = st.sampled_from(
    [None, "task", "chain", "group", "chord", "xmap", "xstarmap", "chunks", "expand", "?", 7]
)


def signatures(inner: Any) -> Any:
    """Dicts that look like signatures, with anything at every place."""
    parts = st.lists(inner, max_size=3) | inner
    kwargs = st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("tasks", "header", "body", "task", "it", "n", "kwargs"), parts),
    )
    options = st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(OPTIONS, parts),
    )  # fmt: skip
    return st.fixed_dictionaries(
        {"task": st.sampled_from(["a", "b"]) | inner, "kwargs": kwargs | inner},
        optional={"args": parts, "options": options | inner, "subtask_type": kinds,
                  "immutable": st.booleans()},
    )  # fmt: skip


hostile = st.recursive(leaves, signatures, max_leaves=12)


@settings(max_examples=400, deadline=None)
@given(embeds=st.lists(hostile, max_size=3), body=hostile)
def test_hostile_embeds_are_refused_by_name(embeds: list[Any], body: Any) -> None:
    given = TaskMessage(
        task="t", id="i", callbacks=embeds, errbacks=embeds, chain=embeds, chord=body, group="g"
    )
    with contextlib.suppress(CanvasError, EncodeError, MessageDecodeError):
        succeeded(given, encode(1), RULES)
    failed(given, ERROR, RULES)
    chord_end = Joined(Part("g", "i", "SUCCESS", encode(1), body), "token", encode([1]))
    try:
        joined(chord_end, RULES)
    except (CanvasError, EncodeError, MessageDecodeError):
        chord_end.error = chord_end.cause = ERROR
        unjoinable(chord_end, RULES)


# --- records of Celery's -----------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | hostile.map(lambda value: json.dumps(value).encode()))
def test_any_record_of_an_error_is_read(raw: bytes) -> None:
    frame = from_record(raw, failed=True)
    assert isinstance(decode(frame), Exception)
    assert describe(frame)
    with contextlib.suppress(FlowqError):
        split_part(raw)


def test_errors_go_there_and_back() -> None:
    for error in (ValueError("x", 1), ChordError("y"), KeyError("k"), RuntimeError()):
        frame = encode_error(error)
        again = decode(from_record(to_record(frame), failed=True))
        assert (type(again), again.args) == (type(error), error.args)
        assert describe(frame) == repr(error)
    assert json.loads(to_record(encode_error(ChordError("y"))))["exc_module"] == "celery.exceptions"
    assert to_record(b"") == b"null"
    assert to_record(encode([1], "msgpack")) == b"[1]"
    hostile_one = b'{"exc_type": "system", "exc_message": ["x"], "exc_module": "os"}'
    assert type(decode(from_record(hostile_one, failed=True))).__mro__[1].__name__ == "RemoteError"
