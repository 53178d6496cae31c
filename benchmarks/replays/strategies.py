"""Strategies that a replay compares, each written once for every world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec

import numpy as np
import optuna
from benchmarks.replays.proposer import search_by_response
from benchmarks.replays.worlds import FiniteWorld, ReplayWorld
from scipy.stats import wilcoxon

from aftermix.config import SearchConfig
from aftermix.runs.trials import Point
from aftermix.search.priors import list_first_points
from aftermix.search.proposing.candidates import scatter_points
from aftermix.search.sampler import build_tpe
from aftermix.seeds import derived_seed, generator

optuna.logging.set_verbosity(optuna.logging.ERROR)
ROUNDS = 5
"""Blocks of items of a race."""
DOUBT = 0.1
"""Level of the paired test that drops a merge from a race."""

Strategy = Callable[[ReplayWorld, int, int], int]
"""The merge that a search of so many runs chooses: (world, runs, seed) -> its number."""


def search_at_random(world: ReplayWorld, runs: int, seed: int) -> int:
    """Scattered merges; the best on the items seen."""
    taken = _place_all(world, _scatter(world, runs, seed))
    return choose_best(world, taken)


def search_by_tpe(world: ReplayWorld, runs: int, seed: int, *, preset: str = "default") -> int:
    """The product's `strategy: tpe`: priors, random merges up to 20, then TPE; `paper` is univariate without priors."""
    config = SearchConfig(strategy="tpe", preset=preset, trials=runs, seed=seed)
    sampler = build_tpe(config, seed=derived_seed(seed, "replay sampler"), avoided=0)
    return search_by_optuna(world, runs, sampler, list_first_points(world.space) if preset == "default" else [])


def search_by_gp(world: ReplayWorld, runs: int, seed: int) -> int:
    """Optuna's Gaussian process of the objective."""
    return search_by_optuna(world, runs, optuna.samplers.GPSampler(seed=seed))


def search_by_cma(world: ReplayWorld, runs: int, seed: int) -> int:
    """CMA-ES from the middle of the box, as Optuna runs it."""
    return search_by_optuna(world, runs, optuna.samplers.CmaEsSampler(seed=seed))


def search_by_optuna(
    world: ReplayWorld,
    runs: int,
    sampler: optuna.samplers.BaseSampler,
    first: Sequence[Point] = (),
) -> int:
    """A study that asks for one merge at a time, `first` ones before its own, and is told of the merge that was run."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in world.pool.vectors}
    for point in first:
        study.enqueue_trial(point.weights)

    taken: list[int] = []
    for _ in range(count_runs(world, runs)):
        trial = study.ask(distributions)
        taken.append(world.place(Point(dict(trial.params)), taken))
        value = float(world.score(taken[-1:])[0])
        held = {name: min(max(weight, 0.0), 1.0) for name, weight in world.read_point(taken[-1]).weights.items()}
        if held == trial.params:
            study.tell(trial, value)
            continue
        # A finite world ran another merge than was asked for; CMA-ES counts its generations in a trial's attributes.
        attributes = study.get_trials(deepcopy=False)[trial.number].system_attrs
        told = optuna.trial.create_trial(params=held, distributions=distributions, value=value, system_attrs=attributes)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        study.add_trial(told)
    return choose_best(world, taken)


def search_by_racing(world: ReplayWorld, runs: int, seed: int) -> int:
    """Scattered merges raced in blocks of items; what a paired Wilcoxon test finds worse than the leader is dropped.

    `runs` counts whole measurements: what is saved on dropped merges buys more of them.
    """
    points = iter(_scatter(world, ROUNDS * runs, seed))
    taken: list[int] = []
    best, left = -1, ROUNDS * runs
    while left > 0 and (point := next(points, None)) is not None:
        merge = world.place(point, taken)
        taken.append(merge)
        if best < 0:
            best, left = merge, left - ROUNDS
            continue
        won, spent = race(world, merge, best, seed)
        best, left = (merge if won else best), left - spent
    return best


def race(world: ReplayWorld, merge: int, best: int, seed: int) -> tuple[bool, int]:
    """Whether `merge` is better than the leader on all items, and the blocks that it took to tell."""
    ours_I, theirs_I = world.score_items([merge, best])
    columns = generator(seed, "replay race").permutation(len(ours_I))
    for number in range(1, ROUNDS + 1):
        seen = columns[: round(number * len(columns) / ROUNDS)]
        gains = ours_I[seen] - theirs_I[seen]
        if gains.mean() < 0 and np.any(gains) and wilcoxon(gains, method="asymptotic").pvalue < DOUBT:
            return False, number
    return bool((ours_I - theirs_I).mean() > 0), ROUNDS


def choose_best(world: ReplayWorld, taken: Sequence[int]) -> int:
    """The best merge on the items seen."""
    return taken[int(np.argmax(world.score(taken)))]


def count_runs(world: ReplayWorld, runs: int) -> int:
    """Runs that the world has merges for."""
    return min(runs, world.pool.merges) if isinstance(world, FiniteWorld) else runs


def _scatter(world: ReplayWorld, count: int, seed: int) -> list[Point]:
    """Merges in random order: the recorded ones, or points all over the box."""
    others = world.list_others([])
    if others is None:
        return scatter_points(world.space, count, seed=seed, key="replay random")
    order = generator(seed, "replay random").permutation(len(others))[:count]
    return [others[number] for number in order]


def _place_all(world: ReplayWorld, points: Sequence[Point]) -> list[int]:
    taken: list[int] = []
    for point in points:
        taken.append(world.place(point, taken))
    return taken


STRATEGIES: dict[str, Strategy] = {
    "response": search_by_response,
    "tpe": search_by_tpe,
    "tpe, paper": partial(search_by_tpe, preset="paper"),
    "optuna gp": search_by_gp,
    "cma-es": search_by_cma,
    "random": search_at_random,
    "racing": search_by_racing,
}
NEEDS = {"cma-es": "cmaes"}
"""Strategies that need a package of the extra `benchmarks`."""


def list_missing() -> dict[str, str]:
    """Strategies that cannot run here, with the package that each needs."""
    return {name: package for name, package in NEEDS.items() if find_spec(package) is None}
