"""Suggestions: pure functions of what came before, equal to plain Optuna ask-and-tell, better than chance."""

import math
import random
import statistics
import warnings

import optuna
import pytest

from aftermix.config import Objective, SearchConfig
from aftermix.runs.trials import Point, Trial
from aftermix.search.objective import ObjectiveSet
from aftermix.search.priors import list_prior_points
from aftermix.search.sampler import build_tpe, suggest
from aftermix.search.space import SearchSpace
from aftermix.seeds import derived_seed

SPACE = SearchSpace({"it": (0.3, 1.0), "ja": (0.0, 1.0), "en": (-1.0, 1.0)}, ("it",))
MEAN = ObjectiveSet.build((Objective(),), tasks=["a", "b"])


def scores_at(weights):
    """Two tasks on a sharp ridge: the instruction weight must be right for either, the experts pull apart."""
    common = ((weights["it"] - 0.68) / 0.22) ** 2
    a = math.exp(-common - ((weights["ja"] - 0.3) / 0.35) ** 2 - (weights["en"] / 0.5) ** 2)
    b = math.exp(-common - (weights["ja"] / 0.35) ** 2 - ((weights["en"] - 0.3) / 0.5) ** 2)
    return {"a": a, "b": b}


def ended(number, suggestion, objectives, score=scores_at):
    scores = score(suggestion.weights)
    return Trial(
        number=number,
        state="complete",
        weights=suggestion.weights,
        scores=scores,
        objective=objectives.values(scores),
        feasible=objectives.feasible(scores),
        origin=suggestion.origin,
    )


def failed(number, weights):
    return Trial(number=number, state="failed", weights=weights, error="x")


def search(config, *, space=SPACE, objectives=MEAN, score=scores_at):
    trials = []
    for number in range(config.trials):
        suggestion = suggest(space, config=config, objectives=objectives, trials=trials, number=number)
        trials.append(ended(number, suggestion, objectives, score))
    return trials


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_every_suggestion_lies_in_the_space_and_says_where_it_comes_from(preset):
    trials = search(SearchConfig(trials=16, startup=9, preset=preset))
    priors = list_prior_points(SPACE) if preset == "default" else []
    assert all(SPACE.contains(trial.weights) for trial in trials)
    assert [trial.weights for trial in trials[: len(priors)]] == priors
    origins = ["prior"] * len(priors) + ["startup"] * (9 - len(priors)) + ["sampler"] * 7
    assert [trial.origin for trial in trials] == origins


def test_priors_stop_where_the_start_up_ends():
    origins = [trial.origin for trial in search(SearchConfig(trials=4, startup=2))]
    assert origins == ["prior", "prior", "sampler", "sampler"]


def test_no_start_up_at_all_is_possible():
    assert [trial.origin for trial in search(SearchConfig(trials=3, startup=0))] == ["sampler"] * 3


def test_a_prior_that_failed_or_runs_elsewhere_is_not_tried_again():
    first, second, third, *_ = list_prior_points(SPACE)
    suggestion = suggest(
        SPACE,
        config=SearchConfig(),
        objectives=MEAN,
        trials=[failed(0, first)],
        number=2,
        running=[Point(second)],
    )
    assert suggestion.weights == third


def test_a_suggestion_depends_on_nothing_but_its_arguments():
    config = SearchConfig(trials=14, startup=8)
    trials = search(config)
    random.seed(1)
    for number in (8, 13, 9):
        again = suggest(SPACE, config=config, objectives=MEAN, trials=trials[:number], number=number)
        assert again.weights == trials[number].weights


def test_seeds_numbers_and_presets_change_the_suggestion():
    config = SearchConfig(trials=12, startup=8)
    trials = search(config)
    variants = [
        suggest(SPACE, config=changed, objectives=MEAN, trials=trials, number=number).weights["it"]
        for changed, number in (
            (config, 12),
            (config, 13),
            (config.model_copy(update={"seed": 1}), 12),
            (config.model_copy(update={"preset": "paper"}), 12),
        )
    ]
    assert len(set(variants)) == 4


def test_the_order_of_the_vectors_in_the_file_does_not_matter():
    config = SearchConfig(trials=12, startup=8, preset="paper")
    turned = SearchSpace(dict(reversed(SPACE.bounds.items())), SPACE.instruction)
    for preset in ("paper", "default"):
        trials = search(config)
        one, other = (
            suggest(
                space,
                config=config.model_copy(update={"preset": preset}),
                objectives=MEAN,
                trials=trials,
                number=12,
            )
            for space in (SPACE, turned)
        )
        assert one.weights == other.weights


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize(
    "objectives",
    [
        (Objective(floors={"b": 0.4}),),
        (Objective(tasks={"a": 1}), Objective(tasks={"b": 1}, floors={"a": 0.1})),
    ],
)
def test_a_rebuilt_study_is_the_one_that_was_asked_and_told(preset, objectives):
    """The slow twin: one Optuna study told trial by trial, constraints and failures included."""
    config = SearchConfig(trials=24, startup=6, preset=preset)
    bound = ObjectiveSet.build(objectives, tasks=["a", "b"])
    study = optuna.create_study(directions=["maximize"] * len(bound.goals))
    distributions = {name: optuna.distributions.FloatDistribution(*SPACE.bounds[name]) for name in sorted(SPACE.bounds)}
    trials = []
    for number in range(config.trials):
        study.sampler = build_tpe(config, seed=derived_seed(config.seed, "sampler", number), avoided=0)
        suggestion = suggest(SPACE, config=config, objectives=bound, trials=trials, number=number)
        if suggestion.origin == "prior":
            study.enqueue_trial(suggestion.weights)
        asked = study.ask(distributions)
        assert asked.params == suggestion.weights
        if preset == "paper" and number % 5 == 4:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
            trials.append(failed(number, suggestion.weights))
            continue
        trials.append(ended(number, suggestion, bound))
        for task, amount in bound.constraints(trials[-1].scores).items():
            asked.set_constraint(task, amount)
        study.tell(asked, bound.values(trials[-1].scores))
    assert {trial.origin for trial in trials} >= {"startup", "sampler"} - (
        {"startup"} if preset == "default" else set()
    )


def test_the_default_leaves_a_region_where_merges_fail():
    config = SearchConfig(trials=40, startup=6)
    trials = []
    for number in range(config.trials):
        suggestion = suggest(SPACE, config=config, objectives=MEAN, trials=trials, number=number)
        broken = suggestion.weights["ja"] > 0.5
        trials.append(failed(number, suggestion.weights) if broken else ended(number, suggestion, MEAN))
    # Plain TPE, which forgets failures, spends most of its trials there.
    assert sum(trial.state == "failed" for trial in trials[-20:]) < 5


def test_no_deprecated_or_experimental_option_is_used():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search(SearchConfig(trials=3, startup=2, preset="paper"))
        search(SearchConfig(trials=3, startup=2))


def test_the_liar_keeps_away_from_what_is_running():
    config = SearchConfig(trials=20, startup=8)
    trials = search(config)
    arguments = {"config": config, "objectives": MEAN, "trials": trials}
    alone = suggest(SPACE, **arguments, number=20).weights
    beside = suggest(SPACE, **arguments, number=20, running=[Point(alone)]).weights
    assert beside != alone
    paper = {**arguments, "config": config.model_copy(update={"preset": "paper"})}
    assert suggest(SPACE, **paper, number=20) == suggest(SPACE, **paper, number=20, running=[Point(alone)])


def test_a_pruned_trial_counts_as_start_up():
    pruned = [Trial(number=n, state="pruned", weights={"it": 0.5, "ja": 0.1 * n, "en": 0.0}) for n in range(3)]
    config = SearchConfig(startup=3, preset="paper")
    assert suggest(SPACE, config=config, objectives=MEAN, trials=pruned, number=3).origin == "sampler"


def sharp(experts):
    """Shaped like OptiMer's Table 5: the right instruction weight and small, uneven expert weights, or collapse."""
    best = {f"e{i}": 0.06 + 0.25 * ((i * 37 % 11) / 11) for i in range(experts)}
    space = SearchSpace({"it": (0.3, 1.0), **dict.fromkeys(best, (0.0, 1.0))}, ("it",))

    def score(weights):
        off = ((weights["it"] - 0.68) / 0.22) ** 2 + sum(((weights[e] - best[e]) / 0.35) ** 2 for e in best)
        return {"t": 70 * math.exp(-off)}

    return space, score


@pytest.mark.parametrize(("experts", "most"), [(3, 2.0), pytest.param(5, 5.0, marks=pytest.mark.whole)])
def test_on_a_sharp_landscape_the_default_beats_random_search_and_the_paper_preset(experts, most):
    space, score = sharp(experts)
    objectives = ObjectiveSet.build((Objective(),), tasks=["t"])

    def regret(**settings):
        return statistics.mean(
            70 - max(trial.values[0] for trial in search(config, space=space, objectives=objectives, score=score))
            for config in (SearchConfig(trials=70, seed=seed, **settings) for seed in range(3))
        )

    default, paper, chance = regret(), regret(preset="paper"), regret(preset="paper", startup=1000)
    assert default < most
    assert default < paper < 0.5 * chance
