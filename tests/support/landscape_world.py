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
from aftermix.jobs.mixture.tree_problem import TreeProblem, build_level_problem
from aftermix.jobs.run_folder.opening import write_config
from aftermix.mixture.optimum import find_optimum, predict_mixture
from aftermix.runs.journal import read_trials
from aftermix.runs.mixture_records import MixtureRecord, MomentsRecord, OptimumRecord, SearchedLevelRecord
from aftermix.runs.reader import LEVELS_FOLDER, locate_level, read_best, read_level
from aftermix.runs.trials import Trial, dump_trial
from aftermix.seeds import generator

FIXTURE = Path(__file__).parents[1] / "data" / "runs-0a1294b"
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
    build_design_record(setting).write(folder / "design.json")
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
    result(setting, FittedSurrogates.fit(setting, read_trials(folder)), folder=folder).write(folder / "best.json")


def result(setting: MixtureProblem, learned: FittedSurrogates, *, folder: Path) -> MixtureRecord | SearchedLevelRecord:
    """`best.json` of another run, with the optimum of this one and, as the winner, its best measured point."""
    utility, seed = setting.build_utility(learned.scores_NM), setting.mixture.seed
    optimum = find_optimum(learned.surrogate, setting.build_goal(utility), setting.bounds, seed=seed, candidates=5000)
    expected = predict_mixture(learned.surrogate, utility, optimum.weights_K, seed=seed)
    best_K = learned.shares_NK[utility.best(learned.scores_NM)]
    shares = dict(zip(setting.domains, best_K.tolist(), strict=True))
    scores = zip(setting.capabilities, expected.scores_M, expected.std_M, strict=True)

    level = read_level(FIXTURE / "tree" / "levels" / "left")
    assert isinstance(level, SearchedLevelRecord)
    is_level = folder.parent.name == LEVELS_FOLDER
    best = (
        level.model_copy(update={"level": folder.name, "shares": shares})
        if is_level
        else read_best(FIXTURE / "mixture")
    )
    changes = {
        "winner": best.winner.model_copy(update={"point": "best measured"}),
        "optimum": OptimumRecord(
            shares=optimum.shares,
            share_intervals={},
            utility=expected.utility,
            interval=expected.interval,
            scores={name: MomentsRecord(mean=float(mean), sd=float(sd)) for name, mean, sd in scores},
            floors_met=True,
            averaged=1,
        ),
        "verified": (best.verified[0].model_copy(update={"name": "best measured", "shares": shares}),),
    }
    return best.model_copy(update=changes)
