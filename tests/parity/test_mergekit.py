"""One recipe file, two programs: merges by the real mergekit 0.1.5, where it is at hand, against ours.

mergekit wants an environment of its own; name it by `MERGEKIT=PATH/bin/mergekit-yaml` if it is not on the PATH. All
recipes go through one process of it, since its import alone takes nine seconds.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from aftermix.config import Config, parse_config
from aftermix.jobs.merge.command import merge
from aftermix.mergekit.reading import load_recipe
from aftermix.mergekit.writing import translate_to_mergekit

MERGEKIT = os.environ.get("MERGEKIT") or shutil.which("mergekit-yaml")
pytestmark = pytest.mark.skipif(MERGEKIT is None, reason="mergekit-yaml is not installed; set MERGEKIT to its path")

DRIVER = """
import sys, torch
torch.set_num_threads(1)
from mergekit.scripts.run_yaml import main
def merge_all(suffix):
    for file in sys.argv[1:]:
        main([file, file.removesuffix(".yaml") + suffix, "--quiet", "--random-seed", "1"], standalone_mode=False)
merge_all("")
sort = torch.argsort
torch.argsort = lambda *args, **options: sort(*args, stable=True, **options)
merge_all(".stable")
"""
"""Every recipe as it is, and once more with the one sort of mergekit made stable: equal magnitudes by lower index."""
Family = Mapping[str, Path]
Tensors = dict[str, torch.Tensor]
Build = Callable[[Family], dict[str, Any]]

FLOAT, SINGLE_BIT, THRESHOLD = "untied_family", "equal to the bit", "equal but for entries at the threshold"
LAST_PLACE = "equal up to the last place"
ITERATED = "equal up to float32 in every step"
BAND = "equal but for a few of equal magnitude at either end of what is kept"
HALF, NEGATIVE = {"density": 0.5}, (0.5, -0.3, 0.8)
NO_EMBEDDINGS = [{"filter": "embed_tokens", "value": 0}, {"filter": "norm", "value": 0}]


def recipe(
    method: str, *, weights: tuple[Any, ...] = (0.5, 0.3, 0.8), models: tuple[Any, ...] = ({}, {}, {}), **shared: Any
) -> Build:
    """A recipe over the experts a (sharded), b and c, with `shared` parameters."""

    def build(family: Family) -> dict[str, Any]:
        entries = [
            {"model": str(family[name]), "parameters": {"weight": weight} | own}
            for name, weight, own in zip("abc", weights, models, strict=True)
        ]
        base = {} if method == "linear" else {"base_model": str(family["base"])}
        return {"merge_method": method, "models": entries, "dtype": "float32", "parameters": shared} | base

    return build


def changed(build: Build, **change: Any) -> Build:
    return lambda family: build(family) | change


def from_slices(build: Build) -> Build:
    def sliced(family: Family) -> dict[str, Any]:
        values, layers = build(family), 4 if "deep" in str(family["base"]) else 2
        sources = [{"layer_range": [0, layers]} | entry for entry in values.pop("models")]
        sources.append({"layer_range": [0, layers], "model": values["base_model"]})
        return values | {"slices": [{"sources": sources}]}

    return sliced


def excluding(build: Build) -> Build:
    def filtered(family: Family) -> dict[str, Any]:
        values = build(family)
        for entry in values["models"]:
            entry["parameters"]["weight"] = [*NO_EMBEDDINGS, {"value": entry["parameters"]["weight"]}]
        return values

    return filtered


def stacking(family: Family) -> dict[str, Any]:
    ranges = ([0, 2], [1, 2], [0, 1])
    slices = [{"sources": [{"model": str(family["a"]), "layer_range": each}]} for each in ranges]
    return {"merge_method": "passthrough", "slices": slices, "dtype": "bfloat16"}


GRADIENT = [0, 0.5, 0.3, 0.7, 1]
FILTERED = [{"filter": "self_attn", "value": GRADIENT}, {"filter": "mlp", "value": [1, 0.25]}, {"value": 0.5}]


def with_base_among_models(family: Family) -> dict[str, Any]:
    models = [{"model": str(family[name])} for name in ("a", "b")]
    base = str(family["base"])
    return {"merge_method": "linear", "base_model": base, "models": models, "parameters": {"weight": 0.5}}


def weightless(method: str, *names: str, base: str | None = "base", **shared: Any) -> Build:
    """A recipe of a method that takes no weight for each model."""

    def build(family: Family) -> dict[str, Any]:
        models = [{"model": str(family[name])} for name in names]
        values = {"merge_method": method, "models": models, "dtype": "float32", "parameters": shared}
        return values | ({"base_model": str(family[base])} if base else {})

    return build


def nuslerp(*, base: str | None) -> Build:
    def build(family: Family) -> dict[str, Any]:
        values = weightless("nuslerp", "a", "b", base=base)(family)
        for entry, weight in zip(values["models"], (0.75, 0.5), strict=True):
            entry["parameters"] = {"weight": weight}
        return values

    return build


CASES: dict[str, tuple[Build, str]] = {
    "linear": (recipe("linear"), SINGLE_BIT),
    "linear-negative": (recipe("linear", weights=(0.1, 0.7, -0.25)), SINGLE_BIT),
    "linear-with-base": (with_base_among_models, SINGLE_BIT),
    "linear-out-dtype": (changed(recipe("linear"), out_dtype="float16"), SINGLE_BIT),
    "passthrough": (stacking, SINGLE_BIT),
    "ties": (recipe("ties", **HALF), THRESHOLD),
    "ties-defaults": (recipe("ties"), SINGLE_BIT),
    "ties-equal-weights": (recipe("ties", weights=(0.3, 0.3, 0.3), **HALF), THRESHOLD),
    "ties-densities": (recipe("ties", models=({"density": 0.2}, {"density": 0.7}, {})), THRESHOLD),
    "ties-negative": (recipe("ties", weights=NEGATIVE, **HALF), THRESHOLD),
    "ties-cancelling": (recipe("ties", weights=(0.5, -0.5, 0.5), **HALF), THRESHOLD),
    "ties-sum": (recipe("ties", weights=NEGATIVE, density=0.4, normalize=False, int8_mask=True), THRESHOLD),
    "ties-filters": (excluding(recipe("ties", **HALF)), THRESHOLD),
    "ties-slices": (from_slices(recipe("ties", **HALF)), THRESHOLD),
    "ties-lambda": (recipe("ties", **{"lambda": 0.6}), LAST_PLACE),
    "task-arithmetic": (recipe("task_arithmetic"), LAST_PLACE),
    "task-arithmetic-mean": (recipe("task_arithmetic", normalize=True, **{"lambda": 0.7}), LAST_PLACE),
    "dare-ties-undropped": (recipe("dare_ties", weights=NEGATIVE, int8_mask=True), SINGLE_BIT),
    "dare-ties-mean": (recipe("dare_ties", normalize=True), SINGLE_BIT),
    "dare-linear-mean": (recipe("dare_linear", normalize=True), LAST_PLACE),
    "slerp": (weightless("slerp", "a", "b", base="a", t=0.3), LAST_PLACE),
    "slerp-base-not-listed": (weightless("slerp", "c", t=0.75), LAST_PLACE),
    "slerp-slices": (from_slices(weightless("slerp", "b", t=0.5)), LAST_PLACE),
    "breadcrumbs-ties": (recipe("breadcrumbs_ties", density=0.9), BAND),
    "breadcrumbs-mean": (recipe("breadcrumbs", density=0.6, gamma=0.1), BAND),
    "della-undropped": (recipe("della", weights=NEGATIVE), SINGLE_BIT),
    "sce": (weightless("sce", "a", "b", "c", select_topk=0.3), ITERATED),
    "sce-whole": (weightless("sce", "a", "b"), ITERATED),
    "nuslerp": (nuslerp(base=None), ITERATED),
    "nuslerp-base": (nuslerp(base="base"), ITERATED),
    "slerp-gradient-filters": (weightless("slerp", "a", "b", base="a", t=FILTERED), LAST_PLACE),
    "slerp-slices-gradient": (from_slices(weightless("slerp", "b", t=GRADIENT)), LAST_PLACE),
    "linear-gradient": (recipe("linear", weights=(GRADIENT, [0.3, 0.1], FILTERED)), LAST_PLACE),
    "ties-gradient": (recipe("ties", weights=([0.2, 0.8], FILTERED, 0.4)), SINGLE_BIT),
    "ties-one-filter": (recipe("ties", weights=([*FILTERED[:1], {"value": 0}], 0.3, 0.4)), SINGLE_BIT),
    "task-arithmetic-gradient": (recipe("task_arithmetic", weights=([0, 1], FILTERED, -0.5)), LAST_PLACE),
    "dare-ties-gradient": (recipe("dare_ties", weights=(FILTERED, GRADIENT, [1, -1])), SINGLE_BIT),
    "slerp-whole-way": (weightless("slerp", "a", "b", base="b", t=1.0), SINGLE_BIT),
    "karcher": (weightless("karcher", "a", "b", "c", base=None), ITERATED),
    "karcher-with-base": (weightless("karcher", "a", "b", max_iter=3, tol=1e-6), ITERATED),
    "model-stock": (weightless("model_stock", "a", "b", "c"), LAST_PLACE),
    "model-stock-filters": (weightless("model_stock", "a", "c", filter_wise=True), LAST_PLACE),
}
STORED_AS = {"family": "bfloat16", "untied_family": "float32", "deep_family": "float32"}
PAIRS = [(name, kind) for kind in ("family", "untied_family") for name in CASES]
PAIRS += [(name, "deep_family") for name in CASES if "gradient" in name]


def one_vector(method: str, density: float) -> Build:
    def build(family: Family) -> dict[str, Any]:
        models = [{"model": str(family["b"]), "parameters": {"weight": 1.0, "density": density}}]
        return {"merge_method": method, "base_model": str(family["base"]), "models": models, "dtype": "float32"}

    return build


DROPPED = {
    f"{method}-{density}": (method, density) for method in ("dare_linear", "dare_ties") for density in (0.3, 0.9)
}


def written_by_us(family: Family) -> dict[str, Config]:
    vectors = {name: {"model": str(family[name]), "weight": 0.4} for name in "abc"}
    merges: dict[str, dict[str, Any]] = {
        "our-ties": {"method": "ties", "density": 1.0, "exclude": ["embed_tokens", "lm_head", "*.0.mlp.*"]},
        "our-linear": {"method": "linear"},
        "our-pair": {"intra": "all", "inter": "disjoint_mean"},
        "our-karcher": {"method": "karcher", "max_iterations": 4},
        "our-stock": {"method": "model_stock", "filter_wise": True},
    }
    content = {"base": str(family["base"]), "vectors": vectors}
    return {
        name: parse_config(content | {"merge": values}, where="t", folder=Path()) for name, values in merges.items()
    }


@pytest.fixture(scope="session")
def merged(
    family: Family, untied_family: Family, deep_family: Family, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], tuple[Tensors, Tensors]]:
    """Run every recipe through mergekit; a function of family and name gives our tensors and theirs."""
    folder = tmp_path_factory.mktemp("peer")
    families = {"family": family, "untied_family": untied_family, "deep_family": deep_family}
    for kind, members in families.items():
        for name, values in recipes_of(kind, members).items():
            (folder / f"{kind}-{name}.yaml").write_text(yaml.safe_dump(values))
    files = sorted(map(str, folder.glob("*.yaml")))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    python = str(Path(str(MERGEKIT)).with_name("python"))
    ran = subprocess.run([python, "-c", DRIVER, *files], capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]

    def both(kind: str, name: str) -> tuple[Tensors, Tensors]:
        file = folder / f"{kind}-{name.removesuffix('.stable')}.yaml"
        ours = file.with_suffix(".ours")
        if not ours.exists():
            merge(load_recipe(file), ours)
        return stored(ours), stored(folder / f"{kind}-{name}")

    return both


def recipes_of(kind: str, members: Family) -> dict[str, dict[str, Any]]:
    names = [name for name, paired in PAIRS if paired == kind]
    values = {name: {"out_dtype": STORED_AS[kind]} | CASES[name][0](members) for name in names}
    if kind == "deep_family":
        return values
    values |= {name: one_vector(*arguments)(members) for name, arguments in DROPPED.items()}
    values["bfloat16"] = changed(recipe("task_arithmetic"), dtype="bfloat16")(members)
    tensors = list(stored(members["base"]))
    return values | {
        name: translate_to_mergekit(config, tensors=tensors, dtype=STORED_AS[kind]).recipe
        for name, config in written_by_us(members).items()
    }


def stored(folder: Path) -> Tensors:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def magnitude_of_terms(name: str, family: Family) -> torch.Tensor:
    """A bound on every number that is added up: the base and the differences of all experts, weights at most 1."""
    base, experts = stored(family["base"])[name].double(), [stored(family[key])[name].double() for key in "abc"]
    return base.abs() + sum((expert - base).abs() for expert in experts)


def at_threshold(name: str, family: Family, densities: tuple[float, ...]) -> torch.Tensor:
    """Entries whose magnitude is exactly the smallest that is kept of some vector."""
    base, found = stored(family["base"])[name].float(), []
    for key, density in zip("abc", densities, strict=True):
        magnitudes = (stored(family[key])[name].float() - base).abs()
        kept = max(1, int(density * magnitudes.numel()))
        found.append(magnitudes == magnitudes.flatten().sort(descending=True).values[kept - 1])
    return torch.stack(found).any(0)


def densities_of(values: Mapping[str, Any]) -> tuple[float, ...]:
    shared = values["parameters"].get("density", 1.0)
    entries = values.get("models") or values["slices"][0]["sources"][:3]
    return tuple(entry["parameters"].get("density", shared) for entry in entries)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_the_same_recipe_gives_the_same_tensors(
    name: str, kind: str, merged: Callable[[str, str], tuple[Tensors, Tensors]], request: pytest.FixtureRequest
) -> None:
    _, expected = CASES[name]
    family: Family = request.getfixturevalue(kind)
    ours, theirs = merged(kind, name)
    assert ours.keys() == theirs.keys()
    for tensor, found in ours.items():
        peer = theirs[tensor]
        assert (found.dtype, found.shape) == (peer.dtype, peer.shape)
        if expected in (LAST_PLACE, ITERATED):
            # A unit of float32 in a term or two, and where that turns the rounding to bfloat16, one of bfloat16.
            unit = torch.finfo(found.dtype).eps * found.double().abs() * (found.dtype != torch.float32)
            units = 2 if expected == LAST_PLACE else 8
            allowed = unit + units * torch.finfo(torch.float32).eps * magnitude_of_terms(tensor, family)
            assert ((found.double() - peer.double()).abs() <= allowed).all(), tensor
        else:
            assert found.equal(peer) or expected in (THRESHOLD, BAND), tensor
    if expected == BAND:
        unit = {name: 2 * torch.finfo(t.dtype).eps * magnitude_of_terms(name, family) for name, t in ours.items()}
        apart = [
            ((ours[n].double() - theirs[n].double()).abs() > allowed).double().mean() for n, allowed in unit.items()
        ]
        assert float(sum(apart) / len(apart)) <= (0.01 if kind == "family" else 0)


@pytest.mark.parametrize("kind", ["family", "untied_family"])
@pytest.mark.parametrize("name", [name for name, (_, expected) in CASES.items() if expected == THRESHOLD])
def test_only_equal_magnitudes_at_the_threshold_may_fall_otherwise(
    name: str, kind: str, merged: Callable[[str, str], tuple[Tensors, Tensors]], request: pytest.FixtureRequest
) -> None:
    # Values of bfloat16 are coarse, so many magnitudes are equal, and mergekit's sort is not stable.
    family: Family = request.getfixturevalue(kind)
    densities = densities_of(CASES[name][0](family))
    ours, theirs = merged(kind, name)
    _, stable = merged(kind, f"{name}.stable")
    differs = {tensor: found != theirs[tensor] for tensor, found in ours.items()}
    share = sum(int(entries.sum()) for entries in differs.values()) / sum(entry.numel() for entry in differs.values())
    assert share <= (0.005 if kind == "family" else 0)
    for tensor, found in ours.items():
        assert found.equal(stable[tensor]), tensor
        assert not (differs[tensor] & ~at_threshold(tensor, family, densities)).any(), tensor


@pytest.mark.parametrize("kind", ["family", "untied_family"])
@pytest.mark.parametrize("name", ["our-ties", "our-linear", "our-pair"])
def test_what_we_export_gives_our_result(
    name: str,
    kind: str,
    merged: Callable[[str, str], tuple[Tensors, Tensors]],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    original = stored(merge(written_by_us(request.getfixturevalue(kind))[name], tmp_path / "original"))
    read_back, theirs = merged(kind, name)
    for tensor, found in original.items():
        assert found.dtype == theirs[tensor].dtype
        assert found.equal(theirs[tensor]), tensor
        assert found.equal(read_back[tensor]), tensor


@pytest.mark.parametrize("name", DROPPED)
def test_random_drops_agree_in_distribution(
    name: str, merged: Callable[[str, str], tuple[Tensors, Tensors]], untied_family: Family
) -> None:
    density = DROPPED[name][1]
    base, expert = stored(untied_family["base"]), stored(untied_family["b"])
    total = sum(tensor.numel() for tensor in base.values())
    kept = []
    for program in merged("untied_family", name):
        moved = {tensor: program[tensor].double() - base[tensor].double() for tensor in base}
        kept.append(sum(int((moved[tensor].abs() > 1e-7).sum()) for tensor in base) / total)
        for tensor, delta in moved.items():
            norm = (expert[tensor].double() - base[tensor].double()).abs().sum()
            assert float(delta.abs().sum() / norm) == pytest.approx(1, rel=1e-4)
    sigma = math.sqrt(density * (1 - density) / total)
    assert kept == pytest.approx([density, density], abs=4 * sigma)


def test_arithmetic_in_bfloat16_is_what_we_leave_out(
    merged: Callable[[str, str], tuple[Tensors, Tensors]], family: Family
) -> None:
    ours, theirs = merged("family", "bfloat16")
    base, weights = stored(family["base"]), {"a": 0.5, "b": 0.3, "c": 0.8}
    experts = {name: stored(family[name]) for name in weights}

    def error(found: Tensors) -> float:
        squares = 0.0
        for tensor, start in base.items():
            terms = [weight * (experts[name][tensor].double() - start.double()) for name, weight in weights.items()]
            squares += float(((found[tensor].double() - start.double() - sum(terms)) ** 2).sum())
        return math.sqrt(squares)

    assert error(theirs) > 1.05 * error(ours)
