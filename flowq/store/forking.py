"""SQLite and forks: what a process knows of its locks must not be carried into another process.

SQLite remembers in the process's memory which locks its connections hold on a file, and asks the
system for no lock that it believes to have. A fork copies that memory, but no lock: the child would
wait for a transaction of the parent's that never ends there, or count on a lock that it does not
have. So nobody has a connection while a fork is made; each thread opens one again when it next
needs it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from flowq.store.access import Access

#: A fork waits so long for whoever is reading or writing, in seconds.
_PATIENCE: Final = 10.0

_open: weakref.WeakSet[Access] = weakref.WeakSet()
_held = threading.local()


def let_go_before_forks(access: Access) -> None:
    """Have a store let its file go whenever this process forks."""
    _open.add(access)


def _before() -> None:
    _held.stack = contextlib.ExitStack()
    for access in list(_open):
        _held.stack.enter_context(access.let_go(_PATIENCE))


def _after() -> None:
    _held.stack.close()


def _after_in_child() -> None:
    for access in list(_open):
        access.forked()
    _after()


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
