"""``flowq run`` and what goes on with a run: as separate processes, as a person would."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.descriptors import readable
from tests.shells.cli import PATIENCE, Shell, finish, read_until

pytestmark = pytest.mark.slow


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def ledger(shell: Shell) -> list[str]:
    return (shell.folder / "ledger.txt").read_text().splitlines()


# -- output and exit codes ----------------------------------------------------------------------


def test_only_the_result_goes_to_stdout(shell: Shell) -> None:
    done = shell("run", "two.py")
    assert done.out == "42\n"
    assert "made a new store" in done.err
    assert "SUCCESS" in done.err
    assert "2 succeeded" in done.err
    assert shell("run", "two.py").err.count("made a new store") == 0


def test_quiet_leaves_the_result(shell: Shell) -> None:
    done = shell("run", "two.py", "-q")
    assert (done.out, done.err) == ("42\n", "")


def test_json_is_one_object_with_the_run_and_its_result(shell: Shell) -> None:
    found = shell("run", "two.py", "--json", "--name", "daily", "--tag", "day=monday").json
    assert found["schema"] == 1
    assert (found["state"], found["result"], found["name"]) == ("SUCCESS", 42, "daily")
    assert found["tags"] == {"day": "monday"}
    assert found["counts"] == {"SUCCESS": 2}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found["submitted_at"])


def test_a_failed_run_exits_1_and_says_why_and_what_next(shell: Shell) -> None:
    done = shell("run", "broken.py", code=1)
    assert done.out == ""
    assert "ValueError: bad row 2" in done.err
    assert "raise ValueError" in done.err
    assert "1 node not run because of it" in done.err
    assert "flowq retry" in done.err
    again = shell("run", "broken.py", "--json", code=1).json
    assert again["state"] == "FAILURE"
    assert again["failures"][0]["error"] == "ValueError: bad row 2"


def test_a_dry_run_shows_the_plan_and_stores_nothing(shell: Shell) -> None:
    done = shell("run", "broken.py", "--dry-run")
    assert "check × 2" in done.out
    assert not shell.stored
    plan = shell("run", "two.py", "--dry-run", "--json").json
    assert [node["name"] for node in plan["nodes"]] == ["start", "finish"]
    assert plan["edges"] == [{"parent": 0, "child": 1, "on": "success"}]


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_other_pools_give_the_same(shell: Shell, pool: str) -> None:
    assert shell("run", "two.py", "-P", pool, "-c", "1").out == "42\n"


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_how_much_is_kept_of_what_tasks_write(shell: Shell, pool: str) -> None:
    shell.write(
        "talk.py",
        """
        from flowq import Flowq
        app = Flowq("talk")
        @app.task
        def talk():
            print("x" * 50)
            print("y" * 50)
        canvas = talk.s()
        """,
    )
    shell.env["FLOWQ_MAX_LOG_BYTES"] = "60"
    assert "y" * 50 not in shell("run", "talk.py", "-q", "-P", pool).err
    kept = shell("logs", "@last").out
    assert "x" * 50 in kept
    assert "y" * 9 + "\n" in kept
    assert "output over 60 characters is left out" in kept
    shell.env["FLOWQ_KEEP_LOGS"] = "false"
    assert "y" * 50 in shell("run", "talk.py", "-q", "-P", pool).err
    assert shell("logs", "@last").out == ""


def test_plain_progress_is_one_line_a_change_time_first(shell: Shell) -> None:
    done = shell("run", "broken.py", "--progress", "plain", code=1)
    lines = [line for line in done.err.splitlines() if line.startswith("20")]
    assert any("check[1] failed: ValueError: bad row 2" in line for line in lines)
    assert any("check[0] | checking 1" in line for line in lines)
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z \S", line) for line in lines)
    assert "\r" not in done.err
    assert "\x1b" not in done.err


def test_groups_tell_their_milestones(shell: Shell) -> None:
    shell.write(
        "many.py",
        """
        from flowq import Flowq, group
        app = Flowq("many")
        @app.task
        def one(i): return i
        pipeline = group(one.si(i) for i in range(40))
        """,
    )
    err = shell("run", "many.py").err
    assert "one × 40: 100 % (40 succeeded)" in err
    assert "one[7]" not in err


def test_json_progress_is_objects_on_stderr(shell: Shell) -> None:
    shell("run", "two.py")  # makes the store, which is said in words
    done = shell("run", "two.py", "--progress", "json")
    events = [json.loads(line) for line in done.err.splitlines()]
    assert events[0] == {**events[0], "event": "run", "state": "RUNNING"}
    assert [e["name"] for e in events if e.get("after") == "SUCCESS"] == ["start", "finish"]
    assert events[-1] == {**events[-1], "event": "run", "state": "SUCCESS"}
    assert all(event["schema"] == 1 for event in events)
    rerun = shell("rerun", "@last", "--progress", "json")
    assert "SUCCESS in" not in rerun.err  # the summary, in words
    assert json.loads(rerun.err.splitlines()[-1])["state"] == "SUCCESS"


def test_a_time_out_exits_5_and_the_run_can_be_resumed(shell: Shell) -> None:
    done = shell("run", "slow.py", "-a", "seconds=0.7", "--timeout", "0.3s", code=5)
    assert "resume with: flowq resume" in done.err
    assert shell("resume").out == "2\n"


def test_the_same_key_gives_the_same_run(shell: Shell) -> None:
    one = shell("run", "two.py", "--idempotency-key", "k", "--json").json
    two = shell("run", "two.py", "--idempotency-key", "k", "--json").json
    assert one["id"] == two["id"]
    assert shell("run", "broken.py", "--idempotency-key", "k", code=8).says("'k'")


def test_a_path_without_a_terminal_gets_no_colours_even_if_forced(shell: Shell) -> None:
    done = shell("run", "two.py", "--json", FORCE_COLOR="1")
    assert "\x1b" not in done.out + done.err


def test_what_tasks_submit_is_finished_too(shell: Shell) -> None:
    shell.write(
        "kids.py",
        """
        import threading
        from flowq import Flowq
        app = Flowq("kids")
        @app.task
        def kid(seconds): threading.Event().wait(seconds)
        @app.task
        def parent(): (kid.si(0.3) | kid.si(0.1)).delay()
        pipeline = parent.s()
        """,
    )
    assert "finishing 1 other run" in shell("run", "kids.py").err
    assert [run["state"] for run in shell("list", "--json").lines] == ["SUCCESS", "SUCCESS"]


# -- the terminal -------------------------------------------------------------------------------


def on_a_terminal(shell: Shell, *args: str, rows: int = 24) -> tuple[str, int]:
    """Run with stderr on a pseudo terminal; gives what came there and the exit code."""
    ours, theirs = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "flowq", *args],
        cwd=shell.folder,
        env={**shell.env, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    deadline, found = time.monotonic() + PATIENCE, b""
    while time.monotonic() < deadline:
        ready = readable([ours], 1.0)
        try:
            chunk = os.read(ours, 65536) if ready else b""
        except OSError:  # the other end is closed
            break
        found += chunk
    os.close(ours)
    return found.decode(errors="replace"), process.wait(timeout=PATIENCE)


def test_a_terminal_sees_the_tree_live(shell: Shell) -> None:
    text, code = on_a_terminal(shell, "run", "slow.py", "-a", "seconds=0.4")
    assert code == 0
    assert "├──" in text
    assert "●" in text
    assert "\x1b[" in text
    assert "3 succeeded" in text


def test_the_tree_is_never_taller_than_the_terminal(shell: Shell) -> None:
    text, _ = on_a_terminal(shell, "run", "slow.py", "-a", "seconds=0.1", "-a", "steps=30", rows=12)
    moved = [int(n) for n in re.findall(r"\x1b\[(\d+)A", text)] + [text.count("\x1b[1A\x1b[2K")]
    frames = re.split("RUNNING|SUCCESS", text)[1:]  # the last one is what stays
    assert frames
    assert max(frame.count("nap") for frame in frames) <= 12
    assert "more" in text or "waiting" in text
    assert moved


def test_no_colour_on_a_terminal_when_asked(shell: Shell) -> None:
    text, _ = on_a_terminal(shell, "run", "slow.py", "-a", "seconds=0.3", "--no-color")
    assert not re.search(r"\x1b\[[\d;]*3[0-7]m", text)


# -- being stopped ------------------------------------------------------------------------------


def test_ctrl_c_finishes_what_runs_and_says_how_to_resume(shell: Shell) -> None:
    process = shell.start("run", "slow.py", "-a", "seconds=1", "--progress", "plain")
    read_until(process.stderr, "nap started")
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.code == 130
    assert "resume with: flowq resume" in done.err
    assert ledger(shell) == ["0 began", "0 ended"]
    assert shell("resume").out == "2\n"
    assert ledger(shell).count("0 began") == 1


def test_sigterm_does_the_same_with_its_own_code(shell: Shell) -> None:
    process = shell.start("run", "slow.py", "-a", "seconds=1", "--progress", "plain")
    read_until(process.stderr, "nap started")
    process.terminate()
    assert finish(process).code == 143


def test_a_second_ctrl_c_ends_at_once(shell: Shell) -> None:
    process = shell.start("run", "slow.py", "-a", "seconds=30", "--progress", "plain")
    read_until(process.stderr, "nap started")
    process.send_signal(signal.SIGINT)
    read_until(process.stderr, "once more")
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.code == 130
    assert "flowq resume" in done.err
    assert ledger(shell) == ["0 began"]


def test_a_killed_run_is_resumed_without_running_what_had_ended(shell: Shell) -> None:
    process = shell.start("run", "slow.py", "-a", "seconds=0.6", "--progress", "plain")
    read_until(process.stderr, "nap#2 started")
    process.kill()
    finish(process)
    assert shell("show", "--json").json["state"] == "RUNNING"
    assert "gone" in shell("show").out
    assert shell("result", code=8).says("process is gone")
    done = shell("resume")
    assert done.out == "2\n"
    assert "1 of 3 nodes had ended" in done.err
    assert "slow.py:pipeline (as recorded)" in done.err
    assert ledger(shell).count("0 began") == 1


def test_resume_of_an_ended_run_prints_its_result_and_runs_nothing(shell: Shell) -> None:
    shell("run", "two.py")
    done = shell("resume", "@last")
    assert done.out == "42\n"
    assert "has ended already" in done.err


def test_resume_warns_of_changed_code(shell: Shell) -> None:
    shell("run", "slow.py", "-a", "seconds=0.7", "--timeout", "0.3s", code=5)
    with (shell.folder / "slow.py").open("a") as file:
        file.write("\n# changed\n")
    assert "has changed since" in shell("resume").err


def test_resume_does_not_load_what_lies_elsewhere(shell: Shell, tmp_path: Path) -> None:
    shell("run", "slow.py", "-a", "seconds=0.7", "--timeout", "0.3s", code=5)
    store = f"sqlite:///{shell.folder}/.flowq/flowq.db"
    other = tmp_path / "other"
    other.mkdir()
    place = Shell(other, {})
    assert place("resume", "--store", store, code=7).says("not in this folder")
    done = place("resume", "--store", store, "--target", str(shell.folder / "slow.py"))
    assert done.out == "2\n"


# -- detached -----------------------------------------------------------------------------------


def test_a_detached_run_prints_its_id_and_outlives_the_command(shell: Shell) -> None:
    done = shell("run", "slow.py", "-a", "seconds=0.3", "--detach")
    uid = done.out.strip()
    assert re.fullmatch(r"[0-9a-f-]{36}", uid)
    assert shell("result", uid).out == "2\n"
    watched = shell("watch", uid, "--json")
    assert watched.lines == [] or watched.lines[-1]["state"] == "SUCCESS"


def test_a_detached_run_that_cannot_start_says_why(shell: Shell) -> None:
    shell.write("bad.py", "def f(:\n")
    done = shell("run", "bad.py", "--detach", code=7)
    assert done.out == ""
    assert done.says("not Python")


def test_runs_of_live_processes_are_paused_and_cancelled_from_outside(shell: Shell) -> None:
    uid = shell("run", "slow.py", "-a", "seconds=20", "--detach").out.strip()
    began = time.monotonic()
    assert shell("pause", uid, "--json").json["state"] == "PAUSED"
    assert time.monotonic() - began < 10
    assert shell("resume", uid, code=8).says("another live process")
    assert shell("result", uid, code=6).out == ""
    assert shell("unpause", uid, "--json").json["state"] == "RUNNING"
    assert shell("cancel", uid, "--json").json["state"] == "CANCELLED"
    assert shell("result", uid, code=3).out == ""
    assert shell("cancel", uid, code=8).says("CANCELLED")


def test_runs_of_dead_processes_are_paused_and_cancelled_too(shell: Shell) -> None:
    shell("run", "slow.py", "-a", "seconds=0.7", "--timeout", "0.3s", code=5)
    assert shell("pause", "@last", "--json").json["state"] == "PAUSED"
    done = shell("unpause", "@last")
    assert "flowq resume" in done.err
    assert shell("pause", "@last", "--json").json["state"] == "PAUSED"
    assert shell("resume").out == "2\n"
    shell("run", "slow.py", "-a", "seconds=0.7", "--timeout", "0.3s", code=5)
    assert shell("cancel", "@last", "--json").json["state"] == "CANCELLED"
    assert shell("retry").out == "2\n"


def test_watch_follows_another_process_to_its_end(shell: Shell) -> None:
    uid = shell("run", "slow.py", "-a", "seconds=0.4", "--detach").out.strip()
    done = shell("watch", uid)
    assert "nap#3" in done.err
    assert "SUCCESS" in done.err
    assert done.out == ""


# -- again --------------------------------------------------------------------------------------


def test_retry_runs_what_failed_and_what_waited_for_it(shell: Shell) -> None:
    failed = shell("run", "broken.py", "--json", code=1).json
    (shell.folder / "mended").touch()
    again = shell("retry", "--json").json
    assert (again["id"], again["result"], again["generation"]) == (failed["id"], 3, 1)
    assert shell("logs", "@last", "check[0]").out.count("checking") == 1
    assert shell("retry", code=8).says("no failed node")


def test_rerun_makes_a_new_run_and_reuses_what_is_not_behind(shell: Shell) -> None:
    failed = shell("run", "broken.py", "--json", code=1).json
    (shell.folder / "mended").touch()
    fresh = shell("rerun", failed["id"], "--json").json
    assert (fresh["result"], fresh["rerun_of"]) == (3, failed["id"])
    assert fresh["counts"] == {"SUCCESS": 4}
    part = shell("rerun", failed["id"], "--from", "check[1]", "--json")
    assert part.json["result"] == 3
    assert "2 results reused" in part.err
    assert shell("logs", "@last", "check[0]").out == ""
    assert "checking 2" in shell("logs", "@last", "check[1]").out
    assert shell("rerun", failed["id"], "--from", "chek", code=4).says("no node 'chek'")


def test_rerun_keeps_the_value_of_what_had_replaced_a_node(shell: Shell) -> None:
    shell.write(
        "growing.py",
        """
        from flowq import Flowq, chain
        app = Flowq("growing")
        @app.task
        def leaf(x):
            print("leaf")
            return x * 10
        @app.task(bind=True)
        def grow(self, x): return self.replace(leaf.s(x))
        @app.task
        def last(x): return x + 1
        pipeline = grow.s(4) | last.s()
        """,
    )
    assert shell("run", "growing.py").out == "41\n"
    assert shell("rerun", "--from", "last").out == "41\n"
    assert shell("show", "@last", "--json", "--nodes").json["counts"] == {"SUCCESS": 2}
    assert shell("logs").out == ""
    assert shell("rerun").out == "41\n"
    assert "leaf" in shell("logs").out


def test_partials_and_builtins_of_the_program_file_are_tasks(shell: Shell) -> None:
    shell.write(
        "parts.py",
        """
        import functools, operator
        from flowq import Flowq, group
        app = Flowq("p")
        def own(a, b): return a * 10 + b
        total = app.task(sum, name="total")
        power = app.task(functools.partial(pow, 2), name="power")
        mine = app.task(functools.partial(own, 3), name="mine")
        times = app.task(operator.mul)
        pipeline = group(group(power.s(2), power.s(3), mine.s(1)) | total.s(), times.s(3, 4))
    """,
    )
    assert shell("run", "parts.py", "--json").json["result"] == [43, 12]


def test_what_a_file_prints_while_it_is_loaded_is_no_data(shell: Shell) -> None:
    shell.write("loud.py", """
        from flowq import Flowq
        app = Flowq("loud")
        print("loading")
        @app.task
        def one(): return 1
        def pipeline():
            print("building")
            return one.s()
    """)  # fmt: skip
    for words in (("run", "loud.py", "--json"), ("run", "loud.py", "--dry-run", "--json")):
        done = shell(*words)
        assert done.json
        assert "loading" in done.err
        assert "building" in done.err
    assert shell("graph", "loud.py").out.startswith("digraph")


def test_a_task_reads_results_in_a_thread_and_in_a_pool_child(shell: Shell) -> None:
    shell.write("reads.py", """
        from flowq import Flowq, allow_join_result
        app = Flowq("reads")
        @app.task
        def one(): return 1
        @app.task
        def reads():
            with allow_join_result():
                return one.delay().get(timeout=20)
        pipeline = reads.s()
    """)  # fmt: skip
    for pool in ("threads", "prefork"):
        assert shell("run", "reads.py", "-P", pool, "-c", "2").out == "1\n"


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_stdout_is_for_the_result_whatever_writes_there(shell: Shell, pool: str) -> None:
    shell.write("noisy.py", """
        import os, sys, threading
        from flowq import Flowq
        app = Flowq("noisy")
        @app.task
        def noisy():
            sys.stdout.buffer.write(b"as bytes\\n")
            sys.stdout.buffer.flush()
            thread = threading.Thread(target=print, args=("in a thread",))
            thread.start()
            thread.join()
            os.system("echo in a program")
            os.write(1, b"to the descriptor\\n")
            return 5
        pipeline = noisy.s()
    """)  # fmt: skip
    done = shell("run", "noisy.py", "-P", pool)
    assert done.out == "5\n"
    for words in ("in a thread", "in a program", "to the descriptor"):
        assert words in done.err
    assert "as bytes" in shell("logs", "@last").out
    assert shell("rerun", "@last").out == "5\n"
