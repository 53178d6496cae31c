"""The weights of a folder that holds several: what transformers loads is read, and it is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.formats.weight_files import INDEX, SINGLE
from aftermix.checkpoints.model import read_tensor
from aftermix.checkpoints.open_model import open_model
from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.reader import open_checkpoint
from aftermix.config import Config, VectorConfig
from aftermix.errors import AftermixError, CheckpointError
from aftermix.jobs.merge.command import merge

Copy = Callable[[str], Path]
Family = dict[str, Path]
NORM = "model.norm.weight"


def save(tensors: dict[str, torch.Tensor], file: Path) -> None:
    save_file(tensors, file, metadata={"format": "pt"})


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*-of-*.safetensors"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def assert_reads_what_transformers_loads(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    model = open_model(str(folder))
    assert model.tensors.keys() >= loaded.keys() - model.alias.keys()
    for name in model.tensors:
        assert read_tensor(model, name).equal(loaded[name]), name


def merged(base: Path, expert: Path, output: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    lines: list[str] = []
    config = Config(base=str(base), vectors={"x": VectorConfig(model=str(expert), weight=1.0)})
    return load_file(merge(config, output, log=lambda line: lines.append(str(line))) / SINGLE), lines


def test_a_single_file_goes_before_older_shards(copied: Copy, family: Family, tmp_path: Path) -> None:
    expert = copied("a")
    shutil.copy(family["c"] / SINGLE, expert / SINGLE)
    assert_reads_what_transformers_loads(expert)
    found, lines = merged(family["base"], expert, tmp_path / "out")
    assert found[NORM].equal(load_file(family["c"] / SINGLE)[NORM])
    first = shards(expert)[0].name
    [line] = [line for line in lines if "is read from" in line]
    start = "vector 'x' is read from model.safetensors, as transformers reads it, and not from"
    assert line.startswith(f"{start} {first}")
    assert line.endswith(f"and {len(shards(expert)) - 2} more")


def test_a_single_file_goes_before_an_index_of_removed_shards(copied: Copy, family: Family) -> None:
    expert = copied("b")
    shutil.copy(family["a"] / INDEX, expert / INDEX)
    assert_reads_what_transformers_loads(expert)
    told = "is read from model.safetensors, as transformers reads it, and not from model.safetensors.index.json"
    assert open_checkpoint(expert).describe_storage() == [told]


def test_an_index_that_agrees_with_the_single_file_is_no_rival(copied: Copy) -> None:
    expert = copied("b")
    (expert / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(load_file(expert / SINGLE), SINGLE)}))
    assert open_checkpoint(expert).describe_storage() == []


@pytest.mark.parametrize(
    "rival",
    ["pytorch_model.bin", "model.fp16.safetensors", "consolidated.safetensors", "model-00009-of-00009.safetensors"],
)
@pytest.mark.parametrize("name", ["a", "b"])
def test_what_is_not_read_is_named(name: str, rival: str, copied: Copy) -> None:
    expert = copied(name)
    save({NORM: torch.zeros(32)}, expert / rival)
    assert_reads_what_transformers_loads(expert)
    chosen = SINGLE if name == "b" else INDEX
    told = f"is read from {chosen}, as transformers reads it, and not from {rival}"
    assert open_checkpoint(expert).describe_storage() == [told]


def test_the_file_that_the_configuration_names_goes_first(copied: Copy, family: Family) -> None:
    expert = copied("b")
    shutil.copy(family["c"] / SINGLE, expert / "best.safetensors")
    edit_json(expert / "config.json", transformers_weights="best.safetensors")
    assert_reads_what_transformers_loads(expert)
    model = open_checkpoint(expert)
    assert model.read(NORM).equal(load_file(family["c"] / SINGLE)[NORM])
    told = "is read from best.safetensors, as transformers reads it, and not from model.safetensors"
    assert model.describe_storage() == [told]


@pytest.mark.parametrize("named", ["../base/model.safetensors", "pytorch_model.bin", "absent.safetensors", 3])
def test_a_file_that_cannot_be_named_is_refused(named: object, copied: Copy) -> None:
    expert = copied("b")
    edit_json(expert / "config.json", transformers_weights=named)
    with pytest.raises(CheckpointError, match="expected `transformers_weights` to be a safetensors file"):
        open_checkpoint(expert)


def test_an_adapter_beside_the_weights_is_named(copied: Copy) -> None:
    expert = copied("b")
    (expert / "adapter_config.json").write_text("{}")
    save({"x": torch.zeros(1)}, expert / "adapter_model.safetensors")
    [line] = open_checkpoint(expert).describe_storage()
    assert line.startswith("has adapter_model.safetensors beside its weights, which is not applied")


def test_shards_that_are_gone_are_counted(copied: Copy) -> None:
    expert = copied("a")
    first, second, *_ = shards(expert)
    first.unlink()
    with pytest.raises(CheckpointError, match=rf"names '{first.name}', which is not there\. Download the missing file"):
        open_checkpoint(expert)
    second.unlink()
    with pytest.raises(CheckpointError, match=rf"names '{first.name}', which is not there, and 1 more that are not"):
        open_checkpoint(expert)


@pytest.mark.parametrize("name", ["model.fp16.safetensors", "model-00001-of-00002.safetensors"])
def test_weights_that_transformers_does_not_find_are_refused(name: str, copied: Copy) -> None:
    expert = copied("b")
    (expert / SINGLE).rename(expert / name)
    torch.save({}, expert / "training_args.bin")
    with pytest.raises(CheckpointError, match=rf"found {name}, which transformers does not load by itself\. Rename it"):
        open_checkpoint(expert)


def test_shards_without_their_index_are_read_if_all_are_there(copied: Copy, family: Family, tmp_path: Path) -> None:
    expert = copied("a")
    (expert / INDEX).unlink()
    found, lines = merged(family["base"], expert, tmp_path / "out")
    wanted = {name: tensor for file in shards(family["a"]) for name, tensor in load_file(file).items()}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name].float(), tensor.float()) for name, tensor in wanted.items())
    told = f"has no {INDEX}: its {len(shards(expert))} shards are all there, and read; transformers needs it"
    assert any(told in line for line in lines)

    shards(expert)[1].unlink()
    with pytest.raises(CheckpointError, match="which transformers does not load by itself"):
        open_checkpoint(expert)


def test_a_folder_of_checkpoints_is_told_from_a_model(copied: Copy, tmp_path: Path) -> None:
    expert = copied("b")
    for step in (5, 10):
        shutil.copytree(expert, tmp_path / "run" / f"checkpoint-{step}")
    with pytest.raises(
        CheckpointError, match=r"holds no model, but folders of models: checkpoint-10, checkpoint-5\. Name"
    ):
        open_checkpoint(tmp_path / "run")


def test_pickled_weights_go_before_a_variant(copied: Copy) -> None:
    expert = copied("b")
    (expert / SINGLE).rename(expert / "model.fp16.safetensors")
    torch.save({}, expert / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"found pickled weights \(pytorch_model\.bin\)"):
        open_checkpoint(expert)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "optimizer.state.exp_avg"])
def test_a_tensor_that_the_index_does_not_name_is_left_out(
    name: str, copied: Copy, family: Family, tmp_path: Path
) -> None:
    expert = copied("a")
    file = shards(expert)[0]
    save({**load_file(file), name: torch.rand(4)}, file)
    found, lines = merged(family["base"], expert, tmp_path / "out")
    assert found.keys() == load_file(family["base"] / SINGLE).keys()
    assert found[NORM].equal(open_checkpoint(family["a"]).read(NORM))
    told = f"vector 'x' has tensors that its index does not name, {name}: left out, for no other model has them"
    assert lines == [told]


def test_a_parameter_that_the_index_does_not_name_is_read(copied: Copy, family: Family, tmp_path: Path) -> None:
    expert = copied("a")
    index = json.loads((expert / INDEX).read_text())
    del index["weight_map"][NORM]
    (expert / INDEX).write_text(json.dumps(index))
    assert_reads_what_transformers_loads(expert)
    found, lines = merged(family["base"], expert, tmp_path / "out")
    assert found[NORM].equal(open_checkpoint(family["a"]).read(NORM))
    assert lines == [f"vector 'x' has tensors that its index does not name, {NORM}: read, as by transformers"]


def test_copies_in_two_shards_are_one_tensor_or_refused(copied: Copy, family: Family) -> None:
    expert = copied("a")
    first, *_, last = shards(expert)
    name, tensor = next(iter(load_file(first).items()))
    save({**load_file(last), name: tensor}, last)
    assert open_checkpoint(expert).read(name).equal(tensor)
    assert_reads_what_transformers_loads(expert)

    save({**load_file(last), name: tensor + 1}, last)
    told = rf"{last.name}: holds other values of '{name}' than {first.name}, which {INDEX} also names"
    with pytest.raises(AftermixError, match=told):
        open_pool(Config(base=str(family["base"]), vectors={"x": VectorConfig(model=str(expert))}))


def test_an_evaluation_runs_a_base_with_a_leftover_in_its_shards(copied: Copy, family: Family) -> None:
    from aftermix.config import EvaluateConfig
    from aftermix.evaluation.engines.hf import HuggingFaceEngine

    base = copied("a")
    file = shards(base)[0]
    save({**load_file(file), "optimizer.step": torch.rand(4)}, file)
    pool = open_pool(Config(base=str(base), vectors={"b": VectorConfig(model=str(family["b"]))}))
    assert "optimizer.step" not in pool.frame.tensors
    engine = HuggingFaceEngine.open(pool.frame, tokenizer_folder=base, config=EvaluateConfig(tasks=["x"], threads=1))
    engine.load((name, read_tensor(pool.frame, name)) for name in pool.frame.tensors)
    engine.close()
