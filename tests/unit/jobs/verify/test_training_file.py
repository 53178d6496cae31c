"""The training file that a verification makes of the user's, and which mixtures are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aftermix.config import Config, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.verify.trained_mixtures import choose_mixtures
from aftermix.jobs.verify.training_file import find_sources, read_expert_tokens, training_config
from aftermix.runs.trials import Trial

DATASETS = {"ja": {"data": "ja.jsonl", "tokens": 1e6}, "math": {"data": "math.jsonl", "tokens": 1e6}}


def config(**train: Any) -> Config:
    values = {
        "base": "./base",
        "vectors": {name: {"model": f"./{name}"} for name in ("ja", "math", "code")},
        "evaluate": {"tasks": ["gsm8k", "mbpp"]},
        "mixture": {"points": 12},
        "train": {"context": 100, "datasets": DATASETS, "sources": {"code": "code.txt"}, **train},
    }
    return parse_config(values, where="-", folder=Path("/data"))


def test_each_mixture_is_a_dataset_over_the_domains() -> None:
    shares = {"ja": 0.5, "math": 0.4951, "code": 0.0049}
    found = training_config(
        config(checkpoint_tokens=100, weight_decay=0.3),
        domains=["ja", "math", "code"],
        mixtures={"one": shares, "two": {"ja": 0, "math": 1, "code": 0}},
        tokens=20_000,
    ).train
    assert found is not None
    assert {name: source.data for name, source in found.sources.items()} == {
        "ja": "/data/ja.jsonl",
        "math": "/data/math.jsonl",
        "code": "/data/code.txt",
    }
    # 98 of 20,000 tokens are less than a sequence of 100.
    assert found.datasets["one"].mixture == pytest.approx({"ja": 0.5 / 0.9951, "math": 0.4951 / 0.9951})
    assert found.datasets["two"].mixture == {"math": 1.0}
    assert {dataset.tokens for dataset in found.datasets.values()} == {20_000}
    assert (found.checkpoint_tokens, found.weight_decay, found.context) == (None, 0.3, 100)


@pytest.mark.parametrize(
    ("rates", "expected"), [((None, None), 2e-5), ((1e-3, 1e-3), 1e-3), ((1e-3, 2e-3), 2e-5), ((1e-3, None), 2e-5)]
)
def test_a_rate_that_all_experts_share_holds_for_mixtures(
    rates: tuple[float | None, float | None], expected: float
) -> None:
    datasets = {name: {**DATASETS[name], "learning_rate": rate} for name, rate in zip(DATASETS, rates, strict=True)}
    found = training_config(config(datasets=datasets), domains=["ja", "math"], mixtures={"m": {"ja": 1.0}}, tokens=1000)
    assert found.train is not None
    assert found.train.learning_rate == expected


def test_tokens_and_data_that_are_lacking() -> None:
    train = config().train
    assert train is not None
    assert read_expert_tokens(train, ["ja", "math"], option="--tokens T") == 1_000_000
    with pytest.raises(
        AftermixError, match="found ja 1000000, math 1000000, code none. Say how many each mixture is trained on"
    ):
        read_expert_tokens(train, ["ja", "math", "code"], option="--tokens T")
    with pytest.raises(AftermixError) as caught:
        find_sources(train, ["web", "ja", "law"])
    assert "no data of domain 'web'; known are: ja, math, code" in str(caught.value)
    assert "no data of domain 'law'" in str(caught.value)


def trials(rows: list[list[float]]) -> list[Trial]:
    names = ("ja", "math", "code")
    return [
        Trial(
            number=number,
            state="failed" if number == 1 else "complete",
            weights=dict(zip(names, row, strict=True)),
            settings={},
            scores={} if number == 1 else {"gsm8k": 0.5, "mbpp": 0.5},
            objective=None if number == 1 else (0.5,),
            feasible=True,
            seconds={},
            error="-" if number == 1 else None,
            origin=None if number == 2 else f"origin {number}",
        )
        for number, row in enumerate(rows)
    ]


def test_uniform_and_the_winner_come_first_and_single_domains_last() -> None:
    rows = [[0.25, 0.5, 0.25], [1, 0, 0], [0.9, 0.1, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3], [0, 1, 0], [0.3, 0.3, 0.4]]
    setting, measured = MixtureProblem.build_flat(config()), trials(rows)
    winner = {"ja": 0.6, "math": 0.2, "code": 0.2}
    found = choose_mixtures(setting, measured, winner, 5)
    assert [one.trial for one in found] == [4, None, 2, 0, 6]
    assert found[1].name.startswith("winner-")
    assert found[1].shares_K.tolist() == [0.6, 0.2, 0.2]
    assert (found[2].name, found[2].point, found[4].point) == ("point-002", "point", "origin 6")
    assert [one.trial for one in choose_mixtures(setting, measured, winner, 7)][5:] == [3, 5]
    at_a_point = choose_mixtures(setting, measured, {"ja": 0.25, "math": 0.5, "code": 0.25}, 6)
    assert [one.trial for one in at_a_point] == [4, 0, 2, 6, 3, 5]
    assert np.allclose([one.shares_K.sum() for one in at_a_point], 1)
    with pytest.raises(AftermixError, match="expected from 1 to 7 mixtures, found 8"):
        choose_mixtures(setting, measured, winner, 8)
