"""A vector whose range has equal ends stays where it is while others move, whatever proposes the points."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aftermix.config import Config, Objective, SearchConfig, parse_config
from aftermix.errors import AftermixError
from aftermix.jobs.search.space_from_config import build_space, describe_space
from aftermix.runs.trials import Trial
from aftermix.search.objective import ObjectiveSet
from aftermix.search.proposing.candidates import list_candidates
from aftermix.search.proposing.first_design import list_first_design
from aftermix.search.sampler import suggest
from aftermix.search.space import SearchSpace

MEAN = ObjectiveSet.build((Objective(),), tasks=["a"])


def parse(**ranges: list[float]) -> Config:
    vectors: dict[str, Any] = {name: {"model": name, "range": bounds} for name, bounds in ranges.items()}
    vectors["it"]["role"] = "instruction"
    return parse_config({"base": "base", "vectors": vectors}, where="file.yaml", folder=Path("/"))


@pytest.fixture
def space() -> SearchSpace:
    """One expert held at 1 beside an instruction vector, as in OptiMer's Table 5; another one held below 0."""
    return build_space(parse(it=[0.0, 1.0], en=[1, 1], zh=[-0.25, -0.25]))


def test_equal_ends_are_no_dimension(space: SearchSpace) -> None:
    assert (space.searched_weights, space.dimensions) == (("it",), 1)
    config = parse(it=[0.0, 1.0], en=[1, 1], zh=[-0.25, -0.25])
    assert describe_space(config, space) == "1 dimension: it [0, 1], en 1, zh -0.25; vectors are prepared once"


@pytest.mark.parametrize("options", [{"strategy": "tpe"}, {"preset": "paper"}, {"strategy": "random"}], ids=str)
def test_every_sampler_leaves_it_there(space: SearchSpace, options: dict[str, Any]) -> None:
    config = SearchConfig(**{"startup": 4, **options})
    trials: list[Trial] = []
    for number in range(10):
        point = suggest(space, config=config, objectives=MEAN, trials=trials, number=number)
        value = 1 - abs(point.weights["it"] - 0.6)
        ended: dict[str, Any] = {"scores": {"a": value}, "objective": (value,), "feasible": True}
        trials.append(Trial(number=number, state="complete", weights=point.weights, **ended))
    assert {(trial.weights["en"], trial.weights["zh"]) for trial in trials} == {(1.0, -0.25)}
    assert len({trial.weights["it"] for trial in trials}) > 5


def test_a_search_by_response_looks_beside_it_and_chooses_there(space: SearchSpace) -> None:
    design = list_first_design(space, 10, seed=0)
    seen = [each for each in design if each.origin not in ("base", "single")]
    assert len(seen) >= 4
    assert {(each.weights["en"], each.weights["zh"]) for each in seen} == {(1.0, -0.25)}
    candidates = list_candidates(space, [seen[0].point], seed=0, number=1)
    assert {(each.weights["en"], each.weights["zh"]) for each in candidates} == {(1.0, -0.25)}


def test_no_range_with_room_is_nothing_to_search() -> None:
    with pytest.raises(AftermixError, match=r"every range holds its weight fixed \(it at 0.6, en at 1\). Give one"):
        build_space(parse(it=[0.6, 0.6], en=[1, 1]))
