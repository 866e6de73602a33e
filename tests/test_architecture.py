"""What holds for the repository as a whole: sizes, names, laziness, no leftovers."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "flowq").rglob("*.py"))
OURS = ("flowq", "tests", "docs", "workflows", "benchmarks")
#: Never loaded by `import flowq`.
HEAVY = (
    *("sqlalchemy", "alembic", "kombu", "networkx", "graphviz", "typer", "rich", "cloudpickle"),
    *("msgspec", "asyncio", "sqlite3", "multiprocessing", "logging"),
)
#: Modules and functions of flowq have at most so many lines.
MODULE, FUNCTION = 500, 60
NO_NAMES = {"utils", "util", "common", "helpers", "helper", "types", "misc"}


def names(path: Path) -> str:
    """A path as tests show it."""
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions of a module, those inside of others too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_modules_and_functions_are_short() -> None:
    long = []
    for path in MODULES:
        source = path.read_text()
        if "migrations" not in path.parts and source.count("\n") > MODULE:
            long.append(f"{names(path)} has {source.count(chr(10))} lines")
        for node in functions(ast.parse(source)):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > FUNCTION:
                long.append(f"{names(path)}: {node.name} has {length} lines")
    assert not long, "; ".join(long)


def test_no_module_is_called_utils() -> None:
    assert [names(p) for p in MODULES if p.stem in NO_NAMES or p.parent.name in NO_NAMES] == []


def test_nothing_is_left_to_do() -> None:
    mark = re.compile("#.*\\b(" + "TO" + "DO|FIX" + "ME|XX" + "X)\\b")
    left = [
        f"{names(path)}:{number}"
        for folder in OURS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if mark.search(line)
    ]
    assert left == []


def test_modules_say_what_they_are_for() -> None:
    silent = [names(p) for p in MODULES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert silent == []


@pytest.mark.slow
def test_import_loads_nothing_heavy() -> None:
    code = "import sys, flowq; print('\\n'.join(sorted(sys.modules)))"
    shown = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    bare = subprocess.run(
        [sys.executable, "-I", "-c", code.replace(", flowq", "")],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    loaded = set(shown.stdout.split()) - set(bare.stdout.split())
    assert {name.partition(".")[0] for name in loaded} & set(HEAVY) == set()
    assert {name for name in loaded if name.startswith("flowq.")} == set()


def test_every_public_name_is_there_and_typed_for_checkers() -> None:
    import flowq

    source = (ROOT / "flowq" / "__init__.py").read_text()
    for name in flowq.__all__:
        assert getattr(flowq, name) is not None
        assert f" as {name}" in source
    with pytest.raises(AttributeError, match="no attribute 'chian'"):
        _ = flowq.chian


def test_changelog_has_the_version() -> None:
    import flowq

    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## ({re.escape(flowq.__version__)}|Unreleased)", text, re.MULTILINE)


def test_notebooks_are_stored_without_outputs() -> None:
    full = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        if any(cell.get("outputs") or cell.get("execution_count") for cell in cells):
            full.append(names(path))
    assert full == []


def test_decisions_are_numbered_and_dated() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    assert [int(p.name[:4]) for p in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        lines = page.read_text().splitlines()
        assert lines[0].startswith(f"# {int(page.name[:4])}. "), names(page)
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", lines[2]), names(page)
        assert len(lines) <= 60, f"{names(page)} is longer than a page"
