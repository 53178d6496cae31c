"""Seconds of both ways to score requests, and the way that is taken, where sharing beginnings could cost more.

    python benchmarks/evaluate_cases.py --rounds 7

Requests of made-up tokens: some share nothing, some have contexts of two tokens, some are as long as the model allows;
one item, one sequence a batch, and the edge at which a tree is taken. CPU seconds of one thread, both ways in one
process in changing order, medians; what is taken costs the plain seconds where the plan is the plain one.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import machine
from tiny import parse_options

from aftermix.config import EvaluateConfig
from aftermix.evaluation.engines.batches import build_scoring_plan
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.engines.plan_choice import choose_plan
from aftermix.evaluation.engines.prefix_tree import Pair
from aftermix.evaluation.engines.tree_plan import TreePlan, build_tree_plan

BASE = Path(__file__).resolve().parents[1] / "examples" / "demo" / "base"
LENGTH = 512
TOKENS = 4000


@dataclass(frozen=True)
class RequestCase:
    """A kind of requests."""

    name: str
    items: int
    choices: int
    context: int
    """Tokens of an item that its choices share."""
    answer: int = 3
    shared: int = 1
    """Tokens that all items share."""
    batch_size: int = 16

    def build_pairs(self, *, items: int) -> list[Pair]:
        """Its requests, at most `items` items of them."""
        draw = random.Random(0)  # noqa: S311 - made-up tokens

        def take(count: int) -> list[int]:
            return [draw.randrange(10, TOKENS) for _ in range(count)]

        start = take(self.shared)
        contexts = [[*start, *take(self.context)] for _ in range(min(items, self.items))]
        return [(context, take(self.answer)) for context in contexts for _ in range(self.choices)]


CASES = (
    RequestCase("nothing shared", 120, 1, 40, shared=0),
    RequestCase("little shared", 120, 1, 40, shared=8),
    RequestCase("at the edge", 120, 1, 40, shared=12),
    RequestCase("past the edge", 120, 1, 40, shared=16),
    RequestCase("two choices, long answers", 60, 2, 20, answer=20),
    RequestCase("two choices, longer answers", 60, 2, 20, answer=30),
    RequestCase("contexts of two tokens", 200, 4, 2, answer=1),
    RequestCase("contexts of two tokens, answers of three", 200, 4, 2),
    RequestCase("one item", 1, 4, 40),
    RequestCase("one item of two tokens", 1, 2, 2, answer=1),
    RequestCase("one sequence a batch, shared examples", 40, 4, 30, shared=200, batch_size=1),
    RequestCase("one sequence a batch, short", 60, 4, 20, batch_size=1),
    RequestCase("one sequence a batch, fewer shared", 60, 1, 40, shared=16, batch_size=1),
    RequestCase("two sequences a batch", 60, 4, 20, batch_size=2),
    RequestCase("as long as the window", 12, 4, 500),
    RequestCase("as long as the window, two choices", 12, 2, 500),
    RequestCase("as long as the window, long answers", 12, 2, 300, answer=200),
    RequestCase("as long as the window, longer answers", 12, 2, 230, answer=270),
    RequestCase("as long as the window, little shared", 24, 1, 300, shared=200),
    RequestCase("as long as the window, examples shared", 24, 1, 260, shared=240),
    RequestCase("past the window", 8, 4, 600),
)


@dataclass(frozen=True)
class CaseCosts:
    """Both ways over one case."""

    takes_tree: bool
    positions: float
    """Of the tree, over those of plain batches."""
    ratio: float
    """CPU seconds of the tree over those of plain batches, median over rounds."""


def measure_case(lm: Any, case: RequestCase, *, items: int, rounds: int) -> CaseCosts:
    """Score the requests of `case` both ways, in turn."""
    pairs = case.build_pairs(items=items)
    options: dict[str, Any] = {"batch_size": case.batch_size, "max_length": LENGTH, "device": lm.device}
    chosen = choose_plan(pairs, **options)
    plans = {"tree": build_tree_plan(pairs, **options), "plain": build_scoring_plan(pairs, **options)}

    seconds: list[dict[str, float]] = []
    for number in range(rounds + 1):
        taken = {way: _time_plan(lm, plans[way]) for way in list(plans)[:: 1 if number % 2 else -1]}
        seconds += [taken] if number else []  # the first is for warming up

    ratio = statistics.median(each["tree"] / each["plain"] for each in seconds)
    return CaseCosts(isinstance(chosen.plan, TreePlan), plans["tree"].positions / plans["plain"].positions, ratio)


def _time_plan(lm: Any, plan: Any) -> float:
    """CPU seconds of one pass, over as many as take a twentieth of a second."""
    started, runs = time.process_time(), 0
    while not runs or time.process_time() - started < 0.05:
        lm._score_plan(plan)
        runs += 1
    return (time.process_time() - started) / runs


def print_table(lm: Any, cases: Sequence[RequestCase], *, items: int, rounds: int) -> None:
    """Print a row for each case."""
    print("| requests | batch size | positions, tree / plain | seconds, tree / plain | taken | taken / plain |")
    print("|---|---|---|---|---|---|")
    for case in cases:
        costs = measure_case(lm, case, items=items, rounds=rounds)
        taken = f"tree | {costs.ratio:.2f}" if costs.takes_tree else "plain | 1.00"
        print(f"| {case.name} | {case.batch_size} | {costs.positions:.2f} | {costs.ratio:.2f} | {taken} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=BASE, help="a folder (default: the demo's base)")
    parser.add_argument("--items", type=int, default=1000, help="most items of a case")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", help="parts of names of cases (default: all)")
    options = parse_options(parser, lambda _: {"items": 3, "rounds": 1})

    torch.set_num_threads(1)
    values = {"tasks": ["unused"], "device": "cpu", "max_length": LENGTH, "threads": 1}
    config = EvaluateConfig.model_validate(values)
    lm = HuggingFaceEngine.open(options.model, tokenizer_folder=options.model, config=config).lm
    print(f"{machine()}, 1 thread, {options.model.name}\n")
    wanted = [case for case in CASES if not options.cases or any(part in case.name for part in options.cases)]
    print_table(lm, wanted, items=options.items, rounds=options.rounds)


if __name__ == "__main__":
    main()
