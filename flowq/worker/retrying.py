"""Whether an exception earns another try, and after how many seconds.

The dice are rolled here, where the exception is seen; the delay travels in the report, so that
nothing after the worker needs randomness.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flowq import errors

#: Own dice: a task that seeds the global ones must not decide our jitter, nor we its numbers.
_dice = random.SystemRandom()
#: Raised to steer; never a reason to try again by itself.
_SIGNALS = (errors.TaskSignal,)


def autoretry(task: Any, exc: BaseException, retries: int) -> errors.Retry | None:
    """Decide by the task's options whether `exc` is retried without the task asking for it.

    Args:
        task: Has Celery's options autoretry_for, dont_autoretry_for, retry_kwargs,
            retry_backoff, retry_backoff_max, retry_jitter, max_retries, default_retry_delay.
        exc: What the body raised.
        retries: How often it was retried before.

    Returns:
        The signal to end the attempt with, its delay drawn; None when `exc` stands.
    """
    wanted = _classes(getattr(task, "autoretry_for", None))
    if not wanted or isinstance(exc, _SIGNALS) or not isinstance(exc, wanted):
        return None
    if isinstance(exc, _classes(getattr(task, "dont_autoretry_for", None))):
        return None
    given: Mapping[str, Any] = getattr(task, "retry_kwargs", None) or {}
    limit = given["max_retries"] if "max_retries" in given else getattr(task, "max_retries", None)
    if limit is not None and retries >= limit:
        return None
    return errors.Retry(exc=exc, when=_delay(task, given, retries))


def _classes(given: Any) -> tuple[Any, ...]:
    """Exception classes of an option, which may be one by itself."""
    return (given,) if isinstance(given, type) else tuple(given or ())


def _delay(task: Any, given: Mapping[str, Any], retries: int) -> float:
    backoff = getattr(task, "retry_backoff", False)
    if backoff:
        return backoff_delay(
            factor=max(1.0, float(backoff)),
            retries=retries,
            maximum=float(getattr(task, "retry_backoff_max", 600)),
            jitter=bool(getattr(task, "retry_jitter", True)),
        )
    if given.get("countdown") is not None:
        return float(given["countdown"])
    if given.get("eta") is not None:
        return seconds_until(given["eta"])
    return default_delay(task)


def backoff_delay(*, factor: float, retries: int, maximum: float, jitter: bool) -> float:
    """Seconds to wait: ``factor * 2**retries`` up to `maximum`, with jitter anything below it."""
    delay = min(maximum, factor * 2.0 ** min(retries, 60))
    return _dice.uniform(0.0, delay) if jitter else max(0.0, delay)


def default_delay(task: Any) -> float:
    """Seconds a retry waits when nobody says otherwise."""
    delay = getattr(task, "default_retry_delay", None)
    return 180.0 if delay is None else float(delay)


def asked_delay(task: Any, when: object) -> float:
    """Seconds from now of a Retry's `when`: a number, a datetime, or None for the default."""
    if when is None:
        return default_delay(task)
    if isinstance(when, datetime):
        return seconds_until(when)
    return max(0.0, float(when))  # type: ignore[arg-type]


def seconds_until(eta: datetime) -> float:
    """Seconds from now to a moment, 0 when it is past; a naive one counts as UTC."""
    if eta.tzinfo is None:
        eta = eta.replace(tzinfo=UTC)
    return max(0.0, (eta - datetime.now(UTC)).total_seconds())
