"""Connecting to an AMQP broker for what is neither a task nor a bundle: update lanes and replies.

Everything here is bounded: connecting, and each answer that is waited for.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

import flowq.broker.library  # noqa: F401 - before threads
from flowq.core.masking import mask_url
from flowq.errors import BrokerError

#: Most seconds for one answer.
ANSWER_SECONDS = 1.0


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """How the broker is reached: its URLs, and options of the connection."""

    urls: Sequence[str]
    timeout: float = 1.0
    ssl: Any = False
    login: str | None = None
    transport: dict[str, Any] = {}

    @property
    def shown(self) -> str:
        """The first URL without its password, for messages."""
        return mask_url(self.urls[0])

    def connect(self, *, heartbeat: float = 0, confirm: bool = False) -> Any:
        """A kombu connection that stands, to the first URL that answers.

        Raises:
            BrokerError: None of them does.
        """
        from kombu import Connection

        failed: Exception | None = None
        for url in self.urls:
            options = dict(self.transport)
            if url.partition(":")[0] in ("amqp", "amqps", "pyamqp"):
                options.setdefault("read_timeout", ANSWER_SECONDS)
                options.setdefault("write_timeout", ANSWER_SECONDS)
                options["confirm_publish"] = confirm
            made = Connection(
                url, ssl=self.ssl, login_method=self.login, connect_timeout=self.timeout,
                heartbeat=heartbeat, transport_options=options,
            )  # fmt: skip
            try:
                made.ensure_connection(
                    max_retries=1, interval_start=0, interval_step=0, timeout=self.timeout
                )
            except Exception as exc:  # drivers raise what they like when they cannot connect
                failed = exc
                with contextlib.suppress(Exception):
                    made.collect()
            else:
                return made
        said = " ".join(str(failed).split()) or type(failed).__name__
        raise BrokerError(
            f"cannot reach the broker {self.shown} ({said}); start it, or name another (broker_url)"
        ) from failed


@contextlib.contextmanager
def errors(connection: Any, doing: str) -> Iterator[None]:
    """Turn what kombu raises into BrokerError, naming what was attempted."""
    kinds = tuple(
        itertools.chain(connection.connection_errors, connection.channel_errors, (OSError,))
    )
    try:
        yield
    except kinds as exc:
        said = " ".join(str(exc).split()) or type(exc).__name__
        raise BrokerError(f"cannot {doing} at {connection.as_uri()} ({said})") from exc


def drop(connection: Any) -> None:
    """End a connection without asking the server. Never raises."""
    if connection is not None:
        with contextlib.suppress(Exception):  # it may be broken in any way
            connection.collect(socket_timeout=0.05)
