"""The vLLM engine beside the Hugging Face engine: an exchange, an evaluation, and how far their answers are apart.

    python benchmarks/vllm_engine.py --models demo random-100M --items 40 --rounds 3

It is run in the environment of vLLM; elsewhere only the Hugging Face engine is measured. For each model two experts are
made by noise, merged at three points in turn. The tasks are the demo's multiple choice and the same contexts continued
by 32 tokens. An exchange is the merge, the weights put into the live model and, with vLLM, the check of eight fixed
items. Then come seconds of one evaluation of both tasks, the largest difference of a log-likelihood of a choice, of an
item in the check, and the answers that are the same text.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from measure import machine
from tiny import parse_options

from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config
from aftermix.evaluation.suites.harness_suite import HarnessSuite
from aftermix.jobs.evaluator import ModelEvaluator
from aftermix.jobs.merge.statistics import open_merger
from aftermix.jobs.orders.opened import OpenedMerges, OpeningPlan
from aftermix.jobs.orders.order import PointOrder
from aftermix.merging.prepared import prepare_vectors
from aftermix.merging.recipe import MergeRecipe
from aftermix.runs.trials import ItemMeasurement, Point

DEMO = Path(__file__).resolve().parents[1] / "examples" / "demo"
TASK = "continue_math"
SHAPES: dict[str, dict[str, int]] = {
    "random-100M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12},
}
POINTS = [Point({"a": 0.3, "b": 0.6}), Point({"a": 0.8, "b": 0.1}), Point({"a": 0.5, "b": 0.5})]
NOISE = 0.01
CONTINUED = """
task: continued
dataset_path: json
dataset_kwargs: {data_files: {test: continue_math.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "Continue: {{context}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["Continue:"], do_sample: false, max_gen_toks: 32}
metric_list:
  - metric: exact_match
"""


@dataclass
class EngineFigures:
    """What one engine took, and its answers at every point."""

    start_s: float
    exchange_s: list[float] = field(default_factory=list)
    evaluate_s: list[float] = field(default_factory=list)
    answers: dict[str, ItemMeasurement] = field(default_factory=dict)
    check: float | None = None
    """Largest difference of a fixed item, in nats a token."""


def make_models(name: str, folder: Path) -> dict[str, Path]:
    """Folders of the base called `name` and of experts a and b."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    home = folder / f"vllm-{name}"
    torch.manual_seed(0)
    if not (home / "base").is_dir():
        shape = SHAPES.get(name)
        config = LlamaConfig(vocab_size=4096, tie_word_embeddings=True, max_position_embeddings=512, **(shape or {}))
        base = LlamaForCausalLM(config) if shape else AutoModelForCausalLM.from_pretrained(DEMO / "base")
        base.float().save_pretrained(home / "base")
        for vector in ("a", "b"):
            expert = AutoModelForCausalLM.from_pretrained(home / "base")
            with torch.no_grad():
                for parameter in expert.parameters():
                    parameter.add_(torch.randn_like(parameter) * NOISE)
            expert.save_pretrained(home / vector)
        for each in ("base", "a", "b"):
            for file in (DEMO / "base").glob("tokenizer*"):
                shutil.copy(file, home / each)
    return {each: home / each for each in ("base", "a", "b")}


def write_tasks(folder: Path) -> Path:
    """The demo's task, and its contexts continued."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("yaml", "jsonl"):
        shutil.copy(DEMO / "tasks" / f"{TASK}.{suffix}", folder)
    (folder / "continued.yaml").write_text(yaml.safe_dump(yaml.safe_load(CONTINUED)), encoding="utf-8")
    return folder


def describe(models: dict[str, Path], tasks: Path, *, engine: str, items: int) -> Config:
    """The file of one engine."""
    values: dict[str, Any] = {
        "base": str(models["base"]),
        "vectors": {name: {"model": str(models[name])} for name in ("a", "b")},
        "merge": {"method": "task_arithmetic", "exclude": []},
        "evaluate": {
            "tasks": [TASK, "continued"],
            "include_path": str(tasks),
            "items": {"search": items, "select": 1, "test": 1},
            "engine": engine,
            "device": "cpu",
            "max_length": 512,
        },
    }
    return Config.model_validate(values)


def measure_engine(config: Config, *, rounds: int) -> EngineFigures:
    """Open one engine, and measure every point in turn; the first round is not counted."""
    assert config.evaluate is not None
    suite, pool = HarnessSuite.build(config.evaluate), open_pool(config)
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)
    merger = open_merger(config, pool, recipe)

    started = time.perf_counter()
    prepared = prepare_vectors(merger) if config.evaluate.engine == "hf" else None
    opening = OpeningPlan(config, prepares=True)
    evaluator = ModelEvaluator.open(pool, config.evaluate, suite, keeps_answers=True, opening=opening)
    evaluator.rehearse(config.evaluate)
    figures, merges = EngineFigures(time.perf_counter() - started), OpenedMerges(config, merger, prepared)
    for number in range(rounds + 1):
        for point in POINTS:
            measured = evaluator.measure(PointOrder(point), merges, "search")
            if number:
                figures.exchange_s.append(measured.seconds["combine"])
                figures.evaluate_s.append(measured.seconds["evaluate"])
            figures.answers[str(point.weights)] = measured
    figures.check = max(getattr(evaluator.engine, "differences", []), default=None)
    evaluator.engine.close()
    return figures


def compare_answers(ours: EngineFigures, theirs: EngineFigures) -> tuple[float, int, int, int]:
    """Largest difference of a log-likelihood, choices that score alike, texts that are alike, and texts."""
    largest, alike, same, texts = 0.0, 0, 0, 0
    for key, measured in ours.answers.items():
        other = theirs.answers[key]
        assert measured.answers is not None
        assert other.answers is not None
        mine, its = measured.answers[TASK].loglikelihood, other.answers[TASK].loglikelihood
        largest = max(largest, float(np.abs(mine - its).max()))
        alike += sum(a == b for a, b in zip(measured.items[TASK], other.items[TASK], strict=True))
        pairs = list(zip(measured.answers["continued"].generated, other.answers["continued"].generated, strict=True))
        same, texts = same + sum(a == b for a, b in pairs), texts + len(pairs)
    return largest, alike, same, texts


def print_rows(name: str, figures: dict[str, EngineFigures]) -> None:
    """A row for each engine."""
    for engine, found in figures.items():
        exchange, evaluate = (statistics.median(each) for each in (found.exchange_s, found.evaluate_s))
        row = f"| {name} | {engine} | {found.start_s:.1f} | {exchange:.3f} | {evaluate:.2f} |"
        if engine == "hf":
            print(row + " - | - | - | - |", flush=True)
            continue
        largest, alike, same, texts = compare_answers(found, figures["hf"])
        print(row + f" {largest:.1e} | {found.check:.1e} | {alike} of {texts} | {same} of {texts} |", flush=True)


def main() -> None:
    """Print a row for each model and engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["demo"], help="demo, random-100M (default: demo)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for tasks and made models")
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="+", choices=("hf", "vllm"), default=["hf", "vllm"])
    options = parse_options(parser, lambda folder: {"items": 3, "rounds": 1, "folder": folder, "engines": ["hf"]})

    engines = [each for each in options.engines if each == "hf" or find_spec("vllm") is not None]
    if "vllm" not in engines:
        print("vLLM is not measured: it is not installed here, or was not asked for\n")
    tasks = write_tasks(options.folder / "vllm-tasks")
    print(f"{machine()}, {options.items} items a task\n")
    print("| model | engine | start s | exchange s | evaluation s | difference | in the check | scores | texts |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.models:
        models = make_models(name, options.folder)
        configs = {engine: describe(models, tasks, engine=engine, items=options.items) for engine in engines}
        print_rows(name, {engine: measure_engine(each, rounds=options.rounds) for engine, each in configs.items()})


if __name__ == "__main__":
    main()
