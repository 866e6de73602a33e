"""Pickling functions by value, so that their tracebacks still name the file they came from."""

from __future__ import annotations

import io
import types
from collections import ChainMap
from typing import Any

import cloudpickle


def dumps(value: Any) -> bytes:
    """Pickle a value as cloudpickle does, with the file names of functions kept."""
    with io.BytesIO() as file:
        _Pickler(file).dump(value)
        return file.getvalue()


_reduce_code = cloudpickle.Pickler.dispatch_table[types.CodeType]


def _with_file(code: types.CodeType) -> Any:
    """cloudpickle drops the file name since 3.1.3, and a traceback then shows no source line."""
    make, arguments, *_ = _reduce_code(code)
    return _make_code, (make, arguments, code.co_filename)


def _make_code(make: Any, arguments: Any, file: str) -> types.CodeType:
    code: types.CodeType = make(*arguments)
    return code.replace(co_filename=file)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table = ChainMap({types.CodeType: _with_file}, cloudpickle.Pickler.dispatch_table)
