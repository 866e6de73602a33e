"""Results in a database, in Celery's tables. Nobody is pushed anything: waiting is looking."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from flowq.backends import OnMessage, ResultRequest, TaskMeta
from flowq.backends.options import BackendOptions
from flowq.backends.records import Records
from flowq.backends.squeezing import stretch
from flowq.backends.waiting import poll
from flowq.errors import BackendUnavailable, MessageDecodeError, StoreError
from flowq.store.results import ResultTable

#: Rows past their time are removed that often (seconds), by whoever stores.
_PRUNE_SECONDS = 600.0
_ENCODED = ("args", "kwargs", "children")


class DatabaseResults:
    """Contract: `backends.ResultStore`.

    Args:
        url: db+sqlite:///... or db+postgresql://...
        options: Of results.
    """

    reply_to: str | None = None

    def __init__(self, url: str, options: BackendOptions) -> None:
        self._table = ResultTable(url.partition("+")[2])
        self._records, self._options = Records(options), options
        self._prune_at = time.monotonic() + _PRUNE_SECONDS

    def store(self, task_id: str, meta: TaskMeta, request: ResultRequest | None = None) -> None:
        """As `ResultStore.store`."""
        record = self._records.fields(task_id, meta, request)
        value = self._records.result(meta)
        raw = isinstance(value, msgspec.Raw)
        record["result"] = self._packed(bytes(value)) if raw else self._encoded(value)
        for name in _ENCODED:
            if record.get(name) is not None:
                record[name] = self._encoded(record[name])
        if record["date_done"] is not None:
            at = datetime.fromisoformat(record["date_done"])
            record["date_done"] = at.astimezone(UTC).replace(tzinfo=None)
        del record["task_id"]
        with self._errors():
            self._table.write(task_id, record)
            if self._options.expires and time.monotonic() >= self._prune_at:
                self.cleanup()

    def load(self, task_id: str) -> TaskMeta | None:
        """As `ResultStore.load`."""
        with self._errors():
            row = self._table.read(task_id)
        if row is None:
            return None
        row["result"] = self._value(row["result"])
        for name in _ENCODED:
            if row.get(name) is not None:
                row[name] = self._value(row[name])
        return self._records.of_fields(row)

    def wait(
        self, task_id: str, timeout: float | None, on_message: OnMessage | None = None
    ) -> TaskMeta | None:
        """As `ResultStore.wait`; looks after 10 ms, then ever more seldom, twice a second."""
        return poll(lambda: self.load(task_id), timeout, on_message, longest=0.5)

    def expect(self, task_id: str) -> None:
        """As `ResultStore.expect`."""

    def forget(self, task_id: str) -> None:
        """As `ResultStore.forget`."""
        with self._errors():
            self._table.delete(task_id)

    def cleanup(self) -> None:
        """Remove what is past its time; done now and then while results are stored."""
        self._prune_at = time.monotonic() + _PRUNE_SECONDS
        with self._errors():
            self._table.prune(time.time() - self._options.expires)

    def close(self) -> None:
        """As `ResultStore.close`."""
        self._table.close()

    def _packed(self, body: bytes) -> bytes:
        return self._records.packed(body)

    def _encoded(self, value: Any) -> bytes:
        return self._packed(self._records.dumps(value))

    def _value(self, body: Any) -> Any:
        if body is None:
            return None
        data = stretch(bytes(body))
        try:
            return self._records.loads(data)
        except MessageDecodeError:
            if data[:1] != b"\x80":
                raise
            return self._records.loads(data, "pickle")  # an older Celery's row

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except StoreError as exc:
            raise BackendUnavailable(f"{exc}; start it, or name another (result_backend)") from exc
