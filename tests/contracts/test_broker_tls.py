"""`rediss://`: a Redis of our own that speaks TLS, with a certificate of our own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowq.broker.connection import Broker, BrokerOptions
from flowq.broker.consumer import Consumer
from flowq.broker.delivery import Outgoing
from flowq.broker.queues import Router
from flowq.errors import BrokerError
from tests.descriptors import readable
from tests.servers import absent

pytestmark = pytest.mark.services


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _certificate(folder: Path) -> None:
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            "-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URL of a Redis that speaks only TLS, and the file of its certificate."""
    for program in ("redis-server", "openssl"):
        if shutil.which(program) is None:
            absent(f"no {program} here")
    folder, port = tmp_path_factory.mktemp("tls"), _port()
    _certificate(folder)
    server = subprocess.Popen(
        [
            "redis-server", "--port", "0", "--tls-port", str(port), "--save", "",
            "--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem",
            "--tls-ca-cert-file", "cert.pem", "--tls-auth-clients", "no", "--bind", "127.0.0.1",
        ],
        cwd=folder, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    lines = []
    for line in server.stdout:
        lines.append(line)
        if "Ready to accept" in line:
            break
    else:
        absent(f"this redis-server does not speak TLS: {''.join(lines)[-200:]}")
    yield f"rediss://127.0.0.1:{port}/0", str(folder / "cert.pem")
    server.terminate()
    server.communicate(timeout=20)


def test_a_certificate_is_checked_unless_that_is_turned_off(secure: tuple[str, str]) -> None:
    url, _ = secure
    with pytest.raises(BrokerError, match=r"(?i)certificate"):
        Broker(url, BrokerOptions(timeout=2.0)).check()
    for trusting in (
        Broker(f"{url}?ssl_cert_reqs=none"),
        Broker(url, BrokerOptions(use_ssl={"ssl_cert_reqs": "none"})),
    ):
        trusting.check()
        trusting.close()


def test_messages_go_through_tls(secure: tuple[str, str]) -> None:
    url, certificate = secure
    options = BrokerOptions(use_ssl={"ssl_ca_certs": certificate, "ssl_cert_reqs": "required"})
    broker, router = Broker(url, options), Router({})
    consumer = Consumer(url, options, router, queues=["celery"], store_id=None)
    body = "x" * 300_000  # more than one record of TLS
    for _ in range(2):
        broker.publish(Outgoing(body), routing_key="celery", queue=router.queue("celery"))
    deadline, found = time.monotonic() + 20, []
    while len(found) < 2:
        assert time.monotonic() < deadline
        readable(consumer.handles(), consumer.timeout())
        found += consumer.take(0, 1)
    for each in found:
        assert each.body == body.encode()
        each.ack()
    consumer.close()
    broker.close()
