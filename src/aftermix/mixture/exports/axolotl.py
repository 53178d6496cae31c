"""axolotl: `weight`, the fraction of a data set's examples that is kept, above 0 and up to 1. Nothing is repeated.

The examples kept are the first `int(weight * examples)` after a shuffle. Version 0.19 has no `weight`, 0.21 has; it
is not for data that is streamed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import yaml

from aftermix.errors import MixtureError, Problem, join_place, refuse_if_any
from aftermix.mixture.exports.domain_data import (
    BARE_TEXT,
    JSON_AS_TEXT,
    LOSS_KEYS,
    MESSAGE_KEY,
    NULLS,
    SYSTEM_GAP,
    TOOL_TURNS,
    UNLIKE_FILES,
)
from aftermix.mixture.exports.plan import (
    TABLE_READINGS,
    DomainFiles,
    ExportDomain,
    Files,
    MixturePlan,
    describe_plan,
    format_comments,
    list_ignored_readings,
    refuse_kinds,
    refuse_patterns,
    refuse_traits,
)

PLAIN_ANSWER = {
    "system_prompt": "",
    "field_instruction": "prompt",
    "field_output": "completion",
    "format": "{instruction}",
    "no_input_format": "{instruction}",
    "field_system": "",
}
"""Prompts as they stand. Without a name for it, a column 'system' that was ignored would be written before them."""

READINGS = {
    JSON_AS_TEXT: "takes messages, calls and tools as lists, and some are JSON text",
    UNLIKE_FILES: "reads the files of a domain as one table, and they differ",
    NULLS: "drops what is null in tools and in arguments of calls",
    BARE_TEXT: "hands arguments of calls without 'function' to the template as text",
    SYSTEM_GAP: "adds a prompt from the column 'system' to conversations that were counted without one",
}
"""Readings of data that were counted otherwise (`axolotl/prompt_strategies/chat_template.py`, 0.21)."""


def check_axolotl(places: Sequence[DomainFiles]) -> None:
    """Raise :class:`ManyProblemsError` for data that axolotl does not read as it lies."""
    refuse_kinds(places, "axolotl", takes=("json", "parquet", "saved"))
    refuse_if_any(
        [
            Problem(
                join_place("mixture", place.name),
                f"axolotl reads one saved dataset, found {len(place.parts)}",
                "Join them.",
            )
            for place in places
            if place.kind == "saved" and len(place.parts) > 1
        ]
    )
    refuse_patterns([place for place in places if place.kind != "saved"], "axolotl")


def write_axolotl(plan: MixturePlan) -> Files:
    """`mixture.yaml`: the `datasets` of an axolotl file.

    Raises :class:`MixtureError` when a domain would have to be repeated, with the largest budget that needs none, and
    :class:`ManyProblemsError` for data of which axolotl would make something else than was counted.
    """
    refuse_traits(plan.domains, "axolotl", READINGS | TABLE_READINGS | list_ignored_readings(plan.domains))
    for domain in plan.domains:
        # It takes one key that says if the loss is on a message.
        first, *others = _list_loss_keys(domain) or [""]
        others_are = {MESSAGE_KEY + key: f"takes one of the keys '{first}' and '{key}'" for key in others}
        refuse_traits([domain], "axolotl", others_are)
    _refuse_repetition(plan)
    keys = {
        "datasets": [_write_axolotl_entry(domain) for domain in plan.domains],
        "shuffle_merged_datasets": True,
        "num_epochs": 1,
    }
    text = format_comments(describe_plan(plan)) + yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)
    return {"mixture.yaml": text}


def _list_loss_keys(domain: ExportDomain) -> list[str]:
    return [key for key in LOSS_KEYS if MESSAGE_KEY + key in domain.data.traits]


def _map_message_keys(domain: ExportDomain) -> dict[str, dict[str, str]]:
    """Every key of a message but its role and words, by name.

    Of unnamed keys axolotl keeps those that it finds in the template as `message.KEY`, so a template with another name
    for its message, or one that takes them by `get`, would be given none.
    """
    keys = [trait.removeprefix(MESSAGE_KEY) for trait in domain.data.traits if trait.startswith(MESSAGE_KEY)]
    keys = [
        *(["tool_calls"] if TOOL_TURNS in domain.data.traits else []),
        *(key for key in keys if key not in LOSS_KEYS),
    ]
    return {"message_property_mappings": {key: key for key in ("role", "content", *keys)}} if keys else {}


def _refuse_repetition(plan: MixturePlan) -> None:
    worst = max(plan.domains, key=lambda domain: domain.given.epochs)
    if round(worst.given.examples) > worst.data.examples:
        most = min(int(domain.data.tokens / domain.given.ratio) for domain in plan.domains)
        found = f"axolotl repeats nothing, and the budget needs {worst.given.epochs:.2f} epochs of it"
        remedy = f"Name --tokens {most} or less, or let the others take its place with --max-epochs 1."
        raise MixtureError(join_place("mixture", worst.name), found, remedy)


def keep_fraction(examples: int, held: int) -> float:
    """A weight at which `int(weight * held)` is `examples`.

    >>> keep_fraction(1, 4), int(49 * keep_fraction(1, 49)), keep_fraction(5, 5)
    (0.25, 1, 1.0)
    """
    plain = examples / held
    return plain if int(held * plain) == examples else (examples + 0.5) / held


def _write_axolotl_entry(domain: ExportDomain) -> dict[str, Any]:
    examples = min(max(round(domain.given.examples), 1), domain.data.examples)
    training = _list_loss_keys(domain)

    kinds: dict[str, dict[str, Any]] = {
        "text": {"type": "completion", "field": domain.text_field},
        "chat": {
            "type": "chat_template",
            "field_messages": "messages",
            **({"field_tools": "tools"} if domain.has_tools else {}),
            **_map_message_keys(domain),
            **({"message_field_training": training[0]} if training else {}),
        },
        "completion": {"type": PLAIN_ANSWER},
    }

    weight = keep_fraction(examples, domain.data.examples)
    return {**_locate_data(domain), "split": "train", **kinds[domain.format], "weight": weight}


def _locate_data(domain: ExportDomain) -> dict[str, Any]:
    if domain.kind == "saved":
        return {"path": domain.parts[0]}
    if len(domain.parts) == 1:
        return {"path": domain.parts[0], "ds_type": domain.kind}
    return {"path": os.path.commonpath(domain.parts), "data_files": list(domain.parts), "ds_type": domain.kind}
