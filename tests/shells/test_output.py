"""What a stream cannot take, and streams that nobody reads."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest

from flowq.cli.output import Output


def _stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding)


def _written(stream: io.TextIOWrapper) -> str:
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_text_that_a_stream_cannot_take_is_escaped(
    monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    text = "é \ud800 \U0001f600"
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, _stream(encoding))
    out = Output()
    out.data(text)
    out.say(text)
    assert "\\ud800" in _written(sys.stdout)  # type: ignore[arg-type]
    assert "\\ud800" in _written(sys.stderr)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdout", _stream(encoding))
    Output(json=True).object({"value": text})
    assert json.loads(_written(sys.stdout))["value"] == text  # type: ignore[arg-type]


def test_words_that_nobody_reads_end_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        Output().say("one")
        Output().say("two")
    monkeypatch.setattr(sys, "stderr", None)
    Output().say("three")
    assert capsys.readouterr().out == ""  # print() takes None for stdout
