"""The word count, checked by another way of counting: no regular expression, no chapters."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

LIBRARY = Path(__file__).parents[2] / "workflows" / "data" / "austen.zip"
FOLDERS = {
    "Sense and Sensibility": "sense-and-sensibility",
    "Pride and Prejudice": "pride-and-prejudice",
    "Mansfield Park": "mansfield-park",
    "Emma": "emma",
}


def whole_text(folder: str) -> str:
    with ZipFile(LIBRARY) as library:
        names = sorted(name for name in library.namelist() if name.startswith(f"{folder}/"))
        return "".join(library.read(name).decode() for name in names)


def words_of(text: str) -> list[str]:
    """Split into words letter by letter; an apostrophe counts between two letters."""
    padded, kept = f" {text.lower()} ", []
    for before, here, after in zip(padded, padded[1:], padded[2:], strict=False):
        inside = here == "'" and before.isalpha() and after.isalpha()
        kept.append(here if here.isalpha() or inside else " ")
    return "".join(kept).split()


@pytest.fixture(scope="module")
def counted() -> dict[str, Counter[str]]:
    return {title: Counter(words_of(whole_text(folder))) for title, folder in FOLDERS.items()}


def in_process(wordcount: Any) -> dict[str, Any]:
    """Call the tasks one after the other, results going through JSON as they would."""

    def call(task: Any, *args: Any) -> Any:
        return json.loads(json.dumps(task(*args)))

    merged = []
    for novel in wordcount.NOVELS:
        chapters = range(1, novel.chapters + 1)
        counts = [call(wordcount.count, novel.folder, chapter) for chapter in chapters]
        merged.append(call(wordcount.merge, counts, novel.title, novel.year))
    return call(wordcount.report, merged)  # type: ignore[no-any-return]


def check(result: dict[str, Any], counted: dict[str, Counter[str]]) -> None:
    total = sum(counted.values(), Counter())
    assert result["words"] == total.total()
    assert result["distinct"] == len(total)
    assert sorted(result["top"].values(), reverse=True) == list(result["top"].values())
    assert list(result["top"].values()) == [n for _, n in total.most_common(10)]
    assert all(total[word] == n for word, n in result["top"].items())
    assert set(result["novels"]) == set(counted)
    for title, novel in result["novels"].items():
        assert novel["words"] == counted[title].total()
        assert novel["distinct"] == len(counted[title]) == novel["growth"][-1]
        first_quarter = whole_text(FOLDERS[title])[: chapters_end(title, novel["chapters"] // 4)]
        assert novel["growth"][0] == len(set(words_of(first_quarter)))


def chapters_end(title: str, chapters: int) -> int:
    with ZipFile(LIBRARY) as library:
        names = [f"{FOLDERS[title]}/{chapter:02d}.txt" for chapter in range(1, chapters + 1)]
        return sum(len(library.read(name).decode()) for name in names)


def test_the_library_holds_the_chapters_that_the_workflow_names(workflow: Any) -> None:
    wordcount = workflow("wordcount")
    named = {
        f"{novel.folder}/{chapter:02d}.txt"
        for novel in wordcount.NOVELS
        for chapter in range(1, novel.chapters + 1)
    }
    with ZipFile(LIBRARY) as library:
        assert set(library.namelist()) == named
        assert sum(entry.file_size for entry in library.infolist()) >= 2_000_000


def test_the_tasks_called_in_process_count_every_word(
    workflow: Any, counted: dict[str, Counter[str]]
) -> None:
    check(in_process(workflow("wordcount")), counted)


def test_telling_words_are_the_names_of_the_heroines(workflow: Any) -> None:
    novels = in_process(workflow("wordcount"))["novels"]
    assert [novel["telling"][0] for novel in novels.values()] == [
        "elinor",
        "elizabeth",
        "fanny",
        "emma",
    ]


def test_a_word_that_is_everywhere_alike_tells_nothing(workflow: Any) -> None:
    excess = workflow("wordcount").excess
    assert excess(10, 40, 0.25) == 0
    assert excess(1, 40, 0.25) == 0
    assert excess(40, 40, 0.25) > excess(20, 40, 0.25) > 0


def test_the_run_gives_the_same_result_in_at_least_200_nodes(
    workflow: Any, run: Any, counted: dict[str, Counter[str]]
) -> None:
    wordcount = workflow("wordcount")
    finished = run(wordcount, wordcount.pipeline())
    result = finished.result(timeout=10)
    check(result, counted)
    assert result == in_process(wordcount)
    tasks = [node for node in finished.nodes if node.kind == "task"]
    assert len(tasks) == 214 + 4 + 1
    assert {node.state for node in finished.nodes} == {"SUCCESS"}


def test_the_number_of_words_named_is_an_argument(workflow: Any, run: Any) -> None:
    wordcount = workflow("wordcount")
    novels = [wordcount.novel_canvas(novel._replace(chapters=2)) for novel in wordcount.NOVELS]
    small = wordcount.chord(novels, wordcount.report.s(3))
    result = run(wordcount, small).result(timeout=10)
    assert len(result["top"]) == 3
    assert len(wordcount.pipeline(top=3).body.args) == 1
