"""TRL: `fraction`, the share of the rows of a mixture, for `DatasetMixtureConfig` in the YAML of its command line.

TRL scales fractions to a sum of 1 and takes the *first* rows of each data set, as many as repeat none. So the rows are
counted here by the tokens of the first rows, not by the mean, and the budget is met by the number of epochs.

It loads the files of a domain as one table, keeps the columns that are named, and joins the tables of all domains. A
file by itself comes out as it is, whatever its messages hold; of several, messages need the same keys everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from aftermix.mixture.exports.domain_data import (
    ARGUMENTS_AS_TEXT,
    JSON_AS_TEXT,
    LOSS_KEYS,
    MESSAGE_KEY,
    SYSTEM_COLUMN,
    TOOL_TURNS,
    TOOLS,
    UNLIKE_FILES,
)
from aftermix.mixture.exports.epoch_caps import count_unrepeated_tokens
from aftermix.mixture.exports.plan import (
    TABLE_READINGS,
    DomainFiles,
    Files,
    MixturePlan,
    describe_plan,
    format_comments,
    format_share,
    list_ignored_readings,
    refuse_kinds,
    refuse_patterns,
    refuse_traits,
    refuse_unlike,
)

READINGS = {
    SYSTEM_COLUMN: "takes the messages alone, and the column 'system' holds what was counted too",
    JSON_AS_TEXT: "takes messages, calls and tools as lists, and some are JSON text",
    ARGUMENTS_AS_TEXT: "hands arguments of calls to the template as text, and they were counted as objects",
    **{MESSAGE_KEY + key: f"has the loss on every answer, whatever '{key}' says of its message" for key in LOSS_KEYS},
    UNLIKE_FILES: "reads the files of a domain as one table, and they differ",
}
"""Readings of data that were counted otherwise (`trl/scripts/utils.py`, `trl/trainer/sft_trainer.py`, 1.16)."""
JOINED = "joins the tables of all files, whose messages need the same keys"


def check_trl(places: Sequence[DomainFiles]) -> None:
    """Raise :class:`ManyProblemsError` for data that `load_dataset` does not read, and for unlike columns."""
    refuse_kinds(places, "TRL", takes=("json", "parquet"))
    refuse_unlike(places, "TRL", fields=True)
    refuse_patterns(places, "TRL")


def write_trl(plan: MixturePlan) -> Files:
    """`mixture.yaml`: `datasets` and `num_train_epochs`.

    Raises :class:`ManyProblemsError` for data of which TRL would make something else than was counted.
    """
    refuse_traits(
        plan.domains,
        "TRL",
        READINGS | TABLE_READINGS | _list_joint_readings(plan) | list_ignored_readings(plan.domains),
    )
    whole_tokens = _count_mixture_tokens(plan)
    rows = count_first_rows(plan)
    total = sum(rows.values())

    entries = [
        {
            "path": domain.kind,
            "data_files": list(domain.parts),
            "split": "train",
            "columns": [*domain.columns, *(["tools"] if domain.has_tools else [])],
            "fraction": rows[domain.name] / total,
        }
        for domain in plan.domains
    ]

    keys: dict[str, Any] = {
        "datasets": entries,
        "num_train_epochs": float(format_share(plan.budget_tokens / whole_tokens)),
    }
    if plan.domains[0].format == "text":
        keys["dataset_text_field"] = plan.domains[0].text_field
    head = format_comments(_write_lines(plan, rows, whole_tokens))
    return {"mixture.yaml": head + yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)}


def _list_joint_readings(plan: MixturePlan) -> dict[str, str]:
    """Readings of data that are no single file."""
    if sum(len(domain.parts) for domain in plan.domains) == 1:
        return {}
    keys = [trait for domain in plan.domains for trait in domain.data.traits if trait.startswith(MESSAGE_KEY)]
    return dict.fromkeys([TOOLS, TOOL_TURNS, *keys], JOINED)


def count_first_rows(plan: MixturePlan) -> dict[str, int]:
    """First rows of each domain that make the largest mixture without a repeat."""
    whole = _count_mixture_tokens(plan)
    return {
        domain.name: min(max(round(domain.data.first_with(domain.given.ratio * whole)), 1), domain.data.examples)
        for domain in plan.domains
    }


def _count_mixture_tokens(plan: MixturePlan) -> int:
    """Tokens of one epoch of the mixture as TRL makes it."""
    given = {domain.name: domain.given.ratio for domain in plan.domains}
    return count_unrepeated_tokens(given, {domain.name: domain.data for domain in plan.domains})


def _write_lines(plan: MixturePlan, rows: dict[str, int], whole_tokens: int) -> Iterator[str]:
    yield from describe_plan(plan)
    yield f"One epoch of this mixture has {whole_tokens:,} tokens. TRL takes the first rows, in file order:"
    for domain in plan.domains:
        yield f"{domain.name}: {rows[domain.name]:,} of {domain.data.examples:,} rows"
