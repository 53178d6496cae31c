"""The tokenizer of a union: the first model's, with the tokens of the others after its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aftermix.checkpoints.alignment.tokenizer_files import TOKENIZER
from aftermix.checkpoints.safe_files import read_json
from aftermix.errors import CheckpointError

AddedToken = Mapping[str, Any]
"""An entry of `added_tokens` in a tokenizer.json."""
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}


def read_added_tokens(folder: Path) -> dict[str, dict[str, Any]]:
    """By token, its entry in the `added_tokens` of the tokenizer.json in `folder`; none where there is no such file."""
    if not (folder / TOKENIZER).is_file():
        return {}
    entries = read_json(folder / TOKENIZER, remedy="Copy the tokenizer again.").get("added_tokens") or []
    return {entry["content"]: entry for entry in entries if isinstance(entry, dict) and "content" in entry}


def list_new_tokens(known: Mapping[str, int], others: Sequence[tuple[Mapping[str, int], Path]]) -> list[AddedToken]:
    """Entries of the tokens of `others` (rows by token, folder) that `known` lacks, numbered from its end.

    Words of their models come first, in order of model and row, then the tokens that were added to them.
    """
    added = [read_added_tokens(folder) for _, folder in others]
    words = [token for (ids, _), own in zip(others, added, strict=True) for token in _by_row(ids) if token not in own]
    later = [token for (ids, _), own in zip(others, added, strict=True) for token in _by_row(ids) if token in own]

    new = [token for token in dict.fromkeys(words + later) if token not in known]
    settings = {token: entry for own in reversed(added) for token, entry in own.items()}
    return [
        {"id": len(known) + place, "content": token}
        | {key: settings.get(token, PLAIN).get(key, default) for key, default in PLAIN.items()}
        for place, token in enumerate(new)
    ]


def extend_tokenizer(content: bytes | None, added: Sequence[AddedToken]) -> bytes:
    """The tokenizer.json `content` with the tokens `added`. Raises :class:`CheckpointError` where there is none."""
    if content is None:
        found = f"is not among the files of the base, and {len(added)} tokens are added to it"
        raise CheckpointError(TOKENIZER, found, "Make one: AutoTokenizer.from_pretrained(...).save_pretrained(...).")
    values = json.loads(content)
    values["added_tokens"] = [*(values.get("added_tokens") or []), *added]
    return json.dumps(values, ensure_ascii=False, indent=2).encode()


def _by_row(ids: Mapping[str, int]) -> list[str]:
    return sorted(ids, key=lambda token: (ids[token], token))
