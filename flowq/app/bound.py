"""Result classes as an app has them: ``app.AsyncResult(id)``, ``app.GroupResult.restore(id)``."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Bound(Generic[T]):
    """Makes results of one app; otherwise it is as good as the class, `isinstance` included.

    Args:
        app: Whose results it makes.
        made: Their class.
    """

    __slots__ = ("_app", "_made")

    def __init__(self, app: Any, made: type[T]) -> None:
        self._app, self._made = app, made

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        """A result; the arguments are those of its class."""
        kwargs.setdefault("app", self._app)
        return self._made(*args, **kwargs)

    def restore(self, id: str, backend: Any = None) -> Any:
        """As ``GroupResult.restore``: the result of that id, or None when nobody knows it.

        Raises:
            AttributeError: The class has no such method.
        """
        made: Any = self._made
        return made.restore(id, backend, app=self._app)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._made)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)

    def __repr__(self) -> str:
        return f"<{self._made.__name__} of {self._app!r}>"
