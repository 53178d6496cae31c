"""Examples of a dataset: documents, conversations, or prompts with completions, each checked where it stands."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from aftermix.errors import TrainingError
from aftermix.training.data.conversations.calls import describe_kind, read_objects, read_tools
from aftermix.training.data.files import PlacedRecord, RecordFields, is_plain_text, list_data_parts, read_records

SHOWN_FIELDS = 8
INDEX_OF_PANDAS = re.compile(r"__index_level_\d+__")
"""Columns in which pandas keeps the names of rows, which are no data."""
FIELDS_OF_FORMAT = {"chat": ("messages", "tools", "system"), "completion": ("prompt", "completion")}
"""Fields read of a record, by format; `text` reads `text_field`."""


@dataclass(frozen=True)
class TrainingExample:
    """One document, or one thing to answer. What is not of its format is empty."""

    where: str
    text: str = ""
    """The document, or the completion."""
    prompt: str = ""
    messages: tuple[RecordFields, ...] = ()
    tools: tuple[RecordFields, ...] = ()

    @property
    def characters(self) -> int:
        """Characters (Unicode code points) of its texts."""
        return len(self.text) + len(self.prompt) + sum(len(message.get("content") or "") for message in self.messages)


@dataclass(frozen=True)
class TextDocuments:
    """The texts of one dataset in file order, and how many documents without a single character were left out."""

    path: Path
    texts: list[str]
    empty: int

    @property
    def characters(self) -> int:
        """Characters (Unicode code points) of all texts."""
        return sum(map(len, self.texts))


def read_documents(path: Path, *, text_field: str = "text", split: str | None = None) -> TextDocuments:
    """Every document of the data at `path`, in memory; :func:`read_examples` for what need not fit there.

    A file of JSON lines holds one object a line, whose `text_field` is a document; blank lines between objects are
    passed over. Parquet and saved datasets hold one a row. Anything else is one plain-text document. Raises
    :class:`TrainingError` for what is missing, unreadable or empty, and for a record without text, by its place.
    """
    texts = [example.text for example in read_examples(path, text_field=text_field, split=split)]
    filled = [text for text in texts if text]
    refuse_empty(path, len(filled))
    return TextDocuments(path=path, texts=filled, empty=len(texts) - len(filled))


def refuse_empty(path: Path, documents: int) -> None:
    """Raise :class:`TrainingError` when there is no document with text."""
    if not documents:
        raise TrainingError(str(path), "holds no text", "Name a file with at least one document.")


def read_examples(
    path: Path,
    *,
    format: str = "text",  # noqa: A002 - the key
    text_field: str = "text",
    split: str | None = None,
    ignore_columns: Collection[str] = (),
) -> Iterator[TrainingExample]:
    """The examples of the data at `path`, one by one, empty documents among them.

    `format` is `text`, `chat` (records with `messages`) or `completion` (records with `prompt` and `completion`).
    Fields of a record and keys of a message that are among `ignore_columns` are as if they were not there. Raises
    :class:`TrainingError` at the first record that is not of that format; of conversations and completions, at the
    first that holds text in a field that is neither read nor ignored.
    """
    if format != "text":
        _refuse_plain_text(path, format, split)

    if format == "text":
        yield from (_parse_document(placed, text_field) for placed in read_records(path, (text_field,), split=split))
        return

    wanted = FIELDS_OF_FORMAT[format]
    for where, record in read_records(path, wanted, split=split, ignored=ignore_columns):
        assert isinstance(record, dict)  # noqa: S101 - plain text was refused
        kept = _drop_ignored(record, ignore_columns)
        chat = format == "chat"
        example = _parse_conversation(where, kept, ignore_columns) if chat else _parse_completion(where, kept)
        _refuse_text_beside(where, kept, wanted)
        yield example


def find_unread_columns(
    path: Path, *, text_field: str, split: str | None = None, ignore_columns: Collection[str] = ()
) -> list[str]:
    """Fields with text beside `text_field` in the first record of the documents at `path`."""
    records = read_records(path, (text_field,), split=split, ignored=ignore_columns)
    record = next((record for _, record in records), {})
    return [] if isinstance(record, str) else _list_text_beside(record, (text_field, *ignore_columns))


def _drop_ignored(record: RecordFields, ignored: Collection[str]) -> RecordFields:
    return {name: value for name, value in record.items() if name not in ignored}


def _refuse_text_beside(where: str, record: RecordFields, fields: Collection[str]) -> None:
    names = _list_text_beside(record, fields)
    if names:
        shown, used = ", ".join(map(repr, names)), " and ".join(map(repr, fields))
        found = f"holds text in {shown}, which is not read beside {used}"
        remedy = f"Name it in the dataset's `ignore_columns: [{', '.join(names)}]`, or write it into what is read."
        raise TrainingError(where, found, remedy)


def _list_text_beside(record: RecordFields, fields: Collection[str]) -> list[str]:
    beside = [name for name, value in record.items() if name not in fields and _holds_text(value)]
    return [name for name in beside if not INDEX_OF_PANDAS.fullmatch(name)]


def _holds_text(value: object) -> bool:
    """True for text, and for lists and structures with text at any depth, names of a structure's fields included."""
    if isinstance(value, list):
        return any(map(_holds_text, value))
    return bool(value) and isinstance(value, str | dict)


def _refuse_plain_text(path: Path, format: str, split: str | None) -> None:  # noqa: A002
    for part in list_data_parts(path, split=split):
        if is_plain_text(part):
            remedy = "Name JSON lines, parquet or a saved dataset, or remove `format:`."
            raise TrainingError(str(part), f"is plain text, which `format: {format}` cannot read", remedy)


def _parse_document(placed: PlacedRecord, text_field: str) -> TrainingExample:
    where, record = placed
    if isinstance(record, str):
        return TrainingExample(where, text=record)
    if text_field in record and record[text_field] is None:
        return TrainingExample(where)  # a column without a value: a document without text
    return TrainingExample(where, text=_read_text(where, record, text_field))


def _parse_completion(where: str, record: RecordFields) -> TrainingExample:
    text = _read_text(where, record, "completion")
    if not text:
        raise TrainingError(where, "has an empty 'completion'", "Write the answer, or remove the record.")
    return TrainingExample(where, text=text, prompt=_read_text(where, record, "prompt"))


def _parse_conversation(where: str, record: RecordFields, ignored: Collection[str]) -> TrainingExample:
    messages = [_drop_ignored(message, ignored) for message in _read_objects(where, record, "messages")]
    for number, message in enumerate(messages, 1):
        _check_message(f"{where}, message {number}", message)

    messages = _prepend_system(where, record, messages)
    if not any(message["role"] == "assistant" for message in messages):
        remedy = "The loss is on the assistant's messages: add one, or remove the record."
        raise TrainingError(where, "has no message of the role 'assistant'", remedy)

    return TrainingExample(where, messages=tuple(messages), tools=tuple(read_tools(where, record.get("tools"))))


def _prepend_system(where: str, record: RecordFields, messages: list[RecordFields]) -> list[RecordFields]:
    """The messages behind the one that the column `system` gives, where it has text."""
    if not record.get("system"):
        return messages

    content = _read_text(where, record, "system")
    if messages and messages[0]["role"] == "system":
        if messages[0].get("content") == content:
            return messages
        remedy = "Keep one of them, or name 'system' in the dataset's `ignore_columns: [system]`."
        raise TrainingError(where, "has a column 'system' and a first message of that role, which differ", remedy)
    return [{"role": "system", "content": content}, *messages]


def _check_message(where: str, message: RecordFields) -> None:
    _read_text(where, message, "role")
    if "content" not in message and "function_call" in message:
        remedy = "Write it as `tool_calls: [{type: function, function: ...}]`, and its result under the role 'tool'."
        raise TrainingError(where, "calls by 'function_call', a form of old", remedy)
    if message.get("content") is not None or not message.get("tool_calls"):
        _read_text(where, message, "content")


def _read_objects(where: str, record: RecordFields, field: str) -> list[RecordFields]:
    if field not in record:
        raise _build_missing_error(where, record, field)

    objects = read_objects(record[field])
    if objects is None:
        found = f"expected a list of objects in '{field}', found {describe_kind(record[field])}"
        remedy = "Write a list such as `[{role: ..., content: ...}, ...]`, or remove the line."
        raise TrainingError(where, found, remedy)
    return objects


def _read_text(where: str, record: RecordFields, field: str) -> str:
    if field not in record:
        raise _build_missing_error(where, record, field)

    text = record[field]
    if not isinstance(text, str):
        found = f"expected text in '{field}', found {describe_kind(text)}"
        parts = field in ("prompt", "completion") and isinstance(text, list)
        remedy = "Join both as `messages` and set `format: chat`." if parts else "Write a string, or remove the line."
        raise TrainingError(where, found, remedy)

    # JSON can spell a surrogate that UTF-8 cannot.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TrainingError(where, f"holds half a surrogate pair ({error.reason})", "Repair the text.") from error
    return text


def _build_missing_error(where: str, record: Collection[str], field: str) -> TrainingError:
    fields = ", ".join(sorted(record)[:SHOWN_FIELDS]) or "none"
    return TrainingError(where, f"has no field '{field}'; its fields: {fields}", _choose_remedy(set(record), field))


def _choose_remedy(present: set[str], field: str) -> str:
    if "messages" in present:
        return "Set `format: chat` for conversations, or `text_field:` to the field with the text."
    if {"prompt", "completion"} <= present:
        return "Set `format: completion` for these, or `text_field:` to the field with the text."
    if field in ("role", "content", "messages", "prompt", "completion", "tools"):
        return f"Call it '{field}', or set `format:` to what the data holds."
    return "Set `text_field:` to the field with the text."
