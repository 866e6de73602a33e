"""`BackendOptions`: the settings that result backends and update lanes look at."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec


class BackendOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the settings say about results, and about the connections they travel on."""

    #: Seconds for which an outcome is kept; 0.0: for ever.
    expires: float = 86_400.0
    #: Name, arguments, worker, retries and queue are kept with it.
    extended: bool = False
    serializer: str = "json"
    #: Name of a compression, as kombu knows them; none: "".
    compression: str = ""
    accept: tuple[str, ...] = ("json", "msgpack")
    #: rpc: replies and their queue survive a restart of the broker.
    persistent: bool = False
    #: `result_backend_transport_options`.
    transport: Mapping[str, Any] = {}
    #: TLS options of Redis, as Celery's `redis_backend_use_ssl`.
    redis_ssl: Mapping[str, Any] = {}
    #: TLS, login and transport options of the broker, for what travels through it.
    broker_ssl: Any = False
    broker_login: str | None = None
    broker_transport: Mapping[str, Any] = {}
    broker_timeout: float = 4.0

    @classmethod
    def of(cls, conf: Mapping[str, Any]) -> BackendOptions:
        """As the settings say; what they do not name keeps its default."""
        expires = conf.get("result_expires", 86_400.0)
        if isinstance(expires, timedelta):
            expires = expires.total_seconds()
        accept = conf.get("result_accept_content") or conf.get("accept_content") or ()
        serializer = str(conf.get("result_serializer") or "json")
        return cls(
            expires=float(expires or 0.0),
            extended=bool(conf.get("result_extended")),
            serializer=serializer,
            compression=str(conf.get("result_compression") or ""),
            accept=tuple(dict.fromkeys(("json", "msgpack", *accept))),
            persistent=bool(conf.get("result_persistent")),
            transport=dict(conf.get("result_backend_transport_options") or {}),
            redis_ssl=dict(conf.get("redis_backend_use_ssl") or {}),
            broker_ssl=conf.get("broker_use_ssl") or False,
            broker_login=conf.get("broker_login_method"),
            broker_transport=dict(conf.get("broker_transport_options") or {}),
            broker_timeout=float(conf.get("broker_connection_timeout") or 4.0),
        )

    @property
    def prefix(self) -> str:
        """What every key begins with (`global_keyprefix`)."""
        return str(self.transport.get("global_keyprefix") or "")

    @property
    def patience(self) -> float:
        """Seconds for which a call goes on although the backend is away."""
        policy = self.transport.get("retry_policy") or {}
        return float(policy.get("timeout") or 5.0)


def shown(url: str) -> str:
    """A URL for people: without password, user and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"
