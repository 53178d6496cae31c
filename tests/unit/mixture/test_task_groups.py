"""Capabilities of several tasks: each task is fitted and normalised by itself, and the mean is taken afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aftermix.config import parse_config
from aftermix.errors import MixtureError
from aftermix.jobs.mixture.points import FittedSurrogates, build_design_record, read_fitted
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.result import OF_TASKS, describe_surrogates
from aftermix.mixture.optimum import predict_mixture
from aftermix.mixture.utility import MixtureUtility
from aftermix.runs.trials import Trial

NAMES = ["exams", "code"]
GROUPS = {"exams": ["gsm8k", "perplexity", "flat"], "code": ["mbpp"]}
DESIGN = np.array([[0.1, 50.0, 0.25, 0.5], [0.3, 40.0, 0.25, 0.1], [0.2, 90.0, 0.25, 0.2], [0.2, 20.0, 0.25, 0.9]])


def test_tasks_of_unlike_scales_count_alike() -> None:
    utility = MixtureUtility.build(NAMES, DESIGN, groups=GROUPS)
    z = (DESIGN - DESIGN.mean(axis=0)) / np.where(DESIGN.std(axis=0) > 0, DESIGN.std(axis=0), 1)
    np.testing.assert_allclose(utility.values(DESIGN), ((z[:, 0] + z[:, 1]) / 2 + z[:, 3]) / 2)
    assert utility.columns == ("gsm8k", "perplexity", "flat", "mbpp")
    assert (utility.left_out, utility.weights) == (("flat",), {"exams": 0.5, "code": 0.5})
    np.testing.assert_allclose(utility.values(DESIGN * [1, 1e6, 1, 1]), utility.values(DESIGN) * 0 + utility_of(1e6))


def utility_of(factor: float) -> np.ndarray:
    """The utility where a task is measured in another unit throughout: the same."""
    rescaled = DESIGN * [1, factor, 1, 1]
    found = MixtureUtility.build(NAMES, DESIGN, groups=GROUPS)
    again = MixtureUtility.build(NAMES, rescaled, groups=GROUPS)
    np.testing.assert_allclose(again.values(rescaled), found.values(DESIGN))
    return np.asarray(found.values(rescaled))


def test_raw_capabilities_and_floors_are_means_of_raw_tasks() -> None:
    utility = MixtureUtility.build(
        NAMES, DESIGN, groups=GROUPS, expression="exams - code", floors={"exams": 14.0, "code": 0.2}
    )
    exams = DESIGN[:, :3].mean(axis=1)
    np.testing.assert_allclose(utility.score_capabilities(DESIGN), np.stack([exams, DESIGN[:, 3]], axis=1))
    np.testing.assert_allclose(utility.values(DESIGN), exams - DESIGN[:, 3])
    broken = np.maximum(0, 14 - exams) + np.maximum(0, 0.2 - DESIGN[:, 3])
    np.testing.assert_allclose(utility.violation(DESIGN), broken)


def test_columns_are_those_of_the_tasks() -> None:
    message = r"expected 4 columns \(gsm8k, perplexity, flat, mbpp\), found 2. Give one column for each capability, or"
    with pytest.raises(MixtureError, match=message):
        MixtureUtility.build(NAMES, DESIGN[:, :2], groups=GROUPS)


def problem(fitted: str) -> MixtureProblem:
    values = {
        "base": "./base",
        "vectors": {name: {"model": f"./{name}"} for name in ("a", "b", "c")},
        "evaluate": {"tasks": ["x", "y", "z"]},
        "mixture": {"capabilities": {"xy": ["x", "y"]}, "points": 12},
    }
    config = parse_config(values, where="f.yaml", folder=Path())
    return MixtureProblem.build_flat(config, fitted=fitted)  # type: ignore[arg-type]


def measured(setting: MixtureProblem) -> list[Trial]:
    """Trials of all points; x rises with a, y falls with a in another unit, z is 0.5 everywhere."""
    found = []
    for number, row in enumerate(setting.design.weights_NK):
        a, b, _ = map(float, row)
        scores = {"x": a + 0.1 * b, "y": 3.0 - 2.0 * a * a + b, "z": 0.5}
        weights = dict(zip(("a", "b", "c"), map(float, row), strict=True))
        found.append(
            Trial(
                number=number,
                state="complete",
                weights=weights,
                settings={},
                scores=scores,
                objective=(0.5,),
                feasible=True,
                seconds={},
                error=None,
            )
        )
    return found


def test_a_run_fits_tasks_and_one_of_old_fits_capabilities() -> None:
    new, old = problem("tasks"), problem("capabilities")
    by_task, whole = (FittedSurrogates.fit(setting, measured(setting)) for setting in (new, old))
    assert by_task.surrogate.capabilities == ("x", "y", "z")
    assert whole.surrogate.capabilities == ("xy", "z")

    utility = new.build_utility(by_task.scores_NM)
    np.testing.assert_allclose(utility.score_capabilities(by_task.scores_NM), whole.scores_NM)
    records = describe_surrogates(by_task, new, utility)
    assert list(records) == ["xy", "z"]
    assert list(records["xy"].tasks or {}) == ["x", "y"]
    assert (records["xy"].choice, list(records["xy"].candidates)) == (OF_TASKS, [OF_TASKS])
    assert records["xy"].candidates[OF_TASKS].spearman > 0.9
    assert [name for name, _ in records["xy"].list_rows("xy")] == ["xy", "xy: x", "xy: y"]
    assert (records["z"].choice, records["z"].tasks) == ("constant", None)
    assert describe_surrogates(whole, old, old.build_utility(whole.scores_NM))["xy"].tasks is None


def test_what_is_promised_of_a_group_is_the_mean_of_its_tasks() -> None:
    setting = problem("tasks")
    fitted = FittedSurrogates.fit(setting, measured(setting))
    utility, place = setting.build_utility(fitted.scores_NM), np.array([0.2, 0.3, 0.5])
    mean, std = fitted.surrogate.predict(place[None])
    found = predict_mixture(fitted.surrogate, utility, place)
    assert found.scores_M.tolist() == pytest.approx([mean[0, :2].mean(), 0.5])
    assert 0 <= found.std_M[0] <= std[0, :2].mean()
    assert found.std_M[1] == 0


def test_the_design_says_what_is_fitted_where_it_matters(tmp_path: Path) -> None:
    for fitted in ("tasks", "capabilities"):
        build_design_record(problem(fitted)).write(tmp_path / "design.json")
        assert read_fitted(tmp_path) == fitted
    text = (tmp_path / "design.json").read_text()
    (tmp_path / "design.json").write_text(text.replace('"fitted": "capabilities"', '"repeats": []'))
    assert read_fitted(tmp_path) == "capabilities"
