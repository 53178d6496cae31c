"""ms-swift: `FILE#COUNT`, the number of examples that are taken of each file, joined and shuffled.

A count above the file's examples takes all of them as often as it holds them, and a random choice for the rest; one
below takes a random choice. Nothing is drawn by probability, so the run is as long as the budget. A count of 0 ends
ms-swift with an assertion, so domains without a share are left out.

ms-swift renames columns as it sees fit (a `question` beside a `text` becomes its prompt), which is switched off here:
each file's entry names its columns, and puts aside those that would be read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from aftermix.errors import Problem, join_place, refuse_if_any
from aftermix.files import normalise_path
from aftermix.mixture.exports.domain_data import (
    JSON_AS_TEXT,
    MESSAGE_KEY,
    NO_TURNS,
    SYSTEM_COLUMN,
    SYSTEM_GAP,
    TOOL_TURNS,
    TOOLS,
)
from aftermix.mixture.exports.plan import (
    INTERLEAVE,
    TABLE_READINGS,
    DomainFiles,
    ExportDomain,
    Files,
    MixturePlan,
    describe_plan,
    format_comments,
    refuse_kinds,
    refuse_patterns,
    refuse_traits,
    refuse_unlike,
)

ENDINGS = (".json", ".jsonl", ".parquet")
CONVERSATION_COLUMNS = ("messages", "conversation", "conversations")
READ_COLUMNS = (
    *CONVERSATION_COLUMNS,
    *("query", "response", "system", "history", "instruction", "input", "output"),
    *("tools", "images", "videos", "audios", "objects", "label", "channel", "margin", "solution"),
    *("rejected_response", "teacher_prompt", "chat_template_kwargs", "ref_audios", "audio_codes"),
    *(f"{kind}_{name}" for kind in ("rejected", "positive", "negative") for name in ("messages", "images", "tools")),
)
"""Columns that it reads under these names, whatever the others are (`swift/dataset/preprocessor/core.py`, 4.6)."""
ASIDE = "aside_"
READ_KEYS = ("tool_calls", "loss", "loss_scale")
"""Keys of a message that it reads beside role and content; it drops all others."""
READINGS = {
    TOOLS: "writes tools by an agent template of its own",
    TOOL_TURNS: "writes calls by an agent template of its own",
    JSON_AS_TEXT: "takes messages as lists, and some are JSON text",
    NO_TURNS: "takes conversations in which user and assistant take turns, the assistant last",
}
"""Readings of data that were counted otherwise (`swift/dataset/preprocessor/core.py`, `swift/template`, 4.6)."""


def check_ms_swift(places: Sequence[DomainFiles]) -> None:
    """Raise :class:`ManyProblemsError` for data that ms-swift does not read as it lies, and for unlike formats."""
    refuse_kinds(places, "ms-swift", takes=("json", "parquet"))
    refuse_if_any([problem for place in places for problem in _list_problems(place)])
    refuse_unlike(places, "ms-swift", fields=False)
    refuse_patterns(places, "ms-swift")


def write_ms_swift(plan: MixturePlan) -> Files:
    """`dataset_info.json`, the columns of each file, and `mixture.yaml` for `swift pt` or `swift sft`.

    Raises :class:`ManyProblemsError` for data of which ms-swift would make something else than was counted.
    """
    for domain in plan.domains:
        refuse_traits([domain], "ms-swift", READINGS | TABLE_READINGS | _list_readings(domain))

    keys = {
        "custom_dataset_info": [str(Path(plan.folder) / "dataset_info.json")],
        "dataset": [f"{_locate_file(domain)}#{max(round(domain.given.examples), 1)}" for domain in plan.domains],
        "disable_auto_column_mapping": True,
        "dataset_shuffle": True,
        "split_dataset_ratio": 0.0,
        "streaming": False,
        "strict": True,
        "num_train_epochs": 1,
        "use_chat_template": plan.domains[0].format == "chat",
    }
    info = [{"dataset_path": _locate_file(domain), "columns": map_columns(domain)} for domain in plan.domains]
    text = format_comments(_write_lines(plan)) + yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)
    return {"dataset_info.json": json.dumps(info, indent=2, ensure_ascii=False) + "\n", "mixture.yaml": text}


def map_columns(domain: ExportDomain) -> dict[str, str]:
    """New names of a file's columns: those that were counted under ms-swift's names, those it would read too put aside.

    Names that the file has not are passed over there.
    """
    named = {
        "text": {domain.text_field: "response"},
        "completion": {"prompt": "query", "completion": "response"},
        "chat": {"messages": "messages"},
    }[domain.format]
    if SYSTEM_COLUMN in domain.data.traits:
        named |= {"system": "system"}

    taken = {name.lower() for name in named}
    return {**named, **{name: ASIDE + name for name in READ_COLUMNS if name not in taken}}


def _locate_file(domain: DomainFiles) -> str:
    """Path of the domain's file without `..`: ms-swift finds a file's entry by its plain path."""
    plain = normalise_path(Path(domain.parts[0]))
    return str(plain.parent.resolve() / plain.name if ".." in plain.parts else plain)


def _list_readings(domain: ExportDomain) -> dict[str, str]:
    keys = [trait for trait in domain.data.traits if trait.startswith(MESSAGE_KEY)]
    readings = {key: f"drops '{key.removeprefix(MESSAGE_KEY)}' of a message, or reads it its own way" for key in keys}
    if SYSTEM_COLUMN in domain.data.traits:
        readings[SYSTEM_GAP] = "may take an empty 'system' for a prompt of the system"
    return readings


def _list_problems(place: DomainFiles) -> Iterator[Problem]:
    where, first = join_place("mixture", place.name), place.parts[0]
    if len(place.parts) > 1:
        yield Problem(where, f"ms-swift takes one file a domain, found {len(place.parts)}", "Join them into one file.")
    elif Path(first).suffix not in ENDINGS:
        found = f"ms-swift reads files that end in {', '.join(ENDINGS)}, found {first}"
        yield Problem(where, found, "Rename or decompress the file.")
    elif first.strip() != first:
        yield Problem(where, f"ms-swift drops white space at the ends of '{first}'", "Rename the file.")
    for key in READ_KEYS if place.format == "chat" else ():
        if key in place.ignored:
            yield Problem(where, f"ms-swift reads '{key}' of a message, and it is ignored", INTERLEAVE)


def _write_lines(plan: MixturePlan) -> Iterator[str]:
    yield from describe_plan(plan)
    command = "pt" if plan.domains[0].format == "text" else "sft"
    yield f"swift {command} mixture.yaml --model MODEL ... ; the numbers behind # are examples."
    yield "strict: an example that it cannot read, or longer than max_length, ends it; else another takes its place."
