"""One slot of shared memory per pool child: what it runs now, and what it must hand back.

The child writes the item it begins *before* the body runs, so that the parent can name the
culprit when the child dies, and see from outside that an item runs long. The parent writes up to
which part the child is to hand back what it has not begun.

Each word is eight aligned bytes with a single writer and is stored and read in one piece. A
reader that must not be wrong about two words at once reads the first again.
"""

from __future__ import annotations

import mmap
import os
from typing import NamedTuple

_WORDS = 8
_INDEX_BITS = 20
_INDEX_MASK = (1 << _INDEX_BITS) - 1
#: Places that a pool has room for, so that it can grow; a page of memory holds 64 of them, and
#: one that is not touched costs nothing.
ROOM = 1024
#: Items that fit into one part.
MAX_ITEMS = _INDEX_MASK - 1


class Begun(NamedTuple):
    """The item a child has begun and not ended."""

    #: Number of the part that holds it.
    part: int
    #: Place in that part.
    place: int
    #: When it began, on the machine's monotonic clock, in seconds.
    at: float


class Slot:
    """One child's words, seen from either side."""

    __slots__ = ("_numbers", "_place", "_times")

    def __init__(self, numbers: memoryview[int], times: memoryview[float], place: int) -> None:
        self._numbers, self._times = numbers, times
        self._place = place * _WORDS

    def begin(self, part: int, index: int, at: float) -> None:
        """Child: say that the item at `index` of a part begins, in monotonic seconds."""
        place = self._place
        self._times[place + 1] = at
        self._numbers[place] = part << _INDEX_BITS | index + 1

    def idle(self) -> None:
        """Child: say that no item runs."""
        self._numbers[self._place] = 0

    def recalled(self) -> int:
        """Child: parts up to this number are to be handed back; 0 for none."""
        return int(self._numbers[self._place + 2])

    def recall(self, part: int) -> None:
        """Parent: have the child hand back what it has not begun of parts up to this number."""
        self._numbers[self._place + 2] = part

    def begun(self) -> Begun | None:
        """Parent: the item that runs, or None."""
        place = self._place
        while True:
            word = int(self._numbers[place])
            if not word:
                return None
            at = float(self._times[place + 1])
            if int(self._numbers[place]) == word:
                return Begun(word >> _INDEX_BITS, (word & _INDEX_MASK) - 1, at)

    def clear(self) -> None:
        """Parent: make the slot ready for a new child."""
        for number in range(_WORDS):
            self._numbers[self._place + number] = 0


class Slots:
    """The shared memory of a pool."""

    def __init__(self, count: int, fd: int | None = None) -> None:
        """Make slots, or (with the fd of another process's) see theirs."""
        self.count = count
        size = count * _WORDS * 8
        self.fd = _memory() if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, size)
        self._map = mmap.mmap(self.fd, size)
        self._bytes = memoryview(self._map)
        self._numbers = self._bytes.cast("Q")
        self._times = self._bytes.cast("d")

    def __getitem__(self, place: int) -> Slot:
        if not 0 <= place < self.count:
            raise IndexError(place)
        return Slot(self._numbers, self._times, place)

    def close(self) -> None:
        """Give the file descriptor back; slots already handed out stay readable."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("flowq-slots", os.MFD_CLOEXEC)
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
