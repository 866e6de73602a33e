"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flowq.store import Store
from tests.servers import check_rabbitmq, check_redis
from tests.started import (  # noqa: F401 - fixtures
    absent,
    memcached_server,
    rabbitmq_server,
    rabbitmq_url,
    redis_prefix,
    redis_server,
    redis_tls,
)

#: Where the tests look for a PostgreSQL server; they make and drop databases of their own.
POSTGRES = os.environ.get("FLOWQ_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/")


def _admin() -> Any:
    import psycopg
    from sqlalchemy import make_url

    url = make_url(POSTGRES)
    return psycopg.connect(
        host=url.host, port=url.port, user=url.username, password=url.password,
        dbname="postgres", autocommit=True, connect_timeout=3,
    )  # fmt: skip


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Callable[[], str]]:
    """Makes an empty database at each call and gives its URL; all are dropped at the end."""
    try:
        admin = _admin()
    except Exception as exc:
        absent(f"no PostgreSQL at {POSTGRES}: {str(exc).strip().splitlines()[0]}")
    made: list[str] = []

    def make() -> str:
        name = f"flowq_test_{os.getpid()}_{secrets.token_hex(4)}"
        admin.execute(f'CREATE DATABASE "{name}"')
        made.append(name)
        return POSTGRES.rstrip("/") + "/" + name

    def drop() -> None:
        while made:
            admin.execute(f'DROP DATABASE IF EXISTS "{made.pop()}" WITH (FORCE)')

    make.drop = drop  # type: ignore[attr-defined]
    yield make
    drop()
    admin.close()


@pytest.fixture
def postgres_url(postgres_server: Any) -> Iterator[str]:
    """URL of a new, empty PostgreSQL database; dropped with all others after the test."""
    yield postgres_server()
    postgres_server.drop()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a new, empty store of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """A new store of either kind, with its tables."""
    made = Store(store_url)
    made.ensure()
    yield made
    made.close()


@pytest.fixture(scope="session")
def redis_url() -> str:
    """URL of a Redis server; the test has its own names there."""
    return check_redis()


@pytest.fixture(scope="session")
def rabbit_url() -> str:
    """URL of a RabbitMQ server; the test has its own names there."""
    return check_rabbitmq()
