"""LLaMA-Factory: entries for `dataset_info.json`, and the keys of a training YAML.

`interleave_probs` are per example and one text with commas. `num_samples` is how many examples of a data set are
taken: a random choice, and beyond one epoch random repeats. With both, `interleave_over` goes on until every chosen
example was seen, so the run is longer than the budget by chance alone, of the order of the root of its examples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from aftermix.errors import Problem, refuse_if_any
from aftermix.mixture.exports.plan import (
    DomainFiles,
    ExportDomain,
    Files,
    MixturePlan,
    describe_plan,
    format_comments,
    format_share,
    refuse_kinds,
)

ENDINGS = (".json", ".jsonl", ".parquet")
TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}
"""All of them: where tags are given, one that is left out is none, and its conversations are dropped."""


def check_llamafactory(places: Sequence[DomainFiles]) -> None:
    """Raise :class:`ManyProblemsError` for data that LLaMA-Factory does not read as it lies.

    So it does for documents beside examples with answers, which are two stages of it.
    """
    refuse_kinds(places, "LLaMA-Factory", takes=("json", "parquet"))
    refuse_if_any([problem for place in places for problem in _list_problems(place, places[0])])


def write_llamafactory(plan: MixturePlan) -> Files:
    """`dataset_info.json` and `mixture.yaml`."""
    info = {domain.name: _write_llamafactory_entry(domain) for domain in plan.domains}
    keys = {
        "stage": _choose_stage(plan.domains[0]),
        "dataset_dir": plan.folder,
        "dataset": ",".join(info),
        "mix_strategy": "interleave_over",
        "interleave_probs": ",".join(format_share(share) for share in plan.draws.values()),
        "num_train_epochs": 1.0,
    }

    if len(info) == 1:
        del keys["mix_strategy"], keys["interleave_probs"]
    text = format_comments(describe_plan(plan)) + yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)
    return {"dataset_info.json": json.dumps(info, indent=2, ensure_ascii=False) + "\n", "mixture.yaml": text}


def _choose_stage(domain: DomainFiles) -> str:
    return "pt" if domain.format == "text" else "sft"


def _list_problems(domain: DomainFiles, first: DomainFiles) -> list[Problem]:
    where, problems = f"mixture.{domain.name}", []
    if len(domain.parts) > 1:
        found = f"LLaMA-Factory reads one file a data set, found {len(domain.parts)}"
        problems.append(Problem(where, found, "Join them into one file."))
    elif Path(domain.parts[0]).suffix not in ENDINGS:
        found = f"LLaMA-Factory reads files that end in {', '.join(ENDINGS)}, found {domain.parts[0]}"
        problems.append(Problem(where, found, "Rename or decompress the file."))
    if _choose_stage(domain) != _choose_stage(first):
        stages = _choose_stage(domain), _choose_stage(first)
        found = f"is of `format: {domain.format}` (stage {stages[0]}), '{first.name}' of stage {stages[1]}"
        problems.append(
            Problem(where, found, "LLaMA-Factory trains documents and answers in two runs: split the mixture.")
        )
    return problems


def _write_llamafactory_entry(domain: ExportDomain) -> dict[str, Any]:
    entry: dict[str, Any] = {"file_name": domain.parts[0], "num_samples": max(round(domain.given.examples), 1)}
    if domain.format == "chat":
        return {**entry, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": TAGS}
    columns = (
        {"prompt": domain.text_field} if domain.format == "text" else {"prompt": "prompt", "response": "completion"}
    )
    return {**entry, "columns": columns}
