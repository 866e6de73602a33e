"""Brokers for tests of remote control and events."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from flowq.broker.sideline import Access
from tests.started import a_redis

AMQP = os.environ.get("FLOWQ_TEST_AMQP", "pyamqp://guest:guest@127.0.0.1:5672/")


def _refuse(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def rabbit_url() -> Iterator[str]:
    """A virtual host of this session's own, if one can be made."""
    name = f"flowq_control_{os.getpid()}"
    tool = shutil.which("rabbitmqctl")
    url, made = AMQP, False
    if tool:
        made = subprocess.run([tool, "-q", "add_vhost", name], capture_output=True).returncode == 0
    if made:
        grant = ["set_permissions", "-p", name, "guest", ".*", ".*", ".*"]
        subprocess.run([str(tool), "-q", *grant], check=True, capture_output=True)
        url = AMQP.rstrip("/") + "/" + name
    try:
        with Access([url]).opened():
            pass
    except Exception as exc:
        _refuse(f"no RabbitMQ: {exc}")
    yield url
    if made:
        subprocess.run([str(tool), "-q", "delete_vhost", name], check=True, capture_output=True)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of this process's own: broadcasts reach all who listen on one."""
    with a_redis(tmp_path_factory.mktemp("control-redis")) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


@pytest.fixture(params=["redis", "rabbit"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """A broker of either kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def access(broker_url: str) -> Access:
    """How it is reached."""
    return Access([broker_url])
