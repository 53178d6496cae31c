"""Table 11: what calibration, selection and merging take, against TIES: `python -m studies.obim.cost`.

On three experts of the world, and on three of a larger model of random numbers, whose values do not change the cost.
Medians over rounds; methods take turns within a round.
"""

from __future__ import annotations

import copy
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from benchmarks.measure import machine
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from aftermix.checkpoints.pool import open_pool
from aftermix.config import CalibrateConfig, CalibrationConfig, Config, MergeConfig, VectorConfig
from aftermix.files import write_json
from aftermix.jobs.calibrate.command import calibrate
from aftermix.jobs.merge.command import merge
from aftermix.jobs.merge.statistics import open_merger
from aftermix.merging.blocks import run_in_order, start_threads
from aftermix.merging.recipe import MergeRecipe
from studies.obim.case import distinct_experts, parse_arguments
from studies.obim.page import write_page
from studies.world.layout import World

METHODS = ("ties", "ties_im", "ties_obm", "obim")
WIDTH, LAYERS, HEADS = 1024, 8, 16
TINY_WIDTH, TINY_LAYERS, TINY_HEADS = 32, 1, 2
DISTANCE = 0.003


@dataclass(frozen=True)
class Subject:
    """Models that are merged, and how much they read."""

    base: Path
    experts: Mapping[str, Path]
    texts: Mapping[str, Path]
    samples: int
    rounds: int
    context: int

    @property
    def parameters(self) -> int:
        """Entries of one model."""
        pool = open_pool(self.config({}))
        return sum(info.elements for info in pool.layout)

    def config(self, merge_section: dict[str, object]) -> Config:
        """A file that merges the experts, every tensor of them."""
        vectors = {
            name: VectorConfig(model=str(path), calibration=CalibrationConfig(data=str(self.texts[name])))
            for name, path in self.experts.items()
        }
        return Config(
            base=str(self.base),
            vectors=vectors,
            merge=MergeConfig.model_validate({"exclude": (), **merge_section}),
            calibrate=CalibrateConfig(samples=self.samples, context=self.context, long_texts="cut"),
        )


def measured(subject: Subject, scratch: Path) -> Iterator[dict[str, object]]:
    """One row a method: seconds of selection and of a whole merge to disk; a first row of calibration."""
    folder = scratch / "statistics"
    calibration_s = _timed(lambda: calibrate(subject.config({}), folder))
    calibrated = subject.samples * len(subject.experts)
    size = f"{subject.parameters / 1e6:.1f} M"
    density = 1 / len(subject.experts)
    seconds: dict[str, dict[str, list[float]]] = {name: {"select": [], "merge": []} for name in METHODS}
    for number in range(subject.rounds):
        for name in METHODS if number % 2 else reversed(METHODS):
            needed = {"statistics": str(folder)} if name in ("ties_obm", "obim") else {}
            config = subject.config({"method": name, "density": density, **needed})
            seconds[name]["select"].append(_timed(partial(select, config)))
            seconds[name]["merge"].append(_timed(partial(merge, config, scratch / "merged")))
            shutil.rmtree(scratch / "merged")
    yield {"size": size, "method": "calibrate", "seconds a sample": calibration_s / calibrated}
    for name, by_phase in seconds.items():
        yield {"size": size, "method": name, **{phase: statistics.median(taken) for phase, taken in by_phase.items()}}


def select(config: Config) -> None:
    """What is looked at before anything is merged: scores, thresholds and whose each entry is."""
    merger = open_merger(config, open_pool(config), MergeRecipe.from_config(config.merge, vectors=config.vectors))
    surveys = ((info, group) for info in merger.pool.layout for group in merger.group_surveys(merger.vectors))
    threads = torch.get_num_threads()
    with start_threads(threads) as pool:
        for _ in run_in_order(pool, lambda survey: merger.build_pruners(*survey), surveys, threads=threads):
            pass


def random_models(world: World, folder: Path, experts: int = 3) -> list[Path]:
    """A base of random numbers with the world's tokens, and experts at a small distance; bfloat16."""
    tokenizer = AutoTokenizer.from_pretrained(world.base)
    width = world.pick(WIDTH, tiny=TINY_WIDTH)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=11 * width // 4,
        num_hidden_layers=world.pick(LAYERS, tiny=TINY_LAYERS),
        num_attention_heads=world.pick(HEADS, tiny=TINY_HEADS),
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    folders = [folder / "base", *(folder / f"expert-{number}" for number in range(1, experts + 1))]
    for number, path in enumerate(folders):
        noise = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                moved = torch.randn(parameter.shape, generator=noise) * DISTANCE if number else 0.0
                parameter.copy_(start[name] + moved)
        copy.deepcopy(model).bfloat16().save_pretrained(path)
        tokenizer.save_pretrained(path)
    return folders


def main() -> None:
    """Measure, write the results and the page."""
    options = parse_arguments(__doc__)
    torch.set_num_threads(options.threads)
    world = World.open(options.world.resolve())
    case = distinct_experts(world, options.seed[0])
    texts = {name: world.training_text(name) for name in case.models}
    samples, rounds = (10, 2) if options.quick else (100, 9)
    larger_samples, larger_rounds = world.pick((10, 5), tiny=(2, 1))
    subjects = [Subject(Path(world.base), case.models, texts, samples, rounds, world.context)]
    with tempfile.TemporaryDirectory(prefix="obim-cost-") as folder:
        scratch = Path(folder)
        if not options.quick or world.tiny:
            base, *experts = random_models(world, scratch)
            models = {path.name: path for path in experts}
            theirs = dict(zip(models, texts.values(), strict=True))
            subjects.append(Subject(base, models, theirs, larger_samples, larger_rounds, world.context))
        rows: list[dict[str, object]] = []
        for number, subject in enumerate(subjects):
            rows += measured(subject, scratch / str(number))
    command = f"python -m studies.obim.cost{' --quick' if options.quick else ''} --threads {options.threads}"
    values = {"command": command, "machine": machine(), "threads": options.threads, "rows": rows}
    options.results.mkdir(parents=True, exist_ok=True)
    write_json(options.results / "cost.json", values)
    write_page(options.results)


def _timed(work: Callable[[], object]) -> float:
    started = perf_counter()
    work()
    return perf_counter() - started


if __name__ == "__main__":
    main()
