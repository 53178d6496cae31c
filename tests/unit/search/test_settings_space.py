"""Settings beside weights: dimensions, shares that sum to one, suggestions, records and the loop."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aftermix.config import Objective, SearchConfig, Split
from aftermix.errors import SearchError
from aftermix.runs import journal
from aftermix.runs.trials import ItemMeasurement, Point, Settings, Trial, dump_trial, parse_trial
from aftermix.search.objective import ObjectiveSet
from aftermix.search.sampler import build_tpe, suggest
from aftermix.search.selection import choose_winner
from aftermix.search.space import ChoiceSet, NumberRange, SearchSpace
from aftermix.search.study import run_study
from aftermix.search.warm_start import import_trials
from aftermix.seeds import derived_seed

MEAN = ObjectiveSet.build((Objective(),), tasks=["t"])
RATIO = NumberRange(0.05, 0.5, 0.05)
SHARED = SearchSpace(
    {"ja": (1.0, 1.0), "math": (1.0, 1.0), "code": (1.0, 1.0)},
    settings={
        "ratio.ja": RATIO, "ratio.math": RATIO, "ratio.code": RATIO, "order": ChoiceSet(("rotation", ("ja", "math"))),
    },
    shares=("ratio.ja", "ratio.math", "ratio.code"),
    own={"ratio.ja": 1 / 3, "ratio.math": 1 / 3, "ratio.code": 1 / 3, "order": "rotation"},
)  # fmt: skip
MIXED = SearchSpace(
    {"it": (0.3, 1.0), "ja": (0.0, 1.0)},
    ("it",),
    {"density": NumberRange(0.1, 0.9), "normalize": ChoiceSet((True, False))},
    own={"density": 0.95, "normalize": True},
)


def score(point: Point) -> float:
    """Best at density 0.3, without `normalize`."""
    density, weight = point.settings["density"], point.weights["it"]
    assert isinstance(density, float)
    return math.exp(-(((density - 0.3) / 0.2) ** 2) - ((weight - 0.7) / 0.2) ** 2) * (
        0.6 if point.settings["normalize"] else 1
    )


def ended(number: int, point: Point, value: float, origin: str = "sampler") -> Trial:
    return Trial(
        number=number, state="complete", weights=point.weights, settings=point.settings, scores={"t": value},
        objective=(value,), feasible=True, origin=origin,
    )  # fmt: skip


def searched(space: SearchSpace, config: SearchConfig, value: Any = score) -> list[Trial]:
    trials: list[Trial] = []
    for number in range(config.trials):
        found = suggest(space, config=config, objectives=MEAN, trials=trials, number=number)
        trials.append(ended(number, found.point, value(found.point), found.origin))
    return trials


@given(st.floats(-2, 2), st.floats(0.01, 3), st.floats(0.001, 1), st.floats(-5, 5))
def test_steps_are_those_that_optuna_takes(low: float, width: float, part: float, value: float) -> None:
    low, high = round(low, 3), round(low, 3) + round(width, 3)
    step = max(round(width * part, 3), 0.001)
    if step > high - low:
        return
    kind = NumberRange(low, high, step)
    optunas = optuna.distributions.FloatDistribution(low, kind.top, step=step)
    assert optunas.high == pytest.approx(kind.top, abs=1e-9)
    nearest = kind.nearest(value)
    assert optunas._contains(nearest)
    assert kind.contains(nearest)
    steps = [low + place * step for place in range(round((kind.top - low) / step) + 1)]
    assert abs(nearest - value) <= min(abs(other - value) for other in steps) + 1e-9


def test_choices_tell_what_they_have() -> None:
    kind = ChoiceSet(("rotation", ("ja", "math"), 2))
    assert kind.contains(("ja", "math"))
    assert not kind.contains("first")
    assert (kind.nearest(("ja", "math")), kind.nearest("first")) == (("ja", "math"), "rotation")
    assert str(kind) == "rotation, (ja, math), 2"
    assert str(NumberRange(0.05, 0.5, 0.05)) == "[0.05, 0.5] by 0.05"


@given(st.lists(st.integers(1, 10).map(lambda k: k * 0.05), min_size=3, max_size=3))
def test_shares_above_one_are_scaled_down_and_stay_in_the_space(shares: list[float]) -> None:
    asked: Settings = {**dict(zip(SHARED.shares, shares, strict=True)), "order": "rotation"}
    held = SHARED.scale_shares(asked)
    assert held["order"] == "rotation"
    total = sum(shares)
    for name, share in zip(SHARED.shares, shares, strict=True):
        assert held[name] == (share if total <= 1 else pytest.approx(share / total))
    assert SHARED.contains({"ja": 1.0, "math": 1.0, "code": 1.0}, held)
    assert SHARED.scale_shares(held) == pytest.approx(held) or total <= 1


def test_a_point_of_another_space_is_not_in_it() -> None:
    weights = {"ja": 1.0, "math": 1.0, "code": 1.0}
    shares = {"ratio.ja": 0.2, "ratio.math": 0.2, "ratio.code": 0.2}
    assert SHARED.contains(weights, {**shares, "order": ("ja", "math")})
    for settings in (
        shares,
        {**shares, "order": "first"},
        {**shares, "order": "rotation", "density": 0.1},
        {**shares, "order": "rotation", "ratio.ja": 0.22},
        {**shares, "order": "rotation", "ratio.ja": 0.55},
        {**shares, "order": "rotation", "ratio.ja": "x"},
        {"order": "rotation", "ratio.ja": 0.5, "ratio.math": 0.5, "ratio.code": 0.5},
    ):
        assert not SHARED.contains(weights, settings), settings
    assert not SHARED.contains(weights | {"ja": 0.9}, {**shares, "order": "rotation"})


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_every_suggestion_lies_in_the_space(preset: Any) -> None:
    for space in (SHARED, MIXED):
        config = SearchConfig(trials=30, startup=8, preset=preset)
        trials = searched(space, config, lambda point: random.Random(str(point)).random())
        assert all(space.contains(trial.weights, trial.settings) for trial in trials)
        assert {trial.origin for trial in trials} >= {"startup", "sampler"}


def test_the_files_own_settings_come_first_as_far_as_the_space_has_them() -> None:
    trials = searched(MIXED, SearchConfig(trials=6, startup=6))
    assert [trial.origin for trial in trials] == ["prior"] * 5 + ["startup"]
    assert all(trial.settings == {"density": 0.9, "normalize": True} for trial in trials[:4])
    assert trials[4].point == Point(trials[0].weights, {"density": 0.9, "normalize": False})
    first = searched(SHARED, SearchConfig(trials=3, startup=3), lambda point: 0.5)
    assert [trial.origin for trial in first] == ["prior", "prior", "startup"]
    assert first[0].settings == {**dict.fromkeys(SHARED.shares, pytest.approx(1 / 3)), "order": "rotation"}
    assert first[1].settings == first[0].settings | {"order": ("ja", "math")}
    assert searched(MIXED, SearchConfig(trials=1, preset="paper"))[0].origin == "startup"


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_suggestion_depends_on_the_trials_before_it_alone(preset: Any) -> None:
    config = SearchConfig(trials=20, startup=6, preset=preset)
    trials = searched(MIXED, config)
    random.seed(1)
    for number in (6, 19, 9):
        again = suggest(MIXED, config=config, objectives=MEAN, trials=trials[:number], number=number)
        assert again.point == trials[number].point


def test_the_sampler_is_optunas_own_on_mixed_distributions() -> None:
    """The slow twin: one study asked and told trial by trial."""
    config = SearchConfig(trials=24, startup=6, preset="paper")
    space = SearchSpace(
        MIXED.bounds, MIXED.instruction, {**MIXED.settings, "k": NumberRange(1, 4, 1)}, own={**MIXED.own, "k": 2}
    )
    study = optuna.create_study(direction="maximize")
    distributions: dict[str, optuna.distributions.BaseDistribution] = {
        "it": optuna.distributions.FloatDistribution(0.3, 1.0),
        "ja": optuna.distributions.FloatDistribution(0.0, 1.0),
        "~density": optuna.distributions.FloatDistribution(0.1, 0.9),
        "~k": optuna.distributions.FloatDistribution(1, 4, step=1),
        "~normalize": optuna.distributions.CategoricalDistribution([0, 1]),
    }
    trials: list[Trial] = []
    for number in range(config.trials):
        study.sampler = build_tpe(config, seed=derived_seed(config.seed, "sampler", number), avoided=0)
        found = suggest(space, config=config, objectives=MEAN, trials=trials, number=number)
        asked = study.ask(distributions)
        assert {"it": asked.params["it"], "ja": asked.params["ja"]} == found.weights
        normalize = [True, False][asked.params["~normalize"]]
        assert {"density": asked.params["~density"], "k": asked.params["~k"], "normalize": normalize} == found.settings
        trials.append(ended(number, found.point, score(found.point)))
        study.tell(asked, score(found.point))


def test_the_search_finds_the_best_settings_more_often_than_chance() -> None:
    trials = searched(MIXED, SearchConfig(trials=60, startup=12))
    early, late = trials[4:12], trials[40:]
    mean = [sum(trial.values[0] for trial in part) / len(part) for part in (early, late)]
    assert mean[1] > 2 * mean[0]
    assert sum(trial.settings["normalize"] is False for trial in late) > len(late) / 2


def test_a_space_of_steps_is_not_asked_for_the_same_point_again() -> None:
    small = SearchSpace(
        {"ja": (1.0, 1.0)},
        settings={"k": NumberRange(1, 6, 1), "order": ChoiceSet(("x", "y"))},
        own={"k": 1, "order": "x"},
    )
    trials = searched(small, SearchConfig(trials=12, startup=3), lambda point: float(point.settings["k"]))
    assert len({json.dumps(trial.settings) for trial in trials}) >= 10


def test_records_of_settings_read_back_and_earlier_journals_too() -> None:
    trial = ended(3, Point({"ja": 0.5}, {"density": 1.0, "order": ("ja", "math"), "normalize": True, "k": 2}), 0.5)
    line = json.dumps(dump_trial(trial)).encode()
    again = parse_trial(line)
    assert again == trial
    assert [type(value) for value in again.settings.values()] == [float, tuple, bool, int]
    earlier = {key: value for key, value in json.loads(line).items() if key != "settings"}
    assert parse_trial(json.dumps(earlier).encode()).settings == {}


def measure(point: Point, split: Split) -> ItemMeasurement:
    return ItemMeasurement({"t": [score(point), 0.0]}, {"evaluate": 1.0})


def test_a_run_over_settings_resumes_to_the_bit_and_refuses_another_space(tmp_path: Path) -> None:
    config = SearchConfig(trials=14, startup=6)

    def run(folder: Path, trials: int, space: SearchSpace = MIXED) -> list[Trial]:
        some = config.model_copy(update={"trials": trials})
        return run_study(folder, space=space, config=some, tasks=["t"], measure=measure)

    whole = run(tmp_path / "whole", 14)
    run(tmp_path / "cut", 5)
    run(tmp_path / "cut", 9)
    assert [trial.point for trial in run(tmp_path / "cut", 14)] == [trial.point for trial in whole]
    narrow = SearchSpace(MIXED.bounds, MIXED.instruction, {"density": NumberRange(0.1, 0.5)}, own={"density": 0.5})
    with pytest.raises(
        SearchError, match=r"expected weights and settings within it \[0.3, 1\], .* density \[0.1, 0.5\], "
    ):
        run(tmp_path / "cut", 14, narrow)
    with pytest.raises(SearchError, match="expected weights and settings within"):
        run(tmp_path / "cut", 14, SearchSpace(MIXED.bounds, MIXED.instruction))


def test_a_point_that_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    small = SearchSpace({"ja": (1.0, 1.0)}, settings={"order": ChoiceSet(("x", "y", "z"))}, own={"order": "y"})
    measured = []

    def once(point: Point, split: Split) -> ItemMeasurement:
        measured.append(point.settings["order"])
        return ItemMeasurement({"t": [float(point.settings["order"] == "z")]}, {"evaluate": 1.0})

    trials = run_study(tmp_path, space=small, config=SearchConfig(trials=9, startup=3), tasks=["t"], measure=once)
    assert sorted(measured) == ["x", "y", "z"]
    assert len(trials) == 9
    for trial in trials:
        assert trial.scores == {"t": float(trial.settings["order"] == "z")}
        assert journal.read_items(tmp_path, "search", trial.number) == {"t": [trial.scores["t"]]}
    assert {"evaluate"} & set(trials[-1].seconds) == set()
    selection = choose_winner(tmp_path, trials=trials, config=SearchConfig(top=9), tasks=["t"], measure=once)
    assert selection.candidates[0].trial.settings["order"] == "z"
    assert len(selection.candidates) == 3  # distinct in their settings, though all weights are one


def test_imported_trials_take_the_settings_they_have_in_the_new_search(tmp_path: Path) -> None:
    config = SearchConfig(trials=8, startup=6)
    run_study(tmp_path / "first", space=MIXED, config=config, tasks=["t"], measure=measure)
    plain = SearchSpace(MIXED.bounds, MIXED.instruction)
    found = import_trials(
        tmp_path / "first",
        space=plain,
        tasks=["t"],
        objectives=MEAN,
        settings_of=lambda settings: {} if settings == {"density": 0.9, "normalize": True} else None,
    )
    assert [one.trial.origin for one in found] == [f"first#{number}" for number in range(4)]
    assert all(one.trial.settings == {} for one in found)
    with pytest.raises(SearchError, match="within the file's ranges, found none among 8 complete ones"):
        import_trials(tmp_path / "first", space=plain, tasks=["t"], objectives=MEAN)
