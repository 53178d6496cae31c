"""A range says that a weight is still to be found: no job takes one that nobody gave."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from aftermix.config import Config, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.evaluate.command import evaluate
from aftermix.jobs.export.command import export_mergekit
from aftermix.jobs.merge.command import merge
from aftermix.jobs.merge.given_weights import read_given_weights
from aftermix.jobs.mixture.command import mixture
from aftermix.jobs.plan.command import plan
from aftermix.jobs.search.command import search

RANGED = {"a": {"range": [0.3, 1.0]}, "b": {"weight": 0.5}, "c": {"range": [-0.5, 0.25], "role": "instruction"}}


def config_of(vectors: dict[str, dict[str, Any]], **sections: Any) -> Config:
    values = {"base": "./base", "vectors": {name: {"model": f"./{name}", **held} for name, held in vectors.items()}}
    return parse_config({**values, **sections}, where="f.yaml", folder=Path())


def list_refused(work: Callable[[], object]) -> list[str]:
    with pytest.raises(AftermixError) as error:
        work()
    assert error.value.exit_code == 2
    return [problem.where for problem in error.value.problems]


def test_a_merge_names_all_vectors_with_a_range_and_no_weight_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(AftermixError) as error:
        merge(config_of(RANGED), tmp_path / "out")
    assert [problem.where for problem in error.value.problems] == ["vectors.a", "vectors.c"]
    assert "vectors.c: has a range, [-0.5, 0.25], and no weight to be merged at" in str(error.value)
    assert "Give it a `weight`, or search for one: `aftermix search FILE -o RUN`" in str(error.value)
    assert error.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_so_do_an_evaluation_a_plan_and_an_export(tmp_path: Path) -> None:
    config = config_of(RANGED, evaluate={"tasks": ["colours"]})
    assert list_refused(lambda: evaluate(config, split="test")) == ["vectors.a", "vectors.c"]
    assert list_refused(lambda: plan(config_of(RANGED))) == ["vectors.a", "vectors.c"]

    file = tmp_path / "f.yaml"
    file.write_text(yaml.safe_dump({"base": "./base", "vectors": {"a": {"model": "./a", "range": [0, 1]}}}))
    assert list_refused(lambda: export_mergekit(file, tmp_path / "out.yaml")) == ["vectors.a"]
    assert not (tmp_path / "out.yaml").exists()


def test_a_search_that_keeps_the_weights_needs_them_all(tmp_path: Path) -> None:
    over = {"weights": False, "density": {"low": 0.1, "high": 0.9}}
    config = config_of(
        RANGED, evaluate={"tasks": ["colours"]}, search={"over": over}, merge={"method": "ties", "density": 0.5}
    )
    with pytest.raises(AftermixError) as error:
        search(config, tmp_path / "run")
    assert [problem.where for problem in error.value.problems] == ["vectors.a", "vectors.c"]
    assert "remove `weights: false` from `search.over`" in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_mixture_needs_those_of_instruction_vectors(tmp_path: Path) -> None:
    config = config_of(RANGED, evaluate={"tasks": ["colours"]}, mixture={})
    assert list_refused(lambda: mixture(config, tmp_path / "run")) == ["vectors.c"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({}, ["vectors.a", "vectors.c"]),
        ({"evaluate": {"tasks": ["colours"]}, "mixture": {}}, ["vectors.c"]),
        ({"evaluate": {"tasks": ["colours"]}}, []),
    ],
)
def test_doctor_tells_it_where_the_job_needs_weights(sections: dict[str, Any], told: list[str]) -> None:
    problems = doctor(config_of(RANGED, **sections)).problems
    assert [problem.where for problem in problems if "no weight to be merged at" in problem.found] == told


@pytest.mark.parametrize(
    ("held", "weight"),
    [({}, 1.0), ({"weight": 0.5}, 0.5), ({"weight": 0.5, "range": [0.2, 0.8]}, 0.5), ({"role": "instruction"}, 1.0)],
)
def test_a_weight_or_no_range_is_taken(held: dict[str, Any], weight: float) -> None:
    assert read_given_weights(config_of({"a": held})) == {"a": weight}
