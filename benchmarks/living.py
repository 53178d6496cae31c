"""Whole searches in living models: strategy `response` against `tpe`, their winners on the same test items.

    OMP_NUM_THREADS=1 python -m benchmarks.living [--experts runs/demo/experts] [--seeds 0 1 2]
    OMP_NUM_THREADS=1 python -m benchmarks.living --world smollm2 --experts runs/pools

`demo` searches the weights of `examples/demo/aftermix.yaml`; the experts of `train.yaml` are one set for all seeds, and
a seed deals the items anew and seeds the search. `smollm2` has the base and the low-rank experts of the pool of that
name. Either are made in the folder `--experts` where they are not there yet. The winners of a seed are measured on test
items that none of its searches saw. What is done is kept; a search that was killed begins anew, so that its wall time
is that of one process.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.measure import describe_machine
from benchmarks.pools.worlds import prepare_smollm2
from benchmarks.tiny import parse_options
from examples.demo.seeds import HERE, TINY_NAMES, place_experts, read_file, shrink_training

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config
from aftermix.config.file import parse_config
from aftermix.evaluation.suites.contract import EvaluationSuite
from aftermix.jobs.evaluate.opening import open_task_suite
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.provenance import resolve_defaults
from aftermix.jobs.search.command import search
from aftermix.jobs.search.score_cache import ScoreCache
from aftermix.jobs.search.space_from_config import build_space
from aftermix.jobs.train.command import train
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.input_records import SPLIT_FILE, SplitRecord
from aftermix.runs.journal import read_trials
from aftermix.runs.reader import read_best
from aftermix.runs.records import BestRecord
from aftermix.runs.trials import ItemScores, Point, average_scores
from aftermix.search.objective import ObjectiveSet
from aftermix.search.summary import compare

WALL_FILE = "wall_s.txt"
OWN_TEST = 1
"""Test items of a search itself: its winner is judged elsewhere."""


@dataclass(frozen=True)
class LivingPlan:
    """A search that is run: its strategy, and what it may spend."""

    strategy: str
    trials: int
    items: int
    """Search items of a task."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.strategy}-{self.trials}x{self.items}"


@dataclass(frozen=True)
class LivingWorld:
    """A base, its experts and tasks, and the searches that are held against each other; the first is the reference."""

    prepare: Callable[[Path, bool], dict[str, Any]]
    """Values of a file for `search`, of the folder with experts and whether it is tiny."""
    experts: Path
    seeds: Sequence[int]
    plans: Sequence[LivingPlan]
    select: int
    test: int
    """Items of a task, like `select`."""


@dataclass(frozen=True)
class LivingResult:
    """A search that has ended."""

    plan: LivingPlan
    trials: int
    score: float
    """Objective on the test items, in points."""
    gain: float
    """The same over the base."""
    difference: float
    """Minus the reference's, in points, with its 95 % interval."""
    interval: tuple[float, float]
    search_positions: int
    select_positions: int
    wall_s: float


def prepare_demo_search(experts: Path, tiny: bool) -> dict[str, Any]:
    """The demo's own file, its experts trained into the folder where they are not there."""
    training, values = read_file("train.yaml"), read_file("aftermix.yaml")
    found = train(_parse(shrink_training(training) if tiny else training), experts)
    if tiny:
        values["evaluate"]["tasks"] = values["evaluate"]["tasks"][: len(TINY_NAMES) - 1]
    values["vectors"] = place_experts(values["vectors"], found)
    return values


def prepare_smollm2_search(folder: Path, tiny: bool) -> dict[str, Any]:
    """Base, experts and tasks of the pool `smollm2`, which lie in the folder of the pools or are made there."""
    return prepare_smollm2(folder, tiny).model_dump(mode="json", exclude_unset=True)


WORLDS: Mapping[str, LivingWorld] = {
    "demo": LivingWorld(
        prepare=prepare_demo_search,
        experts=Path("runs/demo/experts"),
        seeds=(0, 1, 2),
        plans=(LivingPlan("tpe", 100, 100), LivingPlan("response", 30, 160), LivingPlan("response", 20, 50)),
        select=100,
        test=500,
    ),
    "smollm2": LivingWorld(
        prepare=prepare_smollm2_search,
        experts=Path("runs/pools"),
        seeds=(0,),
        plans=(LivingPlan("tpe", 24, 20), LivingPlan("response", 8, 20)),
        select=20,
        test=80,
    ),
    "tiny": LivingWorld(
        prepare=prepare_demo_search,
        experts=Path("experts"),
        seeds=(0,),
        plans=(LivingPlan("tpe", 3, 4), LivingPlan("response", 3, 6)),
        select=4,
        test=6,
    ),
}


def run_seed(values: dict[str, Any], world: LivingWorld, seed: int, folder: Path) -> list[LivingResult]:
    """Search by every plan and measure the winners; what is done is kept in `folder`."""
    for plan in world.plans:
        run_search(values, world, plan, seed, folder / plan.name)

    judge = WinnerJudge.open(build_config(values, world, world.plans[0], seed, judges=True), folder / "judge")
    runs = [folder / plan.name for plan in world.plans]
    for run in runs:
        judge.refuse_seen_items(SplitRecord.read(run / SPLIT_FILE))
    base = judge.measure("base", Point(dict.fromkeys(values["vectors"], 0.0)))
    winners = [judge.measure(f"winner of {run.name}", Point(read_search(run).weights)) for run in runs]
    return [
        judge.summarise(plan, run, ours, base=base, reference=winners[0])
        for plan, run, ours in zip(world.plans, runs, winners, strict=True)
    ]


def run_search(values: dict[str, Any], world: LivingWorld, plan: LivingPlan, seed: int, run: Path) -> None:
    """The whole search of a plan, from the files to the report; nothing if it is there."""
    if (run / WALL_FILE).is_file():
        return
    shutil.rmtree(run, ignore_errors=True)
    started = time.monotonic()
    search(build_config(values, world, plan, seed), run)
    wall_s = time.monotonic() - started
    (run / WALL_FILE).write_text(f"{wall_s:.1f}\n", encoding="utf-8")
    print(f"seed {seed}, {plan.name}: {wall_s:.0f} s", flush=True)


def build_config(
    values: dict[str, Any], world: LivingWorld, plan: LivingPlan, seed: int, *, judges: bool = False
) -> Config:
    """The file of one search; with `judges`, items that no search of the seed sees are for the test.

    Items are dealt in one order, of which the first are for the search, the next select: the test items are those after
    the longest such beginning.
    """
    searched = max(each.items for each in world.plans) if judges else plan.items
    items = {"search": searched, "select": world.select, "test": world.test if judges else OWN_TEST, "seed": seed}
    evaluate = {**values["evaluate"], "items": items}
    asked = {"strategy": plan.strategy, "trials": plan.trials, "seed": seed, "baselines": False}
    return _parse({**values, "evaluate": evaluate, "search": asked})


@dataclass(frozen=True)
class WinnerJudge:
    """A living model and the test items of a seed; what was measured is kept."""

    evaluator: MergeEvaluator
    objectives: ObjectiveSet
    cache: ScoreCache
    seed: int

    @classmethod
    def open(cls, config: Config, folder: Path) -> WinnerJudge:
        """Load the base and build the tasks of `config`."""
        assert config.evaluate is not None
        recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)
        space = build_space(config)
        config = resolve_defaults(config, recipe)
        suite = open_task_suite(config.evaluate)
        evaluator = MergeEvaluator.open(
            config, open_pool(config), recipe, space=space, suite=suite, keeps_answers=False
        )
        objectives = ObjectiveSet.build(config.search.objective, tasks=evaluator.tasks)
        return cls(evaluator, objectives, ScoreCache(folder, evaluator.tasks), config.search.seed)

    @property
    def suite(self) -> EvaluationSuite:
        """The tasks."""
        return self.evaluator.model_evaluator.suite

    def refuse_seen_items(self, split: SplitRecord) -> None:
        """Raise `ValueError` where a search looked at a test item."""
        for name, items in self.suite.tasks.items():
            seen = {*split.tasks[name].search, *split.tasks[name].select} & {*items.test}
            if seen:
                raise ValueError(f"task '{name}': {len(seen)} test items were searched on, {min(seen)} among them")

    def measure(self, name: str, point: Point) -> ItemScores:
        """Item scores of the merge at `point` on the test items."""
        return self.cache.scores(name, "test", partial(self.evaluator.evaluate, point))

    def summarise(
        self, plan: LivingPlan, run: Path, ours: ItemScores, *, base: ItemScores, reference: ItemScores
    ) -> LivingResult:
        """What a finished search found and spent; `ours` are its winner's scores."""
        best, trials = read_search(run), read_trials(run)
        searched = sum(trial.tokens or 0 for trial in trials)
        assert best.certificate is not None
        score, start = (self.objectives.values(average_scores(each))[0] for each in (ours, base))
        paired = compare(ours, reference, objectives=self.objectives, seed=self.seed)
        low, high = paired.interval[0] or (0.0, 0.0)
        return LivingResult(
            plan=plan,
            trials=len(trials),
            score=100 * score,
            gain=100 * (score - start),
            difference=100 * paired.objective[0],
            interval=(100 * low, 100 * high),
            search_positions=searched,
            select_positions=(best.certificate.tokens or searched) - searched,
            wall_s=float((run / WALL_FILE).read_text(encoding="utf-8")),
        )


def read_search(run: Path) -> BestRecord:
    """`best.json` of a search."""
    best = read_best(run)
    assert isinstance(best, BestRecord)
    return best


def print_results(results: Mapping[int, Sequence[LivingResult]]) -> None:
    """A row a search, and the mean of the differences over the seeds."""
    print("\n| seed | search | trials run | test score | over the base | minus the first [95 %] | search positions, M "
          "| select, M | of the first's, both | wall s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for seed, row in results.items():
        whole = row[0].search_positions + row[0].select_positions
        for each in row:
            spent = each.search_positions + each.select_positions
            low, high = each.interval
            print(
                f"| {seed} | {each.plan.strategy}, {each.plan.trials} x {each.plan.items} | {each.trials} | "
                f"{each.score:.2f} | {each.gain:+.2f} | {each.difference:+.2f} [{low:.2f}, {high:.2f}] | "
                f"{each.search_positions / 1e6:.3f} | {each.select_positions / 1e6:.3f} | {spent / whole:.3f} | "
                f"{each.wall_s:.0f} |"
            )

    print()
    for columns in zip(*results.values(), strict=True):
        print(describe_seeds(columns))


def describe_seeds(columns: Sequence[LivingResult]) -> str:
    """One plan over its seeds, in words."""
    plan, count = columns[0].plan, len(columns)
    gains, differences = [each.gain for each in columns], [each.difference for each in columns]
    error = f" +- {np.std(differences, ddof=1) / np.sqrt(count):.2f} (standard error)" if count > 1 else ""
    return (
        f"{plan.strategy}, {plan.trials} x {plan.items}, mean of {count} seeds: {np.mean(gains):+.2f} over the base, "
        f"{np.mean(differences):+.2f}{error} against the first; {np.mean([each.wall_s for each in columns]):.0f} s"
    )


def _parse(values: dict[str, Any]) -> Config:
    return parse_config(values, where="living.py", folder=HERE)


def main() -> None:
    """Run the searches that are not done, and print what all of them came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", choices=list(WORLDS), default="demo")
    parser.add_argument("--experts", type=Path, help="folder of the experts (default: the world's own)")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: the world's own")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/living"), help="default: %(default)s")
    options = parse_options(
        parser,
        lambda folder: {"world": "tiny", "output": folder / "living", "experts": folder / "living" / "experts"},
    )

    world = WORLDS[options.world]
    values = world.prepare(options.experts or world.experts, options.tiny is not None)
    results = {}
    for seed in options.seeds or world.seeds:
        results[seed] = run_seed(values, world, seed, options.output / options.world / str(seed))
    print(f"\n{describe_machine(1)}")
    print_results(results)


if __name__ == "__main__":
    main()
