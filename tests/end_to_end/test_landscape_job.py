"""The landscape of a real mixture run, in its report and as a picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from aftermix.checkpoints.pool import open_pool
from aftermix.config import load_config
from aftermix.errors import AftermixError
from aftermix.jobs.landscape import draw_landscape, read_again, write_cosines, write_landscape
from aftermix.jobs.mixture.command import mixture
from aftermix.jobs.mixture.points import FittedSurrogates
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.report.page import write_report
from aftermix.runs.journal import read_trials
from aftermix.runs.mixture_records import MixtureRecord

Family = Mapping[str, Path]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, family: Family, tasks: Path) -> Path:
    folder = tmp_path_factory.mktemp("landscape")
    values = {
        "base": str(family["base"]),
        "vectors": {name: {"model": str(family[name])} for name in ("a", "b", "c")},
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(tasks),
            "items": {"search": 20, "select": 20},
            "threads": 1,
        },
        "mixture": {"points": 12, "repeats": 0, "verify": 0, "bounds": {"c": [0, 0.8]}},
    }
    (folder / "aftermix.yaml").write_text(json.dumps(values))
    return mixture(load_config(folder / "aftermix.yaml"), folder / "run")


def written(run: Path) -> None:
    config = load_config(run / "config.yaml")
    setting, trials = MixtureProblem.build_flat(config), read_trials(run)
    best = MixtureRecord.read(run / "best.json")
    learned = FittedSurrogates.fit(setting, trials)
    write_landscape(run, problem=setting, fitted=learned, trials=trials, best=best)
    write_cosines(run, open_pool(config))


def test_surrogates_fitted_again_give_the_numbers_of_the_run(finished: Path) -> None:
    found, best = read_again(finished), json.loads((finished / "best.json").read_text())
    assert found.optimum.values[0] == pytest.approx(best["optimum"]["utility"], rel=1e-5)
    for place, name in enumerate(("colours", "numbers"), 1):
        assert found.optimum.values[place] == pytest.approx(best["optimum"]["scores"][name]["mean"], rel=1e-5)
    assert found.winner.name == best["winner"]["point"]
    assert dict(zip(found.domains, found.winner.shares, strict=True)) == pytest.approx(best["ratios"])
    for line in found.slices:
        at = line.shares.index(float(f"{found.optimum.shares[line.domain]:.6g}"))
        assert (line.low[at][0], line.high[at][0]) == pytest.approx(best["optimum"]["interval"], rel=1e-4)


def test_the_report_has_triangle_slices_and_angles(finished: Path) -> None:
    written(finished)
    page = write_report(finished).read_text(encoding="utf-8")
    section = page[page.index('<section id="landscape">') :].split("</section>")[0]
    assert '<a href="#landscape">' in page
    assert "<script" not in page
    for text in ("utility", "colours", "numbers", "Along each domain", "Angles between vectors", "share of b"):
        assert text in section
    cosines = json.loads((finished / "cosines.json").read_text())
    assert cosines["vectors"] == ["a", "b", "c"]
    np.testing.assert_allclose(np.diag(cosines["cosines"]), 1)
    assert len(page) < 1_500_000


def test_a_picture_of_the_run(finished: Path, tmp_path: Path) -> None:
    path = draw_landscape(finished, tmp_path / "picture.svg")
    assert "optimum by prediction" in path.read_text()


def test_the_run_of_a_tree_points_to_its_groups(finished: Path, tmp_path: Path) -> None:
    (finished / "levels" / "web").mkdir(parents=True)
    try:
        with pytest.raises(AftermixError) as caught:
            draw_landscape(finished, tmp_path / "a.svg")
        assert str(caught.value) == (
            f"{finished}: each group of its tree has a landscape of its own (web). Name {finished}/levels/GROUP."
        )
        with pytest.raises(AftermixError, match="the run is not finished"):
            draw_landscape(finished / "levels" / "web", tmp_path / "a.svg")
    finally:
        (finished / "levels" / "web").rmdir()
        (finished / "levels").rmdir()
