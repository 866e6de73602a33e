"""Where the tests find Redis and RabbitMQ, and what they do when there is none.

Every name that a test puts on a server holds a token of its own, so tests run side by side.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest

REDIS = os.environ.get("FLOWQ_TEST_REDIS", "redis://127.0.0.1:6379/10")
RABBITMQ = os.environ.get("FLOWQ_TEST_RABBITMQ", "pyamqp://guest:guest@127.0.0.1:5672//")


def absent(reason: str) -> NoReturn:
    """Skip for want of a server; fail where all servers are supposed to be there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def token() -> str:
    """A part of names that nobody else has."""
    return f"t{secrets.token_hex(4)}"


def address(url: str) -> tuple[str, int]:
    """Host and port of a URL."""
    parts = urlsplit(url)
    default = 6379 if parts.scheme.startswith("redis") else 5672
    return parts.hostname or "127.0.0.1", parts.port or default


def through(url: str, port: int) -> str:
    """The same URL, at a port of this machine."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{login}{'@' if login else ''}127.0.0.1:{port}").geturl()


def redis_client() -> Any:
    """A client of the tests' Redis database."""
    import redis

    return redis.Redis.from_url(REDIS)


def wipe_redis(part: str) -> None:
    """Remove every key whose name has that part: what `FLUSHALL` does to one test."""
    with redis_client() as client:
        for key in client.scan_iter(f"*{part}*"):
            client.delete(key)


@contextmanager
def rabbit_channel(url: str) -> Iterator[Any]:
    """A channel of py-amqp, beside what is tested."""
    from kombu import Connection

    with Connection(url) as connection:
        yield connection.channel()


def rabbitmqctl(*args: str) -> None:
    """Run RabbitMQ's control program; skips when it is not here or not allowed."""
    if shutil.which("rabbitmqctl") is None:
        pytest.skip("rabbitmqctl is not installed here")
    done = subprocess.run(["rabbitmqctl", *args], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"rabbitmqctl {args[0]} does not work here: {done.stderr.strip()[-200:]}")


def check_redis() -> str:
    """URL of Redis, or a skip."""
    import redis

    try:
        with redis_client() as client:
            client.ping()
    except redis.RedisError as exc:
        absent(f"no Redis at {REDIS}: {exc}")
    return REDIS


def check_rabbitmq() -> str:
    """URL of RabbitMQ, or a skip."""
    try:
        with rabbit_channel(RABBITMQ):
            return RABBITMQ
    except Exception as exc:
        absent(f"no RabbitMQ at {RABBITMQ}: {exc}")
