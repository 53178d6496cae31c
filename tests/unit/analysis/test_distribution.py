"""Fits of Laplace and Gaussian against SciPy on all entries at once."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy import stats

from aftermix.analysis.distribution import EntryTally, fit_distributions, fit_vectors, join_tallies, tally_entries
from aftermix.checkpoints.pool import open_pool
from aftermix.cli import cli
from aftermix.config import Config, VectorConfig
from aftermix.errors import AftermixError
from aftermix.jobs.analysis.analyze import analyze


def tallied(values: np.ndarray, *, parts: int = 3) -> EntryTally:
    return tally_entries(torch.from_numpy(part) for part in np.array_split(values.astype(np.float32), parts))


@pytest.mark.parametrize("kind", ["laplace", "norm"])
@pytest.mark.parametrize(("location", "scale"), [(0.0, 5e-4), (3e-4, 1e-3), (-0.2, 0.1)])
def test_equals_scipys_maximum_likelihood(kind: str, location: float, scale: float) -> None:
    values = getattr(stats, kind).rvs(location, scale, size=20_000, random_state=0).astype(np.float32).astype(float)
    found = fit_distributions(tallied(values))
    assert found is not None
    for ours, family in ((found.laplace, stats.laplace), (found.gaussian, stats.norm)):
        where, size = family.fit(values)
        assert ours.location == pytest.approx(where, rel=2e-3, abs=2e-3 * scale)
        assert ours.scale == pytest.approx(size, rel=1e-5)
        assert ours.mean_log_likelihood == pytest.approx(family.logpdf(values, where, size).mean(), abs=1e-5)
        assert ours.ks_distance == pytest.approx(stats.kstest(values, family(where, size).cdf).statistic, abs=1.5e-3)
    right, wrong = (found.laplace, found.gaussian) if kind == "laplace" else (found.gaussian, found.laplace)
    assert right.ks_distance < 0.01 < wrong.ks_distance
    assert right.mean_log_likelihood > wrong.mean_log_likelihood


@settings(max_examples=50)
@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32, allow_subnormal=False), min_size=2, max_size=60),
    cut=st.integers(0, 60),
)
def test_parts_add_up_and_small_sets_are_near(values: list[float], cut: int) -> None:
    array = np.array(values, dtype=np.float32)
    whole, halves = tallied(array), join_tallies([tallied(array[:cut], parts=1), tallied(array[cut:], parts=1)])
    assert whole.elements == len(values)
    assert np.array_equal(whole.bins, halves.bins)
    assert np.array_equal(whole.counts, halves.counts)
    below, above = whole.edges
    assert all(np.any((below <= value) & (value < above)) for value in array.astype(float) + 0.0)
    found = fit_distributions(whole)
    if found is not None:
        exact = array.astype(float)
        middle = found.laplace.location
        assert found.laplace.scale == pytest.approx(abs(exact - middle).mean(), rel=5e-3, abs=5e-3 * abs(exact).max())
        assert found.gaussian.scale == pytest.approx(exact.std(), rel=1e-6, abs=1e-7 * abs(exact).max())


def test_zeros_are_an_atom() -> None:
    values = np.concatenate([np.zeros(900), -np.zeros(50), np.full(50, 1.0)])
    found = fit_distributions(tallied(values))
    assert found is not None
    assert (found.laplace.location, found.laplace.scale) == (0.0, 0.05)
    assert found.laplace.ks_distance == pytest.approx(0.5)
    assert found.gaussian.location == 0.05
    assert found.laplace.mean_log_likelihood == pytest.approx(-math.log(0.1) - 1)


def test_equal_entries_have_no_fit() -> None:
    assert fit_distributions(tallied(np.zeros(10))) is None
    assert fit_distributions(tallied(np.full(10, 0.25))) is None
    assert fit_distributions(tally_entries([])) is None


def test_vectors_of_a_pool(family: Mapping[str, Path]) -> None:
    base, name = family["base"], next(key for key in family if key != "base")
    pool = open_pool(Config(base=str(base), vectors={"a": VectorConfig(model=str(family[name]))}))
    found = fit_vectors(pool)["a"]
    whole = found.whole
    assert whole is not None
    assert whole.elements == found.tallied.elements == sum(info.elements for info in pool.layout)
    assert list(found.tensors) == [info.name for info in pool.layout]
    assert 0 < whole.laplace.scale <= whole.gaussian.scale


def test_the_command_shows_writes_and_draws(family: Mapping[str, Path], tmp_path: Path) -> None:
    arguments = [str(family["b"]), "--base", str(family["base"])]
    shown = CliRunner().invoke(cli, ["analyze", *arguments, "--json", str(tmp_path / "fits.json")], color=False)
    assert shown.exit_code == 0, shown.output
    record = json.loads((tmp_path / "fits.json").read_text())
    whole = record["vectors"]["b"]["whole"]
    deltas = [
        load_file(family["b"] / "model.safetensors")[name].float() - base.float()
        for name, base in load_file(family["base"] / "model.safetensors").items()
    ]
    entries = torch.cat([delta.reshape(-1) for delta in deltas]).double().numpy()
    scale = stats.laplace.fit(entries)[1]
    assert whole["elements"] == entries.size
    assert whole["laplace"]["scale"] == pytest.approx(scale, rel=1e-4)
    assert whole["gaussian"]["scale"] == pytest.approx(entries.std(), rel=1e-6)
    assert set(record["vectors"]["b"]["tensors"]) == set(load_file(family["base"] / "model.safetensors"))
    assert f"{scale:.3e}" in shown.output
    assert "Gaussian" in shown.output


def test_the_picture_is_reproducible_and_holds_both_fits(family: Mapping[str, Path], tmp_path: Path) -> None:
    still = tmp_path / "still"
    shutil.copytree(family["base"], still)
    values = {
        "base": str(family["base"]),
        "vectors": {"a": {"model": str(family["a"])}, "still": {"model": str(still)}},
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(values))
    pictures = []
    for name in ("one.svg", "two.svg", "one.png"):
        fits, _ = analyze(str(tmp_path / "two.yaml"), base=None, picture=tmp_path / name)
        pictures.append((tmp_path / name).read_bytes())
    assert pictures[0] == pictures[1]
    text = pictures[0].decode()
    assert fits["still"].whole is None
    assert "all entries are equal" in text
    assert fits["a"].whole is not None
    for fitted, label in ((fits["a"].whole.laplace, "Laplace"), (fits["a"].whole.gaussian, "Gaussian")):
        assert f"{label} {fitted.scale:.1e}, K-S {fitted.ks_distance:.3f}" in text
    assert pictures[2].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": ".", "base": None}, "--base: . is a model, whose vector needs a base"),
        ({"target": "model", "base": "b", "picture": Path("x.gif")}, "expected a name that ends in .svg or .png"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AftermixError, match=re.escape(message)):
        analyze(**arguments)
