"""The choice between plain batches and a prefix tree, made from lengths and shared beginnings before any tensor is.

The rule: requests are run on a tree where the model can be, no sequence passes a window of its attention, and the tree
computes clearly fewer positions. It is a function of the requests and the batch size alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from aftermix.evaluation.engines.batches import ScoringPlan, build_scoring_plan, count_plain_positions
from aftermix.evaluation.engines.prefix_tree import Pair, build_prefix_tree
from aftermix.evaluation.engines.tree_layout import lay_out_tree
from aftermix.evaluation.engines.tree_plan import TreePlan, pack_tree_plan
from aftermix.evaluation.engines.vllm.plans import SequencePlan

MOST_POSITIONS = 0.65
"""Part of the positions of plain batches that a tree may have: in small models a masked position takes up to 1.4 times
as long as a plain one (`benchmarks/evaluate_cases.py`), and a tree is to be slower in no case."""


RequestPlan = ScoringPlan | TreePlan | SequencePlan


@dataclass(frozen=True)
class ChosenPlan:
    """The plan that requests are run by, and what is to be known of the other one."""

    plan: RequestPlan
    plain_positions: int
    """Positions that plain batches compute."""
    reason: str = ""
    """Words on why the beginnings of the requests are not run once; empty where they are."""


def choose_plan(
    pairs: Sequence[Pair],
    *,
    batch_size: int,
    max_length: int,
    device: torch.device,
    reason: str | None = None,
    window: int | None = None,
) -> ChosenPlan:
    """Plan `pairs` on a tree or in plain batches; the tensors of the other are never made.

    `reason` says why the model can be run on no tree, if so; `window` is the length up to which a mask means the same
    in all its layers.
    """

    def choose_plain(why: str) -> ChosenPlan:
        plain = build_scoring_plan(pairs, batch_size=batch_size, max_length=max_length, device=device)
        return ChosenPlan(plain, plain.positions, why)

    if reason is not None or len(pairs) < 2:
        return choose_plain(reason or "there is one request")
    tree = build_prefix_tree(pairs, max_length=max_length)
    if window is not None and tree.depth > window:
        return choose_plain(f"{tree.depth:,} tokens pass a window of attention of {window:,}")

    # A tree that has too many nodes needs no rows to be found too large.
    plain_positions = count_plain_positions(pairs, batch_size=batch_size, max_length=max_length)
    most = MOST_POSITIONS * plain_positions
    layout = lay_out_tree(tree, batch_size=batch_size) if len(tree) <= most else None
    positions = layout.count_positions() if layout is not None else len(tree)
    if layout is None or positions > most:
        return choose_plain(f"{positions:,} positions instead of {plain_positions:,} would save too little")
    return ChosenPlan(pack_tree_plan(tree, layout, requests=len(pairs), device=device), plain_positions)


def describe_choices(chosen: Mapping[str, ChosenPlan]) -> str:
    """One line on positions as planned and without shared beginnings, and on the tasks that share none."""
    told = "; ".join(f"{task}: {choice.reason}" for task, choice in chosen.items() if choice.reason)
    if all(choice.reason for choice in chosen.values()):
        return f"no beginnings are shared ({told})" if chosen else ""

    planned = sum(choice.plan.positions for choice in chosen.values())
    plain = sum(choice.plain_positions for choice in chosen.values())
    line = f"beginnings run once: {planned:,} positions a search evaluation, {plain:,} without"
    return f"{line} (not shared in {told})" if told else line
