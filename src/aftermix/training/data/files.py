"""Data as it lies on disk, one record after another: JSON lines, text, parquet, saved `datasets`, and folders of these.

Nothing is held but the record at hand (a batch of rows for parquet and `datasets`), so data may be larger than memory.
A record is the text of a plain-text file, or the fields of a line or row; each comes with the place where it stands.
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from aftermix.errors import TrainingError
from aftermix.files import sha256
from aftermix.training.data.arrow_rows import read_rows

JSON_LINES = (".jsonl", ".ndjson", ".json")
NOT_READ = (".arrow", ".csv", ".tsv", ".zst", ".xz", ".bz2", ".zip", ".7z", ".bin", ".npy")
BATCH_ROWS = 1000

RecordFields = dict[str, Any]
PlacedRecord = tuple[str, str | RecordFields]
"""Place of a record, and the record: a whole text, or fields by name."""


def list_data_parts(path: Path) -> list[Path]:
    """Files and folders written by `save_to_disk` of `datasets` that `path` means, in order of name.

    `path` is one of these, a folder (everything below it that is not hidden), or a pattern such as `data/*.jsonl`
    (`**` for any depth). Raises :class:`TrainingError` when there is nothing, or something that is not read.
    """
    if _exists(path):
        parts = list(_find_parts(path))
    elif (pattern := _build_pattern(path)) is not None:
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob would give other names
        parts = [part for match in matches for part in _find_files(Path(match))]
        if not parts:
            raise TrainingError(str(path), "matches no file", "Correct the pattern.")
    else:
        remedy = "Correct `data:`; it is taken from the YAML file's folder."
        raise TrainingError(str(path), "there is no such file", remedy)

    if not parts:
        raise TrainingError(str(path), "is a folder without files", "Put data into it, or name another.")
    return parts


def hash_data(path: Path) -> str:
    """SHA-256 of the data: of the file, or of the names and hashes of all files where there are several."""
    parts = list_data_parts(path)
    try:
        if parts == [path] and path.is_file():
            return sha256(path)
        files = [file for part in parts for file in (sorted(part.iterdir()) if part.is_dir() else [part])]
        root = path if path.is_dir() else path.parent
        lines = [f"{_strip_root(file, root)}\0{sha256(file)}\n" for file in files if file.is_file()]
    except OSError as error:
        raise _build_read_error(path, error) from error
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_records(path: Path, fields: Collection[str]) -> Iterator[PlacedRecord]:
    """Every record of the data at `path`, in order; of rows with columns only those among `fields` are read.

    Raises :class:`TrainingError` with file and line or row for what cannot be read.
    """
    for part in list_data_parts(path):
        kind = find_suffix(part)

        try:
            if part.is_dir():
                yield from _read_saved_dataset(part, fields)
            elif kind in JSON_LINES:
                yield from _read_json_lines(part)
            elif kind == ".parquet":
                yield from _read_parquet(part, fields)
            else:
                yield _read_plain_text(part)
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise _build_read_error(part, error) from error


def find_suffix(path: Path) -> str:
    """The last suffix of the name, `.gz` aside, in lower case."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")


def is_plain_text(path: Path) -> bool:
    """True when `path` is one file whose whole text is one document."""
    return path.is_file() and find_suffix(path) not in (*JSON_LINES, ".parquet")


def _build_pattern(path: Path) -> str | None:
    """`path` as a pattern in which folders that are there stand for themselves; None where it has no wildcard."""
    folder = next((parent for parent in path.parents if _exists(parent)), Path())
    below = str(path.relative_to(folder))
    return str(Path(glob.escape(str(folder))) / below) if glob.has_magic(below) else None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no name that this file system can hold
        return False


def _find_parts(path: Path) -> Iterator[Path]:
    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(entry.name for entry in path.iterdir() if entry.is_dir()))
        raise TrainingError(str(path), f"holds several splits: {splits}", f"Name one of them, as {path}/SPLIT.")

    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        yield path
    elif path.is_dir():
        for entry in sorted(path.iterdir()):
            if not entry.name.startswith("."):
                yield from _find_parts(entry)
    else:
        yield from _find_files(path)


def _find_files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from _find_parts(path)
        return

    if not path.is_file():
        raise TrainingError(str(path), "is not a file", "Name a data file or a folder of data files.")

    kind = find_suffix(path)
    if kind in NOT_READ:
        found = f"expected JSONL, parquet, plain text or a saved dataset, found a {kind} file"
        raise TrainingError(str(path), found, "Write it as JSON lines, one object with the text a line.")
    if kind == ".parquet" and path.suffix.lower() == ".gz":
        raise TrainingError(str(path), "is a compressed parquet file", "Decompress it; parquet compresses by itself.")

    yield path


def _strip_root(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()


def _build_read_error(path: Path, error: Exception) -> TrainingError:
    remedy = "Name a readable UTF-8 file, whole, `.gz` if it is compressed."
    return TrainingError(str(path), f"cannot be read ({' '.join(str(error).split())})", remedy)


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _read_plain_text(path: Path) -> PlacedRecord:
    with _open(path) as file:
        text = file.read().decode("utf-8-sig")
    if "\0" in text:
        raise TrainingError(str(path), "holds NUL characters, so it is no text file", "Name a JSONL or text file.")
    return str(path), text


def _read_json_lines(path: Path) -> Iterator[PlacedRecord]:
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                where = f"{path}, line {number}"
                yield where, _parse_object(line, where=where)


def _parse_object(line: bytes, *, where: str) -> RecordFields:
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise TrainingError(where, f"is not valid JSON ({error})", "Write one JSON object a line.") from error

    if not isinstance(value, dict):
        found = f"expected a JSON object, found {type(value).__name__}"
        raise TrainingError(where, found, 'Write an object such as `{"text": "..."}` on each line.')
    return value


def _read_parquet(path: Path, fields: Collection[str]) -> Iterator[PlacedRecord]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = _choose_columns(path, file.schema_arrow.names, fields)
            batches = file.iter_batches(batch_size=BATCH_ROWS, columns=columns)
            yield from _number_rows(path, map(read_rows, batches))
    except pyarrow.ArrowException as error:
        raise _build_read_error(path, error) from error


def _read_saved_dataset(path: Path, fields: Collection[str]) -> Iterator[PlacedRecord]:
    import datasets

    try:
        dataset = datasets.load_from_disk(str(path))
    except Exception as error:  # a damaged folder makes it raise whatever it meets
        raise _build_read_error(path, error) from error

    dataset = dataset.with_format("arrow").select_columns(_choose_columns(path, dataset.column_names, fields))
    yield from _number_rows(path, map(read_rows, dataset.iter(batch_size=BATCH_ROWS)))


def _choose_columns(path: Path, present: list[str], fields: Collection[str]) -> list[str]:
    columns = [name for name in present if name in fields]
    if not columns:
        named = " or ".join(f"'{name}'" for name in fields)
        remedy = "Set `text_field:` or `format:` to what the data holds."
        raise TrainingError(str(path), f"has no column {named}; its columns: {', '.join(present) or 'none'}", remedy)
    return columns


def _number_rows(path: Path, batches: Iterator[list[RecordFields]]) -> Iterator[PlacedRecord]:
    number = 0
    for batch in batches:
        for row in batch:
            number += 1
            yield f"{path}, row {number}", row
