"""A mixture for `datasets`: `from mixture import mixture`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from datasets import Dataset, Features, IterableDataset, Value, interleave_datasets, load_from_disk

# begin: what a mixture is of
DOMAINS: dict[str, dict[str, Any]] = {}
COLUMNS: list[str] = []
EXAMPLES = 0
# end

Record = dict[str, Any]


def mixture(seed: int = 0) -> IterableDataset:
    """The examples of the budget; a domain that ends begins again, in the same shuffled order."""
    parts = [domain(name).shuffle(seed=seed).to_iterable_dataset().repeat(None) for name in DOMAINS]
    probabilities = [entry["probability"] for entry in DOMAINS.values()]
    mixed = interleave_datasets(parts, probabilities=probabilities, seed=seed, stopping_strategy="first_exhausted")
    return mixed.take(EXAMPLES).map(read_row, remove_columns=["row"])


def domain(name: str) -> Dataset:
    """The records of one domain, each file read by itself: `row` is the JSON of the columns.

    As text, because a table would give all messages, and all arguments of tools, the same keys.
    """
    kind, files, text_field = (DOMAINS[name][key] for key in ("kind", "files", "text_field"))
    # `datasets` keeps rows by these: with the times of the files, data that changed are read again.
    stamped = tuple((file, stamp_files(file)) for file in files)
    columns = (*COLUMNS, "system") if DOMAINS[name].get("system") else tuple(COLUMNS)
    asked = {"kind": kind, "files": stamped, "text_field": text_field, "columns": columns}
    asked["ignored"] = tuple(DOMAINS[name].get("ignored", ()))
    return Dataset.from_generator(write_rows, gen_kwargs=asked, features=Features({"row": Value("large_string")}))


def stamp_files(file: str) -> list[tuple[int, int]]:
    """Size and time of change of a file, or of all files in a folder."""
    path = Path(file)
    found = [entry.stat() for entry in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return [(entry.st_size, entry.st_mtime_ns) for entry in found]


def write_rows(
    kind: str, files: Sequence[tuple[str, Any]], text_field: str, columns: Sequence[str], ignored: Sequence[str] = ()
) -> Iterator[dict[str, str]]:
    """The records of `files` in order, each as JSON, without what is `ignored` in it and in its messages."""
    fields = [*columns, text_field]
    for file, _ in files:
        for record in READERS[kind](file, fields):
            row = make_row(drop_ignored(record, ignored), columns, text_field)
            if "messages" in row:
                row["messages"] = [drop_ignored(message, ignored) for message in row["messages"]]
            yield {"row": json.dumps(row)}


def drop_ignored(record: Record, ignored: Sequence[str]) -> Record:
    """A record or a message without the keys that are `ignored`."""
    return {key: value for key, value in record.items() if key not in ignored}


def read_row(row: dict[str, str]) -> Record:
    """The columns that :func:`write_rows` wrote."""
    found: Record = json.loads(row["row"])
    return found


def make_row(record: Record, columns: Sequence[str], text_field: str) -> Record:
    """The `columns` of a record; the text of `text_field` is called `text`."""
    if columns == ("text",):
        return {"text": record.get(text_field) or ""}
    row: Record = {name: record.get(name) for name in columns if name != "system"}
    if "messages" in row:
        row["messages"] = [read_calls(drop_empty(parse_text(message))) for message in parse_text(record["messages"])]
        if "system" in columns and record.get("system") and row["messages"][0]["role"] != "system":
            row["messages"].insert(0, {"role": "system", "content": record["system"]})
    if row.get("tools"):
        row["tools"] = [drop_empty(parse_text(tool)) for tool in parse_text(record["tools"])]
    return row


def read_calls(message: Record) -> Record:
    """A message whose calls have their arguments as objects, also where they are stored as JSON."""
    if message.get("tool_calls"):
        message = {**message, "tool_calls": parse_text(message["tool_calls"])}
    for call in message.get("tool_calls") or []:
        function = call.get("function", call)
        if isinstance(function.get("arguments"), str) and function["arguments"].lstrip()[:1] in ("{", "["):
            function["arguments"] = json.loads(function["arguments"])
    return message


def parse_text(value: Any) -> Any:
    """Messages, tools or calls, also where they are stored as JSON."""
    return json.loads(value) if isinstance(value, str) else value


def drop_empty(entry: Record) -> Record:
    """A message or tool without keys that are null."""
    return {key: value for key, value in entry.items() if value is not None}


def read_json(file: str, _: list[str]) -> Iterator[Record]:
    """The objects of a file of JSON lines."""
    with open_file(file) as lines:
        yield from (json.loads(line.decode("utf-8-sig")) for line in lines if line.strip())


def read_text(file: str, _: list[str]) -> Iterator[Record]:
    """The whole text of a file."""
    with open_file(file) as text:
        yield {"text": text.read().decode("utf-8-sig")}


def open_file(file: str) -> BinaryIO:
    """The bytes of a file, decompressed where its name says so."""
    return cast(BinaryIO, gzip.open(file)) if file.lower().endswith(".gz") else Path(file).open("rb")


def read_parquet(file: str, fields: list[str]) -> Iterator[Record]:
    """The rows of a parquet file."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as rows:
        columns = [name for name in rows.schema_arrow.names if name in fields]
        for batch in rows.iter_batches(batch_size=1000, columns=columns):
            yield from map(drop_nulls, batch.to_pylist())


def read_saved(folder: str, fields: list[str]) -> Iterator[Record]:
    """The rows of a dataset that `save_to_disk` wrote."""
    saved = load_from_disk(folder).with_format(None)
    yield from map(drop_nulls, saved.select_columns([name for name in saved.column_names if name in fields]))


def drop_nulls(value: Any) -> Any:
    """A value without the keys that a table adds to its rows, as null."""
    if isinstance(value, dict):
        return {key: drop_nulls(entry) for key, entry in value.items() if entry is not None}
    return [drop_nulls(entry) for entry in value] if isinstance(value, list) else value


READERS = {"json": read_json, "text": read_text, "parquet": read_parquet, "saved": read_saved}
