"""The demo's recipe is what its page says: one rate, lengths of at most 8:1, choices of one length, errors paired."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from examples.demo.seeds import PairedLead, SeedResult, compute_lead, write_table
from transformers import AutoTokenizer

from aftermix.config.file import load_config

DEMO = Path(__file__).resolve().parents[3] / "examples" / "demo"
PUZZLES = ("counts", "dates", "logic", "sums")


def test_all_vectors_are_trained_alike_but_for_their_lengths() -> None:
    training = load_config(DEMO / "train.yaml").train
    assert training is not None
    assert {dataset.learning_rate for dataset in training.datasets.values()} == {None}, "the common one holds"

    tokens = {name: dataset.tokens or 0 for name, dataset in training.datasets.items()}
    assert max(tokens.values()) <= 8 * min(tokens.values())
    searched = load_config(DEMO / "aftermix.yaml").vectors
    assert {name: vector.tokens for name, vector in searched.items() if vector.role == "expert"} == {
        name: count for name, count in tokens.items() if name != "it"
    }
    assert searched["it"].role == "instruction"


def test_the_demo_has_two_thousand_test_items() -> None:
    evaluate = load_config(DEMO / "aftermix.yaml").evaluate
    assert evaluate is not None
    names = [str(task) if isinstance(task, str) else task.task for task in evaluate.tasks]
    items = [len((DEMO / "tasks" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()) for name in names]
    assert items == [800] * 4
    assert evaluate.items.test == 500


@pytest.mark.parametrize("domain", PUZZLES)
def test_choices_of_a_puzzle_have_as_many_tokens_as_the_right_one(domain: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "base")
    lines = (DEMO / "tasks" / f"continue_{domain}.jsonl").read_text(encoding="utf-8").splitlines()
    for item in map(json.loads, lines):
        assert len({len(row) for row in tokenizer(item["choices"])["input_ids"]}) == 1
        assert len(set(item["choices"])) == 4


def test_a_lead_is_the_mean_of_the_tasks_with_its_paired_error() -> None:
    ours = {"x": [1.0, 1.0, 0.0, 1.0], "y": [1.0, 0.0]}
    theirs = {"x": [0.0, 1.0, 0.0, 0.0], "y": [1.0, 0.0]}
    lead = compute_lead("base", ours, theirs)
    assert lead.difference == pytest.approx(25.0)
    assert lead.error == pytest.approx(100 * np.sqrt((1 / 3) / 4) / 2)
    assert not lead.is_clear


def test_the_table_marks_what_is_within_two_errors() -> None:
    clear, close = PairedLead("base", 2.1, 1.0), PairedLead("uniform", 1.9, 1.0)
    rows = {1: SeedResult(0.5, {}, [clear] * 5), 2: SeedResult(0.51, {}, [clear, close, clear, clear, clear])}
    *_, first, second = write_table(rows).splitlines()
    assert first == "| 1 | 50.0 | 2.1 ± 1.0 | 2.1 ± 1.0 | 2.1 ± 1.0 | 2.1 ± 1.0 | 2.1 ± 1.0 | yes |"
    assert second == "| 2 | 51.0 | 2.1 ± 1.0 | 1.9 ± 1.0 (!) | 2.1 ± 1.0 | 2.1 ± 1.0 | 2.1 ± 1.0 | no |"
