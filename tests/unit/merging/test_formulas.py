"""Whole merges against the formulas of docs/methods.md, written out in float64 NumPy by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import AftermixError, MergeError
from aftermix.jobs.merge.command import merge
from aftermix.merging.methods import bind
from aftermix.seeds import keep_mask

Family = Mapping[str, Path]
WEIGHTS = {"a": 0.5, "b": 0.3, "c": 0.8}


def stored(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("*.safetensors"))
    return {name: t.double().numpy() for file in files for name, t in load_file(file).items()}


def run(family: Family, out: Path, **options: object) -> dict[str, np.ndarray]:
    vectors = {name: VectorConfig(model=str(family[name]), weight=w) for name, w in WEIGHTS.items()}
    config = Config(base=str(family["base"]), vectors=vectors, merge=MergeConfig.model_validate(options))
    return stored(merge(config, out))


def trimmed(delta: np.ndarray, density: float) -> np.ndarray:
    count = max(1, int(np.floor(density * delta.size + 1e-9)))
    order = np.argsort(-np.abs(delta.astype(np.float32).reshape(-1)), kind="stable")[:count]
    kept = np.zeros(delta.size)
    kept[order] = delta.reshape(-1)[order]
    return kept.reshape(delta.shape)


def elected(parts: list[np.ndarray], weights: list[float], *, normalize: bool) -> np.ndarray:
    weighted = [w * p for w, p in zip(weights, parts, strict=True)]
    sign = np.where(sum(weighted) >= 0, 1.0, -1.0)
    agrees = [np.sign(x) == sign for x in weighted]
    total = sum(x * a for x, a in zip(weighted, agrees, strict=True))
    if not normalize:
        return total
    mass = sum(w * a for w, a in zip(weights, agrees, strict=True))
    return np.divide(total, mass, out=np.zeros_like(total), where=mass > 0)


def expected(
    family: Family, name: str, method: str, density: float, *, normalize: bool = True, scale: float = 1.0
) -> np.ndarray:
    base = stored(family["base"])[name]
    deltas = {v: stored(family[v])[name] - base for v in WEIGHTS}
    weights = list(WEIGHTS.values())
    if method.startswith("dare"):
        masks = {v: keep_mask(base.size, density, 5, "random mask", v, name, 0).reshape(base.shape) for v in WEIGHTS}
        parts = [deltas[v] * masks[v] / density for v in WEIGHTS]
    elif method == "ties":
        parts = [trimmed(delta, density) for delta in deltas.values()]
    else:
        parts = list(deltas.values())
    if method in ("ties", "dare_ties"):
        return base + scale * elected(parts, weights, normalize=normalize)
    return base + scale * sum(w * p for w, p in zip(weights, parts, strict=True))


CASES = [
    ("task_arithmetic", {}, {}),
    ("task_arithmetic", {"lambda": 0.4}, {"scale": 0.4}),
    ("ties", {"density": 0.5}, {}),
    ("ties", {"density": 0.2, "normalize": False, "lambda": 1.5}, {"normalize": False, "scale": 1.5}),
    ("dare_linear", {"density": 0.3, "seed": 5}, {}),
    ("dare_ties", {"density": 0.6, "seed": 5}, {"normalize": False}),
    ("dare_ties", {"density": 0.6, "seed": 5, "normalize": True}, {"normalize": True}),
]


@pytest.mark.parametrize(("method", "options", "asked"), CASES)
def test_float32_merges_equal_the_formula(
    method: str, options: dict[str, object], asked: dict[str, float], untied_family: Family, tmp_path: Path
) -> None:
    found = run(untied_family, tmp_path / "out", method=method, **options)
    for name, tensor in found.items():
        wanted = expected(untied_family, name, method, float(options.get("density", 1.0)), **asked)
        close = np.isclose(tensor, wanted, rtol=1e-5, atol=1e-7)
        # Where a weighted sum cancels to the last bit, float32 and float64 may elect different signs.
        assert close.mean() > 0.9999, (name, (~close).sum())


def test_model_scope_trims_the_flattened_vector(untied_family: Family, tmp_path: Path) -> None:
    found = run(untied_family, tmp_path / "out", method="ties", density=0.3, scope="model")
    base = stored(untied_family["base"])
    names = sorted(base)
    parts = []
    for vector in WEIGHTS:
        expert = stored(untied_family[vector])
        flat = np.concatenate([(expert[n] - base[n]).astype(np.float32).reshape(-1) for n in names])
        kept = trimmed(flat, 0.3)
        assert np.count_nonzero(kept) == int(0.3 * flat.size)
        parts.append(kept)
    wanted = elected(parts, list(WEIGHTS.values()), normalize=True)
    flat_found = np.concatenate([(found[n] - base[n]).reshape(-1) for n in names])
    assert np.isclose(flat_found, wanted, rtol=1e-4, atol=1e-6).mean() > 0.9999


def test_linear_is_the_weighted_mean_of_models(family: Family, tmp_path: Path) -> None:
    found = run(family, tmp_path / "out", method="linear")
    models = [stored(family[v]) for v in WEIGHTS]
    for name, tensor in found.items():
        mean = sum(w * m[name] for w, m in zip(WEIGHTS.values(), models, strict=True)) / sum(WEIGHTS.values())
        wanted = torch.from_numpy(mean).bfloat16().double().numpy()
        # Means of this kind often fall exactly between two bfloat16 numbers, and may round either way.
        assert np.isclose(tensor, wanted, rtol=2**-7, atol=1e-7).all(), name
        assert (tensor == wanted).mean() > 0.95, name


def test_pairs_of_rules_can_be_named(family: Family, tmp_path: Path) -> None:
    pair = run(family, tmp_path / "pair", intra={"rule": "magnitude", "density": 0.5}, inter="disjoint_mean")
    named = run(family, tmp_path / "named", method="ties", density=0.5)
    assert all(np.array_equal(pair[name], named[name]) for name in named)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "tise"}, r"merge\.method: there is no method 'tise'\. Did you mean 'ties'\? There are: linear, "),
        (
            {"method": "ties", "densty": 0.5},
            r"ties has no option 'densty'\. It takes: density, scope, normalize, election, divisor\.",
        ),
        ({"method": "ties", "density": 0}, r"merge\.density: Input should be greater than 0, found 0"),
        ({"method": "ties", "density": 1.5}, r"merge\.density: Input should be less than or equal to 1, found 1\.5"),
        ({"method": "linear", "density": 0.5}, r"linear has no option 'density'\. It takes: none\."),
        ({"intra": "magnitud"}, r"merge\.intra: there is no rule 'magnitud'\. Did you mean 'magnitude'\?"),
        ({"method": "ties", "intra": "all"}, r"merge: 'ties' stands beside a pair of rules"),
        ({"intra": {"rule": "all", "density": 0.5}}, r"all has no option 'density'|keep_all|It takes: none"),
    ],
)
def test_methods_and_options_are_checked_before_any_weight_is_read(values: dict[str, object], message: str) -> None:
    with pytest.raises(AftermixError, match=message):
        bind(MergeConfig.model_validate(values))


def test_lambda_has_no_meaning_for_a_mean_of_models(family: Family, tmp_path: Path) -> None:
    with pytest.raises(MergeError, match=r"merge\.lambda: linear averages whole models, lambda 0\.5 has nothing"):
        run(family, tmp_path / "out", method="linear", **{"lambda": 0.5})
    assert not (tmp_path / "out").exists()
