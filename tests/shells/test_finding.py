"""What ``-A`` finds, and what it says when it finds nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowq.app import current
from flowq.app.finding import find_app
from flowq.errors import TargetError

FILES = {
    "plain.py": "from flowq import Flowq\napp = Flowq('plain')\n",
    "named.py": "from flowq import Flowq, current_app\nshop = Flowq('named')\nother = shop\n",
    "both.py": "from flowq import Flowq\none, two = Flowq('one'), Flowq('two')\n",
    "none.py": "x = 1\n",
    "wrong.py": "app = 3\n",
    "failing.py": "1 / 0\n",
    "old.py": "from celery import Celery\napp = Celery('old')\n",
    "proj/__init__.py": "",
    "proj/celery.py": "from flowq import Flowq\napp = Flowq('proj')\n",
    "pack/__init__.py": "from pack.celery import app as celery_app\n",
    "pack/celery.py": "from flowq import Flowq\napp = Flowq('pack')\n",
    "deep/__init__.py": "",
    "deep/flowq.py": "from flowq import Flowq\nwork = Flowq('deep')\n",
    "empty/__init__.py": "",
    "broken/__init__.py": "raise RuntimeError('not today')\n",
    "broken/celery.py": "",
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with those files, which is the current one."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    before, modules, app = list(sys.path), set(sys.modules), current.get_current()
    program = current.program_file()
    yield tmp_path
    sys.path[:] = before
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(
            sys.modules[name].__file__
        ):
            del sys.modules[name]
    current.set_current(app)
    current.set_program_file(program)


@pytest.mark.parametrize(
    ("spec", "main"),
    [
        ("plain", "plain"),
        ("plain:app", "plain"),
        ("plain.app", "plain"),
        ("plain.py", "plain"),
        ("plain.py:app", "plain"),
        ("named", "named"),
        ("named:shop", "named"),
        ("both:two", "two"),
        ("proj", "proj"),
        ("proj.celery", "proj"),
        ("proj.celery:app", "proj"),
        ("proj.celery.app", "proj"),
        ("proj/celery.py", "proj"),
        ("pack", "pack"),
        ("pack:celery_app", "pack"),
        ("deep", "deep"),
        ("deep.flowq:work", "deep"),
    ],
)
def test_an_app_is_found(spec: str, main: str) -> None:
    found = find_app(spec)
    assert found.main == main
    assert find_app(spec) is found


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("both", "there are 2 apps in both (one, two); say which: both:one"),
        ("none", "there is no app in none; name the module"),
        ("none:x", "x of none is int, not an app"),
        ("wrong", "app of wrong is int, not an app"),
        ("plain:ap", "there is no 'ap' in plain; did you mean app"),
        ("empty", "there is no app in empty"),
        ("nowhere", "there is no module 'nowhere'"),
        ("nowhere.at.all", "there is no module 'nowhere.at.all'"),
        ("plain.nothing", "there is no 'nothing' in plain"),
        ("nowhere.py", "there is no file nowhere.py"),
        ("failing", "failing cannot be loaded: ZeroDivisionError"),
        ("broken", "broken cannot be loaded: RuntimeError: not today"),
        ("broken.celery", "broken.celery cannot be loaded: RuntimeError: not today"),
        ("", "no app is named; say which with -A"),
    ],
)
def test_what_is_no_app_is_named(spec: str, words: str) -> None:
    with pytest.raises(TargetError) as caught:
        find_app(spec)
    assert words in str(caught.value)
    assert caught.value.exit_code == 7


def test_an_app_of_celerys_is_told_apart() -> None:
    pytest.importorskip("celery", reason="Celery is not installed")
    with pytest.raises(TargetError, match=r"app of old is a Celery app; .*from_celery"):
        find_app("old")
