"""Rows of Arrow tables as the records that were stored, without what the columns added to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

ValueReader = Callable[[Any], Any]


def read_rows(table: Any) -> list[dict[str, Any]]:
    """The rows of `table` (a table or batch of pyarrow) as fields by name.

    A column of structures holds every key in every row: at any depth, a key that is null is taken for one that the
    record does not have. Elements of lists that are null stay, and so do nulls of a column itself. Values stored as
    JSON (`arrow.json`) are what that JSON says, and maps are structures.
    """
    columns = {}
    for name, column in zip(table.schema.names, table.columns, strict=True):
        read = _build_reader(column.type)
        columns[name] = [None if value is None else read(value) for value in column.to_pylist()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _build_reader(kind: Any) -> ValueReader:
    """Reader of the values, never null, that a column of the type `kind` gives as Python objects."""
    from pyarrow import types

    if getattr(kind, "extension_name", None) == "arrow.json":
        return _parse_json
    if hasattr(kind, "storage_type"):
        return _build_reader(kind.storage_type)

    if types.is_struct(kind):
        fields = {kind.field(index).name: _build_reader(kind.field(index).type) for index in range(kind.num_fields)}
        return lambda value: {name: fields[name](entry) for name, entry in value.items() if entry is not None}
    if types.is_map(kind):
        of_items = _build_reader(kind.item_type)
        return lambda pairs: {key: None if entry is None else of_items(entry) for key, entry in pairs}
    if types.is_nested(kind) and hasattr(kind, "value_type"):
        of_entries = _build_reader(kind.value_type)
        return lambda value: [None if entry is None else of_entries(entry) for entry in value]
    return lambda value: value


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
