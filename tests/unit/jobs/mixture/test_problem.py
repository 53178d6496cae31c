"""What a file asks of a mixture: the setting that is made of it, and every refusal by its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aftermix.config import Config, parse_config
from aftermix.errors import AftermixError, RunFailedError
from aftermix.jobs.mixture.points import FittedSurrogates, PointSampler
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.runs.trials import Trial


def config_of(*, tokens: dict[str, float] | None = None, experts: str = "abc", **asked: Any) -> Config:
    known = tokens or {}
    vectors = {name: {"model": f"./{name}", **({"tokens": known[name]} if name in known else {})} for name in experts}
    values = {
        "base": "./base",
        "vectors": {"it": {"model": "./it", "role": "instruction", "weight": 0.6}, **vectors},
        "evaluate": {"tasks": ["x", "y", "z"]},
        "mixture": asked,
    }
    return parse_config(values, where="f.yaml", folder=Path())


def complete(setting: MixtureProblem, number: int, weights: dict[str, float], origin: str) -> Trial:
    shares = [weights[name] for name in setting.domains]
    scores = {"x": shares[0] ** 0.5, "y": 1 - (shares[1] - 0.4) ** 2, "z": shares[0] * shares[1]}
    return Trial(
        number=number, state="complete", weights=weights, scores=scores, objective=(0.0,), feasible=True, origin=origin
    )


def run_of(setting: MixtureProblem, points: PointSampler, count: int) -> list[Trial]:
    trials: list[Trial] = []
    for number in range(count):
        suggestion = points.propose_batch(trials)[0]
        trials.append(complete(setting, number, suggestion.weights, suggestion.origin))
    return trials


def test_experts_are_the_domains_and_an_instruction_vector_stays_where_it_is() -> None:
    setting = MixtureProblem.build_flat(config_of(points=12, priors=[{"a": 0.5, "b": 0.5}]))
    assert setting.domains == ("a", "b", "c")
    assert setting.compute_weights(np.array([0.2, 0.3, 0.5])) == {"it": 0.6, "a": 0.2, "b": 0.3, "c": 0.5}
    assert setting.space.contains({"it": 0.6, "a": 0.0, "b": 0.0, "c": 1.0})
    assert not setting.space.contains({"it": 0.5, "a": 0.0, "b": 0.0, "c": 1.0})
    assert list(setting.named_mixtures) == ["uniform", "1"]
    assert setting.design.kinds[:2] == ("uniform", "prior 1")
    assert len(setting.design.kinds) == 12


def test_the_token_proportional_mixture_is_a_point_only_within_the_bounds() -> None:
    tokens = {"a": 1e6, "b": 1e6, "c": 2e6}
    assert "prior tokens" in MixtureProblem.build_flat(config_of(tokens=tokens)).design.kinds
    capped = MixtureProblem.build_flat(config_of(tokens=tokens, bounds={"c": (0.0, 0.4)}))
    assert "prior tokens" not in capped.design.kinds
    assert capped.named_mixtures["tokens"].tolist() == [0.25, 0.25, 0.5]


def test_groups_are_capabilities_and_the_objective_weighs_them_as_the_utility_does() -> None:
    setting = MixtureProblem.build_flat(
        config_of(capabilities={"xy": ["x", "y"]}, utility={"weights": {"xy": 3, "z": 1}})
    )
    assert setting.capabilities == {"xy": ("x", "y"), "z": ("z",)}
    assert setting.objective.tasks == {"x": 1.5, "y": 1.5, "z": 1.0}
    assert setting.compute_scores([{"x": 0.2, "y": 0.4, "z": 1.0}]).tolist() == [[pytest.approx(0.3), 1.0]]
    expressed = MixtureProblem.build_flat(config_of(utility="x - 0.5*z"))
    assert expressed.objective.tasks == {"x": 1.0, "z": 1.0}


def test_caps_on_epochs_bound_the_shares() -> None:
    tokens = {"a": 1e6, "b": 1e7, "c": 1e7}
    setting = MixtureProblem.build_flat(config_of(tokens=tokens, budget_tokens=1e7, max_epochs=2))
    assert setting.bounds.high_K.tolist() == [0.2, 1.0, 1.0]
    assert setting.design.weights_NK[:, 0].max() <= 0.2 + 1e-9


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"points": 4}, r"mixture\.points: expected at least 5 points for surrogates to learn from, found 4"),
        (
            {"points": 5, "experts": "abcdef"},
            r"mixture\.points: expected at least 7 points \(uniform, priors, one for each domain\), found 5",
        ),
        ({"experts": "a"}, r"mixture\.domains: expected two domains or more, found 1"),
        ({"bounds": {"a": [0.6, 0.8], "b": [0.6, 0.8]}}, r"mixture\.bounds: the lowest shares sum to 1\.2, above 1"),
        ({"bounds": {"q": [0.6, 0.8]}}, r"mixture\.bounds: expected names among a, b, c, found 'q'"),
        ({"fixed": {"a": 0.5, "b": 0.2}}, r"mixture\.bounds: the bounds leave one mixture only"),
        ({"fixed": {"a": 1.5}}, r"mixture\.fixed\.a: expected a share from 0 to 1, found 1\.5"),
        ({"utility": {"weights": {"x": 0}}}, r"mixture\.utility\.weights: expected a capability with a weight above 0"),
        ({"utility": {"weights": {"q": 1}}}, r"mixture\.utility\.weights: expected names among x, y, z, found 'q'"),
        ({"utility": {"floors": {"q": 1}}}, r"mixture\.utility\.floors: expected names among x, y, z, found 'q'"),
        ({"utility": "1 + 2"}, r"mixture\.utility\.expression: '1 \+ 2' names no capability"),
        ({"utility": "x.__class__"}, r"mixture\.utility\.expression"),
        ({"capabilities": {"g": ["x", "q"]}}, r"mixture\.capabilities\.g: expected tasks that are evaluated .* 'q'"),
        ({"capabilities": {"g": ["x", "x"]}}, r"mixture\.capabilities\.g: names a task twice"),
        ({"capabilities": {"x": ["y"]}}, r"mixture\.capabilities\.x: has the name of a task that is a capability of"),
        ({"priors": {"p": {"a": 0.5}}}, r"mixture, prior 'p': expected shares of at least 0 that sum to 1, .* 0\.5"),
        (
            {"priors": {"p": {"a": 1.0}}, "bounds": {"a": [0, 0.5]}},
            r"mixture, prior 'p': has 1 of 'a', expected 0 to 0\.5",
        ),
        ({"toward": "q"}, r"mixture\.toward: expected one of uniform, tokens, found 'q'"),
        ({"pull": 1, "toward": "tokens"}, r"mixture\.toward: expected the tokens of every expert, found none of a, b"),
        (
            {"pull": 1, "toward": "p", "priors": {"p": {"a": 0.5, "b": 0.5}}},
            r"mixture\.prior: gives no share to 'c', so every mixture with it is infinitely far",
        ),
        (
            {"budget_tokens": 1e6, "max_epochs": 1, "tokens": {"a": 1e6, "b": 1e6}},
            r"vectors\.c\.tokens: missing, but `mixture\.max_epochs` caps the repeats of its data",
        ),
        (
            {"budget_tokens": 1e9, "max_epochs": 4, "tokens": {"a": 1e6, "b": 1e6, "c": 1e6}},
            r"mixture\.bounds: the highest shares sum to 0\.012, below 1.*plan fewer tokens",
        ),
        ({"max_epochs": 2}, "'budget_tokens' and 'max_epochs' go together"),
        ({"utility": {"weights": {"x": 1}, "expression": "x"}}, "takes 'weights' or 'expression', one of them"),
        ({"priors": {"tokens": {"a": 1.0}}}, "'tokens' is the name of a mixture that is measured anyway"),
    ],
)
def test_what_cannot_be_is_refused(asked: dict[str, Any], told: str) -> None:
    with pytest.raises(AftermixError, match=told):
        MixtureProblem.build_flat(config_of(**asked))


def test_rounds_are_a_function_of_the_trials_before() -> None:
    setting = MixtureProblem.build_flat(config_of(points=10, rounds=[4, 2]))
    empty = np.zeros((0, 3))
    points = PointSampler(setting, empty)
    assert points.new_count == 16
    trials = run_of(setting, points, 16)
    assert [trial.origin for trial in trials[10:]] == ["round 1"] * 4 + ["round 2"] * 2
    batches = [points.propose_batch(trials[:start], 4) for start in (0, 10, 14)]
    assert [len(batch) for batch in batches] == [10, 4, 2]  # the design is one batch, and so is each round
    assert [point.weights for batch in batches for point in batch] == [trial.weights for trial in trials]
    assert [batch[0].strategy for batch in batches] == ["design", "surrogate", "surrogate"]
    for number in (3, 11, 15):  # a process that begins anew there
        again = PointSampler(setting, empty).propose_batch(trials[:number])[0]
        assert again.weights == trials[number].weights
    shares_NK = setting.compute_shares(trials)
    assert shares_NK.sum(axis=1) == pytest.approx(np.ones(16))
    assert len(np.unique(shares_NK.round(6), axis=0)) == 16
    first, utility = (
        FittedSurrogates.fit(setting, trials[:10]),
        setting.build_utility(setting.compute_scores([t.scores for t in trials])),
    )
    assert first.shares_NK.tolist() == shares_NK[:10].tolist()
    values_N = utility.values(setting.compute_scores([trial.scores for trial in trials]))
    assert values_N[10:].mean() > values_N[:10].mean()


def test_imported_mixtures_take_the_places_of_design_points() -> None:
    setting = MixtureProblem.build_flat(config_of(points=10))
    design_NK = setting.design.weights_NK
    assert PointSampler(setting, design_NK).new_count == 0
    some = PointSampler(setting, design_NK[[0, 4, 7]])
    assert [row_K.tolist() for _, row_K in some.planned] == np.delete(design_NK, [0, 4, 7], axis=0).tolist()
    strangers = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    assert len(PointSampler(setting, strangers).planned) == 4


def test_too_few_measured_points_say_why() -> None:
    setting = MixtureProblem.build_flat(config_of(points=10))
    trials = run_of(setting, PointSampler(setting, np.zeros((0, 3))), 3)
    trials.append(Trial(number=3, state="failed", weights=trials[0].weights, error="out of memory"))
    with pytest.raises(
        RunFailedError, match="at least 5 measured points, found 3; 1 failed, the last with: out of mem"
    ):
        FittedSurrogates.fit(setting, trials)
