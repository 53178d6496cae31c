"""Norms, cosines and shares of vectors against a slow twin in NumPy, on models and on their vector files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

from aftermix.analysis import geometry as module
from aftermix.analysis.geometry import GeometryPart, VectorGeometry, join_parts, measure_geometry
from aftermix.analysis.geometry_tables import dump_geometry
from aftermix.analysis.tensor_kinds import read_tensor_kind
from aftermix.checkpoints.formats.spans import split_into_spans
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, VectorConfig
from aftermix.errors import AftermixError
from aftermix.jobs.diff import diff

Family = Mapping[str, Path]
Copy = Callable[[str], Path]
NORM = "model.norm.weight"
EMBEDDING = "model.embed_tokens.weight"


def measured(base: Path, **models: Path) -> VectorGeometry:
    vectors = {name: VectorConfig(model=str(path)) for name, path in models.items()}
    return measure_geometry(open_pool(Config(base=str(base), vectors=vectors)))


def weights(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: tensor.double().numpy() for file in files for name, tensor in load_file(file).items()}


def changed(folder: Path, **tensors: torch.Tensor) -> Path:
    found = load_file(folder / "model.safetensors")
    save_file(found | {name.replace("__", "."): value for name, value in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("size", [1007, 1 << 16])
def test_every_number_is_that_of_a_slow_twin(size: int, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "split_into_spans", lambda elements: split_into_spans(elements, size=size))
    found = measured(family["base"], a=family["a"], b=family["b"], c=family["c"])
    base = weights(family["base"])
    vectors = {v: {n: x - base[n] for n, x in weights(family[v]).items()} for v in "abc"}
    assert found.vectors == ("a", "b", "c")
    assert set(found.tensors) == set(base)

    def check(part: GeometryPart, names: list[str]) -> None:
        flat = [np.concatenate([vectors[v][n].ravel() for n in names]) for v in "abc"]
        gram = np.array([[x @ y for y in flat] for x in flat])
        norms = np.sqrt(np.diagonal(gram))
        whole = np.concatenate([base[n].ravel() for n in names])
        assert part.elements == whole.size
        np.testing.assert_allclose(part.norms, norms, rtol=1e-12)
        np.testing.assert_allclose(part.relative, norms / np.linalg.norm(whole), rtol=1e-12)
        np.testing.assert_allclose(part.cosines, gram / np.outer(norms, norms), rtol=1e-12, atol=1e-13)
        np.testing.assert_array_equal(part.shares, [np.count_nonzero(x) / x.size for x in flat])
        np.testing.assert_array_equal(part.max_abs_V, [np.abs(x).max() for x in flat])

    check(found.whole, list(base))
    for name, part in found.tensors.items():
        check(part, [name])
    for kind, part in found.kinds.items():
        check(part, [name for name in base if read_tensor_kind(name).kind == kind])
    for number in range(2):
        check(found.layers[str(number)], [name for name in base if read_tensor_kind(name).number == number])
    check(found.cells["1", "mlp up"], ["model.layers.1.mlp.up_proj.weight"])
    assert list(found.layers) == ["outside layers", "0", "1"]


finite = st.floats(-1e3, 1e3, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)


@given(values=arrays.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=finite))
@settings(max_examples=60)
def test_parts_add_up_to_the_whole(values: np.ndarray) -> None:
    cut = values.shape[1] // 2
    parts = [part_of(values[:, place]) for place in (slice(0, cut), slice(cut, None)) if values[:, place].size]
    found, whole = join_parts(parts), part_of(values)
    np.testing.assert_allclose(found.gram_VV, whole.gram_VV, rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(found.changed_V, whole.changed_V)
    np.testing.assert_array_equal(found.max_abs_V, whole.max_abs_V)
    cosines = found.cosines
    moved = np.abs(values).max(axis=1) > 0
    assert (np.diagonal(cosines)[moved] == 1.0).all()
    assert np.isnan(cosines[~moved]).all()
    assert (np.abs(cosines[np.ix_(moved, moved)]) <= 1.0).all()


def part_of(values: np.ndarray) -> GeometryPart:
    return GeometryPart(
        values.shape[1], 1.0, values @ values.T, np.count_nonzero(values, axis=1), np.abs(values).max(axis=1, initial=0)
    )


def test_what_does_not_move_is_told(family: Family, copied: Copy) -> None:
    still, one = copied("base"), copied("b")
    base = load_file(family["base"] / "model.safetensors")
    save_file(base | {NORM: base[NORM] + 1}, one / "model.safetensors")
    found = measured(family["base"], one=one, still=still)
    assert found.list_unmoved("still") == list(found.tensors)
    assert found.list_unmoved("one") == [name for name in found.tensors if name != NORM]
    assert math.isnan(found.whole.cosines[0, 1])
    assert found.whole.shares[0] == 32 / found.whole.elements
    record = dump_geometry(found)
    assert record["cosines"]["whole"] == [[1.0, None], [None, None]]
    assert record["vectors"]["one"]["norm"] == pytest.approx(math.sqrt(32))
    assert record["tensors"][NORM]["vectors"]["one"] == {
        "norm": pytest.approx(math.sqrt(32)),
        "relative": pytest.approx(1.0),
        "changed": 1.0,
        "max_abs": 1.0,
    }
    json.dumps(record, allow_nan=False)


def test_a_moved_part_of_a_base_of_zeros_has_no_relative_norm(copied: Copy) -> None:
    base, expert = changed(copied("base"), model__norm__weight=torch.zeros(32).bfloat16()), copied("b")
    found = measured(base, v=expert)
    assert found.tensors[NORM].relative[0] == math.inf
    assert dump_geometry(found)["tensors"][NORM]["vectors"]["v"]["relative"] is None


def test_a_tied_head_is_counted_once(family: Family, copied: Copy) -> None:
    base, expert = copied("base"), copied("b")
    for folder in (base, expert):
        embedding = load_file(folder / "model.safetensors")[EMBEDDING]
        changed(folder, lm_head__weight=embedding.clone())
    assert measured(base, v=expert).whole.norms == pytest.approx(measured(family["base"], v=family["b"]).whole.norms)


def test_a_vector_file_measures_like_its_expert(family: Family, tmp_path: Path) -> None:
    diff(str(family["b"]), base=str(family["base"]), output=tmp_path / "v", dtype="int8")
    found = measured(family["base"], expert=family["b"], file=tmp_path / "v")
    assert found.whole.cosines[0, 1] > 0.9999
    assert found.whole.norms[1] == pytest.approx(found.whole.norms[0], rel=1e-3)


def test_nan_and_inf_are_told_of_every_model_at_once(copied: Copy) -> None:
    base, b = copied("base"), copied("b")
    changed(base, model__norm__weight=torch.full((32,), math.nan).bfloat16())
    embedding = load_file(b / "model.safetensors")[EMBEDDING]
    embedding[0, 0] = embedding[-1, -1] = math.inf
    changed(b, model__embed_tokens__weight=embedding)
    with pytest.raises(AftermixError) as raised:
        measured(base, b=b)
    text = str(raised.value)
    assert text.startswith("2 problems:")
    assert f"{EMBEDDING}: vector 'b' ({b}) holds 2 NaN or Inf values. Use an earlier checkpoint" in text
    assert f"{NORM}: {base} holds 32 NaN or Inf values" in text


def test_a_difference_beyond_float32_is_told(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    for name, value in (("base", -3e38), ("expert", 3e38)):
        (tmp_path / name).mkdir()
        LlamaConfig().save_pretrained(tmp_path / name)
        save_file({"w": torch.tensor([value, 1.0])}, tmp_path / name / "model.safetensors")
    with pytest.raises(AftermixError, match="w: a difference in float32 holds 1 NaN or Inf values"):
        measured(tmp_path / "base", v=tmp_path / "expert")
