"""Tokens by which a server knows that an answer is over, held against what the chat template writes there.

The template ends a turn with a token of its own (`<|im_end|>`, `<end_of_turn>`, `</s>`); `generation_config.json`, or
without one `config.json`, says at which tokens generation stops. Where the second lacks the first, no answer ends. The
template is read as text: a special token in it that is named as an end is one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from aftermix.checkpoints.alignment.tokenizer_files import SETTINGS, TOKENIZER, read_vocabulary
from aftermix.checkpoints.alignment.tokens import list_token_tensors
from aftermix.checkpoints.model import Model
from aftermix.checkpoints.names import select_text_config
from aftermix.checkpoints.safe_files import Stamp, holds_file, read_companion, read_json, take_stamp
from aftermix.errors import Problem

GENERATION = "generation_config.json"
STOPS = "eos_token_id"
AGAIN = "Copy the file again."
END = re.compile(r"end|eot|eos", re.IGNORECASE)
NO_TURN = re.compile(
    r"header|begin|start|think|tool|call|vision|image|img|audio|video|box|quad|ref|fim|text|doc|file|repo|code|mask"
    r"|channel|message|system|user|object|plugin|python|interpreter",
    re.IGNORECASE,
)
"""Parts of the names of tokens that end something else than a turn."""
CHANNELS = "<|channel|>"
"""In templates whose turns consist of several messages: the end of a message is none of a turn."""


def find_turn_ends(folder: Path, *, template: str | None = None) -> dict[str, int]:
    """Tokens with their rows that end a turn in the chat template of `folder`, or in `template`; none without one."""
    template = template or _read_templates(folder)
    if not template:
        return {}
    settings = read_json(folder / SETTINGS, remedy=AGAIN) if holds_file(folder / SETTINGS) else {}
    eos = settings.get("eos_token")
    eos = eos.get("content") if isinstance(eos, dict) else eos

    special = _list_special(folder, settings)
    ends = {token: row for token, row in special.items() if token in template and _names_an_end(token, template)}
    if not ends and isinstance(eos, str) and ("eos_token" in template or eos in template):
        ids = special if eos in special else read_vocabulary(folder) or {}
        ends = {eos: ids[eos]} if eos in ids else {}
    return dict(sorted(ends.items()))


def read_stop_tokens(folder: Path, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Tokens at which generation stops, by the settings in `folder`, or without these by `config`."""
    if holds_file(folder / GENERATION):
        stops = read_json(folder / GENERATION, remedy=AGAIN).get(STOPS)
    else:
        stops = config.get(STOPS, select_text_config(dict(config)).get(STOPS))
    listed = stops if isinstance(stops, list) else [stops]
    return tuple(stop for stop in listed if type(stop) is int)


def find_missing_stops(
    folder: Path, config: Mapping[str, Any], *, settings: Path | None = None, template: str | None = None
) -> dict[str, int]:
    """Ends of turns in the template of `folder` at which nothing stops by the settings in the folder `settings`.

    Left out, that is `folder` as well; `template` stands in place of the folder's own. Nothing is missing where one of
    several ends stops generation.
    """
    stops = read_stop_tokens(settings or folder, config)
    ends = find_turn_ends(folder, template=template)
    return {} if any(row in stops for row in ends.values()) else ends


def add_stops(content: bytes | None, missing: Mapping[str, int], stops: tuple[int, ...]) -> bytes:
    """Settings of generation that stop at `missing`, too, after the `stops` that they have; new ones without any."""
    values = json.loads(content) if content is not None else {}
    values[STOPS] = [*stops, *(row for row in missing.values() if row not in stops)]
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def describe_missing_stops(missing: Mapping[str, int]) -> str:
    """Words on ends of turns that stop nothing, without a subject."""
    listed = ", ".join(f"{token} ({row})" for token, row in missing.items())
    return f"the chat template ends turns with {listed}, at which nothing stops by {GENERATION}"


def list_token_remarks(model: Model, *, owner: str) -> Iterator[Problem]:
    """Tokens of one model against its rows: a tokenizer that knows more, and numbers of special tokens beyond them."""
    tensors = list_token_tensors(model)
    rows = max((model.info(name).shape[0] for name in tensors), default=0)
    if not rows:
        return
    ids = read_vocabulary(model.folder) or {}
    beyond = sorted((row, token) for token, row in ids.items() if row >= rows)
    if beyond:
        row, token = beyond[0]
        more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        found = f"the tokenizer of {owner} has tokens without a row, {token!r} ({row}){more}; there are {rows} rows"
        yield Problem(model.label, found, "A text that holds one of them makes the model fail.")

    settings = read_json(model.folder / GENERATION, remedy=AGAIN) if holds_file(model.folder / GENERATION) else {}
    for file, values in ((GENERATION, settings), ("config.json", select_text_config(dict(model.config)))):
        named = {key: value for key, value in values.items() if key.endswith("_token_id") and type(value) is int}
        far = [f"{key} = {value}" for key, value in named.items() if value >= rows]
        if far:
            yield Problem(file, f"{owner} has {', '.join(far)}; there are {rows} rows", "Correct the number.")


def _names_an_end(token: str, template: str) -> bool:
    if token == "</s>":  # noqa: S105 - no password
        return True
    is_message = token == "<|end|>" and CHANNELS in template  # noqa: S105
    return END.search(token) is not None and NO_TURN.search(token) is None and not is_message


def _list_special(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """Row by special token, whichever of the tokenizer's files names it."""
    decoder = settings.get("added_tokens_decoder")
    rows = [(entry, row) for row, entry in decoder.items()] if isinstance(decoder, dict) else []
    if holds_file(folder / TOKENIZER):
        rows += _read_added(folder / TOKENIZER, take_stamp(folder / TOKENIZER))
    return {
        entry["content"]: int(row)
        for entry, row in rows
        if isinstance(entry, dict) and entry.get("special") and isinstance(entry.get("content"), str)
    }


@lru_cache(maxsize=8)
def _read_added(path: Path, _stamp: Stamp) -> tuple[tuple[dict[str, Any], int], ...]:
    """Added tokens with their rows; the largest of these files take a second to read."""
    added = read_json(path, remedy=AGAIN).get("added_tokens")
    entries = [entry for entry in added if isinstance(entry, dict)] if isinstance(added, list) else []
    return tuple((entry, entry["id"]) for entry in entries if type(entry.get("id")) is int)


def _read_templates(folder: Path) -> str:
    """The chat templates of a folder, one behind the other."""
    files = [folder / name for name in ("chat_template.jinja", "chat_template.json")]
    parts = [read_companion(path, folder).decode(errors="replace") for path in files if holds_file(path)]
    if not parts and holds_file(folder / SETTINGS):
        stored = read_json(folder / SETTINGS, remedy=AGAIN).get("chat_template")
        entries = stored if isinstance(stored, list) else [stored]
        texts = [entry.get("template") if isinstance(entry, dict) else entry for entry in entries]
        parts += [text for text in texts if isinstance(text, str)]
    return "\n".join(parts)
