"""``flowq worker`` as a person meets it: acknowledgement, bad messages, signals, control."""

from __future__ import annotations

import bz2
import importlib.util
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rig import PROJECT, Rig, until
from tests.started import Server, absent

pytestmark = [pytest.mark.services, pytest.mark.timeout(180)]

MORE = """
    import logging, sys
    log = logging.getLogger("mine")
    @app.task(acks_late=True)
    def dies_late(how, mark):
        with open("ledger.txt", "a") as ledger: ledger.write(f"{mark}\\n")
        die(how)
    @app.task(acks_late=True, reject_on_worker_lost=True, max_crashes=3)
    def dies_again(how, mark):
        with open("ledger.txt", "a") as ledger: ledger.write(f"{mark}\\n")
        die(how)
    @app.task(acks_late=True)
    def late_nap(seconds, mark): return nap.run(seconds, mark)
    @app.task
    def talk():
        print("he", end=""); print("llo"); print("end", end="")
        sys.stderr.write("moan" + chr(10))
        log.info("note"); log.debug("detail")
    class Known(Exception): pass
    @app.task(throws=(LookupError, Known))
    def raises(what):
        raise {"bad": ValueError("bad", 1), "sub": KeyError("k"), "own": Known()}[what]
    @app.task(bind=True, max_retries=1)
    def again(self):
        if not self.request.retries: raise self.retry(countdown=0.01, exc=KeyError("k"))
    @app.task
    def late_exit(): os._exit(3)
    def die(how):
        if how == "exit": raise SystemExit(3)
        if how == "quit": os._exit(3)
        os.kill(os.getpid(), getattr(signal, how))
"""


def children_of(pid: int) -> list[int]:
    """Processes that a process started and that live."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


@pytest.fixture
def rig(redis_server: Server, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(
        tmp_path,
        broker=f"redis://127.0.0.1:{redis_server.port}/0",
        backend=f"redis://127.0.0.1:{redis_server.port}/1",
        project=PROJECT + MORE,
    )
    yield made
    made.close()


def ledger(rig: Rig) -> list[str]:
    path = rig.folder / "ledger.txt"
    return path.read_text().splitlines() if path.exists() else []


def client(rig: Rig) -> Any:
    import redis

    return redis.Redis.from_url(rig.env["FLOWQ_BROKER"])


def push(rig: Rig, body: bytes, **changes: Any) -> None:
    """Put a message of Celery's form on the queue, as it is."""
    import base64

    task_id = str(uuid.uuid4())
    headers = {"task": "proj.add", "id": task_id, "root_id": task_id, "lang": "py"}
    message = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {**headers, **changes.pop("headers", {})},
        "properties": {
            "correlation_id": task_id,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
        **changes,
    }
    client(rig).lpush("celery", json.dumps(message))


GOOD = b"[[1, 2], {}, {}]"
#: A body that is a bomb: over 64 MiB of zeros in less than a hundred bytes.
BOMB = bz2.compress(bytes((64 << 20) + 1))

BAD: dict[str, tuple[bytes, dict[str, Any], tuple[str, ...]]] = {
    "pickle": (
        pickle.dumps(((), {}, {})),
        {"content-type": "application/x-python-serialize", "content-encoding": "binary"},
        ("pickle", "accept_content"),
    ),
    "bomb": (BOMB, {"headers": {"compression": "application/x-bz2"}}, ("limit",)),
    "truncated": (GOOD[:5], {}, ("cannot be read",)),
    "unregistered": (GOOD, {"headers": {"task": "proj.nowhere"}}, ("proj.nowhere", "registered")),
    "no task": (GOOD, {"headers": {"task": ""}}, ("dropped",)),
    "wrong eta": (GOOD, {"headers": {"eta": "soon"}}, ("eta",)),
}


def test_bad_messages_are_logged_and_the_worker_goes_on(rig: Rig) -> None:
    assert len(BOMB) < 100
    worker = rig.worker("-c", "1")
    for number, (body, changes, words) in enumerate(BAD.values()):
        headers = {"id": f"id-{number}", **changes.get("headers", {})}
        push(rig, body, **{**changes, "headers": headers})
        wanted = (*words, f"id-{number}")
        until(lambda: all(word in rig.log_of(worker) for word in wanted), f"{wanted} in the log")  # noqa: B023
    client(rig).lpush("celery", b"not even JSON")
    assert rig.call("answer(add.delay(1, 2).get(timeout=20))") == 3
    assert "Traceback" not in rig.log_of(worker)
    assert worker.poll() is None


@pytest.mark.parametrize("how", ["exit", "SIGSEGV", "SIGKILL"])
def test_acks_late_alone_does_not_run_a_lost_task_again(rig: Rig, how: str) -> None:
    rig.worker("-c", "1")
    found = rig.call(
        f"""
        result = dies_late.delay({how!r}, "once")
        try: result.get(timeout=20)
        except Exception as exc: answer([result.state, type(exc).__name__])
        """
    )
    assert found == ["FAILURE", "WorkerLostError"]
    assert rig.call("answer(add.delay(1, 2).get(timeout=20))") == 3
    assert ledger(rig) == ["once"]


def test_reject_on_worker_lost_runs_it_again_so_often(rig: Rig) -> None:
    rig.worker("-c", "1", FLOWQ_MAX_CRASHES="3")
    found = rig.call(
        """
        result = dies_again.delay("SIGKILL", "again")
        try: result.get(timeout=30)
        except Exception as exc: answer([result.state, type(exc).__name__])
        """
    )
    assert found == ["FAILURE", "WorkerLostError"]
    assert ledger(rig) == ["again"] * 3


def test_a_killed_worker_loses_early_acknowledged_tasks_only(rig: Rig) -> None:
    rig.env["FLOWQ_BROKER_TRANSPORT_OPTIONS"] = '{"visibility_timeout": 2}'
    doomed = rig.worker("-c", "2")
    rig.call('nap.delay(30, "early"); late_nap.delay(1, "late"); answer(1)')
    until(lambda: {"early began", "late began"} <= set(ledger(rig)), "both run")
    rig.kill(doomed)
    rig.worker("-c", "2")
    until(lambda: "late ended" in ledger(rig), "the late one runs again")
    assert ledger(rig).count("early began") == 1
    assert ledger(rig).count("late began") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_runs_and_gives_back_the_rest(rig: Rig, number: int) -> None:
    worker = rig.worker("-c", "1", "--grace", "20s")
    rig.call("[nap.delay(0.5, str(i)) for i in range(4)]; answer(1)")
    until(lambda: len(ledger(rig)) > 0, "it runs")
    assert rig.stop(worker, number) == 0
    begun = [mark for mark in ledger(rig) if mark.endswith("began")]
    assert len(ledger(rig)) == 2 * len(begun)
    rig.worker("-c", "1")
    until(lambda: len(ledger(rig)) == 8, "the others run")
    assert len(set(ledger(rig))) == 8


def test_grace_ends(rig: Rig) -> None:
    worker = rig.worker("-c", "1", "--grace", "1s")
    rig.call('late_nap.delay(60, "long"); answer(1)')
    until(lambda: ledger(rig), "it runs")
    assert rig.stop(worker) == 0
    assert client(rig).llen("celery") == 1  # given back, to be run elsewhere


def test_a_cold_stop_ends_an_acknowledged_task_for_good(rig: Rig) -> None:
    worker = rig.worker("-c", "1")
    uid = rig.call('answer(nap.delay(60, "once").id)')
    until(lambda: ledger(rig), "it runs")
    assert rig.stop(worker, signal.SIGQUIT) == 0
    rig.worker("-c", "1")
    assert rig.call("answer(add.delay(1, 2).get(timeout=20))") == 3
    state = rig.call(f"answer(app.AsyncResult({uid!r}).state)")
    assert (state, ledger(rig)) == ("FAILURE", ["once began"])


def test_a_worker_that_is_stopped_while_it_starts_leaves_no_pidfile(rig: Rig) -> None:
    path = rig.folder / "w0.pid"
    worker = rig.worker("--pidfile", "w%i.pid", wait=False)
    until(lambda: path.exists() and path.read_text(), "a pid")
    assert rig.stop(worker) == 0
    assert not path.exists()


def test_two_workers_with_one_name(rig: Rig) -> None:
    rig.worker("-n", "same@test")
    second = rig.worker("-n", "same@test")
    until(lambda: "another worker is called same@test" in rig.log_of(second), "it says so")
    assert rig.call("answer(add.delay(1, 2).get(timeout=20))") == 3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["worker"], ["--app"]),
        (["worker", "-A", "nowhere"], ["nowhere"]),
        (["worker", "-A", "proj", "-P", "balloons"], ["balloons"]),
        (["worker", "-A", "proj", "-c", "many"], ["many"]),
        (["worker", "-A", "proj", "-l", "LOUD"], ["LOUD"]),
        (["worker", "-A", "proj", "--autoscale", "x"], ["--autoscale"]),
        (["worker", "-A", "proj", "--autoscale", "1,5"], ["--autoscale", "below the least"]),
        (["worker", "-A", "proj", "-Q", ","], ["--queues", "names no queue"]),
        (["worker", "-A", "proj", "-Q", "nope"], ["nope", "task_create_missing_queues"]),
        (["worker", "-A", "proj", "--store", "sqlite:////proc/no/s.db"], ["/proc/no"]),
        (["coordinator", "--broker", "carrier://pigeon"], ["carrier"]),
    ],
)
def test_wrong_options_get_a_sentence(rig: Rig, args: list[str], words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flowq", *args],
        cwd=rig.folder,
        env={**rig.env, "FLOWQ_TASK_CREATE_MISSING_QUEUES": "false"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode in (2, 7, 69, 78), done.stderr
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "pyamqp://127.0.0.1:1//"])
def test_an_unreachable_broker_is_a_log_line_and_a_sentence(rig: Rig, url: str) -> None:
    worker = rig.worker("-c", "1", wait=False, FLOWQ_BROKER=url)
    line = r"cannot connect to the broker \S+127\.0\.0\.1:1/.*; trying again in ([\d.]+) s"
    until(lambda: len(re.findall(line, rig.log_of(worker))) > 3, "it says so each time")
    pauses = [float(pause) for pause in re.findall(line, rig.log_of(worker))]
    assert pauses[0] < pauses[3]
    assert "lost the broker" not in rig.log_of(worker)
    assert "ready." not in rig.log_of(worker)
    assert worker.poll() is None
    assert rig.stop(worker) == 0
    said = rig.call(
        """
        from flowq.errors import BrokerError
        try: add.delay(1, 2)
        except BrokerError as exc: answer(str(exc))
        """,
        FLOWQ_BROKER=url,
    )
    assert "cannot" in said
    assert "127.0.0.1" in said


@pytest.mark.parametrize("setting", ["RETRY", "RETRY_ON_STARTUP"])
def test_a_worker_that_is_not_to_wait_for_its_broker_ends_in_a_sentence(
    rig: Rig, setting: str
) -> None:
    off = {f"FLOWQ_BROKER_CONNECTION_{setting}": "0"}
    broker = "redis://:hidden@127.0.0.1:1/0"
    done = rig.flowq("worker", "-A", "proj", "-c", "1", code=69, FLOWQ_BROKER=broker, **off)
    last = next(line for line in done.stderr.splitlines() if "cannot connect" in line)
    assert "cannot connect to the broker redis://:***@127.0.0.1:1/0" in last
    assert "broker_connection_retry_on_startup" in last
    assert "Traceback" not in done.stderr
    assert "hidden" not in done.stderr


def test_in_the_background(rig: Rig, redis_server: Server) -> None:
    files = ("--pidfile", "w.pid", "--logfile", "%n.log")
    rig.flowq("worker", "-A", "proj", "-D", *files, "-l", "INFO", "-n", "back@test")
    until(lambda: (rig.folder / "w.pid").exists() and (rig.folder / "w.pid").read_text(), "a pid")
    pid = int((rig.folder / "w.pid").read_text())
    assert rig.call("answer(add.delay(1, 2).get(timeout=20))") == 3
    done = rig.flowq("worker", "-A", "proj", "--pidfile", "w.pid", code=78)
    assert str(pid) in done.stderr
    os.kill(pid, signal.SIGTERM)
    until(lambda: not (rig.folder / "w.pid").exists(), "it ends")
    assert "warm shutdown" in (rig.folder / "back.log").read_text()


def test_dev_starts_anew_when_a_file_changes(rig: Rig) -> None:
    dev = rig._start(["dev", "-A", "proj"], "ready", True, {})
    assert rig.call("answer(add.delay(1, 2).get(timeout=20))") == 3
    text = (rig.folder / "proj.py").read_text()
    (rig.folder / "proj.py").write_text(text.replace("return x + y", "return x + y + 100"))
    until(lambda: rig.log_of(dev).count("ready.") == 2, "a second worker")
    assert "proj.py changed" in rig.log_of(dev)
    assert rig.call("answer(add.delay(1, 2).get(timeout=20))") == 103
    (rig.folder / "proj.py").write_text("this is no Python")
    until(lambda: "the worker ended" in rig.log_of(dev), "it says so")
    (rig.folder / "proj.py").write_text(text)
    until(lambda: rig.log_of(dev).count("ready.") == 3, "a third worker")
    assert rig.stop(dev) == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_the_worker_of_dev_ends_with_it(rig: Rig, number: int) -> None:
    """HUP comes when the terminal is closed."""
    dev = rig._start(["dev", "-A", "proj"], "ready", True, {})
    [worker] = children_of(dev.pid)
    assert children_of(worker)
    dev.send_signal(number)
    dev.wait(30)
    until(lambda: not Path(f"/proc/{worker}").exists(), "its worker ends")
    assert "Traceback" not in rig.log_of(dev)


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_the_log_tells_of_bare_tasks_and_has_what_they_write(rig: Rig, pool: str) -> None:
    if pool == "gevent" and importlib.util.find_spec("gevent") is None:
        absent("gevent is not installed")
    worker = rig.worker("-P", pool, "-c", "1")
    ids = rig.call(
        """
        sent = [talk.delay(), add.delay("a", "b")]
        sent += [raises.delay(what) for what in ("bad", "sub", "own")]
        sent += [again.delay(), add.apply_async((1, 2), expires=-1)]
        for each in sent: each.get(timeout=20, propagate=False)
        answer([each.id for each in sent])
        """
    )
    talk, add, bad, sub, own, again, late = ids
    lines = [
        f"INFO Task proj.talk[{talk}] received",
        f"WARNING proj.talk[{talk}]: hello",
        f"WARNING proj.talk[{talk}]: moan",
        f"INFO proj.talk[{talk}]: note",
        "WARNING end",
        f"INFO Task proj.talk[{talk}] succeeded in *: None",
        f"INFO Task proj.add[{add}] succeeded in *: 'ab'",
        f"ERROR Task proj.raises[{bad}] raised unexpected: ValueError('bad', 1)",
        f"INFO Task proj.raises[{sub}] raised expected: KeyError('k')",
        f"INFO Task proj.raises[{own}] raised expected: Known()",
        f"INFO Task proj.again[{again}] retry: Retry in 0.01s: KeyError('k')",
        f"INFO Task proj.again[{again}] succeeded in *: None",
        f"INFO Discarding expired task: proj.add[{late}]",
    ]
    until(lambda: lines[-1].split(" ", 1)[1] in rig.log_of(worker), "the last line")
    found = re.sub(r"succeeded in [\d.e-]+s:", "succeeded in *:", rig.log_of(worker))
    found = re.sub(r"(?m)^\[[^\]]*: (\w+)/\d+\]", r"\1", found)
    assert [line for line in lines if line not in found.splitlines()] == [], found
    assert "ValueError: ('bad', 1)" in found  # the traceback
    assert "detail" not in found


def test_the_log_file_has_what_tasks_write_and_that_a_process_died(rig: Rig) -> None:
    worker = rig.worker("-c", "1", "-f", "worker.log", wait=False)
    log = rig.folder / "worker.log"
    rig.call("late_exit.delay(); talk.delay().get(timeout=40); answer(1)")
    until(lambda: "succeeded" in log.read_text(), "the last line")
    text = log.read_text()
    assert "raised unexpected: WorkerLostError('the process that ran it ended: exit" in text
    assert "]: hello" in text
    assert "hello" not in rig.log_of(worker)


def test_what_tasks_print_is_printed_and_a_projects_own_log_stays(rig: Rig) -> None:
    path = rig.folder / "proj.py"
    own = 'logging.basicConfig(level="INFO", format="own %(message)s")'
    path.write_text(f"import logging\n{own}\n{path.read_text()}")
    worker = rig.worker(
        "-c", "1", FLOWQ_WORKER_REDIRECT_STDOUTS="0", FLOWQ_WORKER_HIJACK_ROOT_LOGGER="0"
    )
    rig.call("talk.delay().get(timeout=40); answer(1)")
    until(lambda: "succeeded" in rig.log_of(worker), "the last line")
    lines = rig.log_of(worker).splitlines()
    assert "own note" in lines
    assert "hello" in lines
    assert any(re.fullmatch(r"own Task proj.talk\[.*\] received", line) for line in lines)


def test_a_node_that_fails_is_a_line_and_what_nodes_write_is_none(rig: Rig) -> None:
    worker = rig.worker("-c", "1")
    rig.call(
        "(talk.si() | raises.si('bad')).delay().get(timeout=40, propagate=False); answer(1)",
        FLOWQ_STORE=f"sqlite:///{rig.folder}/.flowq/flowq.db",
    )
    text = rig.log_of(worker)
    assert re.search(
        r"ERROR/.*Task proj.raises\[.*\] raised unexpected: ValueError\('bad', 1\)", text
    )
    assert "hello" not in text
    assert "received" not in text


def test_a_run_of_a_fleet_is_watched_and_its_result_waited_for(rig: Rig) -> None:
    rig.env["FLOWQ_STORE"] = f"sqlite:///{rig.folder}/fleet.db"
    (rig.folder / "long.py").write_text("from proj import app, nap\npipeline = nap.si(3.0, 'x')\n")
    rig.worker("-c", "1", "--with-coordinator")
    command = [sys.executable, "-m", "flowq"]
    about: dict[str, Any] = {"cwd": rig.folder, "env": rig.env, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, "run", "long.py", "-q"], **about) as sender:
        until(lambda: ledger(rig), "the task begins")
        brief = subprocess.run([*command, "result", "--timeout", "0.1s"], timeout=60, **about)
        assert brief.returncode == 5, brief.stderr
        done = subprocess.run([*command, "watch", "--progress", "plain"], timeout=60, **about)
        assert done.returncode == 0, done.stderr
        assert b"SUCCESS" in done.stderr
        sender.communicate(timeout=60)
