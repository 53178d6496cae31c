"""A scorer of one's own: which of four texts belongs to a sentence, by the cosine of their embeddings.

`pairs.jsonl` beside this file has the items. An id is a hash of its item: with other data a run is refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

BATCH = 64
SHARPNESS = 20.0
"""Cosines times this are the logits of the choices, as MiniLM was trained."""


def read_pairs(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Task -> id -> `sentence`, `choices` and `right`, the place of the right one."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        found.setdefault(pair["task"], {})[hashlib.sha256(line.encode()).hexdigest()[:12]] = pair
    return found


PAIRS = read_pairs(Path(__file__).with_name("pairs.jsonl"))


def items() -> dict[str, list[str]]:
    """Ids of all pairs, by task."""
    return {task: list(pairs) for task, pairs in PAIRS.items()}


def score(model: Any, tokenizer: Any, items: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """1 for each pair whose right choice is nearest to its sentence, and the log-likelihoods of the choices."""
    return {task: _score_task(model, tokenizer, [PAIRS[task][each] for each in ids]) for task, ids in items.items()}


def _score_task(model: Any, tokenizer: Any, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair["sentence"], *pair["choices"])))
    vectors = dict(zip(texts, _embed(model, tokenizer, texts), strict=True))
    gold = [pair["right"] for pair in pairs]

    loglikelihoods = []
    for pair in pairs:
        cosines = torch.stack([vectors[choice] for choice in pair["choices"]]) @ vectors[pair["sentence"]]
        loglikelihoods.append(torch.log_softmax(SHARPNESS * cosines.double(), 0).tolist())

    chosen = [row.index(max(row)) for row in loglikelihoods]
    scores = [float(choice == right) for choice, right in zip(chosen, gold, strict=True)]
    return {"scores": scores, "loglikelihoods": loglikelihoods, "gold": gold}


def _embed(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Means of the last hidden states over tokens, of length 1. Texts of like length go together."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    rows: list[torch.Tensor] = [torch.empty(0)] * len(texts)
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        chosen = [texts[place] for place in places]
        batch = tokenizer(chosen, return_tensors="pt", padding=True, truncation=True, max_length=256).to(model.device)
        mask = batch["attention_mask"][..., None]
        means = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        for place, row in zip(places, torch.nn.functional.normalize(means.float(), dim=-1), strict=True):
            rows[place] = row
    return torch.stack(rows)
