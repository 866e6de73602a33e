"""Whether a value is what the oracle expects, as far as that is determined."""

from __future__ import annotations

from tests.core.test_outcomes import matches

__all__ = ["matches"]
