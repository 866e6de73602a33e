"""Settings: where values come from, what is refused, and that nothing is read too early."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from datetime import timedelta
from pathlib import Path

import pytest

import flowq
from flowq import errors
from flowq.config import SETTINGS, TABLE, Settings, mask_url, settings_page


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a project of its own, with no FLOWQ_ variable set."""
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    for setting in TABLE:
        monkeypatch.delenv(setting.env, raising=False)


def test_defaults_are_celerys() -> None:
    conf = Settings()
    assert conf.task_serializer == "json"
    assert conf.task_default_queue == "celery"
    assert conf.result_expires == timedelta(days=1)
    assert conf.accept_content == ["json"]
    assert conf["broker_heartbeat"] == 120
    assert conf.max_nodes == 1_000_000
    assert conf.max_payload_bytes == 64 * 1024 * 1024
    assert conf.source("max_nodes") == "default"


def test_names_and_variables_are_unique() -> None:
    assert len({s.name for s in TABLE}) == len(TABLE)
    assert len({s.env for s in TABLE}) == len(TABLE)


def test_every_line_of_the_table_parses_its_own_default() -> None:
    for setting in TABLE:
        assert setting.doc
        if setting.default is not None:
            wanted = setting.default
            wanted = list(wanted) if isinstance(wanted, tuple) else wanted
            assert setting.parse(setting.default) == wanted


def test_first_place_that_has_a_value_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text(
        "[tool.flowq]\nmax_nesting = 1\nmax_nodes = 1\nmax_crashes = 1\nworker_concurrency = 1\n"
    )
    (tmp_path / "flowq.toml").write_text("max_nodes = 2\nmax_crashes = 2\nworker_concurrency = 2\n")
    monkeypatch.setenv("FLOWQ_MAX_CRASHES", "3")
    monkeypatch.setenv("FLOWQ_CONCURRENCY", "3")
    conf = Settings(worker_concurrency=4)
    assert (conf.max_nesting, conf.max_nodes) == (1, 2)
    assert (conf.max_crashes, conf.worker_concurrency) == (3, 4)
    assert conf.source("max_nesting") == str(tmp_path / "pyproject.toml")
    assert conf.source("max_nodes") == str(tmp_path / "flowq.toml")
    assert conf.source("max_crashes") == "FLOWQ_MAX_CRASHES"
    assert conf.source("worker_concurrency") == "code"


def test_files_are_found_above_but_not_above_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    deep = project / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "flowq.toml").write_text("max_nodes = 7\n")
    (project / "pyproject.toml").write_text("[project]\nname='x'\n")
    (project / "a" / "flowq.toml").write_text("max_crashes = 8\n")
    monkeypatch.chdir(deep)
    conf = Settings()
    assert conf.max_crashes == 8
    assert conf.max_nodes == 1_000_000


def test_object_comes_between_code_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWQ_MAX_CRASHES", "3")
    module = types.ModuleType("celeryconfig")
    module.max_crashes = 9  # type: ignore[attr-defined]
    module.task_track_started = True  # type: ignore[attr-defined]
    module.helper = lambda: None  # type: ignore[attr-defined]
    conf = Settings(task_track_started=False)
    conf.config_from_object(module)
    assert conf.max_crashes == 9
    assert conf.task_track_started is False


def test_object_is_imported_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    conf = Settings()
    conf.config_from_object("late_settings", namespace="CELERY")
    (tmp_path / "late_settings.py").write_text("CELERY_TASK_SERIALIZER = 'msgpack'\nDEBUG = 1\n")
    assert conf.task_serializer == "msgpack"
    assert conf.source("task_serializer") == "late_settings"


def test_missing_object() -> None:
    conf = Settings()
    conf.config_from_object("no_such_module_at_all", silent=True)
    assert conf.max_crashes == 5
    conf.config_from_object("no_such_module_at_all")
    with pytest.raises(errors.ImproperlyConfigured, match="no_such_module_at_all"):
        _ = conf.max_crashes


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("CELERYD_CONCURRENCY", "worker_concurrency", 3),
        ("CELERY_RESULT_BACKEND", "result_backend", "redis://h"),
        ("CELERY_ALWAYS_EAGER", "task_always_eager", True),
        ("BROKER_URL", "broker_url", "redis://h"),
        ("CELERY_TASK_SERIALIZER", "task_serializer", "yaml"),
    ],
)
def test_old_names(old: str, new: str, value: object) -> None:
    conf = Settings()
    conf[old] = value
    assert conf[new] == value


def test_unknown_name_lists_near_ones() -> None:
    conf = Settings()
    with pytest.raises(errors.ImproperlyConfigured, match="task_serializer"):
        conf.task_serialiser = "json"
    with pytest.raises(errors.ImproperlyConfigured, match="worker_concurrency"):
        Settings(worker_concurency=1)
    with pytest.raises(errors.ImproperlyConfigured, match="flowq config show"):
        conf.set("zzzz", 1)
    with pytest.raises(errors.ImproperlyConfigured, match="did you mean broker_url"):
        conf.config_from_object({"broker_ur": "x"})
        _ = conf.broker_url


def test_unknown_name_reads_as_absent() -> None:
    conf = Settings()
    assert not hasattr(conf, "nothing_of_that_name")
    assert conf.get("nothing_of_that_name", 5) == 5
    assert "nothing_of_that_name" not in conf
    assert "broker_url" in conf


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("worker_concurrency", "four", "a whole number of at least 1, not 'four'"),
        ("worker_concurrency", 2.5, "a whole number"),
        ("worker_pool", "processes", "one of prefork, threads, solo"),
        ("task_always_eager", "maybe", "true or false"),
        ("run_retention", "soon", "a duration"),
        ("max_nodes", None, "not None"),
        ("imports", {"a": 1}, "a list"),
    ],
)
def test_wrong_value_is_refused(name: str, value: object, told: str) -> None:
    with pytest.raises(errors.ImproperlyConfigured, match=told) as caught:
        Settings({name: value})
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("task_always_eager", "yes", True),
        ("task_always_eager", "0", False),
        ("run_retention", "7d", timedelta(days=7)),
        ("run_retention", "0", None),
        ("inline_payload_bytes", "1MiB", 1 << 20),
        ("max_nodes", "2_000", 2000),
        ("imports", "a, b.c", ["a", "b.c"]),
        ("accept_content", '["json", "pickle"]', ["json", "pickle"]),
        ("broker_transport_options", '{"a": 1}', {"a": 1}),
        ("sqlite_synchronous", "normal", "NORMAL"),
        ("worker_max_tasks_per_child", "5", 5),
    ],
)
def test_text_from_the_environment(
    name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTINGS[name].env, text)
    assert Settings()[name] == value


def test_urls_have_short_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWQ_STORE", "sqlite:///x")
    monkeypatch.setenv("FLOWQ_BROKER", "redis://b")
    monkeypatch.setenv("FLOWQ_BACKEND", "redis://r")
    conf = Settings()
    assert (conf.store_url, conf.broker_url, conf.result_backend) == (
        "sqlite:///x",
        "redis://b",
        "redis://r",
    )


def test_a_namespace_takes_the_names_of_the_environment_too() -> None:
    class Django:
        FLOWQ_STORE = "sqlite:///a.db"
        FLOWQ_WORKER_POOL = "solo"

    conf = Settings()
    conf.config_from_object(Django, namespace="FLOWQ")
    assert (conf.store_url, conf.worker_pool) == ("sqlite:///a.db", "solo")


def test_ignored_settings_are_accepted_with_a_note(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="flowq.config"):
        conf = Settings(worker_eta_task_limit=1, result_chord_retry_interval=0.5)
        conf.visibility_timeout = 3600
    assert conf.visibility_timeout == 3600
    assert caplog.text.count("has no effect") == 3
    assert SETTINGS["visibility_timeout"].ignored


def test_lists_and_mappings_may_be_changed_in_place() -> None:
    first, second = Settings(), Settings()
    first.beat_schedule["x"] = 1
    first.imports.append("m")
    first.max_nodes = 5
    assert (first.beat_schedule, first.imports) == ({"x": 1}, ["m"])
    assert (second.beat_schedule, second.imports) == ({}, [])
    assert SETTINGS["beat_schedule"].default == {}


def test_update_changed_delete_and_show() -> None:
    conf = Settings()
    conf.update({"max_nodes": 5}, broker_url="redis://me:secret@h/0")
    assert conf.changed() == {"max_nodes": 5, "broker_url": "redis://me:secret@h/0"}
    shown = {row.name: row for row in conf.show()}
    assert shown["broker_url"].value == "redis://me:***@h/0"
    assert shown["broker_url"].source == "code"
    assert "secret" not in repr(conf)
    del conf["max_nodes"]
    assert conf.max_nodes == 1_000_000


def test_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "flowq.toml").write_text("max_nodes = = 3")
    with pytest.raises(errors.ImproperlyConfigured, match=r"flowq\.toml cannot be read"):
        _ = Settings().max_nodes


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:pw@localhost/0", "redis://:***@localhost/0"),
        ("db+postgresql://u:p%40ss@h:5432/d", "db+postgresql://u:***@h:5432/d"),
        ("postgresql://u:pa/ss@h/d", "postgresql://u:***@h/d"),
        ("postgresql://h:5432/d?mail=a@b", "postgresql://h:5432/d?mail=a@b"),
        ("postgresql://h/d?user=u&password=pw&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("amqp://a:1@h//;amqp://b:2@h//", "amqp://a:***@h//;amqp://b:***@h//"),
        ("cannot reach redis://u:pw@h: refused", "cannot reach redis://u:***@h: refused"),
        ("sqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
        ("no url", "no url"),
    ],
)
def test_passwords_are_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked


def test_making_settings_reads_nothing() -> None:
    code = """
import os, sys
from flowq.config import Settings
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event == "open" else None)
conf = Settings(broker_url="redis://x")
conf.broker_url
conf.config_from_object("nowhere")
assert not seen, seen
"""
    here = {**os.environ, "PYTHONPATH": str(Path(flowq.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=here)


def test_reference_page_has_every_setting() -> None:
    page = settings_page()
    assert all(f"| `{s.name}` |" in page for s in TABLE)
    assert "| `run_retention` | 30 days | a duration | `FLOWQ_RUN_RETENTION` |" in page
    working, accepted = page.split("## Accepted")
    assert "visibility_timeout" in accepted
    assert "visibility_timeout" not in working
