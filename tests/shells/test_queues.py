"""Which queue a task goes to, and what a call says of its message. No broker is asked."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from kombu import Exchange, Queue
from kombu.common import Broadcast as KombuBroadcast

from flowq import Flowq, group
from flowq.app.submission import compile_for
from flowq.broker import queues
from flowq.broker.options import Addresses, BrokerOptions, kind_of
from flowq.broker.queues import Broadcast, QueueSpec, Router
from flowq.broker.routes import Call
from flowq.config import Settings
from flowq.core.graph import Kind
from flowq.errors import BrokerError, CanvasError, ImproperlyConfigured, UnknownQueue


def queue_of(router: Router, task: str, **options: Any) -> str:
    route = router.route(task, options)
    assert route.queue is not None
    return route.queue.name


# --- queues ------------------------------------------------------------------------------------


def test_without_settings_there_is_celerys_default_queue() -> None:
    router = Router(Settings())
    (spec,) = router.selection()
    assert spec == QueueSpec("celery", "celery", "direct", "celery")
    route = router.route("proj.add")
    assert (route.exchange, route.routing_key, route.queue) == ("", "celery", spec)
    assert (route.delivery_mode, route.priority) == (2, None)


def test_the_default_queue_takes_its_settings() -> None:
    router = Router({
        "task_default_queue": "main",
        "task_default_exchange": "tasks",
        "task_default_exchange_type": "topic",
        "task_default_routing_key": "task.default",
        "task_default_queue_type": "quorum",
        "task_default_delivery_mode": "transient",
    })  # fmt: skip
    (spec,) = router.selection()
    assert spec.quorum
    assert (spec.exchange, spec.exchange_type) == ("tasks", "topic")
    route = router.route("t")
    assert (route.exchange, route.routing_key) == ("tasks", "task.default")
    assert route.delivery_mode == 1


def test_missing_queues_are_made_unless_that_is_off() -> None:
    router = Router({"task_create_missing_queue_type": "quorum"})
    made = router.queue("video")
    assert (made.exchange, made.routing_key, made.quorum) == ("video", "video", True)
    assert [spec.name for spec in router.selection()] == ["celery"]
    strict = Router({"task_create_missing_queues": False, "task_queues": {"a": {}, "b": {}}})
    with pytest.raises(UnknownQueue, match=r"no queue 'c'.*a, b.*task_create_missing_queues"):
        strict.route("t", {"queue": "c"})
    with pytest.raises(UnknownQueue):
        strict.select("a,zzz")
    with pytest.raises(UnknownQueue):
        strict.route("t")  # the default queue is not among task_queues


@pytest.mark.parametrize(
    "given",
    [
        {"a": {"exchange": "x", "exchange_type": "topic", "routing_key": "a.#"}},
        {"a": {"exchange": "x", "exchange_type": "topic", "binding_key": "a.#"}},
        [Queue("a", Exchange("x", type="topic"), "a.#")],
        (Queue("a", Exchange("x", type="topic"), routing_key="a.#"),),
        [QueueSpec("a", "x", "topic", "a.#")],
        {"a": QueueSpec("a", "x", "topic", "a.#")},
        Queue("a", Exchange("x", type="topic"), "a.#"),
    ],
)
def test_queues_are_given_as_celery_takes_them(given: Any) -> None:
    (spec,) = Router({"task_queues": given}).selection()
    assert (spec.name, spec.exchange, spec.exchange_type, spec.routing_key) == (
        "a", "x", "topic", "a.#",
    )  # fmt: skip
    assert spec.durable


def test_a_queue_that_is_none_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="kombu Queue"):
        Router({"task_queues": [7]})
    with pytest.raises(ImproperlyConfigured, match="an exchange is one of"):
        Router({"task_queues": {"a": {"exchange": "x", "exchange_type": "tpoic"}}})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"a": {"exchange_typ": "topic"}}, "queue a: there is no option 'exchange_typ'"),
        ({"a": {"queue_arguments": 3}}, "queue a: its arguments are a mapping, not 3"),
        ({"a": 3}, "a queue is a name, a mapping of options, a QueueSpec or a kombu Queue, not 3"),
        (5, "a queue is a name, a mapping of options, a QueueSpec or a kombu Queue, not 5"),
        ({1: {}}, "a queue is a name"),
    ],
)
def test_queues_that_cannot_be_read_are_refused(given: Any, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=re.escape(says)):
        Router({"task_queues": given})


def test_kombus_options_become_arguments() -> None:
    queue = Queue(
        "a", max_priority=5, expires=2.5, message_ttl=3, max_length=10, durable=False,
        queue_arguments={"x-queue-mode": "lazy"}, alias="aa",
    )  # fmt: skip
    router = Router({"task_queues": [queue], "task_queue_max_priority": 9})
    spec = router.queue("aa")
    assert spec.arguments == {
        "x-max-priority": 5, "x-expires": 2500, "x-message-ttl": 3000, "x-max-length": 10,
        "x-queue-mode": "lazy",
    }  # fmt: skip
    assert not spec.durable
    assert spec.exchange == "celery"
    assert spec.described()["max_priority"] == 5


def test_priorities_hold_for_every_queue_but_quorum_ones() -> None:
    router = Router({
        "task_queue_max_priority": 10,
        "task_queues": {"a": {}, "b": {"queue_arguments": {"x-queue-type": "quorum"}}},
    })  # fmt: skip
    assert router.queue("a").arguments == {"x-max-priority": 10}
    assert router.queue("b").arguments == {"x-queue-type": "quorum"}
    assert router.queue("new").arguments == {"x-max-priority": 10}
    assert router.route("t", {"queue": "a", "priority": 7}).priority == 7


def test_broadcast_queues_are_one_per_process_and_known_by_their_alias() -> None:
    for made in (Broadcast("news"), KombuBroadcast("news")):
        router = Router({"task_queues": [made]})
        (spec,) = router.selection()
        assert spec.broadcast
        assert spec.name.startswith("bcast.")
        assert (spec.exchange, spec.exchange_type, spec.auto_delete) == ("news", "fanout", True)
        route = router.route("t", {"queue": "news"})
        assert (route.exchange, route.queue) == ("news", spec)
    assert Broadcast("news").name != Broadcast("news").name
    assert Broadcast("news", "mine").name == "mine"


def test_kombus_names_are_here_too_but_cost_nothing_before() -> None:
    assert queues.Queue is Queue
    assert queues.Exchange is Exchange
    with pytest.raises(AttributeError):
        _ = queues.Nothing
    code = "import sys, flowq.broker.queues; sys.exit('kombu' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


# --- -Q and -X ---------------------------------------------------------------------------------


def test_selecting_and_leaving_out() -> None:
    conf = {"task_queues": {"a": {}, "b": {}, "c": {}}}
    router = Router(conf)
    router.select(None)
    router.select("")
    assert [spec.name for spec in router.selection()] == ["a", "b", "c"]
    router.deselect("b, zzz")
    assert [spec.name for spec in router.selection()] == ["a", "c"]
    router.select("c,b,new,c")
    assert [spec.name for spec in router.selection()] == ["c", "new"]
    assert queue_of(router, "t", queue="a") == "a"  # still routed to


# --- routes ------------------------------------------------------------------------------------


def test_a_mapping_knows_names_globs_and_patterns() -> None:
    router = Router({
        "task_routes": {
            "proj.video.*": {"queue": "glob", "priority": 3},
            re.compile(r"proj\.(image|sound)\..+"): "pattern",
            "proj.video.cut": {"queue": "exact"},
        }
    })  # fmt: skip
    assert queue_of(router, "proj.video.cut") == "exact"
    assert queue_of(router, "proj.video.join") == "glob"
    assert router.route("proj.video.join").priority == 3
    assert queue_of(router, "proj.sound.mix") == "pattern"
    assert queue_of(router, "proj.text.wrap") == "celery"
    assert queue_of(router, "proj.video.join", queue="own") == "own"


def test_the_first_router_that_answers_wins() -> None:
    seen: list[Any] = []

    def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
        seen.append((name, args, kwargs, options))
        return {"queue": "f", "priority": 4} if name.startswith("f") else None

    router = Router({"task_routes": (route, [("g*", "g"), ("f*", "never")], {"*": "rest"})})
    found = router.route("f1", {"priority": 1}, Call("f1", (1,), {"k": 2}, {"priority": 1}))
    assert found.queue is not None
    assert (found.queue.name, found.priority) == ("f", 1)
    assert seen == [("f1", (1,), {"k": 2}, {"priority": 1})]
    assert queue_of(router, "g1") == "g"
    assert queue_of(router, "h1") == "rest"


def by_size(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> Any:
    return {"queue": f"{args[0]}-{kwargs['k']}-{options.get('shadow')}-{task.name}"} if args else ""


def test_a_function_is_told_the_arguments_of_nodes(tmp_path: Path) -> None:
    app = Flowq("routed", store=f"sqlite:///{tmp_path}/r.db", set_as_current=False)
    app.conf.task_routes = by_size

    @app.task(name="routed.work")
    def work(x: Any, k: Any = None) -> None: ...

    canvas = group(work.s(1, k=2), work.s(3, k=4).set(shadow="s"), work.si(5, k=6).set(queue="own"))
    graph = compile_for(app, canvas)
    names = [graph.specs[node.spec].queue for node in graph.nodes if node.kind is Kind.TASK]
    assert names == ["1-2-None-routed.work", "3-4-s-routed.work", "own"]


@pytest.mark.parametrize("function", [False, True])
def test_a_route_gives_nodes_their_priority(tmp_path: Path, function: bool) -> None:
    app = Flowq("ranked", store=f"sqlite:///{tmp_path}/r.db", set_as_current=False)
    routes: Any = {"ranked.*": {"queue": "q", "priority": 3}}
    app.conf.task_routes = (lambda *_, **__: routes["ranked.*"]) if function else routes

    @app.task(name="ranked.plain")
    def plain() -> None: ...

    @app.task(name="ranked.own", priority=7)
    def own() -> None: ...

    canvas = group(plain.si(), own.si(), plain.si().set(priority=0), plain.si().set(priority=9))
    graph = compile_for(app, canvas)
    specs = [graph.specs[node.spec] for node in graph.nodes if node.kind is Kind.TASK]
    assert [(spec.queue, spec.priority) for spec in specs] == [
        ("q", 3), ("q", 7), ("q", 0), ("q", 9),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("routes", "says"),
    [
        ([1], "holds mappings, lists of pairs, functions and import paths, not 1"),
        ({"a": 1}, "sends a to 1: a route is the name of a queue or a mapping"),
        ({1: "a"}, "names a task 1"),
        ([[("a", "b", "c")]], "('a', 'b', 'c') is no pair"),
        ([("a", "q")], "'a' is no pair"),
        ({"a": {"que": "b"}}, "the option 'que', which there is not: did you mean 'queue'?"),
        ({"a": {"queue": "b", "expires": 3}}, "say expires at @app.task, or at the call"),
        ("no.such.router", "cannot import 'no.such.router'"),
    ],
)
def test_routes_that_are_none_are_refused(routes: Any, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=re.escape(says)):
        Router({"task_routes": routes})


def test_an_answer_that_is_no_route_is_refused() -> None:
    router = Router({"task_routes": lambda name, *_, **__: 7})
    with pytest.raises(ImproperlyConfigured, match="sends work to 7: a route is the name"):
        router.route("work")


class ByClass:
    """A router as Celery had them before functions."""

    def route_for_task(self, task: str, args: Any = None, kwargs: Any = None) -> str:
        return f"class-{task}"


def by_name(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> str:
    return f"name-{name}"


def test_a_router_may_be_an_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "routing", sys.modules[__name__])
    assert queue_of(Router({"task_routes": "routing.by_name"}), "t") == "name-t"
    assert queue_of(Router({"task_routes": ("routing:ByClass",)}), "t") == "class-t"
    with pytest.raises(ImproperlyConfigured, match=r"cannot import 'routing\.none'"):
        Router({"task_routes": "routing.none"})
    with pytest.raises(ImproperlyConfigured, match="task_routes holds"):
        Router({"task_routes": [3]})


def test_a_call_may_name_exchange_and_key() -> None:
    router = Router({"task_queues": [QueueSpec("a", "x", "topic", "a.#")]})
    route = router.route("t", {"exchange": "y", "routing_key": "k"})
    assert (route.exchange, route.routing_key, route.queue) == ("y", "k", None)
    route = router.route("t", {"queue": "a", "routing_key": "a.b"})
    assert (route.exchange, route.routing_key) == ("x", "a.b")
    route = router.route("t", {"queue": "a", "exchange": None, "priority": None})
    assert (route.exchange, route.routing_key, route.priority) == ("x", "a.#", None)
    route = router.route("t", {"queue": "new", "exchange": "new", "routing_key": "other"})
    assert (route.exchange, route.routing_key) == ("new", "other")


# --- URLs --------------------------------------------------------------------------------------


def test_several_urls_are_tried_in_turn() -> None:
    addresses = Addresses("amqp://a//;b//; redis://c/1")
    assert addresses.urls == ["amqp://a//", "amqp://b//", "redis://c/1"]
    assert list(addresses.turn()) == addresses.urls
    assert addresses.current == "amqp://b//"
    turn = addresses.turn()
    next(turn)
    assert next(turn) == addresses.current == "redis://c/1"
    assert Addresses(["redis://a", "redis://b;redis://c"]).urls[2] == "redis://c"
    assert sorted(Addresses("redis://a;redis://b", "shuffle").turn()) == ["redis://a", "redis://b"]


@pytest.mark.parametrize("url", ["sqs://x:secret@y", "nonsense", ""])
def test_a_broker_of_no_known_kind_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        Addresses(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h:abc/0", "cannot be read: its host or port is none"),
        ("amqp://h:99999//", "cannot be read: its host or port is none"),
        ("rediss//h", "broker rediss//h is of no known kind"),
        ("sentinel://h:26379", "Redis Sentinel is not supported"),
    ],
)
def test_a_url_that_cannot_be_read_is_named(url: str, says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=re.escape(says)):
        Addresses(url)


def test_urls_have_a_kind() -> None:
    assert kind_of("pyamqp://guest@localhost//") == kind_of("pyamqp://") == "rabbit"
    assert kind_of("rediss://h") == "redis"
    assert kind_of("memory://") == kind_of("filesystem://") == "polled"


def test_options_come_from_settings() -> None:
    conf = Settings({
        "broker_heartbeat": 0,
        "broker_connection_timeout": 1.5,
        "task_publish_retry": False,
        "task_publish_retry_policy": {"max_retries": None, "interval_start": 1},
        "broker_transport_options": {"visibility_timeout": 7},
    })  # fmt: skip
    options = BrokerOptions.of(conf)
    assert options.connect_timeout == 1.5
    assert (options.retry, options.max_retries, options.interval_start) == (False, None, 1.0)
    assert options.transport_options == {"visibility_timeout": 7}
    assert 0.5 <= options.delay(1) <= 1.0
    assert BrokerOptions.of(Settings()).max_retries == 3


def test_a_canvas_with_an_unknown_queue_is_refused() -> None:
    from flowq import Flowq
    from flowq.app.submission import compile_for

    app = Flowq("q", set_as_current=False, task_create_missing_queues=False)
    app.task(name="q.t")(lambda: None)
    compile_for(app, app.signature("q.t") | app.signature("q.t"))
    with pytest.raises(UnknownQueue, match="nope"):
        compile_for(app, app.signature("q.t").set(queue="nope"))


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"routing_key": 5}, "routing_key=5 is of type int; give a str"),
        ({"exchange": 5}, "exchange=5 is of type int; give a str"),
        ({"delivery_mode": "zzz"}, "delivery_mode='zzz': give 1 or 'transient', 2 or 'persistent'"),
        ({"retry_policy": 3}, "retry_policy=3 is of type int; give a dict"),
        ({"retry_policy": {"interval_max": "x"}}, "its interval_max is of type str; give a number"),
    ],
)
def test_a_wrong_option_of_a_message_is_refused_before_it_is_sent(
    option: dict[str, Any], says: str
) -> None:
    app = Flowq("asked", broker="redis://127.0.0.1:1/0", set_as_current=False)
    with pytest.raises(CanvasError, match=f"wrong option for asked.work: .*{re.escape(says)}"):
        app.send_task("asked.work", **option)
    app.close()


@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ({}, 3),
        ({"retry": False}, 1),
        ({"retry_policy": {"max_retries": 1, "interval_step": 0.01}}, 2),
    ],
)
def test_a_call_says_what_a_lost_connection_means(options: dict[str, Any], attempts: int) -> None:
    """A server that takes connections and drops them at once."""
    taken: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drop() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()
                    taken.append(1)

        thread = threading.Thread(target=drop, daemon=True)
        thread.start()
        app = Flowq(
            "lost", broker=f"redis://127.0.0.1:{server.getsockname()[1]}/0", set_as_current=False
        )
        app.conf.task_publish_retry_policy = {"max_retries": 2, "interval_step": 0.01}
        with pytest.raises(BrokerError):
            app.send_task("lost.work", **options)
        app.close()
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    assert len(taken) == attempts
