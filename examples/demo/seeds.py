"""The demo at several seeds: its winner minus each baseline that costs no search, `python examples/demo/seeds.py`.

Each seed trains its own models by `train.yaml`, deals the items anew and searches by `aftermix.yaml`; the files are
taken as they are but for the seeds. Seeds that are done are kept: killed and begun again, it goes on. The table is
printed in Markdown, a row a seed. With `--tiny` all of it runs in seconds, on a few tokens and items.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from aftermix.config import Config
from aftermix.config.file import parse_config
from aftermix.jobs.provenance import resolve_defaults
from aftermix.jobs.search.baselines import BaselineMerge, build_single_scan, list_fixed_baselines
from aftermix.jobs.search.command import search
from aftermix.jobs.search.run_inputs import RunInputs
from aftermix.jobs.search.score_cache import BaselineScorer, ScoreCache, tune_single, tune_uniform
from aftermix.jobs.search.space_from_config import build_space
from aftermix.jobs.train.command import train
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.reader import read_best
from aftermix.runs.records import BestRecord
from aftermix.runs.trials import ItemScores, Point, average_scores
from aftermix.search.objective import ObjectiveSet

HERE = Path(__file__).resolve().parent
SEEDS = (0, 1, 2, 3, 4, 5)
"""The first is the one that the recipe was made on."""
ENOUGH = 2.0
"""Paired standard errors by which a winner has to be above a baseline."""
BASELINES = ("base", "best single", "it at its best weight", "uniform", "it at its best scale")
TINY_NAMES = ("it", "counts", "dates")
TINY_TOKENS = 512
TINY_TRAINING = {"context": 64, "batch_size": 4, "warmup_steps": 1}
TINY_SEEDS = (0,)


@dataclass(frozen=True)
class PairedLead:
    """Winner minus one baseline on the test items, in points."""

    name: str
    difference: float
    error: float
    """Paired standard error."""

    @property
    def is_clear(self) -> bool:
        """True if the winner is above by more than two errors."""
        return self.difference > ENOUGH * self.error


@dataclass(frozen=True)
class SeedResult:
    """What one seed came to on its test items."""

    score: float
    weights: Mapping[str, float]
    leads: Sequence[PairedLead]


def main() -> None:
    """Run the seeds that are not done, and print the table of all."""
    options = _parse_options()
    rows = {}
    for seed in options.seeds:
        started = time.monotonic()
        rows[seed] = run_seed(seed, options.output / str(seed), tiny=options.tiny is not None)
        print(f"seed {seed}: {time.monotonic() - started:.0f} s", flush=True)
        print(describe_seed(rows[seed]), flush=True)
    print(write_table(rows))


def run_seed(seed: int, folder: Path, *, tiny: bool) -> SeedResult:
    """Train and search with this seed in `folder`, or go on there; then measure the five baselines."""
    values = read_file("train.yaml")
    values["train"] |= {"seed": seed}
    experts = train(_parse(shrink_training(values) if tiny else values), folder / "experts")

    values = read_file("aftermix.yaml")
    values["vectors"] = place_experts(values["vectors"], experts)
    values["evaluate"]["items"] |= {"seed": seed}
    # Five baselines are wanted here, a third of all that a search measures.
    values["search"] |= {"seed": seed, "baselines": False}
    config, run = _parse(shrink_search(values) if tiny else values), folder / "search"
    if not (run / "best.json").exists():
        search(config, run, resume=(run / "config.yaml").exists())
    return measure_leads(config, run)


def measure_leads(config: Config, run: Path) -> SeedResult:
    """The winner of a finished search and its leads; what was measured before is kept in the run folder."""
    recipe, space = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True), build_space(config)
    config = resolve_defaults(config, recipe)
    evaluator, _ = RunInputs.open(config, run, resume=True, log=print).open_evaluator(config, recipe, space)
    objectives = ObjectiveSet.build(config.search.objective, tasks=evaluator.tasks)
    scorer = BaselineScorer(evaluator, ScoreCache(run, evaluator.tasks), objectives)

    best = read_best(run)
    assert isinstance(best, BestRecord)  # noqa: S101 - a search's
    measure = partial(evaluator.evaluate, Point(best.weights))
    ours = scorer.score_cache.scores(f"winner trial {best.winner.trial}", "test", measure)
    found = list_baselines(scorer, config)
    leads = tuple(compute_lead(each.name, ours, scorer.measure_items(each, "test")) for each in found)
    return SeedResult(objectives.values(average_scores(ours))[0], best.weights, leads)


def list_baselines(scorer: BaselineScorer, config: Config) -> list[BaselineMerge]:
    """Base, best single vector, it at its best weight, uniform merge, it at its best scale; chosen on select items."""
    singles = [single for name in config.vectors for single in build_single_scan(name, [1.0])]
    fixed = list(list_fixed_baselines(config))
    return [
        next(each for each in fixed if each.kind == "base"),
        scorer.choose_best(singles, "select"),
        tune_single(scorer, config),
        next(each for each in fixed if each.kind == "uniform"),
        tune_uniform(scorer, config),
    ]


def compute_lead(name: str, ours: ItemScores, theirs: ItemScores) -> PairedLead:
    """The mean over the tasks of the paired differences, and its standard error."""
    differences = [np.subtract(ours[task], theirs[task]) for task in ours]
    means = [each.mean() for each in differences]
    variances = [each.var(ddof=1) / len(each) for each in differences]
    return PairedLead(name, 100 * float(np.mean(means)), 100 * float(np.sqrt(np.sum(variances)) / len(differences)))


def describe_seed(result: SeedResult) -> str:
    """The winner's weights, and each lead with the name of its baseline."""
    weights = ", ".join(f"{name} {weight:.2f}" for name, weight in result.weights.items())
    leads = "\n".join(f"    {lead.name}: {lead.difference:.2f} ± {lead.error:.2f}" for lead in result.leads)
    return f"  winner {100 * result.score:.1f} ({weights}), above\n{leads}"


def write_table(rows: Mapping[int, SeedResult]) -> str:
    """A row a seed: the winner's score and its leads; what is within two errors is marked."""
    lines = [
        f"| seed | winner | {' | '.join(BASELINES)} | clear of all |",
        f"|{'---|' * (len(BASELINES) + 3)}",
    ]
    for seed, result in rows.items():
        cells = [f"{lead.difference:.1f} ± {lead.error:.1f}{'' if lead.is_clear else ' (!)'}" for lead in result.leads]
        verdict = "yes" if all(lead.is_clear for lead in result.leads) else "no"
        lines.append(f"| {seed} | {100 * result.score:.1f} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines)


def shrink_training(values: dict[str, Any]) -> dict[str, Any]:
    """Three models of a few tokens each."""
    datasets = {name: {**values["train"]["datasets"][name], "tokens": TINY_TOKENS} for name in TINY_NAMES}
    return {**values, "train": {**values["train"], **TINY_TRAINING, "datasets": datasets}}


def shrink_search(values: dict[str, Any]) -> dict[str, Any]:
    """Two tasks of a few items, and a few trials."""
    items = {**values["evaluate"]["items"], "search": 6, "select": 4, "test": 6}
    evaluate = {**values["evaluate"], "tasks": values["evaluate"]["tasks"][:2], "items": items}
    return {**values, "evaluate": evaluate, "search": {**values["search"], "trials": 3, "top": 1}}


def place_experts(vectors: Mapping[str, Any], experts: Mapping[str, Path]) -> dict[str, Any]:
    """The `vectors` of a file that have an expert, each with the expert's folder as its model."""
    return {
        name: {**vector, "model": str(experts[name].resolve())} for name, vector in vectors.items() if name in experts
    }


def read_file(name: str) -> dict[str, Any]:
    """A file of the demo as it stands."""
    values: dict[str, Any] = yaml.safe_load((HERE / name).read_text(encoding="utf-8"))
    return values


def _parse(values: dict[str, Any]) -> Config:
    return parse_config(values, where="seeds.py", folder=HERE)


def _parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/demo/seeds"), help="default: %(default)s")
    parser.add_argument(
        "--tiny",
        nargs="?",
        type=Path,
        const=Path("runs/tiny"),
        metavar="FOLDER",
        help="on a few tokens and items, to see that it runs; all of it lies in FOLDER (default: runs/tiny)",
    )
    options = parser.parse_args(arguments)
    if options.tiny:
        options.output, options.seeds = options.tiny / "demo_seeds", list(TINY_SEEDS)
    return options


if __name__ == "__main__":
    main()
