"""`compat: mergekit` and options by vector: defaults, and rules that are mergekit's to the entry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from aftermix.config import MergeConfig, VectorConfig, parse_config
from aftermix.errors import ManyProblemsError, MergeError
from aftermix.jobs.merge.command import merge
from aftermix.merging.methods import bind
from aftermix.merging.rules.inter import disjoint_mean

Family = Mapping[str, Path]
FOLDER = Path.cwd()


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(
    ("merge_values", "expected"),
    [
        ({"method": "ties"}, {"density": 1.0, "divisor": "signed", "normalize": True, "election": "sum"}),
        ({"method": "ties", "density": 0.3, "divisor": "absolute"}, {"density": 0.3, "divisor": "absolute"}),
        ({"method": "dare_linear"}, {"density": 1.0, "rescale": "l1"}),
        ({"method": "dare_ties"}, {"rescale": "l1", "normalize": False, "divisor": "signed"}),
        ({"method": "della"}, {"density": 1.0, "epsilon": 0.15, "rescale": "l1", "normalize": True}),
        ({"method": "breadcrumbs_ties"}, {"density": 1.0, "gamma": 0.01, "excess": "gamma", "normalize": False}),
        ({"method": "sce"}, {"select_topk": 1.0}),
        ({"intra": {"rule": "random", "density": 0.5}, "inter": "mean"}, {"density": 0.5, "rescale": "l1"}),
    ],
)
def test_compat_sets_defaults_and_no_more(merge_values: dict[str, Any], expected: dict[str, Any]) -> None:
    options = bind(MergeConfig.model_validate({"compat": "mergekit"} | merge_values)).options
    assert options.items() >= expected.items()


def test_compat_is_refused_for_rules_that_are_not_alike() -> None:
    with pytest.raises(MergeError) as caught:
        bind(MergeConfig(method="tall_mask", compat="mergekit"))
    assert str(caught.value) == "merge.compat: tall_mask is not as mergekit has it. Remove `compat`."


def test_compat_excludes_nothing_in_a_search() -> None:
    assert MergeConfig(compat="mergekit").exclusions(for_search=True) == ()
    assert MergeConfig(compat="mergekit", exclude=("lm_head",)).exclusions(for_search=True) == ("lm_head",)


NUMBERS = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0])
"""Exact in binary, so that sums in any order are equal and often exactly 0."""


def consensus(column: list[float], weights: list[float], *, normalize: bool) -> float:
    """mergekit's rule for one entry, as its source has it: signed weights in the divisor, 1 where they cancel."""
    parts = [weight * value for weight, value in zip(weights, column, strict=True)]
    plus = sum(parts) >= 0
    agrees = [part > 0 if plus else part < 0 for part in parts]
    total = sum(part for part, agree in zip(parts, agrees, strict=True) if agree)
    divisor = sum(weight for weight, agree in zip(weights, agrees, strict=True) if agree)
    return total / (divisor or 1.0) if normalize else total


@given(st.lists(st.tuples(NUMBERS, st.lists(NUMBERS, min_size=4, max_size=4)), min_size=1, max_size=4), st.booleans())
def test_a_signed_divisor_is_mergekits(vectors: list[tuple[float, list[float]]], normalize: bool) -> None:
    weights, rows = [weight for weight, _ in vectors], [row for _, row in vectors]
    found = disjoint_mean([torch.tensor(row) for row in rows], weights, normalize=normalize, divisor="signed")
    columns = [list(column) for column in zip(*rows, strict=True)]
    values = [float(consensus(column, weights, normalize=normalize)) for column in columns]
    torch.testing.assert_close(found, torch.tensor(values), rtol=1e-6, atol=0)


def test_opposite_products_cancel_exactly_in_an_election() -> None:
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    # Fused, `w x - round(w x)` would elect either sign by chance; exact, the sum is 0 and plus is elected.
    assert (disjoint_mean([values, -values], [0.3, 0.3]) >= 0).all()


def test_a_density_of_its_own_holds_for_that_vector_alone(family: Family, tmp_path: Path) -> None:
    def kept(name: str, **own: Any) -> int:
        vectors = {"a": {"model": str(family["a"])} | own, "b": {"model": str(family["b"]), "weight": 0.0}}
        content = {"base": str(family["base"]), "vectors": vectors, "merge": {"method": "ties", "dtype": "float32"}}
        found = stored(merge(parse_config(content, where="t", folder=FOLDER), tmp_path / name))
        base = stored(family["base"])
        return sum(int((tensor != base[key].float()).sum()) for key, tensor in found.items())

    total = sum(tensor.numel() for tensor in stored(family["base"]).values())
    assert kept("default") == pytest.approx(0.2 * total, rel=0.01)
    assert kept("own", density=0.6) == pytest.approx(0.6 * total, rel=0.01)
    recipe_written = yaml.safe_load((tmp_path / "own" / "aftermix.yaml").read_text())
    assert recipe_written["vectors"]["a"]["density"] == 0.6


def test_a_density_of_its_own_holds_over_the_whole_model_too(family: Family, tmp_path: Path) -> None:
    def merged(name: str, shared: float, **own: Any) -> dict[str, torch.Tensor]:
        vectors = {"a": {"model": str(family["a"])} | own}
        values = {"method": "ties", "scope": "model", "density": shared}
        content = {"base": str(family["base"]), "vectors": vectors, "merge": values}
        return stored(merge(parse_config(content, where="t", folder=FOLDER), tmp_path / name))

    shared, own = merged("shared", 0.6), merged("own", 0.2, density=0.6)
    assert all(tensor.equal(own[name]) for name, tensor in shared.items())


def test_a_density_for_a_method_that_drops_nothing_is_refused() -> None:
    with pytest.raises(ManyProblemsError) as caught:
        bind(MergeConfig(method="task_arithmetic"), vectors={"a": VectorConfig(model="a", density=0.5)})
    expected = "vectors.a.density: task_arithmetic has no use for it. Remove it, or choose another method."
    assert str(caught.value) == expected
