"""rpc:// through a real worker: pushes to a client that waits, and readers that are others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import Rig

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(180)]

HEARD = """
    app.conf.task_track_started = True
    heard = []
    def listen(message):
        heard.append([message["status"], message["result"]])
    value = progress.delay(0.3).get(timeout=30, on_message=listen)
    retried = []
    times = flaky.delay(2).get(timeout=30, on_message=lambda m: retried.append(m["status"]))
    answer([value, heard, times, retried])
"""

READERS = """
    import multiprocessing, time
    from flowq import errors

    def other(task_id, queue):
        from proj import app
        began = time.monotonic()
        try:
            app.AsyncResult(task_id).get(timeout=30)
        except errors.FlowqError as exc:
            queue.put([type(exc).__name__, str(exc), time.monotonic() - began])

    if __name__ == "__main__":
        result = add.delay(1, 2)
        spawn = multiprocessing.get_context("spawn")
        queue = spawn.Queue()
        reader = spawn.Process(target=other, args=(result.id, queue))
        reader.start()
        theirs = queue.get(timeout=30)
        reader.join()
        answer([result.get(timeout=30), app.AsyncResult(result.id).get(timeout=5), theirs])
"""


@pytest.fixture
def rig(rabbitmq_url: str, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path, broker=rabbitmq_url, backend="rpc://", store=f"sqlite:///{tmp_path}/f.db")
    made.env["FLOWQ_TASK_TRACK_STARTED"] = "true"
    yield made
    made.close()


def test_states_on_the_way_are_pushed(rig: Rig) -> None:
    rig.worker("-c", "1")
    value, heard, times, retried = rig.call(HEARD)
    assert value == "done"
    assert heard[-1] == ["SUCCESS", "done"]
    assert [each for each in heard if each[0] == "PROGRESS"] == [
        ["PROGRESS", {"done": number}] for number in range(3)
    ]
    assert heard[0][0] == "STARTED"
    assert times == 2
    assert retried.count("RETRY") == 2
    assert retried[-1] == "SUCCESS"


def test_a_second_reader_is_told_so_at_once(rig: Rig) -> None:
    rig.worker("-c", "1")
    first, again, (name, text, seconds) = rig.call(READERS)
    assert (first, again) == (3, 3)
    assert name in ("ResultNotHere", "UnknownId")
    assert "\\n" not in text
    assert seconds < 5.0
