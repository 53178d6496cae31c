"""MosaicML streaming (and LLM-Foundry): `proportion` of each stream, per sample, with the size of an epoch.

`proportion` is relative and must stand at every stream; `repeat` and `choose` are absolute and cannot stand beside it.
A stream that is drawn on more often than it has samples is gone through again.
"""

from __future__ import annotations

from typing import Any

import yaml

from aftermix.mixture.exports.plan import Files, MixturePlan, describe_plan, format_comments, format_share


def write_streaming(plan: MixturePlan) -> Files:
    """`streams.yaml`: `streams` by name and `epoch_size`, as `StreamingDataset` and LLM-Foundry take them.

    A sample is an example, or `sequence_tokens` tokens where the data was cut into sequences: then proportions are
    ratios of tokens.
    """
    if plan.sequence_tokens is None:
        shares, samples, unit = plan.draws, plan.examples, "one example of the data"
    else:
        shares = {domain.name: domain.given.ratio for domain in plan.domains}
        samples = max(round(plan.budget_tokens / plan.sequence_tokens), 1)
        unit = f"a sequence of {plan.sequence_tokens} tokens"
    streams: dict[str, Any] = {
        name: {"local": f"{plan.root}/{name}", "proportion": float(format_share(share))}
        for name, share in shares.items()
    }
    head = format_comments(describe_plan(plan)) + f"# A sample of a stream (MDS) must be {unit}.\n"
    values = {"epoch_size": samples, "streams": streams}
    return {"streams.yaml": head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}
