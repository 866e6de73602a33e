"""Commands to a worker, and its replies, over real brokers."""

from __future__ import annotations

import json
import logging
import threading
from typing import Any

import pytest

from flowq.app.clock import LamportClock
from flowq.broker.mailbox import Mailbox, broadcast
from flowq.broker.sideline import Access
from flowq.errors import BrokerError, FlowqError
from flowq.worker.control import COMMANDS, Errands, dispatch
from tests.control.fake import FakeWorker, capturing, make_app, wait_for
from tests.proxy import CuttingProxy

pytestmark = pytest.mark.services


def call(access: Access, command: str, **how: Any) -> Any:
    arguments = how.pop("arguments", {})
    how = {"reply": True, "timeout": 5.0, "limit": 1, "clock": LamportClock(), **how}
    return broadcast(access, command, arguments, **how)


def test_a_worker_answers_and_its_main_loop_did_the_work(access: Access) -> None:
    with FakeWorker("a@here", access) as worker:
        assert call(access, "ping") == [{"a@here": {"ok": "pong"}}]
        (reply,) = call(access, "active", arguments={"safe": True})
        (shown,) = reply["a@here"]
        assert shown["args"] == "(2, '***')"
        assert shown["hostname"] == "a@here"
        assert shown["delivery_info"]["routing_key"] == "celery"
        assert shown["worker_pid"] == 4711
        assert worker.threads == {worker.loop_thread.name}


def test_commands_reach_whom_they_name(access: Access) -> None:
    with FakeWorker("a@here", access), FakeWorker("b@there", access):
        both = call(access, "ping", limit=2)
        assert sorted(name for reply in both for name in reply) == ["a@here", "b@there"]
        one = call(access, "ping", destination=["b@there"], limit=None)
        assert one == [{"b@there": {"ok": "pong"}}]
        glob = call(access, "ping", pattern="a@*", matcher="glob", limit=None, timeout=0.5)
        assert glob == [{"a@here": {"ok": "pong"}}]
        pcre = call(access, "ping", pattern="b@th.re", matcher="pcre")
        assert pcre == [{"b@there": {"ok": "pong"}}]
        assert call(access, "ping", destination=["c@nowhere"], timeout=0.3, limit=None) == []


def test_commands_without_reply_are_done_and_replies_are_called_back(access: Access) -> None:
    with FakeWorker("a@here", access) as worker:
        assert call(access, "pool_grow", arguments={"n": 2}, reply=False) is None
        wait_for(lambda: ("grow", 2) in worker.calls, "the pool did not grow")
        seen: list[Any] = []
        call(access, "clock", callback=seen.append)
        assert seen[0]["a@here"]["clock"] > 0


def test_clocks_move_each_other_on(access: Access) -> None:
    with FakeWorker("a@here", access) as worker:
        mine = LamportClock(1000)
        call(access, "ping", clock=mine)
        assert worker.app.clock.value > 1000
        worker.app.clock.adjust(5000)
        call(access, "ping", clock=mine)
        assert mine.value > 5000


def test_refusals_and_unknown_commands_are_errors_in_words(access: Access) -> None:
    def error(command: str, **arguments: Any) -> str:
        reply = call(access, command, arguments=arguments)[0]["a@here"]
        return str(reply["error"])

    with FakeWorker("a@here", access):
        assert error("fly") == "there is no command 'fly'"
        assert "keeps at least one" in error("pool_shrink", n=3)
        assert "--autoscale" in error("autoscale", max=3, min=1)
        assert error("rate_limit", task_name="shop.nope", rate_limit="1/s") == "unknown task"
        assert "Invalid rate" in error("rate_limit", task_name="shop.add", rate_limit="often")
        assert error("revoke") == "revoke needs the argument 'task_id'"


def test_messages_that_are_no_commands_do_no_harm(
    access: Access, caplog: pytest.LogCaptureFixture
) -> None:
    from kombu import Exchange, Producer

    exchange = Exchange("celery.pidbox", "fanout", durable=False, delivery_mode="transient")
    with FakeWorker("a@here", access), access.opened() as connection:
        producer = Producer(connection.default_channel)
        how: dict[str, Any] = {"exchange": exchange, "routing_key": "", "declare": [exchange]}
        producer.publish([1, 2], **how)
        producer.publish({"arguments": {}}, **how)
        producer.publish(b"\x80\x04.", content_type="application/x-python-serialize",
                         content_encoding="binary", **how)  # fmt: skip
        producer.publish("{nonsense", content_type="application/json",
                         content_encoding="utf-8", **how)  # fmt: skip
        producer.publish({"method": "shutdown"}, compression="bzip2", **how)
        assert call(access, "ping") == [{"a@here": {"ok": "pong"}}]
    told = [r.message for r in caplog.records if r.name == "flowq.control"]
    assert sum("is no command" in text for text in told) == 2
    assert sum("cannot be read" in text for text in told) == 3
    assert "a compressed message is taken as it is" in caplog.text


@pytest.mark.parametrize("broker_url", ["rabbit"], indirect=True)
def test_a_second_worker_of_a_name_is_told_so(
    access: Access, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeWorker("a@here", access):
        second = Mailbox("a@here", lambda *_: None, access, clock=LamportClock())
        second.start()
        wait_for(lambda: "another worker is named a@here" in caplog.text, "nothing was said")
        second.stop()
        assert len(call(access, "ping", limit=None, timeout=0.5)) == 1


@pytest.mark.parametrize("broker_url", ["rabbit"], indirect=True)
def test_a_mailbox_connects_again(access: Access, caplog: pytest.LogCaptureFixture) -> None:
    import subprocess

    caplog.set_level(logging.INFO)
    with FakeWorker("a@here", access) as worker:
        vhost = access.urls[0].rsplit("/", 1)[1]
        subprocess.run(
            ["rabbitmqctl", "-q", "close_all_connections", "--vhost", vhost, "cut by a test"],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        wait_for(lambda: "remote control of a@here: connected again" in caplog.text, "stays away")
        assert worker.mailbox.wait_ready(20)
        assert call(access, "ping", destination=["a@here"]) == [{"a@here": {"ok": "pong"}}]


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_a_mailbox_on_redis_connects_again(
    access: Access, caplog: pytest.LogCaptureFixture
) -> None:
    import redis

    client = redis.Redis.from_url(access.urls[0])
    with FakeWorker("a@here", access):
        for kind in ("pubsub", "normal"):
            client.client_kill_filter(_type=kind, skipme=True)
        answered = wait_for(lambda: call(access, "ping", timeout=0.5), "it does not answer")
        assert answered == [{"a@here": {"ok": "pong"}}]
    client.close()


def test_a_worker_that_was_cut_off_answers_again_and_goes_on_telling(broker_url: str) -> None:
    from urllib.parse import urlsplit

    place = urlsplit(broker_url)
    with CuttingProxy(str(place.hostname), int(place.port or 0)) as proxy:
        through = broker_url.replace(f"{place.hostname}:{place.port}", f"127.0.0.1:{proxy.port}")
        here = Access([broker_url])
        with (
            FakeWorker("a@here", Access([through]), tasks=True) as worker,
            capturing(here, LamportClock()) as found,
        ):
            for end in (proxy.cut, proxy.stall, proxy.drop):
                assert call(here, "ping", destination=["a@here"])
                end()
                assert not call(here, "ping", timeout=0.3)
                worker.sender.started(end.__name__)
                proxy.restore()
                wait_for(lambda: call(here, "ping", timeout=0.5), "it does not answer")
            wait_for(lambda: {"cut", "stall", "drop"} <= {e.get("uuid") for e in found}, "silent")


def test_nothing_is_left_on_the_broker(redis_url: str) -> None:
    import redis

    access = Access([redis_url])
    client = redis.Redis.from_url(redis_url)
    client.flushdb()  # Celery's tools, when killed, leave something
    with FakeWorker("a@here", access):
        call(access, "ping")
    left = set(client.keys("*")) - {b"_kombu.binding_deadlines"}  # swept by kombu
    client.close()
    assert left == set()


def test_a_broker_that_is_not_there_is_one_sentence() -> None:
    for url, shown in {
        "redis://:secret@127.0.0.1:1/0": "redis://:***@127.0.0.1:1/0",
        "pyamqp://guest:secret@127.0.0.1:1//": "pyamqp://guest:***@127.0.0.1:1//",
    }.items():
        with pytest.raises(BrokerError) as caught:
            call(Access([url]), "ping")
        assert "secret" not in str(caught.value)
        assert str(caught.value).startswith(f"the broker at {shown} cannot be reached: ")


def test_the_second_url_is_taken_when_the_first_is_dead(broker_url: str) -> None:
    scheme = broker_url.split("://")[0]
    dead = f"{scheme}://guest:guest@127.0.0.1:1/"
    with FakeWorker("a@here", Access([dead, broker_url])):
        assert call(Access([f"{dead};{broker_url}"]), "ping") == [{"a@here": {"ok": "pong"}}]


def test_commands_in_one_process_over_memory() -> None:
    access = Access(["memory://"])
    with FakeWorker("a@here", access):
        assert call(access, "ping") == [{"a@here": {"ok": "pong"}}]


# -- without a broker ---------------------------------------------------------------------------


class Nowhere(FakeWorker):
    """A worker that is asked directly."""

    def __init__(self) -> None:
        super().__init__("a@here", Access(["memory://"]), make_app(
            broker_url="redis://:hush@localhost", task_default_queue="fast",
            broker_transport_options={"sentinel_kwargs": {"password": "hush"}},
        ))  # fmt: skip


def ask(name: str, **arguments: Any) -> Any:
    reply = dispatch(Nowhere(), name, arguments)
    json.dumps(reply)
    return reply


def test_every_command_that_looks_answers_in_json() -> None:
    for name, command in COMMANDS.items():
        if command.inspect and name not in ("query_task", "hello"):
            reply = ask(name)
            assert not (isinstance(reply, dict) and "error" in reply), (name, reply)
    assert ask("dump_active") == ask("active")


def test_inspect_replies_have_celerys_form() -> None:
    assert ask("registered") == ["shop.add", "shop.mail [rate_limit=10/m]"]
    assert ask("registered", taskinfoitems=["name", "__class__"])[0] == "shop.add [name=shop.add]"
    assert ask("scheduled")[0]["eta"] == "2030-01-01T00:00:00+00:00"
    assert ask("scheduled")[0]["request"]["id"] == "id-3"
    found = ask("query_task", ids=["id-1", "id-2", "id-9"])
    assert {key: state for key, (state, _) in found.items()} == {
        "id-1": "active",
        "id-2": "reserved",
    }
    assert ask("active")[0]["args"] == [2, 3]
    assert ask("active")[0]["kwargs"] == {"z": repr(object)}
    figures = ask("stats")
    assert figures["total"] == {"shop.add": 7}
    assert figures["pool"]["processes"] == [4711, 4712]
    assert figures["rusage"]["maxrss"] > 0
    assert "password" not in figures["broker"]


def test_settings_are_told_without_secrets() -> None:
    told = ask("conf")
    assert told["task_default_queue"] == "fast"
    assert told["broker_transport_options"] == {"sentinel_kwargs": {"password": "********"}}
    assert "accept_content" not in told
    assert ask("conf", with_defaults=True)["accept_content"] == ["json"]
    assert "hush" not in json.dumps([told, ask("report")])


def test_control_commands_do_what_they_say() -> None:
    worker = Nowhere()

    def do(name: str, **arguments: Any) -> str:
        return str(dispatch(worker, name, arguments)["ok"])

    assert do("add_consumer", queue="fast", exchange="x") == "add consumer fast"
    assert do("cancel_consumer", queue="fast") == "no longer consuming from fast"
    assert do("rate_limit", task_name="shop.add", rate_limit="5/m").startswith("new rate limit")
    assert do("rate_limit", task_name="shop.add", rate_limit=0).startswith("rate limit disabled")
    assert do("time_limit", task_name="shop.add", hard=9.0, soft=8.0).startswith("time limits")
    assert do("revoke", task_id="id-7") == "tasks id-7 flagged as revoked"
    assert do("revoke", task_id=["id-1"], terminate=True, signal="KILL") == "terminate: id-1"
    assert do("terminate", task_id=["id-8"], signal="TERM") == "terminate: tasks unknown"
    assert "flagged" in do("revoke_by_stamped_headers", headers=["color=red"])
    assert do("enable_events") == "task events enabled"
    assert do("enable_events") == "task events already enabled"
    assert do("disable_events") == "task events disabled"
    assert do("shutdown") == "shutting down"
    assert worker.calls == [
        ("add", "fast", "x", None, None),
        ("cancel", "fast"),
        ("rate", "shop.add", "5/m"),
        ("rate", "shop.add", 0),
        ("time", "shop.add", 9.0, 8.0),
        ("revoke", ["id-7"], False, None),
        ("revoke", ["id-1"], True, "KILL"),
        ("revoke", ["id-8"], True, "TERM"),
        ("stamps", {"color": ["red"]}, False),
        ("shutdown",),
    ]


def test_a_starting_celery_worker_gets_and_gives_revoked_ids() -> None:
    worker = Nowhere()
    worker.ids.append("id-0")
    reply = dispatch(worker, "hello", {"from_node": "c@elsewhere", "revoked": ["id-5"]})
    assert reply["revoked"] == ["id-0", "id-5"]
    assert dispatch(worker, "hello", {"from_node": "a@here"}) is None


def test_errands_give_up_on_a_loop_that_does_not_turn() -> None:
    errands = Errands(lambda: None, patience=0.05)
    done: list[int] = []
    with pytest.raises(FlowqError, match="busy"):
        errands(lambda: done.append(1))
    errands.run()
    assert done == []


def test_errands_pass_on_what_is_raised() -> None:
    bell = threading.Event()
    errands = Errands(bell.set)

    def turn() -> None:
        bell.wait(10)
        errands.run()

    thread = threading.Thread(target=turn)
    thread.start()
    with pytest.raises(ZeroDivisionError):
        errands(lambda: 1 // 0)
    thread.join()
