"""What may go wrong, and how often: each seed draws its own rates, zero included (swarm)."""

from __future__ import annotations

import random
from collections import Counter

from flowq.errors import StoreUnavailable

#: kind -> rates that a seed may draw, each as likely as none at all.
RATES: dict[str, tuple[float, ...]] = {
    "message lost": (0.05, 0.3),
    "message twice": (0.1, 0.5),
    "message late": (0.1, 0.3),
    "publish fails": (0.02, 0.1),
    "update lost": (0.05, 0.2),
    "update twice": (0.1, 0.4),
    "update late": (0.1, 0.3),
    "commit fails": (0.01, 0.05),
    "commit lies": (0.01, 0.05),
    "read fails": (0.001, 0.005),
    "crash": (0.002, 0.01),
    "child dies": (0.01, 0.05),
    "worker dies": (0.005, 0.02),
    "worker drains": (0.005, 0.02),
    "takeover": (0.003, 0.01),
    "move": (0.003, 0.01),
    "clock jumps": (0.002, 0.01),
    "cancel": (0.001, 0.004),
    "retry": (0.002, 0.01),
    "pause": (0.003, 0.01),
    "revoke": (0.001, 0.003),
    "run breaks": (0.0005, 0.002),
}
#: Kinds that happen once to one thing where they strike: not for every seed.
#: How often a seed has none at all: it shows what happens in peace.
QUIET = 0.08


class Crash(BaseException):
    """A process of the simulation ends here and now. Nothing of flowq may catch it."""


class Weather:
    """The faults of one seed.

    Args:
        rng: Decides about rates and strikes.
        only: Rates by kind in place of drawn ones, for tests of one fault.
    """

    def __init__(self, rng: random.Random, only: dict[str, float] | None = None) -> None:
        self._rng = rng
        self.seen: Counter[str] = Counter()
        self.quiet = only is None and rng.random() < QUIET
        self.rates = {
            kind: 0.0 if self.quiet or rng.random() < 0.5 else rng.choice(rates)
            for kind, rates in RATES.items()
        }
        if only is not None:
            self.rates = dict.fromkeys(RATES, 0.0) | only
        self.over = False

    def strikes(self, kind: str) -> bool:
        """Whether a fault of this kind happens now."""
        rate = self.rates[kind]
        if self.over or not rate or self._rng.random() >= rate:
            return False
        self.seen[kind] += 1
        return True

    def crash(self, where: str) -> None:
        """Perhaps end the process that asks."""
        if self.strikes("crash"):
            self.seen[f"crash {where}"] += 1
            raise Crash(where)

    def store(self, kind: str) -> None:
        """Perhaps let a call of the store fail."""
        if self.strikes(kind):
            raise StoreUnavailable(f"simulated: {kind}")
