"""Three domains whose examples differ in length, a base with a tokenizer, and a run that found ratios for them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoTokenizer

from conftest import save_tokenizer

RATIOS = {"code": 0.2, "ja": 0.3, "math": 0.5}
WORDS = {"ja": (4, 10), "math": (25, 60), "code": (10, 20)}
EXAMPLES = {"ja": 4000, "math": 2000, "code": 4000}


@dataclass(frozen=True)
class ExportWorld:
    folder: Path
    tokens_of: dict[str, int]
    """Tokens of each text, as training counts them."""

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def file(self) -> Path:
        return self.folder / "train.yaml"

    def held(self, name: str) -> list[str]:
        return [json.loads(line)["text"] for line in (self.folder / f"{name}.jsonl").read_text().splitlines()]

    def shares(self, texts: Iterable[str]) -> dict[str, float]:
        """Share of the tokens of `texts` by domain, which each text begins with."""
        tokens: Counter[str] = Counter()
        for text in texts:
            tokens[text.split(" ", 1)[0]] += self.tokens_of[text]
        return {name: tokens[name] / tokens.total() for name in RATIOS}


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def make_export_world(folder: Path) -> ExportWorld:
    """Documents of `code` stand in order of length, which shows who takes the first rows."""
    save_tokenizer(folder / "base")
    random.seed(0)
    texts = {}
    for name, (low, high) in WORDS.items():
        found = [
            [random.choice(("sum", "one", "even")) for _ in range(random.randint(low, high))]
            for _ in range(EXAMPLES[name])
        ]
        if name == "code":
            found.sort(key=len)
        texts[name] = [f"{name} {number} {' '.join(words)}" for number, words in enumerate(found)]
        write_records(folder / f"{name}.jsonl", ({"text": text, "id": 7} for text in texts[name]))
    every = [text for found in texts.values() for text in found]
    rows = AutoTokenizer.from_pretrained(folder / "base")(every)["input_ids"]
    train = {
        "base": "base",
        "train": {
            "datasets": {"ja": "ja.jsonl", "found": {"mixture": "run/best.json", "tokens": 200_000, "max_epochs": 9}},
            "sources": {"math": {"data": "math.jsonl"}, "code": {"data": "code.jsonl"}},
        },
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(train))
    (folder / "run").mkdir()
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump({"base": "../base"}))
    (folder / "run" / "best.json").write_text(json.dumps({"ratios": {**RATIOS, "old": 0.0}}))
    return ExportWorld(folder, {text: len(ids) + 1 for text, ids in zip(every, rows, strict=True)})
