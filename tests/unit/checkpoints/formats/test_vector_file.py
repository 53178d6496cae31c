"""Distribution vectors as folders: what is stored, how exactly, read back as an expert, and every refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

from aftermix.api.commands.texts import describe_diff
from aftermix.checkpoints.formats.int8 import compute_scales, dequantise, quantise, raise_largest
from aftermix.checkpoints.formats.spans import compute_row_length, count_rows, split_into_spans
from aftermix.checkpoints.formats.vector_file import VectorFile, find_content_problems
from aftermix.checkpoints.model import StoredDifference
from aftermix.checkpoints.open_model import open_model
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, VectorConfig
from aftermix.errors import AftermixError, CheckpointError
from aftermix.jobs.diff import diff
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge

Family = Mapping[str, Path]
Copy = Callable[[str], Path]

NORM = "model.norm.weight"


@pytest.fixture(scope="module")
def vectors(family: Family, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Experts a and b as bfloat16 and int8 vectors."""
    folder = tmp_path_factory.mktemp("vectors")
    for name in ("a", "b"):
        for dtype in ("bfloat16", "int8"):
            diff(str(family[name]), base=str(family["base"]), output=folder / f"{name}-{dtype}", dtype=dtype)  # type: ignore[arg-type]
    return {path.name: path for path in folder.iterdir()}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def config(family: Family, model: Path, **merge_options: object) -> Config:
    return Config(
        base=str(family["base"]),
        vectors={"v": VectorConfig(model=str(model), role="instruction")},
        merge=merge_options,  # type: ignore[arg-type]
    )


def opened(family: Family, folder: Path) -> VectorFile:
    vector = open_model(str(folder), base=open_model(str(family["base"])))
    assert isinstance(vector, VectorFile)
    return vector


def edited(folder: Path, copy: Path, **facts: object) -> Path:
    """A copy of a vector whose description says something else."""
    shutil.copytree(folder, copy)
    path = copy / "vector.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    return copy


# What is stored


def test_a_bfloat16_vector_is_the_difference_rounded_once(family: Family, vectors: Mapping[str, Path]) -> None:
    base, expert = weights(family["base"]), weights(family["a"])
    stored = weights(vectors["a-bfloat16"] / "difference")
    assert set(stored) == {f"values.{name}" for name in base}
    total = error = largest = 0.0
    for name, tensor in base.items():
        exact = expert[name].float() - tensor.float()
        assert stored[f"values.{name}"].equal(exact.to(torch.bfloat16))
        off = (exact.to(torch.bfloat16).double() - exact.double()).abs()
        total, error, largest = (
            total + exact.double().square().sum(),
            error + off.square().sum(),
            max(largest, off.max()),
        )
    facts = opened(family, vectors["a-bfloat16"]).description
    assert facts.error.relative_l2 == pytest.approx(float(error / total) ** 0.5)
    assert facts.error.max_abs == pytest.approx(float(largest))
    assert facts.unchanged == ()


def test_an_int8_vector_has_a_scale_for_each_row(family: Family, vectors: Mapping[str, Path]) -> None:
    base, expert = weights(family["base"]), weights(family["b"])
    stored = weights(vectors["b-int8"] / "difference")
    for name, tensor in base.items():
        exact = (expert[name].float() - tensor.float()).reshape(-1, tensor.shape[-1])
        scales = stored[f"scales.{name}"]
        assert scales.equal(exact.abs().amax(dim=1) / 127)
        off = (stored[f"values.{name}"].reshape(exact.shape).double() * scales.double()[:, None] - exact.double()).abs()
        assert (off <= scales.double()[:, None] / 2 * (1 + 1e-12)).all()
    assert 0.001 < opened(family, vectors["b-int8"]).description.error.relative_l2 < 0.02


def test_tensors_that_do_not_differ_are_left_out(family: Family, copied: Copy, tmp_path: Path) -> None:
    expert = copied("base")
    tensors = load_file(expert / "model.safetensors")
    tensors[NORM] = tensors[NORM] + 1
    save_file(tensors, expert / "model.safetensors")
    facts = diff(str(expert), base=str(family["base"]), output=tmp_path / "v", dtype="int8")
    assert set(facts.error.tensors) == {NORM}
    assert set(facts.unchanged) == set(tensors) - {NORM}
    assert set(weights(tmp_path / "v" / "difference")) == {f"values.{NORM}", f"scales.{NORM}"}
    vector = opened(family, tmp_path / "v")
    assert isinstance(vector, StoredDifference)
    assert vector.difference("model.embed_tokens.weight", (0, 5)) is None
    difference = vector.difference(NORM, (3, 20))
    assert difference is not None
    assert difference.equal(torch.ones(17))
    lines = list(describe_diff(facts, tmp_path / "v"))
    assert lines[:2] == [
        "Stored          1 tensors as int8",
        f"Left out        {len(tensors) - 1} tensors that do not differ from the base",
    ]


def test_the_folder_serves_the_tokenizer_of_the_expert_and_is_no_model(
    family: Family, vectors: Mapping[str, Path]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoTokenizer.from_pretrained(vectors["a-int8"]).chat_template == "{{ messages }}"
    assert (vectors["a-int8"] / "generation_config.json").is_file()
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(vectors["a-int8"])


def test_a_vector_is_written_in_shards(family: Family, vectors: Mapping[str, Path], tmp_path: Path) -> None:
    from aftermix.checkpoints.vector_writer import VectorWriter

    pool = open_pool(config(family, family["a"]))
    companions = {"config.json": (family["a"] / "config.json").read_bytes()}
    VectorWriter(pool, "v", "int8").write(tmp_path / "v", companions=companions, max_shard_bytes=9000)
    assert len(list((tmp_path / "v" / "difference").glob("model-*.safetensors"))) > 2
    alike = weights(vectors["a-int8"] / "difference")
    assert all(tensor.equal(alike[name]) for name, tensor in weights(tmp_path / "v" / "difference").items())
    assert opened(family, tmp_path / "v").description.error == opened(family, vectors["a-int8"]).description.error


# Rows and their scales


@given(
    values=arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=0, max_dims=3, max_side=6),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    ),
    size=st.integers(1, 9),
)
@settings(max_examples=150)
def test_no_element_is_off_by_more_than_half_its_scale(values: np.ndarray, size: int) -> None:
    tensor = torch.from_numpy(values.copy())
    flat, row = tensor.reshape(-1), compute_row_length(tuple(values.shape))
    largest = torch.zeros(count_rows(tuple(values.shape)))
    for start, end in split_into_spans(flat.numel(), size=size):
        raise_largest(largest, flat[start:end], (start, end), row=row)
    scales = compute_scales(largest)
    integers, read = [], []
    for start, end in split_into_spans(flat.numel(), size=size):
        stored = quantise(flat[start:end], (start, end), scales, row=row)
        integers.append(stored)
        read.append(dequantise(stored, (start, end), scales[start // row :], row=row))
    each = scales.double().repeat_interleave(row)[: flat.numel()]
    off = (torch.cat(integers).double() * each - flat.double()).abs()
    assert (off <= each / 2 * (1 + 1e-12)).all()
    # One rounding more, of the product to float32.
    assert ((torch.cat(read).double() - flat.double()).abs() <= each / 2 + each * 127 * 2.0**-24).all()
    rows = flat.reshape(-1, row)
    assert largest.equal(rows.abs().amax(dim=1))
    assert all((torch.cat(integers).reshape(-1, row)[n] == 0).all() for n in range(len(rows)) if not rows[n].any())


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("bounds", [(0, 1), (1, 7), (3, 6), (0, 15)])
def test_any_run_of_an_int8_vector_reads_as_in_the_whole(
    shape: tuple[int, ...], bounds: tuple[int, int], tmp_path: Path
) -> None:
    from transformers import LlamaConfig

    torch.manual_seed(1)
    for name, values in (("base", torch.zeros(shape)), ("expert", torch.randn(shape) + 1)):
        (tmp_path / name).mkdir()
        LlamaConfig().save_pretrained(tmp_path / name)
        save_file({"w": values}, tmp_path / name / "model.safetensors")
    diff(str(tmp_path / "expert"), base=str(tmp_path / "base"), output=tmp_path / "v", dtype="int8")
    vector = open_model(str(tmp_path / "v"), base=open_model(str(tmp_path / "base")))
    assert isinstance(vector, VectorFile)
    elements = int(torch.Size(shape).numel())
    bounds = (min(bounds[0], elements), min(bounds[1], elements))
    whole, part = vector.difference("w", (0, elements)), vector.difference("w", bounds)
    assert whole is not None
    assert part is not None
    assert part.equal(whole[bounds[0] : bounds[1]])
    assert vector.read_block("w", bounds).equal(part)


# Used as a model


def test_a_merge_from_an_exact_vector_has_the_bytes_of_the_merge_from_the_expert(
    family: Family, tmp_path: Path
) -> None:
    """A base of zeros makes every bfloat16 expert an exact difference."""
    base, expert = tmp_path / "base", tmp_path / "expert"
    for source, target in (("base", base), ("b", expert)):
        shutil.copytree(family[source], target)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(zeros, base / "model.safetensors", metadata={"format": "pt"})
    facts = diff(str(expert), base=str(base), output=tmp_path / "v")
    assert facts.error.relative_l2 == facts.error.max_abs == 0.0
    results = []
    for model in (expert, tmp_path / "v"):
        values = {"base": str(base), "vectors": {"v": {"model": str(model), "weight": 0.7}}}
        for method in ("task_arithmetic", "ties", "dare_linear"):
            merged = merge(
                Config.model_validate({**values, "merge": {"method": method}}), tmp_path / f"{model.name}-{method}"
            )
            results.append((merged / "model.safetensors").read_bytes())
    assert results[:3] == results[3:]


def test_a_merge_from_a_bfloat16_vector_is_within_its_rounding(
    family: Family, vectors: Mapping[str, Path], tmp_path: Path
) -> None:
    exact = weights(merge(config(family, family["b"], dtype="float32"), tmp_path / "expert"))
    found = weights(merge(config(family, vectors["b-bfloat16"], dtype="float32"), tmp_path / "vector"))
    base = weights(family["base"])
    for name, tensor in exact.items():
        difference = (tensor.double() - base[name].double()).abs()
        bound = difference * 2.0**-8 + tensor.double().abs() * 2.0**-23
        assert ((found[name].double() - tensor.double()).abs() <= bound).all(), name


def test_tokenizer_settings_and_lock_come_from_the_vector(
    family: Family, vectors: Mapping[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = merge(config(family, vectors["a-int8"]), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(out).chat_template == "{{ messages }}"
    assert AutoModelForCausalLM.from_pretrained(out).config.model_type == "llama"
    identity = json.loads((out / "lock.json").read_text())["inputs"]["vectors.v"]
    assert identity["model"] == str(vectors["a-int8"])
    assert list(identity["files"]) == ["model.safetensors"]
    assert "a-int8" in (out / "README.md").read_text(encoding="utf-8")


def test_a_vector_of_a_vector_is_itself(family: Family, vectors: Mapping[str, Path], tmp_path: Path) -> None:
    facts = diff(str(vectors["b-bfloat16"]), base=str(family["base"]), output=tmp_path / "again")
    assert facts.error.relative_l2 == 0.0
    again = weights(tmp_path / "again" / "difference")
    assert all(tensor.equal(again[name]) for name, tensor in weights(vectors["b-bfloat16"] / "difference").items())


# Refusals


def test_a_vector_is_no_base(family: Family, vectors: Mapping[str, Path], tmp_path: Path) -> None:
    values = {"base": str(vectors["a-int8"]), "vectors": {"b": {"model": str(family["b"])}}}
    with pytest.raises(
        AftermixError,
        match=r"a-int8: is a distribution vector, which is no model without its base\. "
        r"Name it under `vectors:` beside the `base:` that it was taken from\.",
    ):
        merge(Config.model_validate(values), tmp_path / "out")


def test_another_base_is_refused(family: Family, vectors: Mapping[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AftermixError) as raised:
        merge(config({"base": family["c"]}, vectors["a-int8"]), tmp_path / "out")
    text = str(raised.value)
    label = vectors["a-int8"]
    assert "lm_head.weight" not in text
    assert (
        f"model.embed_tokens.weight: vector '{label}' was taken from a base with other values. "
        f"Name the base that it was taken from: {family['base']}." in text
    )
    assert f"{label}: {len(weights(family['base'])) - 5} more tensors like these" in text
    assert not (tmp_path / "out").exists()


def test_a_base_of_other_shapes_types_or_names_is_refused(
    family: Family, vectors: Mapping[str, Path], copied: Copy
) -> None:
    base = copied("base")
    tensors = load_file(base / "model.safetensors")
    tensors[NORM] = tensors[NORM].float()
    del tensors["model.layers.0.mlp.up_proj.weight"]
    tensors["model.layers.0.mlp.down_proj.weight"] = torch.zeros(3, 2, dtype=torch.bfloat16)
    tensors["extra.weight"] = torch.zeros(2)
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(AftermixError) as raised:
        open_model(str(vectors["a-int8"]), base=open_model(str(base)))
    for text in (
        "extra.weight: vector '{}' was taken from a base without this tensor.",
        "model.layers.0.mlp.up_proj.weight: vector '{}' was taken from a base with this tensor.",
        "vector '{}' was taken from a base with (32, 48) bfloat16, this base has (3, 2) bfloat16.",
        "vector '{}' was taken from a base with (32,) bfloat16, this base has (32,) float32.",
    ):
        assert text.format(vectors["a-int8"]) in str(raised.value)


def test_doctor_compares_the_whole_base_and_tells_what_a_vector_is(
    family: Family, vectors: Mapping[str, Path], copied: Copy
) -> None:
    sound = doctor(config(family, vectors["a-int8"]))
    assert sound.problems == []
    (fact,) = opened(family, vectors["a-int8"]).describe_storage()
    assert fact.startswith("is a vector stored as int8: 20 tensors moved, 0 left out, error 0.")
    base = copied("base")
    tensors = load_file(base / "model.safetensors")
    tensors["model.embed_tokens.weight"][-1, -1] += 1  # beyond what is compared on opening
    save_file(tensors, base / "model.safetensors")
    changed = {"base": base}
    assert opened(changed, vectors["a-int8"])
    found = doctor(config(changed, vectors["a-int8"])).problems
    assert [problem.where for problem in found] == ["model.embed_tokens.weight"]
    assert "was taken from a base with other values" in found[0].found
    assert find_content_problems(opened(family, vectors["a-int8"])) == []


def test_an_expert_that_is_the_base_is_refused(family: Family, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tensor differs from the base .* Name the model trained from it"):
        diff(str(family["base"]), base=str(family["base"]), output=tmp_path / "v")
    assert list(tmp_path.iterdir()) == []


def test_an_expert_that_does_not_align_is_refused(family: Family, untied_family: Family, tmp_path: Path) -> None:
    with pytest.raises(AftermixError, match=r"vector 'expert' has a head of its own, the base ties it"):
        diff(str(untied_family["a"]), base=str(family["base"]), output=tmp_path / "v")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("member", "owner"), [("b", r"vector 'expert' \("), ("base", "")])
def test_nan_and_inf_are_refused(member: str, owner: str, family: Family, copied: Copy, tmp_path: Path) -> None:
    damaged = copied(member)
    tensors = load_file(damaged / "model.safetensors")
    tensors[NORM][2] = float("inf")
    save_file(tensors, damaged / "model.safetensors")
    models = {"base": family["base"], "b": family["b"], member: damaged}
    with pytest.raises(CheckpointError, match=rf"model\.norm\.weight: {owner}.*holds 1 NaN or Inf values"):
        diff(str(models["b"]), base=str(models["base"]), output=tmp_path / "deep" / "v")
    assert not (tmp_path / "deep").exists()


def test_an_occupied_or_input_folder_is_refused(family: Family, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        diff(str(family["a"]), base=str(family["base"]), output=tmp_path)
    with pytest.raises(CheckpointError, match="lies in the input folder"):
        diff(str(family["a"]), base=str(family["base"]), output=family["a"] / "v")


def test_a_difference_beyond_bfloat16_is_refused(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    for name, value in (("base", 0.0), ("expert", 3.4e38)):
        (tmp_path / name).mkdir()
        LlamaConfig().save_pretrained(tmp_path / name)
        save_file({"w": torch.tensor([value, 1.0])}, tmp_path / name / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"w: the difference stored as bfloat16 holds 1 NaN or Inf values"):
        diff(str(tmp_path / "expert"), base=str(tmp_path / "base"), output=tmp_path / "v")
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"version": 2}, r"does not describe a vector that this version reads \(version: Input should be 1\)"),
        (
            {"format": "x"},
            r"\(format: Input should be 'aftermix vector'\)\. Make the vector again with `aftermix",
        ),
        ({"more": 1}, r"\(more: Extra inputs are not permitted\)"),
        (
            {"dtype": "bfloat16"},
            r"values\.model\.norm\.weight: expected \(32,\) torch\.bfloat16, found .* torch\.int8",
        ),
        (
            {"error": {"relative_l2": 0, "max_abs": 0, "tensors": {}}},
            r"scales\.model\.norm\.weight: expected nothing, found \(1,\) torch\.float32\. Download the vector again",
        ),
    ],
)
def test_a_description_that_does_not_fit_is_refused(
    facts: dict[str, object], message: str, family: Family, copied: Copy, tmp_path: Path
) -> None:
    expert = copied("base")
    tensors = load_file(expert / "model.safetensors")
    tensors[NORM] = tensors[NORM] + 1
    save_file(tensors, expert / "model.safetensors")
    diff(str(expert), base=str(family["base"]), output=tmp_path / "v", dtype="int8")
    with pytest.raises(AftermixError, match=message):
        opened(family, edited(tmp_path / "v", tmp_path / "edited", **facts))


@pytest.mark.parametrize("entry", ["values", "scales"])
def test_nan_in_a_stored_vector_stops_a_merge(
    entry: str, family: Family, vectors: Mapping[str, Path], tmp_path: Path
) -> None:
    stored = vectors["b-bfloat16"] if entry == "values" else vectors["b-int8"]
    copy = edited(stored, tmp_path / "copy")
    file = copy / "difference" / "model.safetensors"
    tensors = load_file(file)
    tensors[f"{entry}.{NORM}"].reshape(-1)[0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(
        CheckpointError, match=r"model\.norm\.weight: vector 'v' \(.*copy\) holds \d+ NaN or Inf values"
    ):
        merge(config(family, copy), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_vector_without_its_weights_is_refused(family: Family, vectors: Mapping[str, Path], tmp_path: Path) -> None:
    copy = edited(vectors["a-int8"], tmp_path / "copy")
    shutil.rmtree(copy / "difference")
    with pytest.raises(CheckpointError, match="is not a folder"):
        opened(family, copy)
    (copy / "vector.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"vector\.json: expected a JSON object, found list"):
        opened(family, copy)
