"""Training text and lm-eval tasks from one file of documents: choose how a held-out text goes on, among four."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_EVERY = 5
"""Each fifth document serves the tasks, the others train the expert."""
ITEMS = 96
CHOICES = 4
SPANS_PER_DOCUMENT = 8  # no long document rules a task
WORD_EDGE = re.compile(r"(?<!\w)|(?!\w)", re.ASCII)
"""Any place that is not inside a word of ASCII letters and digits; Japanese and Chinese may be cut everywhere."""

TASK = """\
task: continue_{domain}
dataset_path: json
dataset_kwargs:
  data_files: {{test: continue_{domain}.jsonl}}  # relative to this file
test_split: test
output_type: multiple_choice
doc_to_text: context
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""


@dataclass(frozen=True)
class Length:
    """Characters of an item: as many as make about 25 tokens of context and 12 of continuation."""

    context: int
    continuation: int


@dataclass(frozen=True)
class Span:
    """A piece of a document, and how the document goes on."""

    document: int
    context: str
    continuation: str


def read_texts(path: Path) -> list[str]:
    """The `text` of each line of a gzip-compressed JSONL file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def divide(texts: list[str]) -> tuple[list[str], dict[int, str]]:
    """Texts to train on, and held-out texts by number."""
    train = [text for number, text in enumerate(texts) if number % HELD_OUT_EVERY]
    return train, dict(list(enumerate(texts))[::HELD_OUT_EVERY])


def write_texts(path: Path, texts: Iterable[str]) -> Path:
    """One `{"text": ...}` a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def write_task(folder: Path, domain: str, held_out: Mapping[int, str], length: Length) -> None:
    """A task file and its items. The wrong choices are how other held-out documents of the domain go on."""
    draws = random.Random(domain)  # noqa: S311 - a seed, not a secret
    spans = [span for number, text in held_out.items() for span in _spans(number, text, length, draws)]
    draws.shuffle(spans)
    if len(spans) < ITEMS:
        raise SystemExit(f"{domain}: {len(spans)} spans of held-out text, {ITEMS} items wanted")
    items = [json.dumps(_item(span, spans, draws), ensure_ascii=False) for span in spans[:ITEMS]]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"continue_{domain}.jsonl").write_text("\n".join(items) + "\n", encoding="utf-8")
    (folder / f"continue_{domain}.yaml").write_text(TASK.format(domain=domain), encoding="utf-8")


def _spans(document: int, text: str, length: Length, draws: random.Random) -> Iterator[Span]:
    """Random pieces of `text` that hardly overlap and cut no word."""
    whole = length.context + length.continuation
    starts = range(0, len(text) - whole, whole)
    for start in draws.sample(starts, min(len(starts), SPANS_PER_DOCUMENT)):
        first, middle, last = (_next_edge(text, start + offset) for offset in (0, length.context, whole))
        context, continuation = text[first:middle], text[middle:last]
        if len(continuation.strip()) > length.continuation // 2:
            yield Span(document, context, continuation)


def _next_edge(text: str, at: int) -> int:
    found = WORD_EDGE.search(text, at)
    return found.start() if found else len(text)


def _item(span: Span, spans: list[Span], draws: random.Random) -> dict[str, object]:
    choices = [span.continuation]
    while len(choices) < CHOICES:
        other = draws.choice(spans)
        if other.document != span.document and other.continuation not in choices:
            choices.append(other.continuation)
    draws.shuffle(choices)
    return {"context": span.context, "choices": choices, "answer": choices.index(span.continuation)}
