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

from aftermix.errors import Problem, join_place, refuse_if_any
from aftermix.mixture.exports.domain_data import (
    ARGUMENTS_AS_TEXT,
    BARE_CALLS,
    IGNORED,
    JOINED_ANSWERS,
    JSON_AS_TEXT,
    MESSAGE_KEY,
    NO_TURNS,
    SYSTEM_COLUMN,
    SYSTEM_WITH_TOOLS,
    TEXT_WITH_CALLS,
    TOOL_TURNS,
    UNLIKE_KEYS,
    WITHOUT_TOOLS,
)
from aftermix.mixture.exports.plan import (
    TABLE_READINGS,
    DomainFiles,
    ExportDomain,
    Files,
    MixturePlan,
    describe_plan,
    format_comments,
    format_share,
    refuse_kinds,
    refuse_patterns,
    refuse_traits,
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
READ_KEYS = tuple(MESSAGE_KEY + key for key in ("name", "tool_call_id"))
"""Keys of a message that add no words of their own."""
READINGS = {
    JSON_AS_TEXT: "takes messages, calls and tools as lists, and some are JSON text",
    IGNORED + "tool_calls": "reads calls, and 'tool_calls' is ignored",
    NO_TURNS: "drops conversations in which user and assistant do not take turns, or which the assistant does not end",
}
TOOL_READINGS = {
    WITHOUT_TOOLS: "adds a system prompt of its own to conversations without tools that stand beside some with tools",
    TEXT_WITH_CALLS: "drops the words of a message that calls tools",
    ARGUMENTS_AS_TEXT: "writes arguments of calls that are text as text within text",
    BARE_CALLS: "needs the key 'function' in a call",
    SYSTEM_WITH_TOOLS: "adds a line break to the prompt of the system where there are tools",
    JOINED_ANSWERS: "writes '</tool_response>' between the answers of tools in a row",
    UNLIKE_KEYS: "gives all tools, and the arguments of all calls, the keys of the others, as null",
}
"""Readings of conversations with tools (`llamafactory/data/converter.py`, 0.9.5; its `datasets` is at most 4.0)."""


def check_llamafactory(places: Sequence[DomainFiles]) -> None:
    """Raise :class:`ManyProblemsError` for data that LLaMA-Factory does not read as it lies.

    So it does for documents beside examples with answers, which are two stages of it.
    """
    refuse_kinds(places, "LLaMA-Factory", takes=("json", "parquet"))
    refuse_if_any([problem for place in places for problem in _list_problems(place, places[0])])
    refuse_patterns(places, "LLaMA-Factory")


def write_llamafactory(plan: MixturePlan) -> Files:
    """`dataset_info.json` and `mixture.yaml`.

    Raises :class:`ManyProblemsError` for data of which LLaMA-Factory would make something else than was counted.
    """
    for domain in plan.domains:
        refuse_traits([domain], "LLaMA-Factory", _list_readings(domain))
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
    where, problems = join_place("mixture", domain.name), []
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


def _uses_tools(domain: ExportDomain) -> bool:
    return domain.has_tools or TOOL_TURNS in domain.data.traits


def _list_readings(domain: ExportDomain) -> dict[str, str]:
    keys = [trait for trait in domain.data.traits if trait.startswith(MESSAGE_KEY) and trait not in READ_KEYS]
    unread = {trait: f"reads no '{trait.removeprefix(MESSAGE_KEY)}' of a message" for trait in keys}
    return READINGS | TABLE_READINGS | unread | (TOOL_READINGS if _uses_tools(domain) else {})


def _write_llamafactory_entry(domain: ExportDomain) -> dict[str, Any]:
    entry: dict[str, Any] = {"file_name": domain.parts[0], "num_samples": max(round(domain.given.examples), 1)}
    if domain.format == "text":
        return {**entry, "columns": {"prompt": domain.text_field}}
    if domain.format != "chat":
        return {**entry, "columns": {"prompt": "prompt", "response": "completion"}}

    columns = {"messages": "messages"}
    columns |= {"system": "system"} if SYSTEM_COLUMN in domain.data.traits else {}
    columns |= {"tools": "tools"} if domain.has_tools else {}
    formatting = "openai" if _uses_tools(domain) else "sharegpt"
    return {**entry, "formatting": formatting, "columns": columns, "tags": TAGS}
