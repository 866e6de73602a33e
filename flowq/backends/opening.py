"""Which backend a URL means: results of bare tasks, and update lanes of a fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flowq.backends import LaneReader, LaneWriter, ResultStore
from flowq.backends.options import BackendOptions, shown
from flowq.broker.signing import UNSEALED, Seal
from flowq.errors import ImproperlyConfigured
from flowq.store import Store

if TYPE_CHECKING:
    from flowq.broker.amqp import Reach

_REDIS = ("redis", "rediss")
_KNOWN = (
    "redis://, rediss://, rpc://, db+sqlite:///file, db+postgresql://, cache+memcached:// and "
    "cache+memory://"
)


def _options(options: BackendOptions | Mapping[str, Any] | None) -> BackendOptions:
    if isinstance(options, BackendOptions):
        return options
    return BackendOptions() if options is None else BackendOptions.of(options)


def open_results(
    url: str | None,
    options: BackendOptions | Mapping[str, Any] | None = None,
    *,
    broker_urls: Sequence[str] = (),
) -> ResultStore:
    """The store of bare tasks' results behind a URL; nothing is connected before its first use.

    Args:
        url: `result_backend`; empty or None: none is configured.
        options: Settings, or what was read from them.
        broker_urls: Through which rpc:// sends.

    Raises:
        ImproperlyConfigured: The URL is of no known kind, or its client library is missing.
    """
    settings = _options(options)
    scheme = (url or "").partition(":")[0].lower()
    if not url or scheme in ("disabled", "disabled+"):
        from flowq.backends.disabled import NoResults

        return NoResults()
    if scheme in _REDIS:
        from flowq.backends.redis import RedisResults

        return RedisResults(url, settings)
    if scheme == "rpc":
        from flowq.backends.rpc import RpcResults

        if not _urls(broker_urls):
            raise ImproperlyConfigured("results over rpc:// need a broker: set broker_url")
        return RpcResults(_reach(_urls(broker_urls), settings, settings.broker_timeout), settings)
    if scheme.partition("+")[0] in ("db", "database", "sqla"):
        from flowq.backends.database import DatabaseResults

        return DatabaseResults(url, settings)
    if scheme in ("cache+memcached", "cache+pymemcache", "memcached"):
        from flowq.backends.memcached import MemcachedResults

        return MemcachedResults(url, settings)
    if scheme in ("memory", "cache+memory"):
        from flowq.backends.memory import MemoryResults

        return MemoryResults(expires=settings.expires or float("inf"))
    raise ImproperlyConfigured(
        f"result backend {shown(url)} is of no known kind; there are {_KNOWN}"
    )


def _urls(broker_urls: Sequence[str]) -> list[str]:
    return [part for each in broker_urls for part in each.split(";") if part]


def _lane_place(url: str | None, broker_urls: Sequence[str]) -> tuple[str, str]:
    """(kind, URL) of what carries update lanes: redis, amqp or inbox.

    The result backend's Redis, else the broker, if it is one server; else the store itself.
    """
    scheme = (url or "").partition(":")[0].lower()
    if url and scheme in _REDIS:
        return "redis", url
    brokers = _urls(broker_urls)
    kinds = {each.partition(":")[0].lower() for each in brokers}
    if kinds and all(kind in ("amqp", "amqps", "pyamqp") for kind in kinds):
        return "amqp", ";".join(brokers)
    # Of several Redis URLs, writer and reader might each reach another server.
    if len(brokers) == 1 and kinds <= set(_REDIS):
        return "redis", brokers[0]
    return "inbox", ""


def _reach(urls: Sequence[str], settings: BackendOptions, timeout: float) -> Reach:
    """How the broker is reached, for what travels through it on connections of its own."""
    from flowq.broker.amqp import Reach

    return Reach(
        urls=urls, timeout=timeout, ssl=settings.broker_ssl, login=settings.broker_login,
        transport=dict(settings.broker_transport),
    )  # fmt: skip


def open_lane_reader(
    url: str | None,
    *,
    broker_urls: Sequence[str],
    store: Store,
    store_id: str,
    options: BackendOptions | Mapping[str, Any] | None = None,
    seal: Seal = UNSEALED,
) -> LaneReader:
    """The coordinator's end of update lanes; nothing is connected before its first use.

    Args:
        url: `result_backend`.
        broker_urls: The fleet's broker.
        store: Carries lanes where neither can.
        store_id: Name of the store.
        options: Settings, or what was read from them.
        seal: On the records, where they leave the store.

    Raises:
        ImproperlyConfigured: A URL cannot be read, or its client library is missing.
    """
    settings = _options(options)
    kind, place = _lane_place(url, broker_urls)
    if kind == "redis":
        from flowq.backends.redislanes import RedisLaneReader
        from flowq.backends.redislink import RedisPlace

        return RedisLaneReader(RedisPlace(place, settings), store_id, seal)
    if kind == "amqp":
        from flowq.backends.queuelanes import QueueLaneReader

        return QueueLaneReader(_reach(place.split(";"), settings, timeout=1.0), store_id, seal)
    from flowq.backends.inboxlanes import InboxLaneReader

    return InboxLaneReader(store)


def open_lane_writer(
    url: str | None,
    *,
    broker_urls: Sequence[str],
    store: Store,
    store_id: str,
    options: BackendOptions | Mapping[str, Any] | None = None,
    seal: Seal = UNSEALED,
) -> LaneWriter:
    """The workers' end of update lanes; arguments and errors as `open_lane_reader`."""
    settings = _options(options)
    kind, place = _lane_place(url, broker_urls)
    if kind == "redis":
        from flowq.backends.redislanes import RedisLaneWriter
        from flowq.backends.redislink import RedisPlace

        return RedisLaneWriter(RedisPlace(place, settings), store_id, seal)
    if kind == "amqp":
        from flowq.backends.queuelanes import QueueLaneWriter

        return QueueLaneWriter(_reach(place.split(";"), settings, timeout=1.0), store_id, seal)
    from flowq.backends.inboxlanes import InboxLaneWriter

    return InboxLaneWriter(store)
