"""Vocabularies as tokenizers store them: row by token, added tokens included.

| file | read as |
|---|---|
| `tokenizer.json` | its model's vocabulary and `added_tokens` |
| `vocab.json` | row by token |
| `vocab.txt` | one token a line, rows counted from 0 |
| `tokenizer.model`, `spiece.model`, `spm.model` | pieces of SentencePiece, in order |

The first that is there is read. To all but `tokenizer.json`, `added_tokens.json` and the `added_tokens_decoder` of
`tokenizer_config.json` are added. Tokenizers that shift the numbers of their file (XLM-R, Pegasus, PhoBERT ...), and
files in other forms (tiktoken), are not read: whether two such models agree is known by the bytes of the files alone.
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aftermix.checkpoints.safe_files import holds_file, read_companion, read_json

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
ADDED = "added_tokens.json"
PATTERNS = (
    TOKENIZER,
    "vocab*.json",
    "vocab*.txt",
    "vocab.bpe",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "*.vocab",
    "tekken*.json",
    "dict*.txt",
)
"""Names of files that hold a vocabulary."""
SHIFTED = re.compile(
    r"xlm-?roberta|camembert|mbart|nllb|m2m|xglm|barthez|bartpho|plbart|pegasus|phobert|bertweet|fsmt|fairseq"
)
"""Classes of tokenizers and types of models whose rows are not the numbers of their file."""
COPY_AGAIN = "Copy the tokenizer again."
WIRE_BYTES = {0: None, 1: 8, 5: 4}
"""Bytes of a field of the protobuf format by its kind of wire; a number of any length under 0."""

Ids = Mapping[str, int]
"""Row by token."""


def list_vocabulary_files(folder: Path) -> list[str]:
    """Names of the files in `folder` that hold a vocabulary, read or not."""
    return sorted({path.name for pattern in PATTERNS for path in folder.glob(pattern) if holds_file(path)})


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """Row by token of the tokenizer in `folder`, added tokens included; None where no file is there that is read.

    Raises :class:`CheckpointError` for a file that cannot be read.
    """
    reader = next((READERS[name] for name in READERS if holds_file(folder / name)), None)
    if reader is None:
        return None
    vocabulary = reader(folder)
    if vocabulary is None:
        return None
    if not holds_file(folder / TOKENIZER):
        vocabulary = {**vocabulary, **_read_added(folder)}

    # A stranger's file may hold anything: what is no token with a row is passed over.
    ids = {token: row for token, row in vocabulary.items() if isinstance(token, str) and type(row) is int and row >= 0}
    return ids or None


def same_tokenizer(ours: Path, theirs: Path) -> bool:
    """Tell whether two folders hold the same tokenizer.json, without parsing it."""
    return _same_file(ours / TOKENIZER, theirs / TOKENIZER)


def same_files(ours: Path, theirs: Path) -> bool:
    """Tell whether the vocabularies that two folders hold under the same names are the same bytes, one at least."""
    shared = {*list_vocabulary_files(ours)} & {*list_vocabulary_files(theirs)}
    added = [name for name in (ADDED,) if holds_file(ours / name) or holds_file(theirs / name)]
    return bool(shared) and all(_same_file(ours / name, theirs / name) for name in (*shared, *added))


def read_pieces(content: bytes) -> list[str] | None:
    """The pieces of a SentencePiece model, in order; None where `content` is none.

    A model is a message of the protobuf format: field 1 is a piece, whose own field 1 is its text.
    """
    try:
        parts = [part for number, part in _split_message(content) if number == 1]
        pieces = [next(text for number, text in _split_message(part) if number == 1).decode() for part in parts]
    except (ValueError, IndexError, StopIteration):
        return None
    return pieces or None


def _split_message(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each field with a length; other fields are passed over. `ValueError` for no message."""
    place = 0
    while place < len(content):
        key, place = _read_number(content, place)
        number, wire = key >> 3, key & 7
        if wire == 2:
            length, place = _read_number(content, place)
            if place + length > len(content):
                raise ValueError("a field ends beyond the file")
            yield number, content[place : place + length]
            place += length
        elif wire in WIRE_BYTES:
            size = WIRE_BYTES[wire]
            place = place + size if size is not None else _read_number(content, place)[1]
        else:
            raise ValueError(f"no field is of kind {wire}")
    if place > len(content):
        raise ValueError("a field ends beyond the file")


def _read_number(content: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and the place behind it."""
    value = shift = 0
    while True:
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place
        if shift > 63:
            raise ValueError("a number has more than 64 bits")


def _read_tokenizer(folder: Path) -> dict[Any, Any]:
    content = read_json(folder / TOKENIZER, remedy=COPY_AGAIN)
    model, added = content.get("model"), content.get("added_tokens")
    entries = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(entries, list):
        entries = {entry[0]: row for row, entry in enumerate(entries) if isinstance(entry, list) and entry}
    vocabulary = dict(entries) if isinstance(entries, dict) else {}
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict):
            vocabulary[token.get("content")] = token.get("id")
    return vocabulary


def _read_mapping(folder: Path) -> dict[Any, Any]:
    return read_json(folder / "vocab.json", remedy=COPY_AGAIN)


def _read_lines(folder: Path) -> dict[Any, Any] | None:
    """Row by token of `vocab.txt`; a token that stands there twice has its last row."""
    content = read_companion(folder / "vocab.txt", folder)
    if _is_shifted(folder):
        return None
    try:
        lines = content.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        return None
    return {token: row for row, token in enumerate(lines)}


def _build_piece_reader(name: str) -> Callable[[Path], dict[Any, Any] | None]:
    def read(folder: Path) -> dict[Any, Any] | None:
        pieces = None if _is_shifted(folder) else read_pieces(read_companion(folder / name, folder))
        return {piece: row for row, piece in enumerate(pieces)} if pieces else None

    return read


READERS: Mapping[str, Callable[[Path], dict[Any, Any] | None]] = {
    TOKENIZER: _read_tokenizer,
    "vocab.json": _read_mapping,
    "vocab.txt": _read_lines,
} | {name: _build_piece_reader(name) for name in ("tokenizer.model", "spiece.model", "spm.model")}
"""By name of the file, in the order in which they are looked for."""


def _is_shifted(folder: Path) -> bool:
    """Tell whether the folder's tokenizer is of a kind that shifts the numbers of its file."""
    settings = _read_optional(folder / SETTINGS)
    kind = settings.get("tokenizer_class") or _read_optional(folder / "config.json").get("model_type")
    return SHIFTED.search(str(kind).lower()) is not None


def _read_added(folder: Path) -> dict[Any, Any]:
    decoder = _read_optional(folder / SETTINGS).get("added_tokens_decoder")
    entries = decoder.items() if isinstance(decoder, dict) else ()
    added = {entry.get("content"): int(row) for row, entry in entries if isinstance(entry, dict) and row.isdecimal()}
    return added | _read_optional(folder / ADDED)


def _read_optional(path: Path) -> dict[str, Any]:
    return read_json(path, remedy=COPY_AGAIN) if holds_file(path) else {}


def _same_file(ours: Path, theirs: Path) -> bool:
    try:
        return holds_file(ours) and holds_file(theirs) and filecmp.cmp(ours, theirs, shallow=False)
    except OSError:  # the reader of the file says what is wrong with it
        return False
