"""Data as it lies on disk, one record after another: JSON lines, text, parquet, saved `datasets`, and folders of these.

Nothing is held but the record at hand (a batch of rows for parquet and `datasets`), so data may be larger than memory.
A record is the text of a plain-text file, or the fields of a line or row; each comes with the place where it stands.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from aftermix.errors import TrainingError
from aftermix.files import sha256
from aftermix.training.data.arrow_rows import read_rows
from aftermix.training.data.reading.content import (
    explain_encoding,
    open_data,
    refuse_foreign_bytes,
    refuse_records_as_text,
)
from aftermix.training.data.reading.folders import choose_files
from aftermix.training.data.reading.json_records import RecordFields, read_json_records
from aftermix.training.data.reading.kinds import JSON_LINES, find_kind, find_suffix

__all__ = ["JSON_LINES", "PlacedRecord", "RecordFields", "find_suffix", "hash_data", "is_plain_text"]
__all__ += ["choose_files", "list_data_parts", "read_records"]

BATCH_ROWS = 1000

PlacedRecord = tuple[str, str | RecordFields]
"""Place of a record, and the record: a whole text, or fields by name."""


def list_data_parts(path: Path, *, split: str | None = None) -> list[Path]:
    """Files and folders written by `save_to_disk` of `datasets` that `path` means, as :func:`choose_files` does."""
    return list(choose_files(path, split=split).parts)


def hash_data(path: Path, *, split: str | None = None) -> str:
    """SHA-256 of the data: of the file, or of the names and hashes of all files where there are several."""
    parts = list_data_parts(path, split=split)
    try:
        if parts == [path] and path.is_file():
            return sha256(path)
        files = [file for part in parts for file in (sorted(part.iterdir()) if part.is_dir() else [part])]
        root = path if path.is_dir() else path.parent
        lines = [f"{_strip_root(file, root)}\0{sha256(file)}\n" for file in files if file.is_file()]
    except OSError as error:
        raise _build_read_error(path, error) from error
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_records(
    path: Path, fields: Collection[str], *, split: str | None = None, ignored: Collection[str] | None = None
) -> Iterator[PlacedRecord]:
    """Every record of the data at `path`, in order; of rows with columns only those among `fields` are read.

    With `ignored`, all columns but those are read, for who wants to know what stands beside `fields`.

    Raises :class:`TrainingError` with file and line or row for what cannot be read.
    """
    for part in list_data_parts(path, split=split):
        kind = find_suffix(part)

        try:
            if part.is_dir():
                yield from _read_saved_dataset(part, fields, ignored)
            elif kind == ".parquet":
                yield from _read_parquet(part, fields, ignored)
            else:
                refuse_foreign_bytes(part)
                yield from read_json_records(part) if kind in JSON_LINES else [_read_plain_text(part)]
        except UnicodeDecodeError as error:
            raise explain_encoding(part, error) from error
        except (OSError, EOFError, zlib.error) as error:
            raise _build_read_error(part, error) from error


def is_plain_text(path: Path) -> bool:
    """True when `path` is one file whose whole text is one document."""
    return path.is_file() and find_kind(path) == "plain text"


def _strip_root(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def _build_read_error(path: Path, error: Exception) -> TrainingError:
    remedy = "Name a readable UTF-8 file, whole, `.gz` if it is compressed."
    return TrainingError(str(path), f"cannot be read ({' '.join(str(error).split())})", remedy)


def _read_plain_text(path: Path) -> PlacedRecord:
    with open_data(path) as file:
        text = file.read().decode("utf-8-sig")
    refuse_records_as_text(path, text)
    return str(path), text


def _read_parquet(path: Path, fields: Collection[str], ignored: Collection[str] | None) -> Iterator[PlacedRecord]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = _choose_columns(path, file.schema_arrow.names, fields, ignored)
            batches = file.iter_batches(batch_size=BATCH_ROWS, columns=columns)
            yield from _number_rows(path, map(read_rows, batches))
    except pyarrow.ArrowException as error:
        raise _build_read_error(path, error) from error


def _read_saved_dataset(path: Path, fields: Collection[str], ignored: Collection[str] | None) -> Iterator[PlacedRecord]:
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged folder makes it raise whatever it meets
        raise _build_read_error(path, error) from error

    columns = _choose_columns(path, dataset.column_names, fields, ignored)
    batches = dataset.with_format("arrow").select_columns(columns).iter(batch_size=BATCH_ROWS)
    yield from _number_rows(path, map(read_rows, batches))


def _choose_columns(
    path: Path, present: list[str], fields: Collection[str], ignored: Collection[str] | None
) -> list[str]:
    columns = [name for name in present if name in fields]
    if not columns:
        named = " or ".join(f"'{name}'" for name in fields)
        remedy = "Set `text_field:` or `format:` to what the data holds."
        raise TrainingError(str(path), f"has no column {named}; its columns: {', '.join(present) or 'none'}", remedy)
    return columns if ignored is None else [name for name in present if name not in ignored]


def _number_rows(path: Path, batches: Iterator[list[RecordFields]]) -> Iterator[PlacedRecord]:
    number = 0
    for batch in batches:
        for row in batch:
            number += 1
            yield f"{path}, row {number}", row
