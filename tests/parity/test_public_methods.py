"""DELLA, Model Breadcrumbs, TALL masks and WUDI against their authors' code, fusion-bench and mergekit 0.1.5.

What is no package was run once on small vectors; the numbers and where they are from are in `data/public_methods.json`.
mergekit runs in an environment of its own, as in `test_mergekit.py`: name it by `MERGEKIT=PATH/bin/mergekit-yaml`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.merging.rules import intra
from aftermix.merging.rules.inter import consensus, disjoint_mean, weighted_mean, weighted_sum
from aftermix.merging.rules.intra import TensorKey, band, magnitude_sampled
from aftermix.merging.rules.surveys import WholeTensors
from aftermix.merging.rules.wudi import merge_layer, wudi
from aftermix.merging.topk.magnitude import TensorBlocks

PUBLISHED = json.loads((Path(__file__).parent / "data/public_methods.json").read_text())
MERGEKIT = os.environ.get("MERGEKIT") or shutil.which("mergekit-yaml")
needs_mergekit = pytest.mark.skipif(MERGEKIT is None, reason="mergekit-yaml is not installed; set MERGEKIT to its path")
Probabilities = list[np.ndarray]


def kept(rule: Any, delta: torch.Tensor, **options: Any) -> torch.Tensor:
    """`rule` applied to a tensor that is one block."""
    flat, row = delta.reshape(-1), delta.shape[-1]
    blocks = TensorBlocks([(0, len(flat))], lambda bounds: flat[bounds[0] : bounds[1]].clone())
    keeper = rule(blocks, TensorKey(0, "v", "t", len(flat), row), **options)
    return keeper(flat.clone(), 0).view(delta.shape)


@pytest.fixture
def all_drawn(monkeypatch: pytest.MonkeyPatch) -> Probabilities:
    """Every random choice falls on keeping; the probabilities that it was made with."""
    seen: Probabilities = []

    def keep_mask(elements: int, probability: Any, seed: int, *key: str | int) -> np.ndarray:
        seen.append(np.array(probability))
        return np.ones(elements, dtype=np.bool_)

    monkeypatch.setattr(intra, "keep_mask", keep_mask)
    return seen


@pytest.mark.parametrize("name", PUBLISHED["wudi"]["cases"])
def test_wudi_is_its_authors(name: str) -> None:
    case = PUBLISHED["wudi"]["cases"][name]
    vectors, theirs = list(torch.tensor(case["vectors"])), torch.tensor(case["merged"])
    ours = merge_layer(vectors, [1.0] * len(vectors))
    # They step in float32 from the sum itself, so each of 300 steps is rounded to the last place of an entry.
    rounding = 300 * torch.finfo(torch.float32).eps * theirs.abs() / 2
    assert ((ours - theirs).abs() <= rounding + 1e-8).all()
    moved = (theirs - torch.stack(vectors).sum(0)).abs().max()
    assert moved > 1e-3
    assert (ours - theirs).abs().max() < 0.01 * moved


def test_wudi_of_fusion_bench_averages_what_is_no_matrix() -> None:
    record = PUBLISHED["wudi_fusion_bench"]
    for name, theirs in record["merged"].items():
        vectors = [torch.tensor(vector[name]) for vector in record["vectors"]]
        ours = wudi(WholeTensors(name, vectors), [1.0] * 3, others="mean")
        assert torch.allclose(ours, torch.tensor(theirs), rtol=1e-5, atol=1e-8), name


@pytest.mark.parametrize("case", PUBLISHED["breadcrumbs"]["cases"], ids=lambda case: str(case["top_k_keep"]))
@pytest.mark.parametrize("tensor", ["matrix", "vector"])
def test_breadcrumbs_by_row_are_their_authors(tensor: str, case: dict[str, Any]) -> None:
    delta = torch.tensor(PUBLISHED["breadcrumbs"]["vectors"][tensor])
    density, gamma = case["top_k_keep"], case["top_k_remove"]
    if not case["remove_first"]:  # theirs then counts what is removed as part of what is kept
        density -= gamma
    ours = kept(band, delta, density=density, gamma=gamma, scope="row")
    assert ours.equal(torch.tensor(case["kept"][tensor]))


@pytest.mark.parametrize("case", PUBLISHED["della"]["cases"], ids=lambda case: str(case["density"]))
@pytest.mark.parametrize("tensor", ["matrix", "vector"])
def test_della_has_its_authors_probabilities(tensor: str, case: dict[str, Any], all_drawn: Probabilities) -> None:
    delta = torch.tensor(PUBLISHED["della"]["vectors"][tensor])
    ours = kept(magnitude_sampled, delta, density=case["density"], epsilon=case["epsilon"])
    assert np.allclose(all_drawn[0], np.array(case["probability"][tensor]).reshape(-1), atol=1e-6)
    assert torch.allclose(ours, torch.tensor(case["rescaled"][tensor]), rtol=1e-5)


@pytest.mark.parametrize("case", PUBLISHED["tall_mask"]["cases"], ids=lambda case: f"{case['lam']}-{case['agreement']}")
def test_consensus_is_the_authors(case: dict[str, Any]) -> None:
    base, experts = torch.tensor(PUBLISHED["tall_mask"]["base"]), torch.tensor(PUBLISHED["tall_mask"]["experts"])
    deltas = list(experts - base)
    lam = dict(zip("abcd", case["lam"], strict=True)) if isinstance(case["lam"], list) else case["lam"]
    ours = consensus(deltas, [1.0] * len(deltas), lam=lam, agreement=case["agreement"])
    # Where a mask compares numbers that are equal but for rounding, theirs may fall otherwise; none does here.
    assert torch.allclose(ours, torch.tensor(case["merged"]), rtol=1e-5, atol=1e-7)


SPARSIFY = """
import sys, torch
from safetensors.torch import load_file, save_file
from mergekit.merge_methods.base import TensorGroup
from mergekit.merge_methods import registry
from mergekit.sparsify import RescaleNorm, della_magprune, magnitude_outliers
torch.set_num_threads(1)
torch.manual_seed(0)
given, found = load_file(sys.argv[1]), {}
for density, gamma in ((0.15, 0.006), (0.5, 0.1), (0.9, 0.01), (0.95, 0.2), (0.3, 0.0), (1.0, 0.1)):
    for name in ("matrix", "vector"):
        found[f"band/{density}/{gamma}/{name}"] = magnitude_outliers(given[name], density, gamma=gamma).clone()
draw, probabilities = torch.bernoulli, []
for density, epsilon in ((0.5, 0.1), (0.3, 0.25), (0.9, 0.05)):
    for name in ("matrix", "vector", "rows"):
        torch.bernoulli = lambda p: (probabilities.append(p), torch.ones_like(p))[1]
        della_magprune(given[name], density, epsilon)
        torch.bernoulli = draw
        found[f"chance/{density}/{epsilon}/{name}"] = probabilities[-1].reshape(given[name].shape).clone()
        for norm in (None, RescaleNorm.l1):
            key = f"della/{density}/{epsilon}/{name}/{norm.value if norm else 'none'}"
            found[key] = della_magprune(given[name], density, epsilon, norm).clone()
torch.bernoulli = torch.ones_like
names, defaults = ["base", "a", "b", "c"], {"int8_mask": False, "lambda": 1.0}
group = TensorGroup.from_tensors([given[name] for name in names], ids=names, base_index=0)
for method in ("breadcrumbs", "breadcrumbs_ties", "della", "della_linear"):
    own = {"weight": (0.5, -0.3, 0.8), "density": (0.6, 0.8, 0.3), "gamma": (0.05, 0.1, 0.0), "epsilon": (0.1,) * 3}
    settings = {key: dict(zip("abc", values)) for key, values in own.items()}
    settings.pop("epsilon" if "breadcrumbs" in method else "gamma")
    for normalize in (False, True):
        options = settings | defaults | {"normalize": normalize, "rescale": "della" in method}
        found[f"merged/{method}/{normalize}"] = registry.get(method).merge_group(group, **options)
save_file(found, sys.argv[2])
"""


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Tensors, and what mergekit's sparsification makes of them by rule, options and tensor."""
    folder = tmp_path_factory.mktemp("sparsify")
    generator = torch.Generator().manual_seed(3)
    given = {
        "matrix": torch.randn(12, 50, generator=generator),
        "vector": torch.randn(400, generator=generator),
        "rows": torch.rand(8000, 11, generator=generator) + 0.5,
        **{name: torch.randn(9, 21, generator=generator) for name in ("base", "a", "b", "c")},
    }
    save_file(given, folder / "given")
    python = str(Path(str(MERGEKIT)).with_name("python"))
    command = [python, "-c", SPARSIFY, str(folder / "given"), str(folder / "found")]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert ran.returncode == 0, ran.stderr[-2000:]
    return given, load_file(folder / "found")


@needs_mergekit
def test_breadcrumbs_are_those_of_mergekit(peer: Any) -> None:
    given, found = peer
    cases = [key.split("/") for key in found if key.startswith("band/")]
    assert len(cases) == 12
    for _, density, gamma, name in cases:
        ours = kept(band, given[name], density=float(density), gamma=float(gamma), excess="gamma")
        assert ours.equal(found[f"band/{density}/{gamma}/{name}"]), (density, gamma, name)


@needs_mergekit
def test_della_draws_with_the_probabilities_of_mergekit(peer: Any, all_drawn: Probabilities) -> None:
    given, found = peer
    cases = [key.split("/") for key in found if key.startswith("chance/")]
    assert len(cases) == 9
    for _, density, epsilon, name in cases:
        kept(magnitude_sampled, given[name], density=float(density), epsilon=float(epsilon))
        theirs = found[f"chance/{density}/{epsilon}/{name}"].reshape(-1).numpy()
        assert np.allclose(all_drawn[-1], theirs, atol=1e-6), (density, epsilon, name)


@needs_mergekit
@pytest.mark.parametrize("rescale", ["l1", "none"])
def test_della_agrees_with_mergekit_in_distribution(rescale: str, peer: Any) -> None:
    given, found = peer
    delta = given["rows"]
    count, columns = delta.shape
    places = delta.argsort(1).argsort(1)
    for density, epsilon in ((0.5, 0.1), (0.3, 0.25), (0.9, 0.05)):
        theirs = found[f"della/{density}/{epsilon}/rows/{rescale}"]
        ours = kept(magnitude_sampled, delta, density=density, epsilon=epsilon, rescale=rescale)
        chances = density - epsilon + 2 * epsilon * np.linspace(0, 1, columns)
        for program in (ours, theirs):
            shares = [float((program != 0)[places == place].double().mean()) for place in range(columns)]
            assert np.abs(np.array(shares) - chances).max() < 5 * 0.5 / math.sqrt(count)
            if rescale == "l1":
                assert float(program.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)
            else:
                assert program[program != 0].equal(delta[program != 0])
        factors = [float((program[program != 0] / delta[program != 0]).mean()) for program in (ours, theirs)]
        assert factors[0] == pytest.approx(factors[1], rel=0.01)


@needs_mergekit
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties", "della", "della_linear"])
def test_whole_methods_are_those_of_mergekit(method: str, normalize: bool, peer: Any, all_drawn: Probabilities) -> None:
    given, found = peer
    weights, densities, gammas = [0.5, -0.3, 0.8], [0.6, 0.8, 0.3], [0.05, 0.1, 0.0]
    deltas = [given[name] - given["base"] for name in "abc"]
    if method.startswith("breadcrumbs"):
        own = [{"density": d, "gamma": g, "excess": "gamma"} for d, g in zip(densities, gammas, strict=True)]
        parts = [kept(band, delta, **options) for delta, options in zip(deltas, own, strict=True)]
    else:
        parts = [
            kept(magnitude_sampled, delta, density=d, rescale="l1") for delta, d in zip(deltas, densities, strict=True)
        ]
    if method in ("breadcrumbs_ties", "della"):
        merged = disjoint_mean(parts, weights, normalize=normalize, divisor="signed")
    else:
        merged = (weighted_mean if normalize else weighted_sum)(parts, weights)
    assert torch.allclose(given["base"] + merged, found[f"merged/{method}/{normalize}"], rtol=1e-5, atol=1e-6)
