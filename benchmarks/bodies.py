"""The task bodies that every engine runs: plain functions, registered under the same names."""

from __future__ import annotations

import time

WIDE = 20
MODULUS = 1_000_003


def inc(x: int) -> int:
    return x + 1


def ident(x: int) -> int:
    return x


def total(xs: list[int]) -> int:
    return sum(xs)


def fibo(n: int) -> int:
    return n if n <= 1 else fibo(n - 1) + fibo(n - 2)


def mix(a: int, b: int, c: int) -> int:
    return (a + b + c + 1) % MODULUS


def stamp(xs: list[int]) -> list[float]:
    """End one W5 workflow: the sum of its branches, and the time of this body (epoch seconds)."""
    return [sum(xs), time.time()]


BODIES = {body.__name__: body for body in (inc, ident, total, fibo, mix, stamp)}


def parents_of(column: int) -> tuple[int, int, int]:
    """The three columns of the layer before that a W4 node reads."""
    return column, (column + 7) % WIDE, (column + 13) % WIDE


def layers_value(layers: int) -> int:
    """What W4 has to end with: the sum of the last layer, worked out without any engine."""
    row = [1] * WIDE
    for _ in range(layers - 1):
        row = [mix(*(row[parent] for parent in parents_of(column))) for column in range(WIDE)]
    return sum(row)
