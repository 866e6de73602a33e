"""Result backends of single tasks: ``@app.task(backend="redis://...")``, else the app's own."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from flowq.backends import OnMessage, ResultRequest, ResultStore, TaskMeta, opening

if TYPE_CHECKING:
    from flowq.app.base import Flowq

#: Tasks sent from here whose backend is remembered.
_KEPT = 100_000


class TaskResults:
    """A `ResultStore` that sends each task's outcome to its own backend.

    Another process that reads a task's result by its id finds it in the app's backend only.

    Args:
        app: Its tasks say what they want.
        default: Of tasks that name none.
    """

    def __init__(self, app: Flowq, default: ResultStore) -> None:
        self._app, self.default = app, default
        self._opened: dict[str, ResultStore] = {}
        self._sent: OrderedDict[str, ResultStore] = OrderedDict()

    def of(self, task: str) -> ResultStore:
        """The backend of a task, by its name.

        Raises:
            ImproperlyConfigured: It names one that there is not.
        """
        url = getattr(self._app.tasks.get(task), "backend", None)
        if not url:
            return self.default
        found = self._opened.get(url)
        if found is None:
            urls = str(self._app.conf.broker_url or "").split(";")
            found = opening.open_results(str(url), self._app.conf, broker_urls=urls)
            self._opened[url] = found
        return found

    def about_to_send(self, task_id: str, task: str) -> ResultStore:
        """As `expect`, for a task of that name; gives its backend."""
        store = self.of(task)
        if store is not self.default:
            self._sent[task_id] = store
            if len(self._sent) > _KEPT:
                self._sent.popitem(last=False)
        store.expect(task_id)
        return store

    # -- as a result store -------------------------------------------------------------------

    @property
    def reply_to(self) -> str | None:
        """As `ResultStore.reply_to`, of the app's backend."""
        return self.default.reply_to

    def store(self, task_id: str, meta: TaskMeta, request: ResultRequest | None = None) -> None:
        """As `ResultStore.store`; the task's name is looked for in both."""
        name = request.name if request is not None else meta.name
        self.of(name).store(task_id, meta, request)

    def load(self, task_id: str) -> TaskMeta | None:
        """As `ResultStore.load`."""
        return self._sent.get(task_id, self.default).load(task_id)

    def wait(
        self, task_id: str, timeout: float | None, on_message: OnMessage | None = None
    ) -> TaskMeta | None:
        """As `ResultStore.wait`."""
        return self._sent.get(task_id, self.default).wait(task_id, timeout, on_message)

    def expect(self, task_id: str) -> None:
        """As `ResultStore.expect`."""
        self.default.expect(task_id)

    def forget(self, task_id: str) -> None:
        """As `ResultStore.forget`."""
        self._sent.pop(task_id, self.default).forget(task_id)

    def close(self) -> None:
        """As `ResultStore.close`."""
        for store in (self.default, *self._opened.values()):
            store.close()
