"""Averages of checkpoints against runs whose rate really decays, and against means taken by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from aftermix.cli import cli
from aftermix.config import Config, load_config, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.average.command import average
from aftermix.jobs.merge.command import merge
from aftermix.jobs.train.command import train
from aftermix.training.averaging import compute_decay_weights

SHAPES = {
    "linear": lambda p: 1 - p,
    "cosine": lambda p: 0.5 * (1 + math.cos(math.pi * p)),
    "1-sqrt": lambda p: 1 - math.sqrt(p),
}
STEPS_A_STRETCH = 400


@given(
    st.sampled_from(sorted(SHAPES)),
    st.lists(st.integers(1, 50), min_size=1, max_size=6),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_the_merge_is_the_run_whose_rate_decays(shape: Any, stretches: list[int], min_rate: float, seed: int) -> None:
    """A run step by step, with gradients that do not depend on the rate and are constant between checkpoints."""
    draw = np.random.default_rng(seed)
    tokens = [100 + sum(stretches[:count]) for count in range(len(stretches) + 1)]
    theta = draw.normal(size=3)
    decayed, constant, checkpoints = theta.copy(), theta.copy(), [theta.copy()]
    for number, stretch in enumerate(stretches):
        gradient = draw.normal(size=3)
        for step in range(STEPS_A_STRETCH):
            place = (sum(stretches[:number]) + (step + 0.5) / STEPS_A_STRETCH * stretch) / sum(stretches)
            decayed += (min_rate + (1 - min_rate) * SHAPES[shape](place)) * gradient / STEPS_A_STRETCH
        constant = constant + gradient
        checkpoints.append(constant)
    weights = compute_decay_weights(tokens, shape, min_rate=min_rate)
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= -1e-12
    merged = sum(weight * checkpoint for weight, checkpoint in zip(weights, checkpoints, strict=True))
    np.testing.assert_allclose(merged, decayed, atol=2e-3)


@pytest.fixture
def run(make_config: Any, tmp_path: Path) -> Path:
    """A run at a constant rate with five checkpoints, the last of them the expert."""
    options = {"schedule": "constant", "learning_rate": 1e-3, "dtype": "float32"}
    train(make_config(checkpoint_tokens=128, **options), tmp_path / "out")
    return tmp_path / "out"


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}


@pytest.mark.parametrize("decay", [None, "1-sqrt"])
def test_the_last_few(run: Path, tmp_path: Path, decay: Any) -> None:
    said: list[str] = []
    folder = average([run / "cats-checkpoints", run / "cats"], tmp_path / "mean", last=3, decay=decay, log=said.append)
    tokens = [384, 512, 640]
    shares = compute_decay_weights(tokens, decay, min_rate=0.0) if decay else [1 / 3] * 3
    assert said[:3] == [f"tokens-{n:012d}: weight {w:.4f}" for n, w in zip(tokens, shares, strict=True)]
    taken = [weights_of(run / f"cats-checkpoints/tokens-{n:012d}") for n in tokens]
    for name, tensor in weights_of(folder).items():
        expected = sum(share * each[name] for share, each in zip(shares, taken, strict=True))
        torch.testing.assert_close(tensor, expected, atol=1e-7, rtol=1e-6)
    record = json.loads((folder / "average.json").read_text())
    assert [(each["tokens"], each["select"]) for each in record["checkpoints"]] == [(n, None) for n in tokens]
    assert [each["weight"] for each in record["checkpoints"]] == pytest.approx(shares)
    assert (folder / "tokenizer.json").is_file()
    assert "linear" in (folder / "aftermix.yaml").read_text()


def test_the_recipe_beside_an_average_makes_it_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where checkpoints were named from the working directory."""
    monkeypatch.chdir(run)
    folder = average([Path("cats-checkpoints")], tmp_path / "mean", last=2)
    monkeypatch.chdir(tmp_path)
    again = merge(load_config(folder / "aftermix.yaml"), tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    record = json.loads((folder / "average.json").read_text())
    assert all(Path(each["folder"]).is_absolute() for each in record["checkpoints"])


def scoring(tasks: Path) -> Config:
    items = {"search": 10, "select": 30}
    section = {"tasks": ["colours", "numbers"], "include_path": str(tasks), "items": items, "device": "cpu"}
    return parse_config({"evaluate": section}, where="eval.yaml", folder=tasks)


def test_the_best_few_by_the_select_items(make_config: Any, tmp_path: Path, tasks: Path) -> None:
    """Scores are those that `evaluate` gives each checkpoint on select items, in the folder's own words."""
    from aftermix.jobs.evaluate.command import evaluate

    options = {"schedule": "constant", "learning_rate": 3e-2, "dtype": "float32"}
    run = train(make_config(checkpoint_tokens=128, **options), tmp_path / "out")["cats"].parent
    folder = average([run / "cats-checkpoints"], tmp_path / "best", best=2, by=scoring(tasks))
    chosen = json.loads((folder / "average.json").read_text())["checkpoints"]
    scores = {}
    for place in sorted((run / "cats-checkpoints").iterdir()):
        config = scoring(tasks).model_copy(update={"base": str(place)})
        scores[str(place)] = evaluate(config, split="select").objective[0]
    assert len(set(scores.values())) > 2
    expected = sorted(sorted(scores, key=lambda place: (scores[place], place), reverse=True)[:2])
    assert [each["folder"] for each in chosen] == expected
    assert [each["weight"] for each in chosen] == [0.5, 0.5]
    assert [each["select"] for each in chosen] == pytest.approx([scores[place] for place in expected])


def test_what_cannot_be_averaged_is_refused(run: Path, make_config: Any, tmp_path: Path, tasks: Path) -> None:
    checkpoints, out = run / "cats-checkpoints", tmp_path / "no"
    other = train(make_config(learning_rate=1e-4), tmp_path / "other")["cats"]
    cases: list[tuple[list[Path], dict[str, Any], str]] = [
        (
            [tmp_path],
            {},
            r"holds no checkpoint \(no train.json, trainer_state.json or .metadata in it or one level below\). Name",
        ),
        ([run / "cats"], {}, r"expected at least two checkpoints, found 1. Train with `checkpoint_tokens`"),
        (
            [checkpoints / "tokens-000000000128", other],
            {},
            r"is of another run than .*tokens-000000000128 \(learning_r",
        ),
        ([checkpoints, other], {}, r"cats: is of another run than .*tokens-000000000640"),  # though of as many tokens
        ([checkpoints], {"last": 2, "best": 2, "by": scoring(tasks)}, r"--last: excludes --best. Name one of the two."),
        ([checkpoints], {"last": 9}, r"--last: expected 2 to 5, as many as there are checkpoints, found 9"),
        ([checkpoints], {"best": 2}, r"--best: nothing says how to score. Add --by FILE, a file with `evaluate:`."),
        ([checkpoints], {"best": 2, "by": scoring(tasks), "decay": "linear"}, r"a decay needs checkpoints in a row"),
        ([checkpoints], {"last": 2, "by": scoring(tasks)}, r"--by: says how to score, but nothing is chosen by score"),
        ([checkpoints], {"min_rate": 0.1}, r"--min-rate: is the end of a decay, and none is asked for. Add --decay"),
    ]
    for places, options, message in cases:
        with pytest.raises(AftermixError, match=message):
            average(places, out, **options)
    train(make_config(checkpoint_tokens=320), tmp_path / "cosine")
    with pytest.raises(AftermixError, match=r"--decay: the rate of this run was 'cosine' already. Leave it out, or tr"):
        average([tmp_path / "cosine/cats-checkpoints"], out, decay="linear")
    assert not out.exists()


@pytest.fixture(scope="module")
def foreign(family: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs of transformers' own Trainer: six steps, a checkpoint every two."""

    def train_elsewhere(name: str, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp(name) / name
        model = AutoModelForCausalLM.from_pretrained(family["base"], dtype=torch.float32)
        rows = [{"input_ids": [n + 1, n + 2, n + 3], "labels": [n + 1, n + 2, n + 3]} for n in range(12)]
        settings = {"lr_scheduler_type": "constant", "logging_steps": 1, "learning_rate": 1e-3, **options}
        arguments = TrainingArguments(
            str(folder), max_steps=6, save_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to=[],
            disable_tqdm=True, **settings,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        trainer.save_model()
        trainer.save_state()
        return folder

    return train_elsewhere


def test_checkpoints_of_another_trainer(foreign: Callable[..., Path], tmp_path: Path) -> None:
    """By their steps, with the end that the Trainer saved beside them counted once."""
    run = foreign("constant")
    folder = average([run], tmp_path / "mean", decay="linear")
    shares = compute_decay_weights([2, 4, 6], "linear", min_rate=0.0)
    taken = [weights_of(run / f"checkpoint-{steps}") for steps in (2, 4, 6)]
    for name, tensor in weights_of(folder).items():
        expected = sum(share * each[name] for share, each in zip(shares, taken, strict=True))
        torch.testing.assert_close(tensor, expected, atol=1e-7, rtol=1e-6)
    record = json.loads((folder / "average.json").read_text())["checkpoints"]
    assert [each["steps"] for each in record] == [2, 4, 6]
    assert all("tokens" not in each for each in record)

    counted = foreign("counted", include_num_input_tokens_seen="all")
    record = average([counted / "checkpoint-4", counted / "checkpoint-2"], tmp_path / "two") / "average.json"
    assert [each["tokens"] for each in json.loads(record.read_text())["checkpoints"]] == [12, 24]


def test_checkpoints_of_another_trainer_that_cannot_be_averaged(foreign: Callable[..., Path], tmp_path: Path) -> None:
    one, other = foreign("one"), foreign("other", learning_rate=2e-3)
    falling = foreign("falling", lr_scheduler_type="linear")
    silent = foreign("silent", logging_steps=100)
    broken = tmp_path / "broken/checkpoint-2"
    broken.mkdir(parents=True)
    (broken / "trainer_state.json").write_text("{}")
    cases: list[tuple[list[Path], dict[str, Any], str]] = [
        ([one / "checkpoint-2", other / "checkpoint-4"], {}, r"checkpoint-4: is of another run than .*-2 \(their logs"),
        ([falling], {"decay": "linear"}, r"--decay: the rate of this run was between \d.* and \d.* already. Lea"),
        ([silent], {"decay": "linear"}, r"--decay: nothing tells the rate of this run. Leave it out"),
        ([broken], {}, r"holds no checkpoint"),
        ([broken.parent], {}, r"trainer_state.json: has no `global_step`. Name folders that a Trainer wrote"),
    ]  # fmt: skip
    for places, options, message in cases:
        with pytest.raises(AftermixError, match=message):
            average(places, tmp_path / "no", **options)
    assert not (tmp_path / "no").exists()


def test_on_the_command_line(run: Path, tmp_path: Path) -> None:
    arguments = ["average", str(run / "cats-checkpoints"), "-o", str(tmp_path / "mean"), "--last", "2"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == f"Model: {tmp_path / 'mean'}"
    assert "Name one of --last and --best" in CliRunner().invoke(cli, [*arguments, "--best", "2"]).output
