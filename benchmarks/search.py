"""A whole search against what people do: mergekit to disk, a fresh lm-eval process and Optuna, on the same trials.

    python benchmarks/search.py --folder BENCH --config FILE --mergekit PATH/bin/mergekit-yaml

First `aftermix search` runs the trials by TPE, then the rival script scores exactly these weights on the same items of
the same base, and each measures its winner on the same test items; then `strategy: response` searches with fewer trials
and items. Baselines are left out on either side, and two items select. lm-eval runs with the batch size and threads
that score the base soonest. The last table holds the winners' test scores against each other, item by item.

Without `--mergekit` the rival is left out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from measure import Cost, machine, run
from rival import RivalScript, RivalSettings, Samples, count_positions, count_written_bytes
from safetensors.torch import load_file, save_file
from tiny import parse_options

from aftermix.cli import cli
from aftermix.config import Config, load_config, parse_config
from aftermix.jobs.run_folder.opening import write_config
from aftermix.runs.input_records import SPLIT_FILE, SplitRecord
from aftermix.runs.journal import read_items_file, read_trials
from aftermix.runs.reader import read_best
from aftermix.runs.records import BestRecord
from aftermix.runs.trials import ItemScores, Trial
from aftermix.search.intervals import bootstrap_mean, subtract_items

DEMO = Path(__file__).resolve().parents[1] / "examples" / "demo" / "aftermix.yaml"
SELECT_ITEMS = 2
BATCH_SIZES = (16, 64)
TINY = {"trials": 4, "items": 4, "test": 8, "response_trials": 8, "response_items": 4}
TINY_TASKS = ("continue_ja", "continue_math")


@dataclass(frozen=True)
class MeasuredSearch:
    """A search of ours, and what its command cost."""

    cost: Cost
    written_mb: float
    trials: list[Trial]
    best: BestRecord
    split: SplitRecord
    test: ItemScores
    """Scores of the winner on the test items."""

    @property
    def positions(self) -> float:
        """Positions computed for a trial, in the mean."""
        return sum(trial.tokens or 0 for trial in self.trials) / len(self.trials)

    @property
    def shares(self) -> str:
        """Shares of the wall time, in words."""
        merging, scoring = self.share("combine"), self.share("evaluate")
        held_out = (self.best.seconds.select + self.best.seconds.test) / self.cost.wall_s
        rest = 1 - merging - scoring - held_out
        return (
            f"{merging:.1%} merging, {scoring:.1%} scoring, {held_out:.1%} select and test items, "
            f"{rest:.1%} start, proposals, end"
        )

    def share(self, phase: str) -> float:
        """Share of a phase of the trials in the wall time."""
        return sum(trial.seconds.get(phase, 0.0) for trial in self.trials) / self.cost.wall_s


@dataclass(frozen=True)
class MeasuredRival:
    """The rival's search."""

    wall_s: float
    merge: list[Cost]
    evaluate: list[Cost]
    start_s: float
    """Seconds of a process of lm-eval that scores one item a task."""
    written_mb: float
    positions: int
    scores: list[dict[str, float]]

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all processes that the script started."""
        return sum(cost.cpu_s for cost in (*self.merge, *self.evaluate))

    @property
    def private_mb(self) -> float:
        """Most memory of a process that the script started."""
        return max(cost.private_mb for cost in (*self.merge, *self.evaluate))

    @property
    def shares(self) -> str:
        """Shares of the wall time, in words; the start of lm-eval is what it takes for one item a task."""
        merge_s, evaluate_s = (sum(cost.wall_s for cost in costs) for costs in (self.merge, self.evaluate))
        started = min(self.start_s * len(self.evaluate), evaluate_s)
        parts = {"merging": merge_s, "starting lm-eval": started, "scoring": evaluate_s - started}
        return ", ".join(f"{seconds / self.wall_s:.1%} {part}" for part, seconds in parts.items())


def search(config: Config, options: argparse.Namespace, strategy: str, trials: int, items: int) -> MeasuredSearch:
    """Run `aftermix search` of these trials and items in a process of its own (tiny ones in this process)."""
    folder = options.folder / strategy
    values = config.model_dump(mode="json", exclude_unset=True)
    values["evaluate"]["items"] = {"search": items, "select": SELECT_ITEMS, "test": options.test}
    startup = {"startup": min(trials, config.search.startup or trials)} if strategy == "tpe" else {}
    batch = {"batch": 1} if strategy == "tpe" else {}
    values["search"] = (
        {"strategy": strategy, "trials": trials, "top": 1, "baselines": False, "seed": 0} | startup | batch
    )
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "input").mkdir(parents=True)
    write_config(folder / "input", parse_config(values, where="search", folder=folder))

    before, place = count_written_bytes(), folder / "run"
    command = ["search", str(folder / "input" / "config.yaml"), "-o", str(place)]
    cost = run([sys.executable, "-m", "aftermix", *command]) if options.tiny is None else run_here(command)
    best = read_best(place)
    assert isinstance(best, BestRecord)
    winner = next((place / "items" / "test" / "baselines").glob("winner*.json"))
    return MeasuredSearch(
        cost=cost,
        written_mb=(count_written_bytes() - before) / 1e6,
        trials=read_trials(place),
        best=best,
        split=SplitRecord.read(place / SPLIT_FILE),
        test=read_items_file(winner),
    )


def run_here(command: list[str]) -> Cost:
    """A command of aftermix in this process, of which wall time alone is told."""
    started = time.perf_counter()
    cli.main(command, standalone_mode=False)
    return Cost(time.perf_counter() - started, 0.0, 0.0)


def search_by_rival(
    config: Config, ours: MeasuredSearch, options: argparse.Namespace
) -> tuple[MeasuredRival, RivalSettings]:
    """Score the trials of `ours` by the rival script, and its winner on the test items."""
    assert config.evaluate is not None
    folder = Path(options.folder).resolve() / "rival"
    folder.mkdir(parents=True, exist_ok=True)
    samples, test = list_samples(ours.split, "search"), list_samples(ours.split, "test")
    script = RivalScript(
        folder=folder,
        mergekit=options.mergekit,
        base=str(config.base),
        vectors={name: str(vector.model) for name, vector in config.vectors.items()},
        include_path=str(config.evaluate.include_path),
        metrics=ours.best.metrics,
        dtype=options.dtype,
        settings=RivalSettings(BATCH_SIZES[0], 1),
    )
    script.settle(samples, BATCH_SIZES, sorted({1, psutil.cpu_count(logical=False) or 1}), print)
    start_s = script.measure_start(samples)

    before, started = count_written_bytes(), time.perf_counter()
    scores = script.search([trial.weights for trial in ours.trials], samples, print)
    winner = max(range(len(scores)), key=lambda number: sum(scores[number].values()))
    script.score(script.merge(ours.trials[winner].weights), test)
    wall_s, written_mb = time.perf_counter() - started, (count_written_bytes() - before) / 1e6
    positions = count_positions(script.base, script.include_path, samples, script.settings.batch_size)
    costs = script.costs
    return MeasuredRival(
        wall_s, costs["merge"], costs["evaluate"], start_s, written_mb, positions, scores
    ), script.settings


def list_samples(split: SplitRecord, name: str) -> Samples:
    """Numbers of the documents of each task in a split, as lm-eval's `--samples` takes them."""
    return {
        task: sorted(int(item.rpartition("/")[2]) for item in getattr(entry, name))
        for task, entry in split.tasks.items()
    }


def compare_tests(ours: MeasuredSearch, theirs: MeasuredSearch) -> tuple[float, float, float, int]:
    """Mean difference of two winners on the test items that both have, its 95 % interval, in points; how many items."""
    both: dict[str, tuple[list[float | None], list[float | None]]] = {}
    for task, entry in ours.split.tasks.items():
        place = {item: number for number, item in enumerate(theirs.split.tasks[task].test)}
        shared = [number for number, item in enumerate(entry.test) if item in place]
        both[task] = (
            [ours.test[task][number] for number in shared],
            [theirs.test[task][place[entry.test[number]]] for number in shared],
        )
    gains = subtract_items(
        {task: pair[0] for task, pair in both.items()}, {task: pair[1] for task, pair in both.items()}
    )
    weights = dict.fromkeys(gains, 100 / len(gains))
    mean = sum(weight * _average(gains[task]) for task, weight in weights.items())
    low, high = bootstrap_mean(gains, weights=weights, seed=0)
    return mean, low, high, sum(len(scores) for scores in gains.values())


def print_row(name: str, trials: int, figures: tuple[float, ...], rival: MeasuredRival | None, shares: str) -> None:
    """A row of the table of costs. `figures`: wall and CPU seconds, private memory and written MB, positions."""
    wall_s, cpu_s, memory, written, positions = figures
    faster = f"{rival.wall_s / wall_s:.1f}x, {rival.cpu_s / cpu_s:.1f}x" if rival and cpu_s else "-"
    print(
        f"| {name} | {trials} | {wall_s:.1f} | {cpu_s:.1f} | {faster} | {memory:.0f} | {written:.1f} | "
        f"{positions:,.0f} | {shares} |"
    )


def _average(values: list[float | None]) -> float:
    valued = [value for value in values if value is not None]
    return sum(valued) / len(valued)


def _largest_difference(trials: list[Trial], scores: list[Mapping[str, float]]) -> float:
    return max(
        abs(trial.scores[task] - found[task]) for trial, found in zip(trials, scores, strict=True) for task in found
    )


def shrink(config: Config, folder: Path) -> Config:
    """The configuration on two tasks, with two vectors of seeded noise in place of experts, which must be trained."""
    values = config.model_dump(mode="json", exclude_unset=True)
    base = Path(str(config.base))
    for number, name in enumerate(list(values["vectors"])[:2]):
        shutil.copytree(base, folder / name, dirs_exist_ok=True)
        noise = torch.Generator().manual_seed(number)
        tensors = {
            key: tensor + 0.05 * torch.randn(tensor.shape, generator=noise)
            for key, tensor in load_file(base / "model.safetensors").items()
        }
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
    values["vectors"] = {name: {"model": str((folder / name).resolve())} for name in list(values["vectors"])[:2]}
    values["evaluate"] |= {"tasks": list(TINY_TASKS)}
    return parse_config(values, where="tiny search", folder=folder)


def main() -> None:
    """Run the three searches and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs") / "bench-search")
    parser.add_argument("--config", type=Path, default=DEMO, help="a search by task arithmetic (default: the demo's)")
    parser.add_argument("--mergekit", help="path of mergekit-yaml; without it the rival is left out")
    parser.add_argument("--dtype", default="float32", help="type in which mergekit writes (default: float32)")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--items", type=int, default=100, help="search items of a task")
    parser.add_argument("--test", type=int, default=300, help="test items of a task")
    parser.add_argument("--response-trials", type=int, default=14)
    parser.add_argument("--response-items", type=int, default=50)
    options = parse_options(parser, lambda folder: TINY | {"folder": folder / "search"})

    config = load_config(options.config)
    if options.tiny is not None:
        config = shrink(config, options.folder)
    tpe = search(config, options, "tpe", options.trials, options.items)
    rival, settings = (None, None) if options.mergekit is None else search_by_rival(config, tpe, options)
    response = search(config, options, "response", options.response_trials, options.response_items)

    print(f"\n{machine()}; {options.items} items a task, of response {options.response_items}\n")
    print("| search | trials | wall s | CPU s | faster: wall, CPU | private MB | MB written | positions | shares |")
    print("|---|---|---|---|---|---|---|---|---|")
    if rival:
        figures = (rival.wall_s, rival.cpu_s, rival.private_mb, rival.written_mb, rival.positions)
        print_row("mergekit, lm-eval, Optuna", len(rival.scores), figures, rival, rival.shares)
    for name, found in (("aftermix, `tpe`", tpe), ("aftermix, `response`", response)):
        figures = (found.cost.wall_s, found.cost.cpu_s, found.cost.private_mb, found.written_mb, found.positions)
        print_row(name, len(found.trials), figures, rival, found.shares)
    if rival:
        print(f"\nlm-eval at its best of those tried: {settings}")
        print(
            f"largest difference of a trial's score: {100 * _largest_difference(tpe.trials, rival.scores):.2f} points"
        )
    mean, low, high, items = compare_tests(response, tpe)
    print(f"winner of response minus that of tpe: {mean:+.2f} points [{low:.2f}, {high:.2f}] on {items} test items")


if __name__ == "__main__":
    main()
