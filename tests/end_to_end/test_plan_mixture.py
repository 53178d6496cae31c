"""`aftermix plan` of mixtures and trainings, held against what the mixture really measures; the lock of such a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from aftermix.config import load_config
from aftermix.errors import AftermixError
from aftermix.jobs.mixture.command import mixture
from aftermix.jobs.plan.command import plan
from conftest import run_cli

Family = Mapping[str, Path]


def write_file(folder: Path, family: Family, tasks: Path, **sections: Any) -> Path:
    values = {
        "base": str(family["base"]),
        "vectors": {
            "a": {"model": str(family["a"]), "role": "instruction", "weight": 0.5},
            "b": {"model": str(family["b"])},
            "c": {"model": str(family["c"])},
        },
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(tasks),
            "items": {"search": 20, "select": 10},
            "threads": 1,
        },
        "mixture": {"points": 6, "rounds": [2], "repeats": 2, "verify": 1, "seed": 7},
        **sections,
    }
    path = folder / "aftermix.yaml"
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return path


def test_the_plan_of_a_mixture_counts_what_it_measures(
    family: Family, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_file(tmp_path, family, tasks)
    found = plan(load_config(file))
    # Test: the winner beside uniform, each expert alone and the base.
    assert found.measurements == {"search": 6 + 2, "select": 2 + 1 + 2, "test": 1 + 4}
    assert found.items["colours"] == {"search": 20, "select": 10, "test": 30}
    assert found.tokens_per_s is not None
    assert found.seconds["test"] == pytest.approx(found.tokens["test"] / found.tokens_per_s + 5 * found.combine_s)
    assert found.tokens["search"] == pytest.approx(2 * 8 * found.tokens["select"] / 5, rel=0.1)
    assert run_cli("plan", str(file)) == 0
    out = capsys.readouterr().out
    assert "search          8 evaluations" in out
    assert "Space           mixtures of 2 members: b, c; a at 0.5\n" in out
    assert "Training" not in out

    run = mixture(load_config(file), tmp_path / "run")
    measured = {split: len(list((run / "items" / split).rglob("*.json"))) for split in ("search", "select", "test")}
    assert measured["search"] == 8
    assert measured["test"] == 5
    assert 3 <= measured["select"] <= 5, "verified mixtures may coincide with each other and with repeats"

    lock = json.loads((run / "lock.json").read_text())
    assert lock["seeds"] == {"merge": 0, "search": 0, "items": 0, "mixture": 7}
    for package in ("lightgbm", "scipy", "scikit-learn", "torch"):
        assert lock["versions"][package] == version(package)


def test_the_plan_of_a_tree_sums_over_its_groups(family: Family, tasks: Path, tmp_path: Path) -> None:
    vectors = {name: {"model": str(family[name])} for name in ("a", "b", "c")}
    asked = {"points": 9, "repeats": 1, "verify": 2, "tree": {"left": ["a", "b"], "c": None}}
    asked["levels"] = {"left": {"points": 5, "rounds": [3, 1]}}
    train = {"datasets": {name: {"data": f"{name}.txt", "tokens": 5e4} for name in "abc"}}
    found = plan(load_config(write_file(tmp_path, family, tasks, vectors=vectors, mixture=asked, train=train)))
    # Test: uniform, groups as at first, three experts alone, and the base, beside the winner.
    assert found.measurements == {"search": 9 + 5 + 3 + 1, "select": 2 * (2 + 2 + 1) + 1, "test": 1 + 6}
    assert found.space == "mixtures of 2 members: left, c; 2 members: a, b"
    assert found.verification_tokens == 50_000
    assert found.retrained_ratios == ("found", "uniform", "RegMix"), "of all experts side by side"


def test_tokens_of_training_are_told(
    family: Family, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = {"datasets": {"b": {"data": "b.txt", "tokens": 5e4}, "c": {"data": "c.txt", "tokens": 5e4}}}
    file = write_file(tmp_path, family, tasks, train=train)
    found = plan(load_config(file))
    assert found.training == {"b": 50_000, "c": 50_000}
    assert found.verification_tokens == 50_000
    assert run_cli("plan", str(file)) == 0
    out = capsys.readouterr().out
    assert "Training        b 50,000 tokens, c 50,000 tokens\n" in out
    assert "--verify N      N x 50,000 tokens of training\n" in out, "experts without a rate in common have no time"
    assert "--seeds S       at most S x 3 x 50,000 tokens more, at the ratios of: found, uniform, RegMix\n" in out
    assert "--doremi        50,000 tokens more, and S x 50,000 at its ratios\n" in out

    train["datasets"]["c"] = {"data": "c.txt"}
    file = write_file(tmp_path, family, tasks, train=train, vectors=None, evaluate=None, mixture=None)
    found = plan(load_config(file))
    tensors = load_file(family["base"] / "model.safetensors").values()
    assert found.parameters == sum(tensor.numel() for tensor in tensors)
    assert found.disk_bytes == 2 * sum(tensor.nbytes for tensor in tensors)
    assert found.memory_bytes == 16 * found.parameters
    assert run_cli("plan", str(file)) == 0
    out = capsys.readouterr().out
    assert " for 2 experts, " in out
    assert "Training        b 50,000 tokens, c one epoch\n" in out
    assert "evaluations" not in out


def test_a_mixture_that_cannot_run_is_not_planned(family: Family, tasks: Path, tmp_path: Path) -> None:
    without_tasks = load_config(write_file(tmp_path, family, tasks, evaluate=None))
    with pytest.raises(AftermixError, match=r"evaluate: missing from the YAML file"):
        plan(without_tasks)
    asked = {"points": 6, "bounds": {"b": [0.0, 0.3], "c": [0.0, 0.3]}}
    too_narrow = load_config(write_file(tmp_path, family, tasks, mixture=asked))
    with pytest.raises(AftermixError, match=r"mixture.bounds: the highest shares sum to 0.6, below 1"):
        plan(too_narrow)


def test_trained_mixtures_are_timed_where_the_experts_were_trained_alike(
    family: Family, tasks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alike = {"learning_rate": 1e-3, "schedule": "constant", "context": 32, "batch_size": 4, "threads": 1}
    train = {"datasets": {name: {"data": f"{name}.txt", "tokens": 64_000} for name in ("b", "c")}, **alike}
    vectors = {name: {"model": str(family[name]), "tokens": 64_000} for name in ("b", "c")}
    asked = {"points": 6, "priors": {"ours": {"b": 0.7, "c": 0.3}}}
    file = write_file(tmp_path, family, tasks, train=train, vectors=vectors, mixture=asked)
    assert run_cli("plan", file, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["retrained_ratios"] == ["found", "uniform", "in proportion to tokens", "prior ours", "RegMix"]
    assert found["verification_tokens_per_s"] > 0
    assert found["compared_tokens_per_s"] is None
