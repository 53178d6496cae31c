"""Names of classes: one word, one class each, no two that are all but the same."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from .measure import Measure
from .source import SourceFile

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z][a-z]+")


def measure_class_names(files: Sequence[SourceFile]) -> tuple[Measure, Measure, Measure]:
    """Public names of one word, names with two classes or more, and names that are all but the same."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        for node in file.classes:
            places[node.name].append(file.place(node.lineno, node.name))

    public = sorted(name for name in places if not name.startswith("_"))
    classes = sum(len(places[name]) for name in public)
    one_word = [place for name in public if len(split_words(name)) == 1 for place in places[name]]
    twice = sorted(name for name in places if len(places[name]) > 1)
    similar = group_similar(public)
    return (
        Measure("one_word_classes", "public classes with a one-word name", len(one_word), classes, "", tuple(one_word)),
        Measure(
            "repeated_classes",
            "class names for two classes or more",
            len(twice),
            goal="0",
            places=tuple(", ".join(places[name]) for name in twice),
        ),
        Measure(
            "similar_classes",
            "class names apart by a digit, case or s",
            len(similar),
            goal="0",
            places=tuple(", ".join(place for name in names for place in places[name]) for names in similar),
        ),
    )


def split_words(name: str) -> list[str]:
    """Words of a CamelCase name: `LoRAConfig` has three, as it has three humps; digits belong to no word."""
    return WORD.findall(name)


def group_similar(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different names that are the same without digits, case and a last `s`."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        groups[re.sub(r"\d", "", name).casefold().removesuffix("s")].append(name)

    return [tuple(group) for group in groups.values() if len(group) > 1]
