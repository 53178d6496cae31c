"""A dataset's own `lora` before that of `train`: what holds for an expert, what is written, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aftermix.config import Config, LoraConfig, TrainConfig, as_yaml_values, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.plan.counts import describe_training, list_adapter_ranks, list_training_tokens


def read(**train: Any) -> Config:
    return parse_config({"base": "./base", "train": train}, where="train.yaml", folder=Path("/"))


def read_section(**train: Any) -> TrainConfig:
    section = read(**train).train
    assert section is not None
    return section


MIXED = {
    "inherits": "x.jsonl",
    "full": {"data": "y.jsonl", "lora": None, "tokens": 1000},
    "low": {"mixture": {"inherits": 1.0}, "tokens": 500, "lora": {"rank": 4}},
}


def test_the_datasets_own_goes_before_the_common_one_and_null_is_none() -> None:
    section = read_section(datasets=MIXED, lora={"rank": 2})
    settled = {name: section.settle_for(name).lora for name in MIXED}
    assert settled == {"inherits": LoraConfig(rank=2), "full": None, "low": LoraConfig(rank=4)}
    assert section.group_alike(MIXED) == [["inherits"], ["full"], ["low"]]
    assert [section.locate_lora(name) for name in MIXED] == [
        "train.lora",
        "train.datasets.full.lora",
        "train.datasets.low.lora",
    ]
    without = read_section(datasets=MIXED)
    assert without.group_alike(MIXED) == [["inherits", "full"], ["low"]]


def test_a_written_null_stays_and_what_nobody_wrote_does_not_appear() -> None:
    mixtures = {"learning_rate": 1e-3, "schedule": "constant", "lora": None}
    config = read(datasets=MIXED, lora={"rank": 2}, mixtures=mixtures)
    written = as_yaml_values(config)["train"]
    assert [section.get("lora", "none") for section in written["datasets"].values()] == [
        "none",
        None,
        {"rank": 4, "alpha": 16.0},
    ]
    assert written["mixtures"] == mixtures
    assert parse_config(as_yaml_values(config), where="config.yaml", folder=Path("/")) == config


def test_plan_names_adapters_by_dataset() -> None:
    config = read(datasets=MIXED, lora={"rank": 2})
    assert list(describe_training(list_training_tokens(config), list_adapter_ranks(config))) == [
        "inherits one epoch (adapters of rank 2)",
        "full 1,000 tokens",
        "low 500 tokens (adapters of rank 4)",
    ]


@pytest.mark.parametrize(
    ("train", "told"),
    [
        (
            {"datasets": {"a": {"data": "x", "lora": {}}}, "freeze": ["norm"]},
            "'freeze' and the 'lora' of dataset 'a' exclude each other: name the layers to train in `lora.targets`",
        ),
        (
            {"datasets": {"a": {"data": "x", "lora": {}}}, "tangent": True},
            "adapters are a product; leave one of them out: the 'lora' of dataset 'a'",
        ),
        (
            {"datasets": {"a": "x"}, "sources": {"web": {"data": "x", "lora": {"rank": 4}}}},
            "train.sources.web: 'lora' belongs to a dataset: no expert is trained on a source alone",
        ),
        (
            {"datasets": {"a": {"data": "x", "lora": {"ranks": 3}}}},
            "train.datasets.a.lora.ranks: is not a known key. This section takes: rank, alpha, targets. Did you mean",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_its_place(train: dict[str, Any], told: str) -> None:
    with pytest.raises(AftermixError) as error:
        read(**train)
    assert told in str(error.value)


def test_null_takes_an_expert_out_of_what_excludes_adapters() -> None:
    section = read_section(datasets={"a": {"data": "x", "lora": None}}, freeze=["norm"])
    assert section.settle_for("a").freeze == ("norm",)
