"""When checkpoints are due, and what lies in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from aftermix.errors import AftermixError, TrainingError
from aftermix.jobs.train.command import train
from aftermix.training.checkpoint_schedule import name_checkpoint_folder, plan_checkpoints


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=30),
    st.integers(1, 7),
    st.one_of(st.integers(1, 60), st.lists(st.integers(1, 200), min_size=1, max_size=5)),
)
def test_due_at_the_first_step_that_reaches_a_wanted_number(
    lengths: list[int], batch_size: int, wanted: int | list[int]
) -> None:
    """Against a walk through the run, step by step."""
    total = sum(lengths)
    beyond = wanted if isinstance(wanted, int) else max(wanted)
    if beyond > total:
        with pytest.raises(TrainingError, match=rf"asks for a checkpoint at {beyond} tokens, but the run has {total}"):
            plan_checkpoints(lengths, batch_size=batch_size, wanted=wanted)
        return
    numbers = range(wanted, total + 1, wanted) if isinstance(wanted, int) else wanted
    expected, seen = {}, 0
    for step, start in enumerate(range(0, len(lengths), batch_size), 1):
        before, seen = seen, seen + sum(lengths[start : start + batch_size])
        if any(before < number <= seen for number in numbers):
            expected[step] = seen
    assert plan_checkpoints(lengths, batch_size=batch_size, wanted=wanted) == expected


def test_names_sort_as_the_numbers_do() -> None:
    folders = [name_checkpoint_folder(Path("out/ja"), tokens) for tokens in (900, 50_000, 1_000_000_000)]
    assert folders[1].as_posix() == "out/ja-checkpoints/tokens-000000050000"
    assert folders == sorted(folders)


@pytest.mark.parametrize("optimizer", ["adamw", "merge_aware"])
def test_checkpoints_are_whole_models_on_the_way(
    make_config: Any, base_folder: Path, tmp_path: Path, optimizer: str
) -> None:
    """At a constant rate, a checkpoint is what a shorter run would have ended with."""
    options = {"schedule": "constant", "optimizer": optimizer, "learning_rate": 1e-3}
    out = tmp_path / "experts"
    folder = train(make_config(checkpoint_tokens=200, **options), out)["cats"]
    found = sorted(path.name for path in (out / "cats-checkpoints").iterdir())
    assert found == [f"tokens-{tokens:012d}" for tokens in (256, 512, 640)]
    assert sorted(path.name for path in out.iterdir()) == ["cats", "cats-checkpoints"]
    record = json.loads((out / "cats-checkpoints" / found[0] / "train.json").read_text())
    whole = json.loads((folder / "train.json").read_text())
    assert (record["tokens"], record["steps"], record["of_steps"], record["sequences"]) == (256, 2, 5, 8)
    assert record["epochs"] == pytest.approx(whole["epochs"] * 256 / 640, abs=1e-5)
    assert record["recipe"] == whole["recipe"]
    assert record["loss"]["first"] == whole["loss"]["first"]
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in (out / "cats-checkpoints" / found[0]).iterdir()} == names

    data = {"cats": {"data": str(tmp_path / "corpus.jsonl"), "tokens": 256}}
    short = train(make_config(datasets=data, **options), tmp_path / "short")["cats"]
    plain = train(make_config(**options), tmp_path / "plain")["cats"]
    for ours, theirs in (
        (out / "cats-checkpoints" / found[0], short),
        (out / "cats-checkpoints" / found[2], plain),
        (folder, plain),
    ):
        assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    first, last = (load_file(out / "cats-checkpoints" / found[n] / "model.safetensors") for n in (0, 2))
    assert not torch.equal(first["model.norm.weight"], last["model.norm.weight"])


def test_checkpoints_that_cannot_be_had_are_refused(make_config: Any, tmp_path: Path) -> None:
    with pytest.raises(AftermixError, match=r"train.checkpoint_tokens: asks for a checkpoint at 641 tokens, but the"):
        train(make_config(checkpoint_tokens=[32, 641]), tmp_path / "out")
    train(make_config(checkpoint_tokens=[640]), tmp_path / "out")
    said: list[str] = []
    train(make_config(), tmp_path / "out", log=said.append)
    train(make_config(checkpoint_tokens=[640], accumulation=2), tmp_path / "out", log=said.append)
    assert ["reused" in line for line in said] == [True, True]
    with pytest.raises(AftermixError, match=r"another recipe \(checkpoint_tokens \[640\] there, 320 here\)"):
        train(make_config(checkpoint_tokens=320), tmp_path / "out")
    (tmp_path / "out/cats").rename(tmp_path / "moved")
    with pytest.raises(
        AftermixError, match=r"tokens-000000000640: holds an expert of another recipe \(seed 0 there, 1"
    ):
        train(make_config(checkpoint_tokens=[640], seed=1), tmp_path / "out")
    data = {name: {"data": "corpus.jsonl", "tokens": 640} for name in ("cats", "cats-checkpoints")}
    with pytest.raises(AftermixError, match=r"'cats-checkpoints' has the name of the folder for 'cats''s checkpoints"):
        make_config(datasets=data, checkpoint_tokens=64)
