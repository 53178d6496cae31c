"""Pairs of a sentence and four texts, from WordNet 3.0 and from the manual pages of Linux."""

from __future__ import annotations

import gzip
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHOICES = 4
EXAMPLE = re.compile(r'"([^"]{20,160})"')
NAME_LINE = re.compile(r"^\.SH \"?NAME\"?\n(.+?)\n\.", re.MULTILINE | re.DOTALL)
DESCRIPTION = re.compile(r"^\.SH \"?DESCRIPTION\"?\n(.+?)(?=^\.(?:SH|SS|PP|TP|nf))", re.MULTILINE | re.DOTALL)
MACRO = re.compile(r"^\.(?:B|I|BR|BI|IR|RB|RI|IB|SB|SM) ", re.MULTILINE)


def list_senses(wordnet: Path) -> Iterator[dict[str, Any]]:
    """Which meaning of the word the sentence shows: glosses of four senses of one word, one of them its own."""
    for kind in ("noun", "verb", "adj"):
        synsets, lemmas = _read_synsets(wordnet / f"data.{kind}"), defaultdict(list)
        for offset, (words, _, _) in synsets.items():
            for word in words:
                lemmas[word].append(offset)
        for word, offsets in sorted(lemmas.items()):
            shown = [(offset, text) for offset in offsets for text in synsets[offset][2]]
            fitting = [(offset, text) for offset, text in shown if word in text.lower().split()]
            if len(offsets) < CHOICES or not fitting:
                continue
            draw = random.Random(f"{kind} {word}")  # noqa: S311 - a draw that repeats
            right, sentence = draw.choice(fitting)
            others = draw.sample([offset for offset in offsets if offset != right], CHOICES - 1)
            yield _build_pair("senses", sentence, synsets[right][1], [synsets[other][1] for other in others], draw)


def list_manuals(pages: Path) -> Iterator[dict[str, Any]]:
    """Which page the first sentence of a description is of: summaries of four pages of one section, near by name."""
    sections = defaultdict(list)
    for path in sorted(pages.glob("man[1-8]/*.gz")):
        summary, sentence = _read_page(gzip.decompress(path.read_bytes()).decode("utf-8", "replace"))
        if summary and sentence:
            sections[path.parent.name].append((path.name, summary, sentence))
    for entries in sections.values():
        for place, (name, summary, sentence) in enumerate(entries):
            near = [each[1] for each in entries[max(0, place - 12) : place + 13] if each[1] != summary]
            others = list(dict.fromkeys(near))
            if len(others) >= CHOICES - 1:
                draw = random.Random(name)  # noqa: S311
                yield _build_pair("manuals", sentence, summary, draw.sample(others, CHOICES - 1), draw)


def _build_pair(task: str, sentence: str, right: str, others: list[str], draw: random.Random) -> dict[str, Any]:
    choices = draw.sample([right, *others], CHOICES)
    return {"task": task, "sentence": sentence, "choices": choices, "right": choices.index(right)}


def _read_synsets(path: Path) -> dict[str, tuple[list[str], str, list[str]]]:
    """Offset -> words, gloss without examples, examples."""
    synsets = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence
            continue
        data, _, text = line.partition(" | ")
        fields = data.split(" ")
        words = [fields[4 + 2 * number].lower() for number in range(int(fields[3], 16))]
        gloss = text.partition('; "')[0].strip().strip(";")
        synsets[fields[0]] = ([word for word in words if word.isalpha()], gloss, EXAMPLE.findall(text))
    return synsets


def _read_page(text: str) -> tuple[str, str]:
    """Summary and first sentence of a page; empty where it has none."""
    named, described = NAME_LINE.search(text), DESCRIPTION.search(text)
    if named is None or described is None or r"\-" not in named[1]:
        return "", ""
    summary = _strip_markup(named[1].partition(r"\-")[2])
    sentence = re.split(r"(?<=[a-z)])\.\s", _strip_markup(described[1]) + " ")[0]
    return summary, sentence if 40 <= len(sentence) <= 300 else ""


def _strip_markup(text: str) -> str:
    lines = [line for line in text.splitlines() if not line.startswith((r".\"", ".ad", ".hy", ".in", ".RS"))]
    plain = MACRO.sub("", "\n".join(lines)).replace('"', " ").replace(r"\-", "-")
    plain = re.sub(r"\\f.|\\[&%c ]|\\", "", plain)
    return " ".join(re.sub(r"\s+([,.;)])", r"\1", plain.replace("( ", "(")).split())
