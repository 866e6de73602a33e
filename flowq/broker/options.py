"""How a broker is reached: URLs, and the options that hold for each of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from flowq.core.masking import mask_url
from flowq.errors import ImproperlyConfigured

#: What a URL's scheme stands for here.
KINDS = {
    "amqp": "rabbit",
    "pyamqp": "rabbit",
    "amqps": "rabbit",
    "redis": "redis",
    "rediss": "redis",
    "redis+socket": "redis",
    "memory": "polled",
    "filesystem": "polled",
}


#: What a `retry_policy` says besides `max_retries`: seconds to wait.
RETRY_POLICY = ("interval_start", "interval_step", "interval_max")


class BrokerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every connection to the broker; the defaults are those of the settings."""

    #: Most seconds a publish or check takes, attempts and waits included.
    timeout: float = 5.0
    connect_timeout: float = 4.0
    #: Whether a lost connection is made anew, how often, and how long to wait between.
    retry: bool = True
    max_retries: int | None = 3
    interval_start: float = 0.0
    interval_step: float = 0.2
    interval_max: float = 1.0
    #: Whether a consumer connects again when its first attempt failed, and when it was cut off.
    reconnect_at_start: bool = True
    reconnect: bool = True
    #: Seconds; AMQP only; 0 turns it off.
    heartbeat: float = 120.0
    transport_options: Mapping[str, Any] = {}
    use_ssl: Any = False
    login_method: str | None = None
    failover_strategy: str = "round-robin"

    @classmethod
    def of(cls, conf: Mapping[str, Any]) -> BrokerOptions:
        """Read them from settings (Celery's names)."""
        again, at_start = (
            conf["broker_connection_retry"],
            conf["broker_connection_retry_on_startup"],
        )
        return cls(
            reconnect_at_start=bool(again if at_start is None else at_start),
            reconnect=bool(again),
            connect_timeout=float(conf["broker_connection_timeout"] or 4.0),
            heartbeat=float(conf["broker_heartbeat"] or 0),
            transport_options=dict(conf["broker_transport_options"] or {}),
            use_ssl=conf["broker_use_ssl"] or False,
            login_method=conf["broker_login_method"],
            failover_strategy=conf["broker_failover_strategy"] or "round-robin",
        ).with_retry(bool(conf["task_publish_retry"]), conf["task_publish_retry_policy"])

    def with_retry(self, retry: bool | None, policy: Mapping[str, Any] | None) -> BrokerOptions:
        """The same with another answer to a lost connection; None: as it was.

        Args:
            retry: Whether to connect again.
            policy: How often and how fast, by Celery's names; the rest as it was.
        """
        given: dict[str, Any] = {}
        for key in RETRY_POLICY:
            value = (policy or {}).get(key)
            if value is not None:
                given[key] = float(value)
        if policy and "max_retries" in policy:  # None: for as long as there is time
            given["max_retries"] = policy["max_retries"]
        if retry is not None:
            given["retry"] = bool(retry)
        return msgspec.structs.replace(self, **given) if given else self

    def delay(self, attempt: int) -> float:
        """Seconds to wait before the attempt of that number (from 1), with jitter."""
        full = self.interval_start + self.interval_step * (attempt - 1)
        return min(full, self.interval_max) * random.uniform(0.5, 1.0)

    def delay_of_round(self, failures: int, longest: float) -> float:
        """Seconds before a consumer connects again: at once, then doubling, with jitter."""
        if not failures:
            return random.uniform(0.0, 0.2)
        return min(longest, 0.5 * float(2 ** min(failures, 10))) * random.uniform(0.5, 1.0)


class Addresses:
    """The broker's URLs in the order in which they are tried.

    Args:
        urls: One URL, several separated by `;`, or a list of such.
        strategy: `round-robin` (from the one in use onward) or `shuffle`.

    Raises:
        ImproperlyConfigured: No URL, or one of a kind that is not known.
    """

    def __init__(self, urls: str | Sequence[str], strategy: str = "round-robin") -> None:
        given = [urls] if isinstance(urls, str) else list(urls)
        self.urls = [part.strip() for text in given for part in text.split(";") if part.strip()]
        if not self.urls:
            raise ImproperlyConfigured("no broker is named: set broker_url, or give --broker URL")
        # only the first of `amqp://a//;b` names its scheme, as kombu allows
        kind_of(self.urls[0])
        scheme = self.urls[0].split("://", 1)[0] + "://"
        self.urls = [url if "://" in url else scheme + url for url in self.urls]
        for url in self.urls:
            kind_of(url)
            _check_port(url)
        self._shuffle = strategy == "shuffle"
        self._current = 0

    @property
    def current(self) -> str:
        """The URL in use, or the next to be tried."""
        return self.urls[self._current]

    def advance(self) -> None:
        """Make the next URL the current one."""
        if self._shuffle:
            self._current = random.randrange(len(self.urls))
        else:
            self._current = (self._current + 1) % len(self.urls)

    def turn(self) -> Iterator[str]:
        """Each URL once, the current one first; the one at which the caller stops is current."""
        size = len(self.urls)
        order = [(self._current + step) % size for step in range(size)]
        if self._shuffle:
            random.shuffle(order)
        for place in order:
            self._current = place
            yield self.urls[place]
        self._current = (order[0] + 1) % size


def _check_port(url: str) -> None:
    """Raise ImproperlyConfigured for a port that is no number, or none that there can be."""
    try:
        _ = urlsplit(url).port
    except ValueError:  # whose text may quote a part of the password
        raise ImproperlyConfigured(
            f"broker {mask_url(url)} cannot be read: its host or port is none; write it "
            "as redis://host:6379/0 or pyamqp://user:password@host:5672//"
        ) from None


def kind_of(url: str) -> str:
    """Which of this package's transports serves a URL: `rabbit`, `redis` or `polled`.

    Raises:
        ImproperlyConfigured: None does.
    """
    scheme = url.split("://", 1)[0] if "://" in url else url
    try:
        return KINDS[scheme]
    except KeyError:
        hint = "; Redis Sentinel is not supported, name the server itself"
        raise ImproperlyConfigured(
            f"broker {mask_url(url)} is of no known kind: use pyamqp://, redis://, rediss://, "
            f"memory:// or filesystem://{hint if scheme == 'sentinel' else ''}"
        ) from None
