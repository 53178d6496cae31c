"""An expert is opened on the base that its `train.json` records, whatever folder, shards and type that base has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from aftermix.checkpoints.alignment.recorded_base import digest_tensors
from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.reader import open_checkpoint
from aftermix.config import Config, VectorConfig, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.analysis.analyze import analyze
from aftermix.jobs.analysis.inspect import inspect
from aftermix.jobs.calibrate.command import calibrate
from aftermix.jobs.diff import diff
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge
from aftermix.jobs.merge.kinship import list_kinship_remarks
from aftermix.jobs.plan.command import plan
from aftermix.jobs.train.command import train
from support.training_world import (
    SENTENCES,
    _one_thread,
    base_folder,
    build_model,
    build_tokenizer,
    corpus,
    make_config,
)

__all__ = ["_one_thread", "base_folder", "corpus", "make_config"]


@pytest.fixture(scope="session")
def trained(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expert of `base_folder`, trained for the fewest steps."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(" ".join(SENTENCES))
    section = {"datasets": {"cats": {"data": "text.txt", "tokens": 64}}, "context": 32, "batch_size": 2, "threads": 1}
    config = parse_config({"base": str(base_folder), "train": section}, where="train.yaml", folder=folder)
    return Path(train(config, folder / "experts", log=lambda _: None)["cats"])


def derive(base: Path, folder: Path) -> Path:
    """An expert without its training: the base moved a little, with the record of it."""
    shutil.copytree(base, folder)
    change(folder, lambda tensors: {name: tensor * 1.001 for name, tensor in tensors.items()})
    record = {"base": str(base), "base_tensors": digest_tensors(open_checkpoint(base))}
    (folder / "train.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def expert(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "expert"))


@pytest.fixture
def other_base(base_folder: Path, tmp_path: Path) -> Path:
    """A base of the same shapes, with other values."""
    folder = Path(shutil.copytree(base_folder, tmp_path / "other-base"))
    change(folder, lambda tensors: {name: tensor * 1.01 for name, tensor in tensors.items()})
    return folder


def change(folder: Path, update: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: t.contiguous() for name, t in update(tensors).items()}, folder / "model.safetensors", {"format": "pt"}
    )


def config_of(base: Path, expert: Path) -> Config:
    return Config(base=str(base), vectors={"cats": VectorConfig(model=str(expert), weight=0.5)})


def open_faults(base: Path, expert: Path) -> list[str]:
    try:
        open_pool(config_of(base, expert))
    except AftermixError as error:
        assert error.exit_code == 2
        return [str(problem) for problem in error.problems]
    return []


def make_old(expert: Path, **weights: str) -> None:
    """The record as versions without digests of tensors wrote it, and no vector beside the weights."""
    (expert / "vector.safetensors").unlink(missing_ok=True)
    record = json.loads((expert / "train.json").read_text())
    del record["base_tensors"]
    record["recipe"]["base"]["weights"] |= weights
    (expert / "train.json").write_text(json.dumps(record))


def test_another_base_is_refused_with_both_names(base_folder: Path, other_base: Path, expert: Path) -> None:
    assert open_faults(base_folder, expert) == []
    tensors = len(load_file(base_folder / "model.safetensors"))
    assert open_faults(other_base, expert) == [
        f"{expert}: vector 'cats' was trained from another base: its train.json records {base_folder}, "
        f"found {other_base} ({tensors} of {tensors} tensors differ, first model.embed_tokens.weight). "
        f"Name the base that it was trained from, `base: {base_folder}`."
    ]


def test_it_is_refused_by_whatever_opens_an_expert(
    other_base: Path, expert: Path, corpus: Path, make_config: Any, tmp_path: Path
) -> None:
    config, output = config_of(other_base, expert), tmp_path / "output"
    calibrated = Config(
        base=str(other_base), vectors={"cats": VectorConfig(model=str(expert), calibration=str(corpus))}
    )
    pilot = {"name": "merge_aware", "scale": "auto", "pilot": str(expert)}
    jobs: list[Callable[[], object]] = [
        lambda: merge(config, output),
        lambda: plan(config),
        lambda: diff(str(expert), base=str(other_base), output=output),
        lambda: inspect(str(expert), base=str(other_base)),
        lambda: analyze(str(expert), base=str(other_base)),
        lambda: calibrate(calibrated, output),
        lambda: train(make_config(base=other_base, optimizer=pilot), output),
    ]
    for job in jobs:
        with pytest.raises(AftermixError, match="was trained from another base: its train.json records") as caught:
            job()
        assert caught.value.exit_code == 2
    assert not output.exists()
    assert ["was trained from another base" in str(problem) for problem in doctor(config).problems] == [True]


@pytest.mark.parametrize("form", ["moved", "sharded", "float32", "head stored", "metadata"])
def test_the_same_values_pass_in_any_form(base_folder: Path, expert: Path, tmp_path: Path, form: str) -> None:
    folder = Path(shutil.copytree(base_folder, tmp_path / "elsewhere" / "base"))
    if form in ("sharded", "float32"):
        (folder / "model.safetensors").unlink()
        kind = torch.float32 if form == "float32" else torch.bfloat16
        model = AutoModelForCausalLM.from_pretrained(base_folder, dtype=kind)
        model.save_pretrained(folder, max_shard_size="20KB" if form == "sharded" else "1GB")
    if form == "head stored":
        change(folder, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    if form == "metadata":
        save_file(
            load_file(base_folder / "model.safetensors"), folder / "model.safetensors", {"format": "pt", "by": "me"}
        )
    assert open_faults(folder, expert) == []
    assert doctor(config_of(folder, expert)).problems == []


def test_a_base_rounded_to_a_narrower_type_is_the_same_base(tmp_path: Path) -> None:
    wide, narrow = tmp_path / "wide", tmp_path / "narrow"
    build_model().save_pretrained(wide)
    build_tokenizer(wide)
    expert = derive(wide, tmp_path / "expert")
    shutil.copytree(wide, narrow)
    change(narrow, lambda tensors: {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()})
    assert open_faults(narrow, expert) == []
    change(
        narrow, lambda tensors: {name: (tensor.float() + 1e-2).to(torch.bfloat16) for name, tensor in tensors.items()}
    )
    assert "was trained from another base" in open_faults(narrow, expert)[0]


def test_a_trained_base_is_a_vector_of_zeros_of_itself(expert: Path) -> None:
    assert open_faults(expert, expert) == []


def test_one_tensor_that_differs_is_enough(base_folder: Path, expert: Path, tmp_path: Path) -> None:
    folder, name = Path(shutil.copytree(base_folder, tmp_path / "base")), "model.layers.1.mlp.up_proj.weight"
    change(folder, lambda tensors: tensors | {name: tensors[name] + 0.5})
    assert f"(1 of 20 tensors differ, first {name})" in open_faults(folder, expert)[0]


@pytest.mark.parametrize("entry", [{"torch_dtype": "float16"}, {"quantization_config": {"quant_method": "gptq"}}])
def test_a_base_of_which_something_is_told_is_compared_too(other_base: Path, expert: Path, entry: Any) -> None:
    settings = json.loads((other_base / "config.json").read_text())
    settings.pop("dtype", None)
    (other_base / "config.json").write_text(json.dumps(settings | entry))
    (told,) = open_faults(other_base, expert)
    assert "vector 'cats' was trained from another base: its train.json records" in told


def test_doctor_compares_every_value_and_other_jobs_a_sample(tmp_path: Path) -> None:
    """Of a tensor of more than 16,384 elements four runs are looked at when it is opened."""
    wide = tmp_path / "wide"
    build_model(vocab_size=1024).save_pretrained(wide)
    build_tokenizer(wide)
    expert = derive(wide, tmp_path / "expert")

    def touch(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors["model.embed_tokens.weight"].view(-1)[5000] += 1
        return tensors

    change(wide, touch)
    assert open_faults(wide, expert) == []
    (problem,) = doctor(config_of(wide, expert)).problems
    assert str(problem) == (
        f"{expert}: vector 'cats' was trained from {wide} when it held other values "
        "(1 of 20 tensors differ, first model.embed_tokens.weight). "
        "Restore that base, or train the expert again from this one."
    )


def test_a_record_of_an_older_version_has_hashes_of_files(base_folder: Path, other_base: Path, expert: Path) -> None:
    make_old(expert)
    assert open_faults(base_folder, expert) == []
    assert "(1 of 1 weight files differ, first model.safetensors)" in open_faults(other_base, expert)[0]
    assert open_pool(config_of(base_folder, expert)).confirmed == {"cats"}


def test_an_old_record_of_other_files_confirms_nothing(base_folder: Path, expert: Path, tmp_path: Path) -> None:
    """A base that was sharded anew cannot be told from another one by hashes of whole files."""
    make_old(expert)
    folder = Path(shutil.copytree(base_folder, tmp_path / "base"))
    (folder / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(base_folder).save_pretrained(folder, max_shard_size="20KB")
    pool = open_pool(config_of(folder, expert))
    assert pool.confirmed == frozenset()
    assert open_pool(config_of(base_folder, expert)).confirmed == {"cats"}


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"recipe": 3}', '{"base_tensors": {"a": "b"}}', '{"recipe": {"base": []}}']
)
def test_a_file_of_that_name_by_another_program_is_no_record(
    base_folder: Path, other_base: Path, expert: Path, content: str
) -> None:
    (expert / "train.json").write_text(content)
    (expert / "vector.safetensors").unlink()  # which is ours, and knows its base
    assert open_faults(other_base, expert) == []
    assert open_pool(config_of(base_folder, expert)).confirmed == frozenset()


def test_under_a_prefix_the_names_are_those_of_the_expert(
    base_folder: Path, other_base: Path, expert: Path, tmp_path: Path
) -> None:
    """A base that calls its tensors otherwise: the record has the expert's names."""
    faults = []
    for number, base in enumerate((base_folder, other_base)):
        wrapped = Path(shutil.copytree(base, tmp_path / f"wrapped-{number}"))
        change(wrapped, lambda tensors: {f"text.{name}": tensor for name, tensor in tensors.items()})
        vector = VectorConfig(model=str(expert), prefix={"model.": "text.model."})
        try:
            pool = open_pool(Config(base=str(wrapped), vectors={"cats": vector}))
        except AftermixError as error:
            faults += [str(problem) for problem in error.problems]
        else:
            assert pool.confirmed == {"cats"}
    assert [f"records {base_folder}, found" in fault for fault in faults] == [True]


def test_an_expert_of_other_shapes_and_base_is_one_line(base_folder: Path, tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    torch.manual_seed(1)
    build_model(layers=3).to(torch.bfloat16).save_pretrained(deep)
    change(deep, lambda tensors: {name: tensor * 1.5 for name, tensor in tensors.items()})
    build_tokenizer(deep)
    expert = derive(deep, tmp_path / "expert")
    (fault,) = open_faults(base_folder, expert)
    assert f"records {deep}, found {base_folder}" in fault


def train_on(base: Path, folder: Path, factor: float) -> Path:
    """As :func:`derive`, by another factor."""
    derive(base, folder)
    change(folder, lambda tensors: {name: tensor * factor for name, tensor in tensors.items()})
    return folder


def remarks_on(base: Path, **vectors: Path) -> list[str]:
    entries = {name: VectorConfig(model=str(folder), weight=0.5) for name, folder in vectors.items()}
    return [str(remark) for remark in list_kinship_remarks(open_pool(Config(base=str(base), vectors=entries)))]


@pytest.mark.parametrize("steps", [2, 3])
def test_an_expert_of_an_expert_is_led_back_to_the_first_base(base_folder: Path, tmp_path: Path, steps: int) -> None:
    folders = [base_folder]
    for step in range(steps):
        folders.append(train_on(folders[-1], tmp_path / f"stage-{step}", 1.01 + step / 100))

    between = ", that from ".join(str(folder) for folder in reversed(folders[1:-1]))
    told = (
        f"{folders[-1]}: vector 'x' was trained from {between}, and that from this base: its difference holds all of "
    )
    remedy = f"Name `base: {folders[-2]}` for the last training alone."
    assert remarks_on(base_folder, x=folders[-1]) == [f"{told}it. {remedy}"]
    twice = remarks_on(base_folder, x=folders[-1], y=folders[1])
    assert twice == [f"{told}it, what is in 'y' once more. {remedy}"]
    assert remarks_on(folders[-2], x=folders[-1]) == []  # as the remedy says

    # The difference is from the first base.
    out = merge(config_of(base_folder, folders[-1]), tmp_path / "out")
    name = "model.norm.weight"
    base, last, found = (load_file(f / "model.safetensors")[name].float() for f in (base_folder, folders[-1], out))
    assert found.equal((base + 0.5 * (last - base)).bfloat16().float())


def test_the_expert_between_may_have_moved_to_a_vector_of_the_file(base_folder: Path, tmp_path: Path) -> None:
    first = train_on(base_folder, tmp_path / "first", 1.01)
    second = train_on(first, tmp_path / "second", 1.02)
    moved = first.rename(tmp_path / "moved")
    assert f"records {first}, found {base_folder}" in open_faults(base_folder, second)[0]
    (told,) = remarks_on(base_folder, x=second, y=moved)
    assert told.startswith(f"{second}: vector 'x' was trained from {moved}, and that from this base")


@pytest.mark.parametrize("broken", ["other values", "no record", "another base", "a ring", "gone"])
def test_no_chain_without_a_record_of_every_step(
    base_folder: Path, other_base: Path, tmp_path: Path, broken: str
) -> None:
    first = train_on(other_base if broken == "another base" else base_folder, tmp_path / "first", 1.01)
    second = train_on(first, tmp_path / "second", 1.02)
    if broken == "other values":  # trained on after the second began
        change(first, lambda tensors: {name: tensor * 1.05 for name, tensor in tensors.items()})
    elif broken == "no record":
        (first / "train.json").unlink()
    elif broken == "a ring":
        record = {"base": str(second), "base_tensors": digest_tensors(open_checkpoint(second))}
        (first / "train.json").write_text(json.dumps(record))
    elif broken == "gone":
        shutil.rmtree(first)

    (told,) = open_faults(base_folder, second)
    assert f"vector 'cats' was trained from another base: its train.json records {first}, found {base_folder}" in told
    assert told.endswith(f"Name the base that it was trained from, `base: {first}`.")
