"""The vector beside an expert: what bfloat16 rounds away of the weights is there when the expert is opened again."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from aftermix.api.commands.texts import describe_estimate
from aftermix.checkpoints.formats.trained_expert import TrainedExpert
from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import AftermixError, RunFailedError
from aftermix.files import fingerprint
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge
from aftermix.jobs.plan.command import plan
from aftermix.jobs.train.command import train

Tensors = dict[str, torch.Tensor]
LOW_RATE = 2e-4
"""At which bfloat16 loses much of what five steps change."""


def read_differences(expert: Path, base: Path) -> Tensors:
    """What a merge takes as the vector of `expert`."""
    pool = open_pool(Config(base=str(base), vectors={"v": VectorConfig(model=str(expert))}))
    return {info.name: read_difference(pool, info.name, info.elements) for info in pool.layout}


def read_difference(pool: ModelPool, name: str, elements: int) -> torch.Tensor:
    base = pool.read_base_block(name, (0, elements)).float()
    return pool.read_difference_block(name, "v", (0, elements), base=base, out=torch.empty(elements))


def join(tensors: Tensors) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def subtract(expert: Path, base: Path) -> Tensors:
    ours, theirs = load_file(expert / "model.safetensors"), load_file(base / "model.safetensors")
    return {name: tensor.float() - theirs[name].float() for name, tensor in ours.items()}


@pytest.fixture
def trained(make_config: Any, tmp_path: Path) -> Path:
    return train(make_config(learning_rate=LOW_RATE), tmp_path / "experts")["cats"]


@pytest.fixture
def truth(make_config: Any, base_folder: Path, tmp_path: Path) -> Tensors:
    """The same training, stored in float32."""
    config = make_config(learning_rate=LOW_RATE, dtype="float32", vector="none")
    return subtract(train(config, tmp_path / "twin")["cats"], base_folder)


def test_what_the_weights_lost_is_in_the_vector(trained: Path, truth: Tensors, base_folder: Path) -> None:
    exact, rounded = join(truth), join(subtract(trained, base_folder))
    taken = join(read_differences(trained, base_folder))
    lost = float((rounded - exact).norm() / exact.norm())
    assert lost > 0.1
    assert float((taken - exact).norm() / exact.norm()) < 0.003  # bfloat16 has 8 bits of each difference
    assert float(torch.cosine_similarity(taken, exact, dim=0)) > 0.99999
    assert float(torch.cosine_similarity(rounded, exact, dim=0)) < 0.995

    told = json.loads((trained / "train.json").read_text())["vector"]
    moved = exact != 0
    assert told == {
        "file": "vector.safetensors",
        "dtype": "bfloat16",
        "norm": pytest.approx(float(exact.norm()), rel=1e-6),
        "rounding_lost": pytest.approx(lost, rel=1e-6),
        "unmoved": pytest.approx(float((rounded[moved] == 0).double().mean()), rel=1e-9),
    }


def test_a_merge_takes_the_vector_and_says_what_its_own_type_rounds(
    trained: Path, truth: Tensors, base_folder: Path, tmp_path: Path
) -> None:
    vectors = {"v": VectorConfig(model=str(trained), weight=0.5)}
    base, exact, lines = load_file(base_folder / "model.safetensors"), join(truth), []
    for dtype in ("float32", None):
        config = Config(base=str(base_folder), vectors=vectors, merge=MergeConfig(dtype=dtype))
        said: list[str] = []
        merge(config, tmp_path / str(dtype), log=lambda line, said=said: said.append(str(line)))
        lines.append(said)
    wide, narrow = (
        join({name: tensor.float() - base[name].float() for name, tensor in load_file(file).items()})
        for file in (tmp_path / f"{dtype}/model.safetensors" for dtype in ("float32", None))
    )
    assert float((wide - 0.5 * exact).norm() / (0.5 * exact).norm()) < 0.003
    lost = float((narrow - wide).norm() / wide.norm())
    advice = "with `merge: {dtype: float32}` nothing is rounded"
    told = f"rounding to bfloat16 took {lost:.2%} of the norm of what was merged into the base; {advice}"
    taken = "vector 'v' is read from its own vector.safetensors (bfloat16), not from its rounded weights"
    assert lines == [[taken], [taken, told]]
    lock = json.loads((tmp_path / "None/lock.json").read_text())["inputs"]["vectors.v"]["files"]
    assert lock == {name: fingerprint(trained / name) for name in ("model.safetensors", "vector.safetensors")}


def test_the_file_is_tied_to_both_models_by_their_hashes(trained: Path, base_folder: Path) -> None:
    with safe_open(trained / "vector.safetensors", framework="pt") as file:
        metadata = file.metadata()
    for key, folder in (("base", base_folder), ("model", trained)):
        assert json.loads(metadata[key]) == {"model.safetensors": fingerprint(folder / "model.safetensors")}
    values = load_file(trained / "vector.safetensors")
    assert set(values) == {f"values.{name}" for name in load_file(base_folder / "model.safetensors")}
    assert {tensor.dtype for tensor in values.values()} == {torch.bfloat16}

    # A server that opens every safetensors file of a folder asks the index what the model is.
    index = json.loads((trained / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {"model.safetensors"}


def test_the_type_of_the_vector(make_config: Any, truth: Tensors, base_folder: Path, tmp_path: Path) -> None:
    for kind in ("float32", "none"):
        said: list[str] = []
        config = make_config(learning_rate=LOW_RATE, vector=kind)
        folder = train(config, tmp_path / kind, log=said.append)["cats"]
        taken = read_differences(folder, base_folder)
        if kind == "float32":
            assert all(torch.equal(taken[name], tensor.flatten()) for name, tensor in truth.items())
            assert said[-1].endswith("vector.safetensors has them (float32)")
            continue
        rounded = subtract(folder, base_folder)
        assert all(torch.equal(taken[name], tensor.flatten()) for name, tensor in rounded.items())
        told = json.loads((folder / "train.json").read_text())["vector"]
        assert (told["file"], told["dtype"]) == (None, None)
        assert told["rounding_lost"] > 0.1
        assert not (folder / "vector.safetensors").exists()
        assert not (folder / "model.safetensors.index.json").exists()
        assert said[-1].endswith("of its entries; `train.vector: bfloat16` keeps them")


def test_an_expert_without_the_file_merges_as_before(trained: Path, base_folder: Path) -> None:
    (trained / "vector.safetensors").unlink()
    taken, rounded = read_differences(trained, base_folder), subtract(trained, base_folder)
    assert all(torch.equal(taken[name], tensor.flatten()) for name, tensor in rounded.items())


def test_what_is_stored_in_float32_is_subtracted(make_config: Any, base_folder: Path, tmp_path: Path) -> None:
    folder = train(make_config(learning_rate=LOW_RATE, dtype="float32"), tmp_path / "wide")["cats"]
    assert json.loads((folder / "train.json").read_text())["vector"]["rounding_lost"] == 0
    taken, exact = read_differences(folder, base_folder), subtract(folder, base_folder)
    assert all(torch.equal(taken[name], tensor.flatten()) for name, tensor in exact.items())


def change_one_value(file: Path) -> None:
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] += 1.0
    save_file(tensors, file, {"format": "pt"})


def test_a_vector_of_another_model_is_refused(trained: Path, base_folder: Path) -> None:
    change_one_value(trained / "model.safetensors")
    with pytest.raises(AftermixError) as caught:
        read_differences(trained, base_folder)
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        f"{trained / 'vector.safetensors'}: does not belong to the weights beside it: {trained / 'model.safetensors'} "
        "has other content than when both were written. Restore those weights; or remove it, and the rounded weights "
        "of the model are subtracted from the base's."
    )
    # The remedy, as it is written.
    (trained / "vector.safetensors").unlink()
    assert read_differences(trained, base_folder)


def test_a_vector_of_another_base_is_refused(trained: Path, base_folder: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(base_folder, tmp_path / "base"))
    change_one_value(base / "model.safetensors")
    (trained / "train.json").unlink()  # which would say so, too
    with pytest.raises(AftermixError) as caught:
        read_differences(trained, base)
    assert caught.value.exit_code == 2
    for part in (f"{trained / 'vector.safetensors'}: was not taken from the base {base}", f"{base}/model.safetensors"):
        assert part in str(caught.value)


def test_what_is_moved_renamed_or_cut_otherwise_fits(
    trained: Path, truth: Tensors, base_folder: Path, tmp_path: Path
) -> None:
    expert = Path(shutil.move(trained, tmp_path / "moved"))
    base = Path(shutil.copytree(base_folder, tmp_path / "other name"))
    exact = join(truth)

    def lost() -> float:
        return float((join(read_differences(expert, base)) - exact).norm() / exact.norm())

    assert lost() < 0.003
    config = json.loads((base / "config.json").read_text())
    (base / "model.safetensors").rename(base / "weights.safetensors")
    (base / "config.json").write_text(json.dumps(config | {"transformers_weights": "weights.safetensors"}))
    assert lost() < 0.003

    # Cut into two files: other hashes, the same values, as train.json tells.
    tensors = load_file(base / "weights.safetensors")
    names = sorted(tensors)
    (base / "weights.safetensors").unlink()
    (base / "config.json").write_text(json.dumps(config))
    weight_map = {}
    for number, part in enumerate((names[:5], names[5:]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, base / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (base / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert lost() < 0.003


@pytest.mark.parametrize(
    ("metadata", "found"),
    [
        ({}, "expected hashes of weight files as `base` in its metadata, found nothing"),
        ({"base": "{"}, "expected hashes of weight files as `base` in its metadata, found '{'"),
        ({"base": "[" * 5000}, "expected hashes of weight files as `base` in its metadata, found '[["),
        ({"base": '{"a": 1}'}, "expected hashes of weight files as `base` in its metadata, found '{\"a\": 1}'"),
        ({"base": "{}"}, "expected hashes of weight files as `base` in its metadata, found '{}'"),
        ({"base": '{"../../x": "y"}', "model": '{"/etc/passwd": "y"}'}, "does not belong to the weights beside it"),
    ],
)
def test_hostile_metadata(trained: Path, base_folder: Path, metadata: dict[str, str], found: str) -> None:
    file = trained / "vector.safetensors"
    save_file(load_file(file), file, metadata or None)
    with pytest.raises(AftermixError) as caught:
        read_differences(trained, base_folder)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"{file}: {found}")


def test_hostile_tensors(trained: Path, base_folder: Path) -> None:
    file = trained / "vector.safetensors"
    values = load_file(file)
    with safe_open(file, framework="pt") as handle:
        metadata = handle.metadata()
    first = "values.model.norm.weight"
    cases = {
        "holds 'values.model.norm.weight' of shape (7,), where the base has the shape (32,)": {first: torch.zeros(7)},
        "holds 'values.other' of shape (2,), where the base has no such tensor": {"values.other": torch.zeros(2)},
        "expected tensors `values.NAME` in bfloat16 or float32, found 'other' in": {"other": torch.zeros(2)},
        "found 'values.model.norm.weight' in torch.int64": {first: torch.zeros(32, dtype=torch.int64)},
    }
    for found, changed in cases.items():
        save_file(values | changed, file, metadata)
        with pytest.raises(AftermixError) as caught:
            read_differences(trained, base_folder)
        assert found in str(caught.value)
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(AftermixError, match=r"vector.safetensors: is truncated or not a safetensors file"):
        read_differences(trained, base_folder)

    # A value that is no number is found by doctor, as it would stop the merge.
    save_file(values | {first: torch.full((32,), math.nan)}, file, metadata)
    config = Config(base=str(base_folder), vectors={"v": VectorConfig(model=str(trained))})
    assert [problem.where for problem in doctor(config).problems] == ["model.norm.weight"]

    # Another program's file of this name is none of ours.
    save_file({"hidden_states": torch.zeros(3)}, file, {"format": "pt"})
    rounded = subtract(trained, base_folder)
    assert all(torch.equal(v, rounded[n].flatten()) for n, v in read_differences(trained, base_folder).items())


def test_doctor_and_plan_tell(trained: Path, truth: Tensors, make_config: Any, base_folder: Path) -> None:
    config = Config(base=str(base_folder), vectors={"v": VectorConfig(model=str(trained))})
    # Of tensors that came out as the base's nobody can tell from the files whether they were trained.
    rounded = {name: tensor for name, tensor in subtract(trained, base_folder).items() if tensor.any()}
    exact = join({name: truth[name] for name in rounded})
    lost = float((join(rounded) - exact).norm() / exact.norm())
    (fact,) = (fact for fact in doctor(config).facts if fact.startswith("vector 'v' is stored in bfloat16: "))
    assert fact.endswith("is rounding; its own vector has what was lost")
    estimate = float(fact.split("about ")[1].split("%")[0]) / 100
    assert estimate == pytest.approx(lost, rel=0.25)

    elements = sum(tensor.numel() for tensor in load_file(base_folder / "model.safetensors").values())
    for kind, width in (("bfloat16", 2), ("float32", 4), ("none", 0)):
        assert plan(make_config(vector=kind)).vector_bytes == width * elements
    size = f"{2 * elements / 1e3:.3g} kB"
    assert f"Disk            {size} for 1 experts, {size} for their vectors" in describe_estimate(plan(make_config()))


def test_an_expert_of_an_expert_is_counted_from_its_own_base(
    trained: Path, truth: Tensors, make_config: Any, base_folder: Path, tmp_path: Path
) -> None:
    rates = {"learning_rate": LOW_RATE, "seed": 1}
    second = train(make_config(base=trained, **rates), tmp_path / "second")["cats"]
    wide = train(make_config(base=trained, dtype="float32", vector="none", **rates), tmp_path / "wide")["cats"]
    exact = join(subtract(wide, base_folder))
    assert float((join(read_differences(second, base_folder)) - exact).norm() / exact.norm()) < 0.003
    assert float((join(subtract(second, base_folder)) - exact).norm() / exact.norm()) > 0.03
    pool = open_pool(Config(base=str(base_folder), vectors={"v": VectorConfig(model=str(second))}))
    expert = pool.experts["v"]
    assert isinstance(expert, TrainedExpert)
    assert expert.describe_storage() == [
        f"is read from its own vector.safetensors (bfloat16), counted from {trained}, not from its rounded weights"
    ]


def test_a_training_of_an_older_version_ends_as_it_began(
    make_config: Any, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its resume points have no `vector`, and a finished expert of it is reused as it is."""
    config = make_config(learning_rate=LOW_RATE, save_steps=2)

    def find_no_room(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("aftermix.training.expert.write_own_vector", find_no_room)
        with pytest.raises(RunFailedError, match="No space left on device"):
            train(config, tmp_path / "old")
    assert sorted(os.listdir(tmp_path / "old")) == [".cats.training", ".tokens"]
    (point,) = (tmp_path / "old").glob(".cats.training/checkpoint-*/point.json")
    content = json.loads(point.read_text())
    assert content.pop("vector") == "bfloat16"
    assert content["recipe"].pop("held_out") == 0
    point.write_text(json.dumps(content))

    folder = train(config, tmp_path / "old")["cats"]
    whole = train(config, tmp_path / "whole")["cats"]
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (folder / "vector.safetensors").exists()
    said: list[str] = []
    train(make_config(learning_rate=LOW_RATE, save_steps=2, vector="float32"), tmp_path / "old", log=said.append)
    assert said == [f"cats: reused {folder}, trained before by the same recipe"]
