"""Finished mixture runs with made-up scores: what a landscape reads of one, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aftermix.config import Config, parse_config
from aftermix.files import append_line, write_json
from aftermix.jobs.mixture.command import build_design_record
from aftermix.jobs.mixture.points import FittedSurrogates
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.tree_problem import TreeProblem, build_level_problem, locate_level
from aftermix.jobs.run_folder import write_config
from aftermix.mixture.optimum import find_optimum, predict_mixture
from aftermix.runs.journal import read_trials
from aftermix.runs.trials import Trial, dump_trial
from aftermix.seeds import generator

DOMAINS = ("ja", "math", "code", "web", "law", "chat")
TASKS = ("mgsm", "gsm8k", "mbpp")


def config_of(domains: int, **asked: Any) -> Config:
    """A file of `domains` experts and three tasks."""
    vectors = {name: {"model": f"/none/{name}"} for name in DOMAINS[:domains]}
    values = {
        "base": "/none/base",
        "vectors": vectors,
        "evaluate": {"tasks": list(TASKS)},
        "mixture": {"points": 24, **asked},
    }
    return parse_config(values, where="aftermix.yaml", folder=Path("/"))


def finished_run(run: Path, *, domains: int, failed: int | None = None, **asked: Any) -> Path:
    """A run whose scores peak in the midst of the simplex, by task at another place; trial `failed` has no scores."""
    run.mkdir(parents=True)
    config = config_of(domains, **asked)
    setting = MixtureProblem.build_flat(config)
    write_config(run, config)
    measure(run, setting, failed=failed)
    return run


def finished_tree(run: Path) -> Path:
    """The run of a tree, top down: `text` of three experts, and one apart."""
    run.mkdir(parents=True)
    config = config_of(4, tree={"text": ["ja", "web", "math"], "code": None})
    write_config(run, config)
    write_json(run / "design.json", {})
    write_json(run / "best.json", {})
    for group in TreeProblem.from_config(config).order:
        locate_level(run, group.name).mkdir(parents=True)
        measure(locate_level(run, group.name), build_level_problem(config, run, group.name))
    return run


def measure(folder: Path, setting: MixtureProblem, *, failed: int | None = None) -> None:
    """Write design, trials and result of the mixtures of `setting` into `folder`."""
    write_json(folder / "design.json", build_design_record(setting))
    peaks = generator(4, "peaks").dirichlet(np.full(len(setting.domains), 1.5), size=len(TASKS))
    noise = generator(4, "noise").normal(0, 0.004, (len(setting.design.weights_NK), len(TASKS)))
    for number, row_K in enumerate(setting.design.weights_NK):
        apart = ((row_K - peaks) ** 2).sum(axis=1)
        scores = dict(zip(TASKS, (0.6 - 0.3 * apart + noise[number]).tolist(), strict=True))
        weights = setting.compute_weights(row_K)
        if number == failed:
            trial = Trial(number=number, state="failed", weights=weights, error="NaN", origin="lattice")
        else:
            mean = float(np.mean(list(scores.values())))
            trial = Trial(
                number=number, state="complete", weights=weights, scores=scores, objective=(mean,), feasible=True,
                origin=setting.design.kinds[number],
            )  # fmt: skip
        append_line(folder / "trials.jsonl", dump_trial(trial))
    write_json(folder / "best.json", result(setting, FittedSurrogates.fit(setting, read_trials(folder))))


def result(setting: MixtureProblem, learned: FittedSurrogates) -> dict[str, Any]:
    """The part of `best.json` that tells the optimum and the winner, here the best measured point."""
    utility, seed = setting.build_utility(learned.scores_NM), setting.mixture.seed
    optimum = find_optimum(learned.surrogate, setting.build_goal(utility), setting.bounds, seed=seed, candidates=5000)
    expected = predict_mixture(learned.surrogate, utility, optimum.weights_K, seed=seed)
    best_K = learned.shares_NK[utility.best(learned.scores_NM)]
    scores = zip(setting.capabilities, expected.scores_M, expected.std_M, strict=True)
    return {
        "shares": dict(zip(setting.domains, best_K.tolist(), strict=True)),
        "winner": {"point": "best measured"},
        "optimum": {
            "shares": optimum.shares,
            "utility": expected.utility,
            "interval": list(expected.interval),
            "scores": {name: {"mean": float(mean), "sd": float(sd)} for name, mean, sd in scores},
        },
        "verified": [{"name": "best measured", "shares": dict(zip(setting.domains, best_K.tolist(), strict=True))}],
    }
