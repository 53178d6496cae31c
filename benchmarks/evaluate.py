"""Positions and seconds of an evaluation with shared beginnings run once, against one sequence a request.

    python benchmarks/evaluate.py --models demo random-300M --items 100 --rounds 3

A multiple-choice task of the demo: zero-shot, with five examples that all items share (as MMLU's), and with five drawn
for each item. B is the number of nodes of the prefix tree of all requests, the least that can be computed; positions
are counted by a hook on the embedding, padding and whatever is computed twice included. Both ways score the same
requests in one process, in changing order. Seconds of the process's CPU time, of one thread, hardly depend on what else
runs. The last column is of the same contexts as prompts of generated answers, each run by itself: their positions,
padding included, over the nodes of their tree.

With `--memory`, a process for each way scores once and tells the most memory it held since its model was loaded.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from lm_eval.api.instance import Instance
from measure import machine
from tiny import parse_options

from aftermix.config import EvaluateConfig
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.engines.prefix_tree import build_prefix_tree
from aftermix.evaluation.harness import TaskSuite

DEMO = Path(__file__).resolve().parents[1] / "examples" / "demo"
TASK = "continue_math"
SHOTS = {
    "zero-shot": {},
    "5 fixed": {"num_fewshot": 5, "fewshot_config": {"sampler": "first_n"}},
    "5 drawn": {"num_fewshot": 5},
}
LARGE: dict[str, dict[str, Any]] = {
    "random-300M": {
        "vocab_size": 4096,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    # The shape of SmolLM2-135M, whose head is a fifth of it.
    "random-135M": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
}
"""Models of random weights, by name."""


@dataclass(frozen=True)
class Figures:
    """Both ways over one set of requests."""

    bound: int
    tree_positions: int
    plain_positions: int
    tree_s: float
    plain_s: float
    difference: float
    """Largest difference of a log-likelihood, in nats."""
    prompts: float
    """Positions of the contexts as prompts of generated answers, over the nodes of their tree."""


def write_tasks(folder: Path) -> None:
    """The task of the demo under each way of showing examples."""
    shutil.copytree(DEMO / "tasks", folder, dirs_exist_ok=True)
    task = yaml.safe_load((folder / f"{TASK}.yaml").read_text(encoding="utf-8"))
    for name, options in SHOTS.items():
        own = {**task, "task": name_task(name), **options}
        (folder / f"{own['task']}.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")


def name_task(shots: str) -> str:
    return f"math_{shots.replace(' ', '_').replace('-', '_')}"


def find_model(name: str, folder: Path) -> Path:
    """The folder of a model by its name: `demo`, one of `LARGE`, or a folder's own."""
    if name == "demo":
        return DEMO / "base"
    if name not in LARGE:
        return Path(name)

    from transformers import LlamaConfig, LlamaForCausalLM

    if not (folder / name).is_dir():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**LARGE[name])).save_pretrained(folder / name)
        for file in (DEMO / "base").glob("tokenizer*"):
            shutil.copy(file, folder / name)
    return folder / name


def open_case(model: Path, shots: str, tasks: Path, *, items: int, batch_size: int) -> tuple[Any, list[Any]]:
    """The live model and the requests of `items` items."""
    config = EvaluateConfig.model_validate(
        {
            "tasks": [name_task(shots)],
            "include_path": str(tasks),
            "items": {"search": items, "select": 1, "test": 1},
            "batch_size": batch_size,
            "device": "cpu",
            "max_length": 1024,
            "threads": torch.get_num_threads(),
        }
    )
    suite = TaskSuite.build(config)
    engine = HuggingFaceEngine.open(model, tokenizer_folder=model, config=config)
    return engine.lm, next(iter(suite.list_requests("search", engine.lm).values()))


def measure_case(model: Path, shots: str, tasks: Path, *, items: int, rounds: int, batch_size: int) -> Figures:
    """Score `items` items both ways, in turn."""
    lm, requests = open_case(model, shots, tasks, items=items, batch_size=batch_size)
    scorers = {"tree": _prepare(lm, requests, trees=True), "plain": _prepare(lm, requests, trees=False)}
    positions: dict[str, int] = {}
    answers: dict[str, list[Any]] = {}
    seconds: dict[str, list[float]] = {"tree": [], "plain": []}
    for number in range(rounds + 1):
        for way in list(scorers)[:: 1 if number % 2 else -1]:
            started = time.process_time()
            positions[way], answers[way] = _count_positions(lm, scorers[way])
            if number:  # the first is for warming up
                seconds[way].append(time.process_time() - started)

    differences = [abs(a - b) for (a, _), (b, _) in zip(answers["tree"], answers["plain"], strict=True)]
    bound = lm.count_request_tokens(requests)
    tree_s, plain_s = (statistics.median(seconds[way]) for way in ("tree", "plain"))
    prompts = compare_prompts(lm, requests)
    return Figures(bound, positions["tree"], positions["plain"], tree_s, plain_s, max(differences), prompts)


def compare_prompts(lm: Any, requests: list[Any]) -> float:
    """Positions of the contexts of `requests` as prompts, as they are run, over the distinct beginnings of them."""
    contexts = dict.fromkeys(request.args[0] for request in requests)
    asked = [Instance("generate_until", {}, (text, {"until": [], "max_gen_toks": 8}), 0) for text in contexts]
    batches = lm.find_generation_plan(asked).batches
    rows = [
        tokens[mask.bool()].tolist()
        for batch in batches
        for tokens, mask in zip(batch.tokens_BT, batch.mask_BT, strict=True)
    ]
    tree = build_prefix_tree([(row, [0]) for row in rows], max_length=lm.max_length)
    return sum(batch.tokens_BT.numel() for batch in batches) / len(tree)


def measure_peak(model: Path, shots: str, tasks: Path, *, items: int, batch_size: int, trees: bool) -> float:
    """MB of memory that this process held at most while it planned and scored once; Linux alone tells it."""
    lm, requests = open_case(model, shots, tasks, items=items, batch_size=batch_size)
    lm.reason_against_trees  # noqa: B018 - its probe is not measured
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is that from here on
    _prepare(lm, requests, trees=trees)()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _run_peak(way: str, name: str, shots: str, options: argparse.Namespace) -> float:
    """:func:`measure_peak` in a process of its own."""
    words = ["--peak", way, shots, "--models", name, "--folder", str(options.folder), "--items", str(options.items)]
    words += ["--batch-size", str(options.batch_size), "--threads", str(options.threads)]
    command = [sys.executable, __file__, *words]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def _prepare(lm: Any, requests: list[Any], *, trees: bool) -> Callable[[], list[Any]]:
    """A plan of its own for these requests, made before anything is timed."""
    known = lm.reason_against_trees
    lm.reason_against_trees = known if trees else "measured without"
    plan = lm._plan_pairs([lm.tokenise_pair(*request.args) for request in requests], batch_size=lm.batch_size).plan
    lm.reason_against_trees = known
    return lambda: list(lm._score_plan(plan))


def _count_positions(lm: Any, score: Callable[[], list[Any]]) -> tuple[int, list[Any]]:
    counts: list[int] = []
    hook = lm.model.get_input_embeddings().register_forward_hook(lambda _, tokens, __: counts.append(tokens[0].numel()))
    try:
        answers = score()
    finally:
        hook.remove()
    return sum(counts), answers


def print_table(options: argparse.Namespace, tasks: Path) -> None:
    """Measure each model with each way of showing examples, a row each."""
    print(
        "| model | examples | B | positions / B | plain positions / B | s | plain s | time / positions | difference |"
        + " prompts / B |"
        + (" peak MB | plain MB |" if options.memory else "")
    )
    print("|---|---|---|---|---|---|---|---|---|---|" + ("---|---|" if options.memory else ""))
    for name in options.models:
        for shots in options.shots:
            found = measure_case(
                find_model(name, options.folder),
                shots,
                tasks,
                items=options.items,
                rounds=options.rounds,
                batch_size=options.batch_size,
            )
            tree, plain = found.tree_positions / found.bound, found.plain_positions / found.bound
            speed = (found.tree_s / found.plain_s) / (found.tree_positions / found.plain_positions)
            print(
                f"| {Path(name).name} | {shots} | {found.bound:,} | {tree:.3f} | {plain:.2f} | {found.tree_s:.2f} | "
                f"{found.plain_s:.2f} | {speed:.2f} | {found.difference:.1e} | {found.prompts:.2f} |",
                *(f" {_run_peak(way, name, shots, options):,.0f} |" for way in ("tree", "plain") if options.memory),
                sep="",
                flush=True,
            )


def main() -> None:
    """Print a row for each model and way of showing examples."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ", ".join(LARGE)
    parser.add_argument("--models", nargs="+", default=["demo"], help=f"demo, {names} or folders (default: demo)")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for tasks and made models")
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shots", nargs="+", choices=SHOTS, default=list(SHOTS), help="examples (default: all)")
    parser.add_argument("--memory", action="store_true", help="also the peak of memory, in processes of their own")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parse_options(parser, lambda folder: {"items": 4, "rounds": 1, "batch_size": 4, "folder": folder})

    torch.set_num_threads(options.threads)
    tasks = options.folder / "evaluate-tasks"
    write_tasks(tasks)
    if options.peak is not None:
        way, shots = options.peak
        model, given = find_model(options.models[0], options.folder), {"batch_size": options.batch_size}
        print(measure_peak(model, shots, tasks, items=options.items, trees=way == "tree", **given))
        return

    print(f"{machine()}, {options.threads} threads, {options.items} items, batch size {options.batch_size}\n")
    print_table(options, tasks)


if __name__ == "__main__":
    main()
