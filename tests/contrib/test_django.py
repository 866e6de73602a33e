"""Views of a small Django project start tasks for what they store, if and only if that commits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowq import Flowq
from flowq.errors import ImproperlyConfigured

pytest.importorskip("django")

PROJECT = Path(__file__).resolve().parent.parent / "django_project"
POSTGRES = pytest.mark.services
#: Where the articles are, and where the runs are.
PLACES = {
    "sqlite, a store apart": ("sqlite:///articles.db", "sqlite:///flowq.db"),
    "sqlite, one file": ("sqlite:///both.db", "sqlite:///both.db"),
    "postgresql, a store apart": ("postgres", "sqlite:///flowq.db"),
    "postgresql, one database": ("postgres", "postgres"),
}

Post = Callable[..., dict[str, Any]]


@pytest.fixture(
    params=[pytest.param(name, marks=[POSTGRES] if "postgres" in name else []) for name in PLACES]
)
def places(request: pytest.FixtureRequest) -> tuple[str, str]:
    """URLs of both databases."""
    articles, store = PLACES[request.param]
    if articles == "postgres":
        articles = request.getfixturevalue("postgres_url")
    return articles, articles if store == "postgres" else store


@pytest.fixture
def post(places: tuple[str, str], tmp_path: Path) -> Post:
    """Posts to views in a process of its own, whose settings are nobody else's."""

    def call(*steps: str, code: int = 0, **variables: str) -> dict[str, Any]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("FLOWQ_", "PYTEST"))}
        done = subprocess.run(
            [sys.executable, str(PROJECT / "post.py"), *steps],
            cwd=tmp_path,
            env={**kept, "ARTICLES": places[0], "STORE": places[1], **variables},
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return dict(json.loads(done.stdout)) if code == 0 else {}

    return call


def test_committed_runs_and_rolled_back_does_not(post: Post, places: tuple[str, str]) -> None:
    views = ["/literal", "/delay_on_commit", "/canvas"]
    found = post("tables", *views, *[f"{view}?fail" for view in views], "/savepoint", "/at_once")
    written = "written" if places[0] == places[1] and "postgres" in places[0] else "later"
    assert found["answers"] == [written, "500", "500", "500"]
    assert found["texts"] == sorted(
        ["for example literal", "for example short", "FOR EXAMPLE CHAIN", "for example kept"]
        + ["for example at once"]
    )
    assert found["states"] == ["SUCCESS"] * 4


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_with_a_transaction_of_its_own(post: Post, pool: str) -> None:
    found = post("tables", "/in_task", POOL=pool)
    assert "for example after 7" in post(POOL=pool)["texts"], found


def test_settings_in_the_namespace_of_celery(post: Post) -> None:
    found = post("tables", "/delay_on_commit", NAMESPACE="CELERY", POOL="threads")
    assert found["texts"] == ["for example short"]


def test_connections_are_treated_as_in_a_request(post: Post) -> None:
    found = post("tables", "/connections", POOL="threads", SLOTS="1")
    assert found["answers"] == ["DjangoTask"]
    assert found["values"] == [False]


def test_without_django_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "proj.settings")
    monkeypatch.setitem(sys.modules, "django", None)
    app = Flowq("lonely", set_as_current=False)
    app.autodiscover_tasks()
    with pytest.raises(ImproperlyConfigured, match=r"pip install flowq\[django\], or unset it"):
        app.load()


@pytest.mark.services
@pytest.mark.parametrize("places", ["postgresql, one database"], indirect=True)
def test_a_process_that_dies_right_after_the_commit(post: Post) -> None:
    post("tables", "/dies", code=3, POOL="threads")
    assert post("resume", POOL="threads")["texts"] == ["for example died"]
