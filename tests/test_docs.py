"""Every python and console block of docs/ and README.md runs, and shows what it says.

- A block with a ``:caption:``, or whose first line is ``# name.py``, is a file of the page.
- Other python blocks of a page are one program, run where the last of them stands. A line that
  ends in ``# -> text`` shows an expression's repr, one that ends in ``# raises Name`` its error.
- In console blocks ``$ command`` runs in that folder; what follows is its stdout. A command that
  ends in ``# exit N`` has that exit code.
- ``...`` stands for anything, in all of them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts) + [ROOT / "README.md"]
#: The part of README's commands that the tests' own environment stands for.
INSTALL = re.compile(r"python3 -m venv \.venv && \.venv/bin/pip install .*? && \.venv/bin/")

_FENCE = re.compile(r"^```(?:\{code-block\} )?(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"# (\w+\.py)\n")
_OPTION = re.compile(r"\A:(\w+): (.*)\n+")
_SHOWS = re.compile(r"^( *)(\S.*?)  # (->|raises) (.+)$", re.MULTILINE)
_EXIT = re.compile(r"  # exit (\d+)$")

PRELUDE = """\
import re as _re


def _same(shown, wanted):
    pattern = ".*".join(map(_re.escape, wanted.split("...")))
    assert _re.fullmatch(pattern, shown, _re.DOTALL), f"shown {shown!r}, written {wanted!r}"


def _raises(call, wanted):
    try:
        value = call()
    except Exception as exc:
        _same(f"{type(exc).__name__}: {exc}", wanted + "...")
    else:
        raise AssertionError(f"no error, but {value!r}; written {wanted!r}")


"""


class Block(NamedTuple):
    """One fenced block of a page."""

    language: str
    text: str
    line: int
    options: dict[str, str]


def blocks_of(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page, in order."""
    source = page.read_text()
    for found in _FENCE.finditer(source):
        text, options = found[2], {}
        while option := _OPTION.match(text):
            options[option[1]] = option[2]
            text = text[option.end() :]
        if named := _NAMED.match(text):
            options.setdefault("caption", named[1])
        yield Block(found[1], text, source.count("\n", 0, found.start()) + 1, options)


def program_of(blocks: list[Block]) -> str:
    """Python blocks as one program that checks what they claim."""

    def check(found: re.Match[str]) -> str:
        indent, expression, kind, text = found.groups()
        if kind == "raises":
            return f"{indent}_raises(lambda: {expression}, {text!r})"
        return f"{indent}_same(repr({expression}), {text!r})"

    return PRELUDE + "\n".join(_SHOWS.sub(check, block.text) for block in blocks)


def commands_of(text: str) -> Iterator[tuple[str, int, str]]:
    """(command, exit code, output) of a console block."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        found = _EXIT.search(command)
        yield INSTALL.sub("", _EXIT.sub("", command)), int(found[1]) if found else 0, output


def environment() -> dict[str, str]:
    """As a shell with the tests' environment activated, without settings of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLOWQ_", "PYTEST"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "PATH": path, "NO_COLOR": "1", "COLUMNS": "100", "PYTHONWARNINGS": "error"}


def run(command: list[str], folder: Path, wanted: int, where: str) -> str:
    """Stdout of a command; fails with all it said if its exit code is another one."""
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=60
    )
    code = done.returncode if done.returncode >= 0 else 128 - done.returncode  # as a shell says it
    assert code == wanted, f"{where}: exit {code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def matches(shown: str, wanted: str) -> bool:
    """Whether output is as written; ``...`` stands for anything, a line of it for any lines."""
    lines = [line.rstrip() for line in shown.strip("\n").splitlines()]
    pattern = ""
    for line in wanted.strip("\n").splitlines():
        if line == "...":
            pattern += r"(?:.*\n)*"
        else:
            pattern += ".*".join(map(re.escape, re.split(r" *\.\.\. *", line))) + r"\n"
    return re.fullmatch(pattern, "\n".join(lines) + "\n") is not None


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_runs_and_shows_what_it_says(page: Path, tmp_path: Path) -> None:
    blocks = list(blocks_of(page))
    programs = [b for b in blocks if b.language == "python" and "caption" not in b.options]
    (tmp_path / "workflows").symlink_to(ROOT / "workflows")
    for block in blocks:
        where = f"{page.name}, line {block.line}"
        if "caption" in block.options:
            (tmp_path / block.options["caption"]).write_text(block.text)
        elif programs and block is programs[-1]:
            (tmp_path / "page.py").write_text(program_of(programs))
            run([sys.executable, "page.py"], tmp_path, 0, where)
        elif block.language == "console":
            for command, code, wanted in commands_of(block.text):
                shown = run(["bash", "-c", command], tmp_path, code, f"{where}: {command}")
                assert not wanted.strip() or matches(shown, wanted), f"{where}: {command}\n{shown}"


def generator() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_fresh() -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in generator().pages().items()
        if not path.is_file() or path.read_text() != text
    ]
    assert not stale, f"run python docs/generate.py and commit: {', '.join(stale)}"


def test_readme_has_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    make = "python3 -m venv .venv && .venv/bin/pip install -q -e"
    assert f"{make} . && .venv/bin/flowq run workflows/wordcount.py" in text
    assert f'{make} ".[test]" && .venv/bin/python tests/check.py' in text


@pytest.mark.slow
def test_sphinx_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("furo")
    pytest.importorskip("myst_parser")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    kept = {k: v for k, v in environment().items() if k != "PYTHONWARNINGS"}
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "trees"), str(DOCS), str(tmp_path / "html")],
        env=kept,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html" / "index.html").is_file()
