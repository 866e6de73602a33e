"""What a stream cannot take, and streams that nobody reads."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable

import pytest

from flowq.cli.output import Output
from flowq.errors import OutputError


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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("made", [Output().data, Output(json=True).data, Output().shown])
def test_data_that_cannot_be_written_is_an_error_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, made: Callable[[str], None]
) -> None:
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(OutputError, match="No space left"):
            made("text")
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="stdout is closed"):
        made("text")


def test_a_task_cannot_command_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, _stream("utf-8"))
    Output().shown("a\x1b[31m\tb\n\u202eé\x07\r")
    Output().say("\x1b]0;title\x07")
    assert _written(sys.stdout) == "a\\x1b[31m\tb\n\\u202eé\\x07\\r\n"  # type: ignore[arg-type]
    assert _written(sys.stderr) == "\\x1b]0;title\\x07\n"  # type: ignore[arg-type]
