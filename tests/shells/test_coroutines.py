"""Raising something from outside in a coroutine that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from flowq.worker.coroutines import Coroutines


@pytest.fixture
def coroutines() -> Iterator[Coroutines]:
    made = Coroutines()
    yield made
    made.close()


def test_an_interruption_is_not_lost_behind_an_error_of_the_same_moment(
    coroutines: Coroutines,
) -> None:
    async def body() -> str:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def both() -> None:
            future.set_exception(KeyError("its own"))
            assert coroutines.call is not None
            coroutines.call.interrupt(TimeoutError("from outside"))

        loop.call_soon(both)
        try:
            await future
        except KeyError:
            try:
                await asyncio.sleep(5)
            except TimeoutError as exc:
                return str(exc)
        return "never"

    assert coroutines.run(body()) == "from outside"


def test_a_coroutine_stopped_before_its_first_step_does_not_begin(coroutines: Coroutines) -> None:
    began: list[int] = []

    async def body() -> None:
        began.append(1)

    with pytest.raises(TimeoutError, match="early"):
        coroutines.run(body(), told=lambda: TimeoutError("early"))
    assert not began
