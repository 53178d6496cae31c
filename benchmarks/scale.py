"""The plan of `aftermix plan --hardware` beside runs on this machine, and its tables for machines that are not here.

    python benchmarks/scale.py --folder BENCH --parameters 0.1e9      # planned beside measured: bytes and seconds
    python benchmarks/scale.py --tables                               # 8 to 64 GPUs, examples/scale

A random Llama and its experts are planned with bandwidths and positions a second that are measured first, then searched
and merged for real.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from measure import describe_machine
from merge import make_models, weights_of
from sparse_models import drop_merged, open_merger, write_tasks, write_tokenizer
from tiny import parse_options

from aftermix.checkpoints.pool import open_pool
from aftermix.cli import cli
from aftermix.config import Config, HardwareConfig, load_config
from aftermix.jobs.evaluate.opening import open_task_suite
from aftermix.jobs.scale.command import ScalePlan, plan_scale
from aftermix.jobs.scale.rivals import PAPER_MIXING_GPU_HOURS, PAPER_SEARCH_GPU_HOURS
from aftermix.merging.merge import Merger
from aftermix.merging.prepared import PreparedVectors, prepare_vectors
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.journal import read_trials

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "scale"
GB = 1e9
TRIAD_ELEMENTS, BATCH = 1 << 25, 16
IN_CACHE_GB_S = 1e6
"""Bandwidth of a disk that is not waited for: the files are in the system's cache."""
GPUS = (8, 16, 32, 64)
PAPER_DATASETS = 3
"""Taken for OptiMer's single run, of which the paper gives the hours and not the number of data sets."""
COLUMNS = (
    "GPUs",
    "engines x GPUs",
    "a point, s: exchange, scoring, answers",
    "prepare, h",
    "search, h",
    "GPU h",
    "select and test, GPU h",
    "five experts, h",
    "GPU h",
    "one training on 6 data sets / search",
    "does not fit",
)
VARIANTS: tuple[tuple[str, dict[str, dict[str, Any]]], ...] = (
    ("dense", {}),
    ("dense", {"engine": {"vectors_per": "engine"}}),
    ("dense", {"engine": {"gpus": 8}}),
    ("dense", {"engine": {"gpus": 8, "swap": "sliced"}}),
    ("experts", {}),
    ("experts", {"host": {"memory_gb": 20_000}}),
    ("experts", {"host": {"memory_gb": 20_000}, "engine": {"swap": "sliced"}}),
)
TINY = {"parameters": 1e4, "vectors": 2, "trials": 2, "items": 8}


@dataclass(frozen=True)
class Comparison:
    """One figure, planned and measured."""

    what: str
    planned: float
    measured: float

    def format_row(self) -> str:
        """Row of the table."""
        ratio = self.measured / self.planned if self.planned else float("nan")
        return f"| {self.what} | {self.planned:,.6g} | {self.measured:,.6g} | {ratio:.3f} |"


def measure_memory() -> float:
    """GB of a sum of two large float32 tensors into a third, for a CPU second of one thread."""
    one, other, total = (torch.ones(TRIAD_ELEMENTS) for _ in range(3))
    return 3 * 4 * TRIAD_ELEMENTS / _time_median(lambda: torch.add(one, other, out=total)) / GB


def measure_merge(folders: list[Path]) -> float:
    """GB of checkpoints, in the cache, that a merge takes in for a CPU second, its result dropped."""
    read = sum(Path(name).stat().st_size for name in weights_of(folders))
    merger = open_merger(folders)
    return read / _time_median(lambda: drop_merged(merger)) / GB


def measure_scoring(folder: Path, *, length: int) -> tuple[float, int]:
    """Positions of the model in float32 for a CPU second of one thread, and the bytes of its parameters."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.randint(300, (BATCH, length))
    with torch.no_grad():
        seconds = _time_median(lambda: model(tokens))
    return BATCH * length / seconds, sum(parameter.nbytes for parameter in model.parameters())


def _time_median(function: Callable[[], object]) -> float:
    """Median CPU seconds of three calls, after one that warms up."""
    return statistics.median([_time_cpu(function) for _ in range(4)][1:])


def _time_cpu(function: Callable[[], object]) -> float:
    """CPU seconds of this process, which other processes on the same cores hardly change."""
    started = time.process_time()
    function()
    return time.process_time() - started


def write_search(folder: Path, folders: list[Path], options: argparse.Namespace) -> Path:
    """The file of a search over all vectors, on tasks of its own."""
    write_tasks(folder / "tasks", items=options.items + 4)
    for path in folders:
        write_tokenizer(path)
    values = {
        "base": str(folders[0]),
        "vectors": {path.name: {"model": str(path)} for path in folders[1:]},
        "merge": {"method": "task_arithmetic"},
        "evaluate": {
            "tasks": ["colours", "numbers"],
            "include_path": str(folder / "tasks"),
            "items": {"search": options.items, "select": 2, "test": 2},
            "batch_size": BATCH,
            "threads": 1,
        },
        "search": {"strategy": "random", "trials": options.trials, "top": 1, "batch": 1, "baselines": False},
    }
    (folder / "search.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder / "search.yaml"


def check(options: argparse.Namespace) -> Iterator[str]:
    """Lines of the table of planned and measured figures."""
    torch.set_num_threads(1)
    folder = options.folder / f"check-{options.parameters:g}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    places = options.folder / f"{options.vectors}-vectors"
    folders = make_models(places, options.parameters, options.vectors)
    smaller = make_models(places, options.parameters / 3, options.vectors)
    torch.set_num_threads(1)
    file = write_search(folder, folders, options)
    config = load_config(file)

    cli.main(["search", str(file), "-o", str(folder / "run")], standalone_mode=False)
    items = len(config.evaluate.tasks) * options.items if config.evaluate else 0
    positions = statistics.median(trial.tokens or 0 for trial in read_trials(folder / "run"))
    memory, merging = measure_memory(), measure_merge(smaller)
    score, weights = measure_scoring(folders[0], length=max(2, round(positions / items / 3)))
    stated = _state_machine(memory, merging, score, prompt_tokens=round(positions / items))
    plan = plan_scale(config, stated)

    yield (
        f"{describe_machine(1)} {plan.shape.parameters:,} parameters, {options.vectors} vectors, {items} items of "
        f"{positions / items:.0f} positions. Measured first: memory {memory:.2f} GB, merging "
        f"{merging:.2f} GB (of a smaller model) and scoring {score:,.0f} positions for a CPU second.\n"
    )
    yield "| what | planned | measured | measured / planned |\n|---|---|---|---|"
    for row in (*_compare_bytes(plan, folders, folder, weights), *_compare_seconds(plan, config, folders)):
        yield row.format_row()


def _state_machine(memory: float, merging: float, score: float, *, prompt_tokens: int) -> HardwareConfig:
    system = psutil.virtual_memory()
    return HardwareConfig.model_validate(
        {
            "gpus": 1,
            "gpu": {"memory_gb": system.total / GB},
            "host": {"gpus": 1, "memory_gb": system.available / GB, "memory_gb_s": memory, "merge_gb_s": merging},
            "disk": {"free_gb": psutil.disk_usage(".").free / GB, "gb_s": IN_CACHE_GB_S},
            "engine": {"device": "cpu", "dtype": "float32", "batch_tokens": 512},
            "speed": {"score": score, "bandwidth_share": 1},
            "work": {"prompt_tokens": prompt_tokens, "generated_tokens": 0, "requests": 3},
        }
    )


def _compare_bytes(plan: ScalePlan, folders: list[Path], folder: Path, weights: int) -> Iterator[Comparison]:
    """Files of models and of the run that was made, and the weights in the engine."""
    planned = {(each.phase, each.place, each.what): each.nbytes for each in plan.holdings}
    base, *others = (sum(Path(name).stat().st_size for name in weights_of([path])) for path in folders)
    yield Comparison("base on disk, bytes", planned["search", "disk", "base"], base)
    yield Comparison("models of the vectors, bytes", planned["search", "disk", "models of the vectors"], sum(others))
    yield Comparison("weights in the engine, bytes", planned["search", "gpu", "engine weights"], weights)

    run = folder / "run"
    once = ("requests.json", "split.json", "requests.safetensors")
    journal = (run / "trials.jsonl").stat().st_size + _sum_sizes(run / "items", "*.json", but=once)
    yield Comparison("journal and item scores, bytes", planned["search", "disk", "journal and item scores"], journal)
    kept = _sum_sizes(run / "items", "*.safetensors", but=once)
    yield Comparison("kept log-likelihoods, bytes", planned["search", "disk", "kept log-likelihoods"], kept)
    written = _sum_sizes(run / "model", "*.safetensors")
    yield Comparison("the merged model, bytes", planned["merge", "disk", "the merged model"], written)


def _compare_seconds(plan: ScalePlan, config: Config, folders: list[Path]) -> Iterator[Comparison]:
    """CPU seconds of the same steps that a search takes, one after another in this process."""
    assert config.evaluate is not None
    assert plan.placement is not None
    assert plan.point is not None
    seconds = {each.phase: each.seconds for each in plan.times}
    merger = Merger.build(open_pool(config), MergeRecipe.from_config(config.merge, for_search=True))
    prepared: list[PreparedVectors] = []
    drop_merged(merger)  # so that the files are in the cache
    prepare_s = _time_cpu(lambda: prepared.append(prepare_vectors(merger)))
    kept = sum(tensor.nbytes for tensors in prepared[0].kept.values() for tensor in tensors.values())
    yield Comparison("prepared vectors, bytes", plan.placement.prepared_bytes, kept)
    yield Comparison("prepare, CPU s", seconds["prepare"], prepare_s)

    suite = open_task_suite(config.evaluate)
    engine = suite.open_engine(merger.pool.frame, tokenizer_folder=folders[0], config=config.evaluate)
    weights = dict.fromkeys(merger.vectors, 0.1)

    def exchange() -> None:
        engine.load(prepared[0].stream_merged(weights, place=engine.place, threads=1), prepared[0].unchanged)

    yield Comparison("exchange of a point, CPU s", plan.point.swap_s, _time_median(exchange))
    scoring = _time_median(lambda: suite.evaluate(engine.lm, "search", keep=True))
    yield Comparison("scoring of a point, CPU s", plan.point.score_s, scoring)
    prepared.clear()
    engine.close()
    whole = open_merger(folders)
    merge_s = _time_median(lambda: drop_merged(whole))
    yield Comparison("merge, result dropped, CPU s", seconds["merge"], merge_s)


def _sum_sizes(folder: Path, pattern: str, *, but: Collection[str] = ()) -> int:
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.name not in but)


def tabulate() -> Iterator[str]:
    """The plans of `examples/scale` on 8 to 64 GPUs."""
    given = yaml.safe_load((EXAMPLES / "h200.yaml").read_text(encoding="utf-8"))
    for name in ("dense", "experts"):
        yield f"\n`{name}.yaml`:\n"
        yield f"| {' | '.join(COLUMNS)} |"
        yield "|---" * len(COLUMNS) + "|"
        for gpus in GPUS:
            hardware = HardwareConfig.model_validate(given | {"gpus": gpus})
            config = load_config(EXAMPLES / f"{name}.yaml")
            batch = config.search.model_copy(update={"batch": max(8, gpus)})
            yield _format_plan(plan_scale(config.model_copy(update={"search": batch}), hardware))

    yield from _tabulate_variants(given)
    yield from _tabulate_rivals(given)


def _tabulate_variants(given: Mapping[str, Any]) -> Iterator[str]:
    """Eight GPUs with other owners of the vectors, other slices, more memory."""
    yield "\nEight GPUs, other layouts:\n"
    yield "| file | hardware | prepared vectors | into each GPU, GB | from disk, GB | exchange, s | search, GPU h |"
    yield "|---|---|---|---|---|---|---|"
    for name, changes in VARIANTS:
        values = given | {key: given.get(key, {}) | own for key, own in changes.items()}
        plan = plan_scale(load_config(EXAMPLES / f"{name}.yaml"), HardwareConfig.model_validate(values))
        assert plan.placement is not None
        assert plan.point is not None
        placement = plan.placement
        told = "; ".join(f"`{key}.{own}: {value}`" for key, part in changes.items() for own, value in part.items())
        nbytes = placement.copies * placement.prepared_bytes / GB
        hours = next(time.gpu_hours for time in plan.times if time.phase == "search")
        yield (
            f"| {name} | {told or 'as it is'} | {nbytes:,.0f} GB, {placement.place} | "
            f"{placement.read_bytes / GB:,.0f} | {placement.disk_bytes / GB:,.0f} | {plan.point.swap_s:,.1f} | "
            f"{hours:,.1f} |"
        )


def _tabulate_rivals(given: Mapping[str, Any]) -> Iterator[str]:
    """GPU hours of deciding the ratios of a dense model: at speeds from arithmetic, and at the paper's pace."""
    config = load_config(EXAMPLES / "dense.yaml")
    pace = PAPER_DATASETS * 1e9 / (PAPER_MIXING_GPU_HOURS * 3600)
    slower = given | {"speed": {"train": pace}}
    derived, paced = (plan_scale(config, HardwareConfig.model_validate(values)).rivals for values in (given, slower))
    yield (
        f"\nOn eight GPUs, and at the paper's pace: {pace:,.0f} tokens/s a GPU (its {PAPER_MIXING_GPU_HOURS:,.1f} GPU "
        f"h, if of {PAPER_DATASETS} data sets) and {PAPER_SEARCH_GPU_HOURS:.1f} GPU h for the search:\n"
    )
    yield "| data sets | search, GPU h | one training, GPU h | ratio | training at the paper's pace, GPU h | ratio |"
    yield "|---|---|---|---|---|---|"
    for own, paper in zip(derived, paced, strict=True):
        yield (
            f"| {own.datasets} | {own.search:.1f} | {own.mixing:,.0f} | {own.ratio:.0f} | {paper.mixing:,.0f} | "
            f"{paper.mixing / PAPER_SEARCH_GPU_HOURS:.0f} |"
        )


def _format_plan(plan: ScalePlan) -> str:
    assert plan.layout is not None
    assert plan.point is not None
    times: Mapping[str, Any] = {time.phase: time for time in plan.times}
    point, after = plan.point, times["select"].gpu_hours + times["test"].gpu_hours
    missing = ", ".join(f"{t.phase}/{t.place} {t.nbytes / GB:,.0f} GB" for t in plan.totals if t.share > 1) or "-"
    return (
        f"| {plan.gpus} | {plan.layout.engines} x {plan.layout.gpus} | {point.swap_s:,.0f}, {point.score_s:,.0f}, "
        f"{point.generate_s:,.0f} | {times['prepare'].seconds / 3600:.2f} | {times['search'].seconds / 3600:.2f} | "
        f"{times['search'].gpu_hours:,.1f} | {after:,.1f} | {times['train'].seconds / 3600:.1f} | "
        f"{times['train'].gpu_hours:,.0f} | {plan.rivals[-1].ratio:.1f} | {missing} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where models and runs are made")
    parser.add_argument("--tables", action="store_true", help="of machines that are not here, alone")
    parser.add_argument("--parameters", type=float, default=0.1e9)
    parser.add_argument("--vectors", type=int, default=6)
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--items", type=int, default=12, help="search items of each of two tasks")
    options = parse_options(parser, lambda folder: {"folder": folder / "scale", **TINY})

    if not options.tables and options.folder is None:
        parser.error("--folder is missing: where shall the models be made?")
    if not options.tables:
        print("\n".join(check(options)), flush=True)
    if options.tables or options.tiny is not None:
        print("\n".join(tabulate()))


if __name__ == "__main__":
    main()
