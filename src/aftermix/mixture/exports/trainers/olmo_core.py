"""OLMo-core: `target_ratio` of each source, a share of the tokens, for its `SourceMixtureList`.

Sources are files of token numbers (`.npy`), cut into sequences of one length. Ratios add up to 1. A source that the
budget goes through more than `max_repetition_ratio` times (default 1) ends it with an error, and so does one without a
token. A source with a ratio of 0 is still given sequences, when a last batch is filled: domains without a share are
left out. A file that is shorter than a sequence gives nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import yaml

from aftermix.errors import MixtureError, Problem, join_place, refuse_if_any
from aftermix.mixture.exports.plan import (
    ExportDomain,
    Files,
    MixturePlan,
    describe_plan,
    format_comments,
    format_share,
    join_root,
)

SLACK = 1.01
"""Room for files that hold a little less than was counted, as by tokens of the start that they lack."""


def write_olmo_core(plan: MixturePlan) -> Files:
    """`sources.yaml`, which `SourceMixtureList.from_yaml` reads.

    Raises :class:`MixtureError` for a root, and :class:`ManyProblemsError` for names, that would be patterns.
    """
    if "*" in plan.root:
        raise MixtureError("--root", f"OLMo-core takes '*' of '{plan.root}' for a pattern", "Name a folder without it.")
    refuse_if_any(
        [
            Problem(join_place("mixture", domain.name), "OLMo-core takes '*' of the name for a pattern", "Rename it.")
            for domain in plan.domains
            if "*" in domain.name
        ]
    )
    sources = [_write_source(domain, plan.root) for domain in plan.domains]
    text = format_comments(_write_lines(plan))
    return {"sources.yaml": text + yaml.safe_dump({"sources": sources}, sort_keys=False, allow_unicode=True)}


def limit_repetition(epochs: float) -> float:
    """`max_repetition_ratio` that lets the budget have these epochs, rounded up; never below 1.

    >>> limit_repetition(0.4), limit_repetition(2.0)
    (1.01, 2.02)
    """
    return math.ceil(max(epochs, 1.0) * SLACK * 1e4 - 1e-6) / 1e4


def _write_source(domain: ExportDomain, root: str) -> dict[str, Any]:
    return {
        "source_name": domain.name,
        "target_ratio": float(format_share(domain.given.ratio)),
        "paths": [join_root(root, domain.name, "*.npy")],
        "max_repetition_ratio": limit_repetition(domain.given.epochs),
    }


def _write_lines(plan: MixturePlan) -> Iterator[str]:
    yield from describe_plan(plan)
    yield f"{join_root(plan.root, 'NAME', '*.npy')}: token numbers of the base's tokenizer, documents with their end."
    yield "SourceMixtureDatasetConfig(source_list=SourceMixtureList.from_yaml('sources.yaml'),"
    yield f"    requested_tokens={plan.budget_tokens} // BATCH * BATCH, global_batch_size=BATCH)"
    yield "BATCH is in tokens. Whole batches: what fills up a last one is shared evenly among files, not by ratio."
    if plan.sequence_tokens is not None:
        yield f"Sequences are of {plan.sequence_tokens:,} tokens; a shorter file gives nothing."
