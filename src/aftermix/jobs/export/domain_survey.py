"""Findings in a domain's data that trainers read unlike each other: tools, keys of messages, files that differ.

Trainers read through tables of `datasets`, where all rows of a column get the same keys, or take the columns that they
know. Each finding is a trait of `mixture/exports/domain_data.py` with the first place of it, and every trainer's own
file says which of them it refuses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

from aftermix.config import SourceConfig
from aftermix.jobs.export.table_dates import find_dates
from aftermix.mixture.exports.domain_data import (
    ARGUMENTS_AS_TEXT,
    BARE_CALLS,
    BARE_TEXT,
    DATES,
    IGNORED,
    JOINED_ANSWERS,
    JSON_AS_TEXT,
    MESSAGE_KEY,
    NO_TURNS,
    NULLS,
    SYSTEM_COLUMN,
    SYSTEM_GAP,
    SYSTEM_WITH_TOOLS,
    TEXT_WITH_CALLS,
    TOOL_TURNS,
    TOOLS,
    UNLIKE_FILES,
    UNLIKE_KEYS,
    WITHOUT_TOOLS,
)
from aftermix.training.data.conversations.calls import read_objects, read_tools
from aftermix.training.data.files import JSON_LINES, RecordFields, find_suffix, list_data_parts, read_records

PLAIN_KEYS = ("role", "content", "tool_calls")
CHAT_COLUMNS = ("messages", "tools", "system")
SHOWN_COLUMNS = 8

Shape: TypeAlias = "dict[str, Shape] | list[Shape] | str | None"
"""Keys and kinds of a JSON value without its numbers and words; None for a null, which is of every kind."""


def survey_domain(source: SourceConfig, *, template: str = "") -> dict[str, str]:
    """Traits of the data of `source`, each with the first place of it; data that was counted without an error.

    What is ignored is as if it were not there, but for the trait that the `template` mentions it. Raises
    :class:`TrainingError` for files that are gone.
    """
    parts = list_data_parts(Path(source.data), split=source.split)
    columns = {"text": (source.text_field,), "chat": CHAT_COLUMNS}.get(source.format, ("prompt", "completion"))
    dates = find_dates(parts, columns)
    found = _compare_files(parts) | ({DATES: dates} if dates is not None else {})
    if source.format == "chat":
        survey = _ConversationSurvey(source.ignore_columns, template)
        for where, record in read_records(Path(source.data), CHAT_COLUMNS, split=source.split):
            survey.add_record(where, record)
        found |= survey.list_places()
    return found


@dataclass
class _ConversationSurvey:
    """Traits of conversations, collected one record after another."""

    ignored: Sequence[str] = ()
    template: str = ""
    places: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    """Of the first arguments of a call, and of the first tool."""
    has_system_column: bool = False
    without_system: str | None = None
    """The first conversation without a prompt of the system."""

    def add_record(self, where: str, record: Any) -> None:
        """Note what stands in one conversation."""
        if "tools" in self.ignored:
            self._note_ignored(where, {"tools": record.get("tools")})
        self.has_system_column |= "system" in record
        record = {key: value for key, value in record.items() if key not in self.ignored}
        tools, messages = read_tools(where, record.get("tools")), read_objects(record["messages"]) or []
        self._note(where, **{JSON_AS_TEXT: any(isinstance(record.get(name), str) for name in ("tools", "messages"))})
        self._note(where, **{TOOLS: bool(tools), WITHOUT_TOOLS: not tools, SYSTEM_COLUMN: bool(record.get("system"))})
        for tool in tools:
            self._note_value(where, "tool", tool)

        for message in messages:
            self._add_message(where, message)
        self._note_roles(where, [message["role"] for message in messages])
        begins = messages[0] if messages and messages[0]["role"] == "system" else {}
        self._note(where, **{SYSTEM_WITH_TOOLS: bool(tools and (record.get("system") or begins.get("content")))})
        if not begins and not record.get("system"):
            self.without_system = self.without_system or where

    def list_places(self) -> dict[str, str]:
        """The first place of each trait, once all records are in."""
        gap = self.without_system if self.has_system_column else None
        return self.places | ({SYSTEM_GAP: gap} if gap is not None else {})

    def _note_roles(self, where: str, roles: Sequence[str]) -> None:
        in_a_row = ("tool", "tool") in pairwise(roles)
        joined = in_a_row and "</tool_response>" not in self.template
        self._note(where, **{NO_TURNS: not _takes_turns(roles), JOINED_ANSWERS: joined})

    def _note_ignored(self, where: str, entry: RecordFields) -> None:
        """Note which keys of `entry` are ignored and would be written: those that the template mentions."""
        for key, value in entry.items():
            self._note(where, **{IGNORED + key: bool(value) and key in self.ignored and key in self.template})

    def _add_message(self, where: str, message: RecordFields) -> None:
        self._note_ignored(where, message)
        message = {key: value for key, value in message.items() if key not in self.ignored}
        calls = read_objects(message.get("tool_calls") or []) or []
        self._note(where, **{JSON_AS_TEXT: bool(calls) and isinstance(message["tool_calls"], str)})
        self._note(where, **{TOOL_TURNS: bool(calls) or message["role"] == "tool"})
        self._note(where, **{TEXT_WITH_CALLS: bool(calls and message.get("content"))})
        others = [key for key, value in message.items() if value is not None and key not in PLAIN_KEYS]
        self._note(where, **{MESSAGE_KEY + key: True for key in others})

        for call in calls:
            function = call.get("function")
            bare = not isinstance(function, dict)
            arguments = (function if isinstance(function, dict) else call).get("arguments")
            as_text = isinstance(arguments, str)
            self._note(where, **{ARGUMENTS_AS_TEXT: as_text, BARE_CALLS: bare, BARE_TEXT: bare and as_text})
            if not isinstance(arguments, str):
                self._note_value(where, "arguments", arguments)

    def _note_value(self, where: str, kind: str, value: Any) -> None:
        shape = describe_shape(value)
        first = self.shapes.setdefault(kind, shape)
        unlike = not are_alike(first, shape) or _holds_unlike(value)
        self._note(where, **{UNLIKE_KEYS: unlike, NULLS: _holds_null(value)})

    def _note(self, where: str, **found: bool) -> None:
        for trait, is_there in found.items():
            if is_there:
                self.places.setdefault(trait, where)


def describe_shape(value: Any) -> Shape:
    """Keys and kinds of a JSON value; a list has the shape of its first element that is no null.

    >>> describe_shape({"town": "Oslo", "days": [1, 2]})
    {'town': 'str', 'days': ['int']}
    """
    if isinstance(value, dict):
        return {key: describe_shape(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [next((describe_shape(entry) for entry in value if entry is not None), None)]
    return None if value is None else type(value).__name__


def are_alike(first: Shape, other: Shape) -> bool:
    """True for shapes that a table can hold in one column without a key more or less.

    >>> are_alike({"town": "str"}, {"town": None}), are_alike({"town": "str"}, {"days": "int"})
    (True, False)
    """
    if first is None or other is None:
        return True
    if isinstance(first, dict) and isinstance(other, dict):
        return first.keys() == other.keys() and all(are_alike(first[key], other[key]) for key in first)
    if isinstance(first, list) and isinstance(other, list):
        return are_alike(first[0], other[0])
    return first == other


def _holds_unlike(value: Any) -> bool:
    """True for a list within `value` whose elements a table cannot hold without a key more or less."""
    if isinstance(value, dict):
        return any(_holds_unlike(entry) for entry in value.values())
    if not isinstance(value, list):
        return False
    shapes = [describe_shape(entry) for entry in value if entry is not None]
    return any(not are_alike(shapes[0], shape) for shape in shapes) or any(_holds_unlike(entry) for entry in value)


def _holds_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(entry is None or _holds_null(entry) for entry in value.values())
    return isinstance(value, list) and any(entry is None or _holds_null(entry) for entry in value)


def _takes_turns(roles: Sequence[str]) -> bool:
    """True if, behind a system message, the user or tools and the assistant take turns, the assistant last.

    >>> _takes_turns(["system", "user", "assistant", "tool", "tool", "assistant"]), _takes_turns(["assistant"])
    (True, False)
    """
    left = list(roles[1:] if roles[:1] == ["system"] else roles)
    # Answers of several tools are one turn.
    turns = [role for place, role in enumerate(left) if role != "tool" or left[place - 1 : place] != ["tool"]]
    spoken = [("user", "tool"), ("assistant",)]
    return len(turns) % 2 == 0 and all(role in spoken[place % 2] for place, role in enumerate(turns))


def _compare_files(parts: Sequence[Path]) -> dict[str, str]:
    """:data:`UNLIKE_FILES` where files, read as one table, do not have the same columns of the same kinds."""
    if len(parts) < 2 or any(part.is_dir() for part in parts):
        return {}
    first = _describe_columns(parts[0])
    for part in parts[1:]:
        other = _describe_columns(part)
        if other.keys() != first.keys():
            return {UNLIKE_FILES: f"{parts[0].name} has {_name(first)}, {part.name} has {_name(other)}"}
        unlike = [column for column in first if first[column] != other[column]]
        if unlike:
            return {UNLIKE_FILES: f"'{unlike[0]}' of {parts[0].name} and of {part.name} hold values of unlike kinds"}
    return {}


def _describe_columns(part: Path) -> dict[str, Shape]:
    """Columns of one file, and the shape of what they hold."""
    if find_suffix(part) == ".parquet":
        from pyarrow import parquet

        schema = parquet.read_schema(part)
        return {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
    if find_suffix(part) not in JSON_LINES:
        return {}

    columns: dict[str, Shape] = {}
    for record in _read_objects(part):
        for column, value in record.items():
            columns[column] = _merge_shapes(columns.get(column), describe_shape(value))
    return columns


def _read_objects(part: Path) -> Iterator[RecordFields]:
    for _, record in read_records(part, ()):
        if isinstance(record, dict):
            yield record


def _merge_shapes(first: Shape, other: Shape) -> Shape:
    """The shape of a column that holds both."""
    if first is None or other is None:
        return other if first is None else first
    if isinstance(first, dict) and isinstance(other, dict):
        return {key: _merge_shapes(first.get(key), other.get(key)) for key in sorted(first.keys() | other.keys())}
    if isinstance(first, list) and isinstance(other, list):
        return [_merge_shapes(first[0], other[0])]
    return first if first == other else "mixed"


def _name(columns: Mapping[str, Shape]) -> str:
    return ", ".join(sorted(columns)[:SHOWN_COLUMNS]) or "none"
