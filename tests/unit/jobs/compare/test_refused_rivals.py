"""Rows of `compare:` that cannot be run are refused before anything is, each with its place and remedy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.compare.checks import refuse_bad_rivals
from aftermix.jobs.compare.rival_plans import plan_rivals

Family = Mapping[str, Path]
TRAIN = {
    "datasets": {name: {"data": f"{name}.jsonl", "tokens": 320} for name in ("b", "c")},
    "sources": {"en": "en.jsonl"},
    "context": 32,
    "learning_rate": 1e-3,
    "schedule": "constant",
}


@pytest.fixture
def parse(tmp_path: Path, family: Family) -> Callable[..., Config]:
    """A file with the row `x` over experts b and c, and the instruction vector a."""
    for name in ("b", "c", "en"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": "the sum is even and one of these "}) + "\n")

    def parse_row(row: dict[str, Any], **changed: Any) -> Config:
        vectors: dict[str, Any] = {name: {"model": str(family[name])} for name in ("a", "b", "c")}
        vectors["a"]["role"] = "instruction"
        values = {"base": str(family["base"]), "vectors": vectors, "train": TRAIN, "compare": {"x": row}} | changed
        kept = {key: value for key, value in values.items() if value is not None}
        return parse_config(kept, where="file.yaml", folder=tmp_path)

    return parse_row


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({}, "compare.x: takes one of 'model', 'weights' and 'train', found none"),
        ({"model": "m", "weights": {"b": 1}}, "takes one of 'model', 'weights' and 'train', found model and weights"),
        (
            {"model": "m", "instruction": "auto"},
            "compare.x.instruction: expected a number, tuned or none, found 'auto",
        ),
        ({"model": "m", "instruction": float("nan")}, "expected a number, tuned or none, found nan"),
        ({"weights": {"b": "much"}}, "compare.x.weights.b: Input should be a valid number"),
        ({"train": {"ratios": "equal"}}, "compare.x.train.ratios: expected one of uniform, found, tokens, or numbers"),
        ({"train": {"ratios": {"b": 0.7, "c": 0.7}}}, "expected ratios that sum to 1, found a sum of 1.4"),
        ({"train": {"ratios": {"b": 1.5, "c": -0.5}}}, "or numbers of at least 0 by name of a dataset"),
        ({"train": {"ratios": {}}}, "expected ratios that sum to 1, found a sum of 0"),
        ({"train": {"tokens": 0}}, "compare.x.train.tokens: Input should be greater than 0, found 0"),
        (
            {"train": {"seed": 2}},
            "compare.x.train.seed: is not a known key. This section takes: ratios, ",
        ),
    ],
    ids=str,
)
def test_the_file_itself(parse: Callable[..., Config], row: dict[str, Any], told: str) -> None:
    with pytest.raises(AftermixError) as caught:
        parse(row)
    assert told in str(caught.value)


MANY = {"a": {"model": "a", "role": "instruction"}, "it": {"model": "it", "role": "instruction"}, "b": {"model": "b"}}


@pytest.mark.parametrize(
    ("row", "changed", "told"),
    [
        (
            {"weights": {"bb": 1}},
            {},
            "compare.x.weights: expected a vector of the run (a, b, c), found 'bb'. Correct the name. Did you mean",
        ),
        (
            {"weights": {"a": 0.5, "b": 1}, "instruction": 0.6},
            {},
            "compare.x.weights: 'a' has a weight, and `instruction` says another. Remove one of them.",
        ),
        (
            {"model": "m", "instruction": "tuned"},
            {"vectors": {"b": {"model": "b"}}},
            "compare.x.instruction: expected one vector with `role: instruction`, found none. Give one vector",
        ),
        ({"model": "m", "instruction": 0.6}, {"vectors": MANY}, "with `role: instruction`, found a, it"),
        ({"train": {}}, {"train": None}, "compare.x.train: asks for a training, and the file says no `train:`. Add"),
        (
            {"train": {}},
            {"vectors": {"a": {"model": "a", "role": "instruction"}}},
            "compare.x.train: expected vectors of data, found none.",
        ),
        (
            {"train": {"ratios": {"b": 0.5, "d": 0.5}}},
            {},
            "compare.x.train: no data of domain 'd'; known are: b, c, en. Add a dataset or source of this name",
        ),
        (
            {"train": {}},
            {"train": TRAIN | {"datasets": {"b": "b.jsonl"}}},
            "compare.x.train: no data of domain 'c'; known are: b, en.",
        ),
        (
            {"train": {}},
            {"train": TRAIN | {"datasets": {"b": "b.jsonl", "c": "gone.jsonl"}}},
            "compare.x.train: train, 'c': ",
        ),
        (
            {"train": {"ratios": "found"}},
            {"search": {"over": {"weights": False, "lambda": {"low": 0.5, "high": 1}}}},
            "compare.x.train.ratios: asks for the ratios found, and `search.over.weights` is false.",
        ),
        (
            {"train": {"ratios": "tokens"}},
            {"train": TRAIN | {"datasets": {"b": {"data": "b.jsonl", "tokens": 9}, "c": "c.jsonl"}}},
            "compare.x.train.ratios: expected the tokens of every expert, found none of c. Say vectors.c.tokens.",
        ),
        (
            {"train": {}},
            {"train": TRAIN | {"datasets": {"b": {"data": "b.jsonl", "tokens": 9}, "c": "c.jsonl"}}},
            "compare.x.train.tokens: expected the tokens of the training, and those of 'c' are not known to add",
        ),
        (
            {"train": {"tokens": 63}},
            {},
            "compare.x.train.tokens: expected at least 64 tokens, a sequence of `train.context` for each dataset, "
            "found 63. Train on more, or lower `train.context`.",
        ),
        (
            {"train": {}},
            {"train": {key: value for key, value in TRAIN.items() if key != "schedule"}},
            "compare.x.train: expected experts of one rate and schedule, found b: not known",
        ),
    ],
    ids=str,
)
def test_what_the_rest_of_the_file_lacks(
    parse: Callable[..., Config], row: dict[str, Any], changed: dict[str, Any], told: str
) -> None:
    with pytest.raises(AftermixError) as caught:
        plan_rivals(parse(row, **changed))
    assert told in str(caught.value)


def test_all_rows_are_told_at_once(parse: Callable[..., Config]) -> None:
    rows = {"x": {"weights": {"d": 1}}, "y": {"train": {"ratios": {"e": 1.0}}}, "fine": {"weights": {"b": 1}}}
    with pytest.raises(AftermixError) as caught:
        plan_rivals(parse({}, compare=rows))
    assert [problem.where for problem in caught.value.problems] == ["compare.x.weights", "compare.y.train"]


def test_what_is_left_out_is_settled(parse: Callable[..., Config]) -> None:
    (plan,) = plan_rivals(parse({"train": {}, "instruction": "tuned"}))
    assert plan.training is not None
    assert (plan.training.shares, plan.training.tokens, plan.instruction) == ({"b": 0.5, "c": 0.5}, 640, "a")
    (plan,) = plan_rivals(parse({"train": {"ratios": {"b": 0.5, "en": 0.49}, "tokens": 64, "seeds": 3}}))
    assert plan.training is not None
    assert plan.training.shares == pytest.approx({"b": 0.5 / 0.99, "en": 0.49 / 0.99})
    assert list(plan.training.name_folders(plan.training.shares)) == [0, 1, 2]


def test_one_training_has_one_folder_whatever_is_added_to_it(parse: Callable[..., Config]) -> None:
    def name(row: dict[str, Any], **changed: Any) -> str:
        training = plan_rivals(parse(row, **changed))[0].training
        assert training is not None
        return training.name_folders(training.settle_shares({"b": 0.5, "c": 0.5}) or {})[0]

    one = name({"train": {}})
    assert name({"train": {"ratios": "found"}, "instruction": "tuned"}) == one
    assert name({"train": {}}, train=TRAIN | {"threads": 2, "cache": "tokens"}) == one
    assert name({"train": {"tokens": 320}}) != one
    assert name({"train": {"ratios": {"b": 0.6, "c": 0.4}}}) != one
    assert name({"train": {}}, train=TRAIN | {"learning_rate": 2e-3}) != one


def refuse(config: Config) -> str:
    with pytest.raises(AftermixError) as caught:
        refuse_bad_rivals(config, open_pool(config))
    return str(caught.value)


def test_tokens_beyond_the_data_and_the_experts(parse: Callable[..., Config]) -> None:
    refuse_bad_rivals(config := parse({"train": {"tokens": 640}}), open_pool(config))
    told = refuse(parse({"train": {"tokens": 641}}))
    assert "compare.x.train.tokens: expected at most 640 tokens, which its data hold or the experts took, found" in told


def test_models_that_are_not_there_or_do_not_fit(
    parse: Callable[..., Config], copied: Callable[[str], Path], tmp_path: Path
) -> None:
    assert "compare.x: " in refuse(parse({"model": str(tmp_path / "missing")}))

    other = copied("b")
    tensors = load_file(other / "model.safetensors")
    first = next(name for name in tensors if "mlp.up_proj" in name)
    save_file(tensors | {first: torch.cat([tensors[first]] * 2)}, other / "model.safetensors", {"format": "pt"})
    assert f"{first}" in refuse(parse({"model": str(other)}))

    save_file(tensors | {first: tensors[first] * float("nan")}, other / "model.safetensors", {"format": "pt"})
    assert "NaN or Inf values" in refuse(parse({"model": str(other)}))


def test_a_model_of_another_tokenizer(parse: Callable[..., Config], copied: Callable[[str], Path]) -> None:
    other = copied("b")
    refuse_bad_rivals(config := parse({"model": str(other)}), open_pool(config))
    values = json.loads((other / "tokenizer.json").read_text())
    vocabulary = values["model"]["vocab"]
    first, second = list(vocabulary)[10:12]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(values))
    assert "by which the winner is scored. Name a model of the same tokenizer." in refuse(parse({"model": str(other)}))
