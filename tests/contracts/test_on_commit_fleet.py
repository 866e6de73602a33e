"""A canvas committed with the caller's rows while the broker is away: it runs when that is back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.apart import pause
from tests.proxy import CuttingProxy
from tests.rig import Rig, until
from tests.servers import address, through
from tests.started import Server

pytestmark = [pytest.mark.services, pytest.mark.slow, pytest.mark.timeout(180)]

PROJECT = """
    import os
    from flowq import Flowq, chain, group
    from sqlalchemy import NullPool, create_engine, text
    from sqlalchemy.orm import Session
    app = Flowq("proj")

    @app.task
    def add(x, y=1, mark=""):
        ledger = os.open("ledger.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(ledger, f"{mark}\\n".encode())
        os.close(ledger)
        return x + y

    def say(word):
        os.close(os.open(word, os.O_WRONLY | os.O_CREAT))

    def write(session, mark):
        session.execute(text("INSERT INTO article VALUES (:mark)"), {"mark": mark})

    def send(session, mark):
        # everything that goes with a transaction: two runs
        write(session, mark)
        app.submit(chain(add.s(1, mark=mark), add.s(2, mark=mark)), session=session)
        add.apply_async_on_commit((5,), {"mark": mark}, session=session)

    def ended(patience):
        values = [(run.result(patience), run.state.value) for run in app.runs()]
        return sorted([state, value] for value, state in values)
"""
MAKE = """
    engine = create_engine({url!r}, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS article (mark TEXT)"))
"""
SENDING = (
    MAKE
    + """
    with Session(engine) as session:
        send(session, "undone")
        session.rollback()
    with Session(engine) as session:
        send(session, "left")
    with Session(engine) as session:
        send(session, "kept")
        session.commit()
    """
)
WANTED = [["SUCCESS", 4], ["SUCCESS", 6]]


class Outage:
    """A broker that can go away, and come back."""

    def __init__(self, url: str, down: Callable[[], None], up: Callable[[], None]) -> None:
        self.url, self.down, self.up = url, down, up


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Iterator[Outage]:
    """A Redis that is killed and loses all it had; a RabbitMQ that nobody reaches."""
    if request.param == "redis":
        server: Server = request.getfixturevalue("redis_server")
        yield Outage(f"redis://127.0.0.1:{server.port}/0", server.stop, server.start)
        return
    url = request.getfixturevalue("rabbitmq_url")
    with CuttingProxy(*address(url)) as proxy:
        yield Outage(through(url, proxy.port), proxy.cut, proxy.restore)


@pytest.fixture
def rig(request: pytest.FixtureRequest, broker: Outage, tmp_path: Path) -> Iterator[Rig]:
    store = getattr(request, "param", None)
    backend = "db+" + str(request.getfixturevalue("postgres_server")())
    if store == "named":
        store = request.getfixturevalue("postgres_url")
    made = Rig(tmp_path, broker=broker.url, backend=backend, store=store, project=PROJECT)
    yield made
    made.close()


def ledger(rig: Rig) -> list[str]:
    path = rig.folder / "ledger.txt"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("rig", ["named"], indirect=True)
@pytest.mark.parametrize("outage", [5.0, 20.0])
def test_committed_while_the_broker_is_away(rig: Rig, broker: Outage, outage: float) -> None:
    rig.coordinator()
    rig.worker("-c", "2")
    broker.down()
    states = "[run.state.value for run in app.runs()]"
    sending = SENDING.format(url=rig.env["FLOWQ_STORE"])
    assert rig.call(f"{sending}\n    answer({states})") == ["RUNNING"] * 2
    pause(outage)
    assert rig.call(f"answer({states})") == ["RUNNING"] * 2
    assert ledger(rig) == []
    broker.up()
    assert rig.call("answer(ended(60))", patience=80) == WANTED
    assert ledger(rig) == ["kept"] * 3


@pytest.mark.parametrize("started", [True, False], ids=["started", "session first"])
def test_with_the_coordinator_in_the_client(rig: Rig, broker: Outage, started: bool) -> None:
    (rig.folder / ".flowq").mkdir()
    url = f"sqlite:///{rig.folder}/.flowq/flowq.db"
    rig.worker("-c", "2")
    broker.down()
    first = "assert app.submit(add.s(0, 0, mark='first')).state.value == 'RUNNING'"
    program = f"""
    {first if started else ""}
    {SENDING.format(url=url)}
    say("committed")
    answer(ended(60))
    """
    with ThreadPoolExecutor() as pool:
        found: Any = pool.submit(rig.call, program, 120.0)
        until(lambda: (rig.folder / "committed").exists() or found.done(), "it is committed")
        pause(5.0)
        assert ledger(rig) == []
        broker.up()
        assert found.result() == ([["SUCCESS", 0]] if started else []) + WANTED
    assert sorted(ledger(rig)) == (["first"] if started else []) + ["kept"] * 3
