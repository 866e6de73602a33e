"""Hosts of their own for a test: network namespaces on one bridge, with servers in one of them.

Each host has a link that can be taken down, after which packets to and from it are lost without a
word, as when a cable is pulled. The bridge is in a namespace, too; this machine joins it by one
link, so that a test may look into the servers.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.started import absent, program, until

#: Addresses that are set apart for tests of networks.
SUBNET = "198.18"


def ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the `ip` program."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=30)
    if check and done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done


def require_namespaces() -> None:
    """Skip the test where namespaces cannot be made."""
    if shutil.which("ip") is None:
        absent("no ip program here; it is part of iproute2")
    name = f"fq{secrets.token_hex(3)}"
    made = ip("netns", "add", name, check=False)
    if made.returncode:
        pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
    linked = ip("-n", name, "link", "add", "b0", "type", "bridge", check=False)
    ip("netns", "del", name)
    if linked.returncode:
        pytest.skip(f"bridges cannot be made here: {linked.stderr.strip()}")


class Net:
    """A bridge with hosts on it. Close it: everything goes.

    Args:
        hosts: Their names.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._token = f"fq{secrets.token_hex(3)}"
        self._subnet = f"{SUBNET}.{secrets.randbelow(250) + 1}"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._made: list[str] = []
        self._folder = Path(tempfile.mkdtemp(prefix="flowq-net-"))
        self._folder.chmod(0o755)
        self._names = {name: f"{self._token}{name}" for name in hosts}
        self._hub = f"{self._token}hub"
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for name in (self._hub, *self._names.values()):
            ip("netns", "add", name)
            self._made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", self._hub, "link", "add", "bridge", "type", "bridge")
        ip("-n", self._hub, "link", "set", "bridge", "up")
        for number, (host, name) in enumerate(self._names.items(), 1):
            ip("-n", name, "link", "add", "eth0", "type", "veth", "peer", f"to-{host}")
            self._join(host, ["-n", name], "eth0", number)
        ours = f"{self._token}h"
        ip("link", "add", ours, "type", "veth", "peer", "to-here")
        self._join("here", [], ours, 254)

    def _join(self, host: str, where: list[str], device: str, number: int) -> None:
        port = f"to-{host}"
        ip(*where, "link", "set", port, "netns", self._hub)
        ip("-n", self._hub, "link", "set", port, "master", "bridge")
        ip("-n", self._hub, "link", "set", port, "up")
        ip(*where, "addr", "add", f"{self._subnet}.{number}/24", "dev", device)
        ip(*where, "link", "set", device, "up")

    def address(self, host: str) -> str:
        """A host's address."""
        return f"{self._subnet}.{list(self._names).index(host) + 1}"

    def on(self, host: str) -> list[str]:
        """What comes before a command that is to run on a host."""
        return ["ip", "netns", "exec", self._names[host]]

    def unplug(self, host: str) -> None:
        """Take a host's link down: what it sends, and what is sent to it, is lost."""
        ip("-n", self._hub, "link", "set", f"to-{host}", "down")

    def plug_in(self, host: str) -> None:
        """Take the link up again."""
        ip("-n", self._hub, "link", "set", f"to-{host}", "up")

    # -- servers -------------------------------------------------------------------------

    def redis(self, host: str) -> str:
        """Start a Redis; gives its URL without a database."""
        self._start(
            host,
            [program("redis-server"), "--port", "6379", "--bind", "0.0.0.0", "--save", ""]
            + ["--protected-mode", "no", "--dir", str(self._folder)],
        )
        self._await(host, 6379)
        return f"redis://{self.address(host)}:6379"

    def postgres(self, host: str) -> str:
        """Start a PostgreSQL with an empty database; gives that one's URL."""
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if not found:
            absent("no PostgreSQL server program here")
        folder = self._folder / "postgres"
        folder.mkdir()
        shutil.chown(folder, "postgres", "postgres")
        user = [program("setpriv"), "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        init = [str(found[-1].with_name("initdb")), "-D", f"{folder}/db", "-U", "postgres"]
        subprocess.run(
            [*user, *init, "--auth", "trust", "--no-sync"], check=True, capture_output=True
        )
        with (folder / "db" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {self._subnet}.0/24 trust\n")
        settings = ["listen_addresses=*", f"unix_socket_directories={folder}", "fsync=off"]
        options = [word for setting in settings for word in ("-c", setting)]
        self._start(host, [*user, str(found[-1]), "-D", f"{folder}/db", *options])
        self._await(host, 5432)
        return f"postgresql+psycopg://postgres@{self.address(host)}:5432/postgres"

    def rabbitmq(self, host: str) -> str:
        """Start a RabbitMQ; gives its URL."""
        script = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # the one that asks for no user
        path = str(script) if script.is_file() else program("rabbitmq-server")
        folder = self._folder / "rabbitmq"
        folder.mkdir()
        (folder / "own.conf").write_text("loopback_users = none\n")
        environ = {
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"{self._token}@localhost",
            "RABBITMQ_MNESIA_BASE": str(folder / "db"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "own"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +S 1:1",
        }
        self._start(host, [path], environ)
        self._await(host, 5672)
        return f"pyamqp://guest:guest@{self.address(host)}:5672//"

    def _start(self, host: str, command: list[str], environ: dict[str, str] | None = None) -> None:
        with (self._folder / f"server-{len(self._processes)}.log").open("wb") as log:
            self._processes.append(
                subprocess.Popen(
                    [*self.on(host), *command],
                    cwd="/",
                    env={**os.environ, **(environ or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _await(self, host: str, port: int) -> None:
        def listens() -> bool:
            done = subprocess.run(
                [*self.on(host), "ss", "-Htln", f"sport = :{port}"], capture_output=True, text=True
            )
            return bool(done.stdout.strip())

        logs = "\n".join(log.read_text()[-2000:] for log in self._folder.glob("server-*.log"))
        assert until(listens, 60.0, 0.1), f"nothing listens on port {port} of {host}\n{logs}"

    # -- ending --------------------------------------------------------------------------

    def close(self) -> None:
        """End the servers and every process that is left on a host, and remove the hosts."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        for name in self._made:
            for pid in ip("netns", "pids", name, check=False).stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            ip("netns", "del", name, check=False)
        self._made.clear()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def network(*hosts: str) -> Iterator[Net]:
    """A network for one test; skips where there can be none."""
    require_namespaces()
    made = Net(hosts)
    try:
        yield made
    finally:
        made.close()
