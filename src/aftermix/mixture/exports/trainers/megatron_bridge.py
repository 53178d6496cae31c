"""NeMo's Megatron-Bridge: `dataset.blend`, prefixes and weights, for the configuration of a pretraining recipe.

Samples are of one length, so weights are ratios of tokens. A weight of 0 ends Megatron with an assertion, so domains
without a share are left out. A data set that the blend draws on more often than it has samples is gone through again,
without a cap of its own. `blend` stands before `data_path` there, and cannot stand beside `blend_per_split`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from aftermix.mixture.exports.megatron import describe_prefixes, list_blend
from aftermix.mixture.exports.plan import Files, MixturePlan, describe_plan, format_comments


def write_megatron_bridge(plan: MixturePlan) -> Files:
    """`mixture.yaml`: the part `dataset` of a configuration, with `seq_length` where the plan has one."""
    blend = list_blend(plan)
    dataset: dict[str, Any] = {"blend": [[prefix for _, prefix in blend], [float(weight) for weight, _ in blend]]}
    if plan.sequence_tokens is not None:
        dataset["seq_length"] = plan.sequence_tokens

    head = format_comments(_write_lines(plan))
    return {"mixture.yaml": head + yaml.safe_dump({"dataset": dataset}, sort_keys=False, allow_unicode=True)}


def _write_lines(plan: MixturePlan) -> Iterator[str]:
    yield from describe_plan(plan)
    yield from describe_prefixes(plan)
    if plan.sequence_tokens is not None:
        samples = round(plan.budget_tokens / plan.sequence_tokens)
        yield f"The budget is {samples:,} samples: train.train_iters = {samples} / train.global_batch_size."
    yield "Leave dataset.blend_per_split empty; dataset.split says what of each prefix is trained on."
