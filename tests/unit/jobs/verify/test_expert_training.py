"""The rate and schedule that a verification trains mixtures at: those of the experts, or none at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aftermix.config import Config, LoraConfig, parse_config
from aftermix.errors import MixtureError
from aftermix.jobs.verify.expert_training import adopt_training
from aftermix.jobs.verify.training_file import training_config

DOMAINS = ["ja", "math"]


def experts(folder: Path, **recipes: dict[str, Any] | None) -> None:
    """Folders of experts, each with the recipe of its `train.json`; None for one without."""
    for name, recipe in recipes.items():
        (folder / name).mkdir()
        if recipe is not None:
            (folder / name / "train.json").write_text(json.dumps({"recipe": recipe}))


def config(folder: Path, **train: Any) -> Config:
    datasets = {name: {"data": f"{name}.jsonl", "tokens": 1000} for name in DOMAINS}
    values = {
        "base": "./base",
        "vectors": {name: {"model": f"./{name}"} for name in DOMAINS},
        "mixture": {},
        "train": {"datasets": datasets, "context": 100, **train},
    }
    return parse_config(values, where="-", folder=folder)


def trained_at(found: Config, mixtures: dict[str, Any]) -> tuple[float, str, int, float]:
    """Rate and schedule of the training of a mixture."""
    train = adopt_training(found, DOMAINS)
    made = training_config(
        found.model_copy(update={"train": train}), domains=DOMAINS, mixtures={"m": mixtures}, tokens=1000
    ).train
    assert made is not None
    assert made.datasets["m"].learning_rate is None
    return made.learning_rate, made.schedule, made.warmup_steps, made.min_lr_rate


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"learning_rate": 3e-4, "schedule": "constant"}, (3e-4, "constant", 0, 0.01)),
        ({"learning_rate": 3e-4, "schedule": "constant", "warmup_steps": 7}, (3e-4, "constant", 7, 0.01)),
        ({"learning_rate": 1e-5, "min_lr_rate": 0.2}, (1e-5, "cosine", 0, 0.2)),
        ({"learning_rate": 1e-5, "schedule": "wsd", "decay_share": 0.5}, (1e-5, "wsd", 0, 0.01)),
    ],
)
@pytest.mark.parametrize(
    "train", [{"learning_rate": 1e-3}, {"schedule": "wsd", "decay_share": 0.9, "warmup_steps": 3}, {}]
)
def test_mixtures_get_what_the_experts_were_trained_at_whatever_the_file_says(
    tmp_path: Path, recipe: dict[str, Any], expected: tuple[Any, ...], train: dict[str, Any]
) -> None:
    experts(tmp_path, ja=recipe, math=recipe)
    assert trained_at(config(tmp_path, **train), {"ja": 0.5, "math": 0.5}) == expected


def refused(found: Config) -> str:
    with pytest.raises(MixtureError) as error:
        adopt_training(found, DOMAINS)
    assert error.value.exit_code == 2
    return str(error.value)


CONSTANT = {"schedule": "constant"}


@pytest.mark.parametrize(
    ("recipes", "told"),
    [
        ((3e-4, CONSTANT, 1e-4, CONSTANT), "found ja: 0.0003, constant ({ja}); math: 0.0001, constant ({math})."),
        ((3e-4, CONSTANT, 3e-4, {}), "found ja: 0.0003, constant ({ja}); math: 0.0003, cosine ({math})."),
        (
            (3e-4, CONSTANT, 3e-4, {**CONSTANT, "warmup_steps": 5}),
            "found ja: 0.0003, constant ({ja}); math: 0.0003, constant, warmup_steps 5 ({math}).",
        ),
    ],
)
def test_experts_without_one_in_common_are_named_and_the_remedy_holds(
    tmp_path: Path, recipes: tuple[Any, ...], told: str
) -> None:
    first, kind, second, other = recipes
    experts(tmp_path, ja={"learning_rate": first, **kind}, math={"learning_rate": second, **other})
    message = refused(config(tmp_path, learning_rate=1e-3, schedule="constant"))
    files = {name: tmp_path / name / "train.json" for name in DOMAINS}
    assert message.startswith("--verify: expected experts of one rate and schedule, " + told.format(**files))

    assert message.endswith("state what mixtures are trained at under `train:`, as `mixtures: " + REMEDY + "`.")
    stated = config(tmp_path, mixtures={"learning_rate": 3e-4, "schedule": "constant"})
    assert trained_at(stated, {"ja": 1.0})[:2] == (3e-4, "constant")


REMEDY = "{learning_rate: 0.0003, schedule: constant}"


def test_of_an_expert_without_a_record_the_file_says_it(tmp_path: Path) -> None:
    experts(tmp_path, ja=None, math={"learning_rate": 1e-3, "schedule": "constant"})
    assert trained_at(config(tmp_path, learning_rate=1e-3, schedule="constant"), {"ja": 1.0})[:2] == (1e-3, "constant")
    other = {
        "ja": {"data": "ja.jsonl", "tokens": 1000, "learning_rate": 2e-3},
        "math": {"data": "math.jsonl", "tokens": 1000},
    }
    message = refused(config(tmp_path, learning_rate=1e-3, schedule="constant", datasets=other))
    assert "found ja: 0.002, constant (`train:` of the file); math: 0.001, constant (" in message
    unknown = "found ja: not known (no train.json, and `train:` says no learning_rate and schedule); math: 0.001"
    assert unknown in refused(config(tmp_path, learning_rate=1e-3))
    assert unknown in refused(config(tmp_path, schedule="constant"))


def test_what_the_file_states_against_all_experts_is_refused(tmp_path: Path) -> None:
    experts(tmp_path, **{name: {"learning_rate": 1e-3, **CONSTANT} for name in DOMAINS})
    message = refused(config(tmp_path, mixtures={"learning_rate": 2e-3, "schedule": "constant"}))
    assert message.startswith("train.mixtures: says 0.002, constant, and all experts were trained at 0.001, constant.")


LOW = {"rank": 4, "alpha": 16.0, "targets": None}


def adapters_of_a_mixture(found: Config) -> LoraConfig | None:
    train = adopt_training(found, DOMAINS)
    made = training_config(
        found.model_copy(update={"train": train}), domains=DOMAINS, mixtures={"m": {"ja": 1.0}}, tokens=1000
    ).train
    assert made is not None
    return made.settle_for("m").lora


def test_mixtures_get_the_adapters_that_all_experts_have(tmp_path: Path) -> None:
    """By the records of the experts, and by the datasets where there are none."""
    experts(tmp_path, ja={"learning_rate": 1e-3, **CONSTANT, "lora": LOW}, math=None)
    datasets = {
        "ja": {"data": "ja.jsonl", "tokens": 1000},
        "math": {"data": "math.jsonl", "tokens": 1000, "lora": {"rank": 4}},
    }
    found = config(tmp_path, learning_rate=1e-3, schedule="constant", datasets=datasets)
    assert adapters_of_a_mixture(found) == LoraConfig(rank=4)
    stated = {"learning_rate": 1e-3, "schedule": "constant", "lora": None}
    message = refused(config(tmp_path, learning_rate=1e-3, schedule="constant", datasets=datasets, mixtures=stated))
    assert message.startswith("train.mixtures: says 0.001, constant, and all experts were trained at 0.001, constant, ")
    assert "lora of rank 4, alpha 16" in message


def test_experts_of_unlike_adapters_are_named_and_the_remedy_holds(tmp_path: Path) -> None:
    recipe = {"learning_rate": 3e-4, **CONSTANT}
    experts(tmp_path, ja=recipe, math={**recipe, "lora": {**LOW, "targets": ["q_proj"]}})
    message = refused(config(tmp_path))
    assert "expected experts of one rate and schedule and the same `lora`, found ja: 0.0003, constant (" in message
    assert "math: 0.0003, constant, lora of rank 4, alpha 16, targets q_proj (" in message
    assert message.endswith("as `mixtures: {learning_rate: 0.0003, schedule: constant, lora: null}`.")
    stated = {"learning_rate": 3e-4, "schedule": "constant"}
    assert adapters_of_a_mixture(config(tmp_path, mixtures={**stated, "lora": None}, lora={"rank": 8})) is None
    assert adapters_of_a_mixture(config(tmp_path, mixtures={**stated, "lora": {"rank": 2}})) == LoraConfig(rank=2)
    assert adapters_of_a_mixture(config(tmp_path, mixtures=stated, lora={"rank": 8})) == LoraConfig(rank=8)
