"""Servers for tests: own ones on free ports, and what is set apart on shared ones.

A server that is not there skips the test on a desk and fails it in CI: `absent` decides.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

#: A Redis that tests may share; each takes a database or keys of its own.
REDIS = os.environ.get("FLOWQ_TEST_REDIS", "redis://127.0.0.1:6379")
#: A RabbitMQ whose `rabbitmqctl` works here; tests make virtual hosts of their own.
RABBITMQ = os.environ.get("FLOWQ_TEST_RABBITMQ", "pyamqp://guest:guest@127.0.0.1:5672")


def absent(reason: str) -> NoReturn:
    """Skip the test for want of a server; fail it where CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str) -> str:
    """Path of a server's program, or the test ends here."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        absent(f"no {name} here")
    return found


def free_port() -> int:
    """A TCP port that nobody listens on, and that no other test process is about to take."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    start = 21_000 + 1_000 * (number % 10)
    while True:
        port = start + secrets.randbelow(1_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


def until(condition: Callable[[], object], seconds: float = 10.0, pause: float = 0.005) -> bool:
    """Wait for a condition; False if it did not come true in time."""
    end = time.monotonic() + seconds
    waiting = socket.socketpair()
    waiting[0].settimeout(pause)
    try:
        while not condition():
            if time.monotonic() > end:
                return False
            try:
                waiting[0].recv(1)
            except TimeoutError:
                continue
        return True
    finally:
        for each in waiting:
            each.close()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


class Server:
    """A server process of the test's own, on one port for its whole life.

    Args:
        command: How it is started, given its port.
        environ: Variables that it gets besides ours, given its port.
    """

    def __init__(
        self,
        command: Callable[[int], list[str]],
        environ: Callable[[int], dict[str, str]] = lambda port: {},
    ) -> None:
        self.port = free_port()
        self._command, self._environ = command, environ
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            self._command(self.port),
            env={**os.environ, **self._environ(self.port)},
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
        )
        assert until(lambda: _answers(self.port), 60.0), "the server did not begin to listen"

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End it with a signal and wait for that. A second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            os.killpg(process.pid, number)
            process.wait(30)
            assert until(lambda: not _answers(self.port), 30.0), "the server does not end"

    def signal(self, number: int) -> None:
        """Send it a signal, as to stop and continue it."""
        assert self._process is not None
        os.killpg(self._process.pid, number)


@contextlib.contextmanager
def a_redis(folder: Path) -> Iterator[Server]:
    """A Redis that runs for as long as the block lasts; it keeps nothing when it ends."""
    path = program("redis-server")
    more = ["--save", "", "--appendonly", "no", "--dir", str(folder), "--bind", "127.0.0.1"]
    made = Server(lambda port: [path, "--port", str(port), *more])
    made.start()
    yield made
    made.stop()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Server]:
    """A Redis of the test's own, running."""
    with a_redis(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def redis_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis that speaks TLS only, asks for a password, and is trusted by the URL's CA."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *(program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt"),
            *("ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key)),
            *("-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    path = program("redis-server")
    more = ["--save", "", "--dir", str(folder), "--bind", "127.0.0.1", "--port", "0"]
    more += ["--tls-cert-file", str(cert), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    more += ["--tls-ca-cert-file", str(cert), "--requirepass", "secret"]
    made = Server(lambda port: [path, "--tls-port", str(port), *more])
    made.start()
    checked = f"ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={cert}"
    yield f"rediss://:secret@127.0.0.1:{made.port}/0?{checked}"
    made.stop()


@pytest.fixture
def memcached_server() -> Iterator[Server]:
    """A memcached of the test's own, running."""
    path = program("memcached")
    made = Server(
        lambda port: [path, "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-u", "nobody"]
    )
    made.start()
    yield made
    made.stop()


@pytest.fixture
def rabbitmq_server(tmp_path: Path) -> Iterator[Server]:
    """A RabbitMQ node of the test's own, running, whose disk outlives a restart."""
    script = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one that asks for no user
    path = str(script) if script.is_file() else program("rabbitmq-server")
    second, name = free_port(), f"own{secrets.token_hex(4)}@localhost"

    def environ(port: int) -> dict[str, str]:
        return {
            "HOME": str(tmp_path),
            "RABBITMQ_NODENAME": name,
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(second),
            "RABBITMQ_MNESIA_BASE": str(tmp_path / "db"),
            "RABBITMQ_LOG_BASE": str(tmp_path / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(tmp_path / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(tmp_path / "none"),
            "RABBITMQ_PID_FILE": str(tmp_path / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +S 1:1",
        }

    made = Server(lambda port: [path], environ)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def redis_prefix() -> Iterator[str]:
    """Start of keys that nobody else uses in the shared Redis; they are deleted afterwards."""
    redis = pytest.importorskip("redis")
    client = redis.Redis.from_url(f"{REDIS}/0", socket_connect_timeout=3)
    try:
        client.ping()
    except redis.RedisError as exc:
        absent(f"no Redis at {REDIS}: {exc}")
    prefix = f"test{secrets.token_hex(6)}:"
    yield prefix
    for key in client.scan_iter(f"{prefix}*", 1000):
        client.delete(key)
    client.close()


def rabbitmqctl(*words: str) -> str:
    """What rabbitmqctl says; the test ends here if it cannot talk to a server."""
    done = subprocess.run(
        [program("rabbitmqctl"), "--quiet", *words], capture_output=True, text=True, timeout=60
    )
    if done.returncode:
        absent(f"rabbitmqctl {words[0]}: {(done.stderr or done.stdout).strip()[:200]}")
    return done.stdout


@pytest.fixture(scope="session")
def rabbitmq_url() -> Iterator[str]:
    """URL of a RabbitMQ virtual host of this test session's own."""
    if not _answers(int(RABBITMQ.rpartition(":")[2])):
        absent(f"no RabbitMQ at {RABBITMQ.rpartition('@')[2]}")
    name = f"flowq_test_{os.getpid()}_{secrets.token_hex(4)}"
    user = RABBITMQ.partition("://")[2].partition(":")[0]
    rabbitmqctl("add_vhost", name)
    rabbitmqctl("set_permissions", "-p", name, user, ".*", ".*", ".*")
    yield f"{RABBITMQ}/{name}"
    rabbitmqctl("delete_vhost", name)
