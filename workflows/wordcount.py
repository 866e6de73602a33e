"""Count the words of four Jane Austen novels: a map-reduce over 3 MB in 224 nodes.

One task counts one chapter, a chord adds up the chapters of a novel, and an outer chord
compares the novels. A chord is a group (the *header*) and one task (the *body*) that gets the
list of the group's results, in order; here a chord's header holds chords::

    count sense-and-sensibility/01 ─┐
    count sense-and-sensibility/02 ─┼─► merge "Sense and Sensibility" ─┐
    ...                            ─┘                                  ├─► report
    count emma/01 ─┐                                                   │
    ...           ─┼─► merge "Emma" ───────────────────────────────────┘
    count emma/55 ─┘

Run it, see its shape without running it, or ask for more words::

    flowq run workflows/wordcount.py
    flowq run workflows/wordcount.py --dry-run
    flowq run workflows/wordcount.py -a top=25

Look at ``growth`` in the result, how many different words each quarter of a novel has added
(the reason why `merge` must get its chapters in order), and at ``telling``, the words that
set a novel apart from the other three. Kill the command half way and type ``flowq resume``:
the chapters that had been counted are not counted again.

The text is in ``data/austen.zip``; ``data/README.md`` says where it comes from.
"""

from __future__ import annotations

import re
from collections import Counter
from math import log
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

from flowq import Flowq, chord

app = Flowq("wordcount")

LIBRARY = Path(__file__).with_name("data") / "austen.zip"
WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")  # "don't" is one word, "_very_" is "very"


class Novel(NamedTuple):
    """A novel in the library: its folder there, its title and how many chapters it has."""

    folder: str
    title: str
    year: int
    chapters: int


NOVELS = (
    Novel("sense-and-sensibility", "Sense and Sensibility", 1811, 50),
    Novel("pride-and-prejudice", "Pride and Prejudice", 1813, 61),
    Novel("mansfield-park", "Mansfield Park", 1814, 48),
    Novel("emma", "Emma", 1815, 55),
)


@app.task
def count(folder: str, chapter: int) -> dict[str, int]:
    """Count the words of one chapter. The text stays where it is: only counts travel."""
    with ZipFile(LIBRARY) as library:
        text = library.read(f"{folder}/{chapter:02d}.txt").decode()
    return Counter(WORD.findall(text.lower()))


@app.task
def merge(chapters: list[dict[str, int]], title: str, year: int) -> dict[str, Any]:
    """Add up a novel's chapters, and note the size of its vocabulary as it grows."""
    total: Counter[str] = Counter()
    growth = []
    for counts in chapters:
        total.update(counts)
        growth.append(len(total))
    quarters = [growth[len(growth) * quarter // 4 - 1] for quarter in (1, 2, 3, 4)]
    return {
        "title": title,
        "year": year,
        "chapters": len(chapters),
        "growth": quarters,
        "counts": total,
    }


@app.task
def report(novels: list[dict[str, Any]], top: int = 10) -> dict[str, Any]:
    """Compare the novels: sizes, most frequent words, and the words that tell them apart."""
    everything: Counter[str] = Counter()
    for novel in novels:
        everything.update(novel["counts"])
    return {
        "words": everything.total(),
        "distinct": len(everything),
        "top": dict(ranked(everything)[:top]),
        "novels": {novel["title"]: describe(novel, everything, top) for novel in novels},
    }


def describe(novel: dict[str, Any], everything: Counter[str], top: int) -> dict[str, Any]:
    """Say how long and how rich one novel is, and which words are its own."""
    counts: Counter[str] = Counter(novel["counts"])
    words = counts.total()
    share = words / everything.total()
    scores = Counter({word: excess(n, everything[word], share) for word, n in counts.items()})
    return {
        "year": novel["year"],
        "chapters": novel["chapters"],
        "words": words,
        "distinct": len(counts),
        "growth": novel["growth"],
        "telling": [word for word, _ in ranked(scores)[:top]],
    }


def excess(here: int, anywhere: int, share: float) -> float:
    """Weigh how much more often a word stands here than a `share` of the text explains.

    This is the word's part of the log-likelihood ratio, the usual measure of key words;
    0 for a word that is not more frequent here than elsewhere.
    """
    expected = anywhere * share
    if here <= expected:
        return 0.0
    elsewhere = anywhere - here
    rest = elsewhere * log(elsewhere / (anywhere - expected)) if elsewhere else 0.0
    return 2 * (here * log(here / expected) + rest)


def ranked(scores: Counter[str]) -> list[tuple[str, Any]]:
    """Sort words by score, the highest first and equals by the alphabet."""
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def novel_canvas(novel: Novel) -> chord:
    """Count every chapter of one novel side by side, then merge them."""
    chapters = [count.s(novel.folder, number) for number in range(1, novel.chapters + 1)]
    return chord(chapters, merge.s(novel.title, novel.year))


def pipeline(top: int = 10) -> chord:
    """Build the canvas; `top` says how many words the report names."""
    return chord([novel_canvas(novel) for novel in NOVELS], report.s(top))
