"""The way from a pool child to its parent, for what only the parent may do.

Children hold no connection to store or broker: a submission made inside a task goes to the parent
and waits for its answer. While a child is still loading modules and definitions there is nobody
to answer, and a submission there is always a mistake: module code that runs again in each child.
"""

from __future__ import annotations

from collections.abc import Callable

from flowq import errors

#: Sends (name, body) to the parent and gives its answer.
Ask = Callable[[str, bytes], bytes]

_loading = False
_ask: Ask | None = None


def begin_loading() -> None:
    """Note that this process is a pool child (or its zygote) and loads the user's code."""
    global _loading
    _loading = True


def end_loading(ask: Ask | None) -> None:
    """Note that loading has ended; `ask` is the way to the parent from now on."""
    global _loading, _ask
    _loading, _ask = False, ask


def is_child() -> bool:
    """Whether this process runs tasks for a parent."""
    return _loading or _ask is not None


def ask(name: str, body: bytes) -> bytes:
    """Have the parent do what only it may do, and wait for its answer.

    Args:
        name: What to do; the parent's Worker hands it to whoever registered for it.
        body: Its arguments, as bytes.

    Raises:
        errors.WrongState: Called while modules are loaded, or outside of a pool child.
        errors.FlowqError: The parent refused; the text is its reason.
    """
    if _loading:
        raise errors.WrongState(
            "this module submits work when it is imported, and pool children import it again;"
            " put the submission into a function or under if __name__ == '__main__'"
        )
    if _ask is None:
        raise errors.WrongState("this process is no pool child; it has no parent to ask")
    return _ask(name, body)
