"""Waking a loop that waits on descriptors, from anywhere in this process."""

from __future__ import annotations

import os
from contextlib import suppress
from weakref import WeakSet

_bells: WeakSet[Bell] = WeakSet()


class Bell:
    """Makes a descriptor readable when something was published in this process."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._rung = False
        _bells.add(self)

    def fileno(self) -> int:
        """What to poll."""
        return self._read

    def ring(self) -> None:
        """Make it readable; cheap when it is already."""
        if not self._rung:
            self._rung = True
            with suppress(OSError):
                os.write(self._write, b"x")

    def still(self) -> None:
        """Make it unreadable again."""
        if self._rung:
            self._rung = False
            with suppress(OSError):
                os.read(self._read, 4096)

    def close(self) -> None:
        """Give the descriptors back."""
        _bells.discard(self)
        if self._read >= 0:
            os.close(self._read)
            os.close(self._write)
            self._read = self._write = -1


def ring_all() -> None:
    """Wake every consumer of this process."""
    for bell in list(_bells):
        bell.ring()
