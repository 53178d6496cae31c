"""Files written so that a reader sees the old content, the new content, or nothing: never half of either."""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

STRETCH_BYTES = 64 << 20
ROOM_BYTES = 1 << 20
"""A disk with less room than this is full."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path`, force it to disk, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.incomplete")
    data = content.encode() if isinstance(content, str) else content
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def normalise_path(path: Path) -> Path:
    """`path` without `.` and `..`, unless a link on the way makes that another place.

    >>> normalise_path(Path("/models/../experts/./ja")).as_posix()
    '/experts/ja'
    """
    plain = Path(os.path.normpath(path))
    return path if ".." in path.parts and _exists(path) and not _is_same(path, plain) else plain


def shorten_path(path: str, *, run: Path | None = None) -> str:
    """`path` for people: relative to the working directory, or from the name of `run` on, where it lies in either.

    Every other absolute path is only normalised, and what is no absolute path, as a hub name, is left as it is.
    """
    if not Path(path).is_absolute():
        return path
    plain = normalise_path(Path(path))
    for root in (*_list_here(), *([run.resolve().parent] if run is not None and _holds(run.resolve(), plain) else [])):
        if _holds(root, plain):
            return plain.relative_to(root).as_posix()
    return plain.as_posix()


def relate_path(path: str, folder: Path) -> str:
    """`path` for a file in `folder`: relative to it where both lie in one project, so that all can move.

    That is the working directory, or any folder that is neither the root, nor one in it, nor the home of a user or of
    temporary files. Other absolute paths are only normalised, and what is no absolute path, as a hub name, is left as
    it is.
    """
    if not Path(path).is_absolute():
        return path
    plain, real = normalise_path(Path(path)), folder.resolve()
    if not any(_holds(here, plain) and _holds(here, real) for here in (*_list_here(), *_find_project(plain, real))):
        return plain.as_posix()
    related = Path(os.path.relpath(plain, real)).as_posix()
    return related if related.startswith(".") else f"./{related}"  # a bare name would be one of the hub


def follow_moved_paths(value: Any, folder: Path) -> Any:
    """`value`, nested as a YAML file is, with each absolute path that is gone led to where its project stands instead.

    A project moves as a whole: what lay at `/old/project/models/base` lies below a folder that holds `folder`, too,
    under the longest end of its path that is there. What is found nowhere stays as it is written.
    """
    if isinstance(value, dict):
        return {key: follow_moved_paths(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [follow_moved_paths(inner, folder) for inner in value]
    if not isinstance(value, str) or not value.startswith("/"):
        return value
    path, colon, name = value.rpartition(":") if ".py:" in value else (value, "", "")
    return f"{_find_moved(path, folder.resolve())}{colon}{name}"


def _find_moved(path: str, folder: Path) -> str:
    parts = Path(path).parts[1:]
    if not parts or _exists(Path(path)):
        return path
    roots = [root for root in folder.parents if root != Path(root.anchor)]
    ends = (parts[start:] for start in range(1, len(parts)))
    return next((str(root.joinpath(*end)) for end in ends for root in roots if _exists(root.joinpath(*end))), path)


def find_moved_roots(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Folders under which paths lay and lie that end alike, from pairs of the earlier path and the later one.

    >>> find_moved_roots([("/old/project/models/base", "/new/models/base"), ("org/base", "org/base")])
    [('/old/project', '/new')]
    """
    roots = []
    for earlier, later in pairs:
        old, new = Path(earlier).parts, Path(later).parts
        if earlier == later or not (earlier.startswith("/") and later.startswith("/")):
            continue
        alike = next((n for n, (a, b) in enumerate(zip(old[::-1], new[::-1], strict=False)) if a != b), 0)
        alike = alike or (min(len(old), len(new)) - 1 if old[-1] == new[-1] else 0)
        if alike:
            roots.append((str(Path(*old[:-alike])), str(Path(*new[:-alike]))))
    return list(dict.fromkeys(roots))


def move_roots(value: Any, roots: Sequence[tuple[str, str]]) -> Any:
    """`value`, nested as a YAML file is, with every path below the first of a pair of `roots` below the second."""
    if isinstance(value, dict):
        return {key: move_roots(inner, roots) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [move_roots(inner, roots) for inner in value]
    if isinstance(value, str):
        moved = (f"{new.rstrip('/')}/{value[len(old) :].lstrip('/')}" for old, new in roots if _lies_below(value, old))
        return next(moved, value)
    return value


def _lies_below(path: str, root: str) -> bool:
    return path.startswith(f"{root.rstrip('/')}/")


def _list_here() -> list[Path]:
    """The working directory; empty where it was removed or replaced, as by a result that is written in its place."""
    try:
        return [Path.cwd()]
    except OSError:
        return []


def _find_project(*paths: Path) -> list[Path]:
    """The lowest folder that holds all of `paths`, as far as it is one that people move as a whole."""
    common = Path(os.path.commonpath(paths))
    shared = {Path(os.environ.get("HOME", "/")), Path(tempfile.gettempdir())}
    return [common] if len(common.parts) > 2 and common not in shared else []


def _holds(root: Path, path: Path) -> bool:
    """Say if `path` lies below `root`, where that is not the root of all."""
    return root != Path(root.anchor) and root in path.parents


def _is_same(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:  # the second is not there
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no name that this file system can hold, or a folder that may not be searched
        return False


def format_json(value: Any, *, escaped: bool = False) -> str:
    """`value` as the text of a JSON file; `escaped` writes all but ASCII as escapes.

    NaN and Inf are refused (`ValueError`), since JSON has neither.
    """
    return json.dumps(value, indent=2, ensure_ascii=escaped, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically. Raises as :func:`format_json`."""
    write_atomically(path, format_json(value))


def append_line(path: Path, value: Any) -> None:
    """Append `value` to `path` as one line of JSON and force it to disk before returning."""
    append_lines(path, [value])


def append_lines(path: Path, values: Iterable[Any]) -> None:
    """Append each of `values` to `path` as a line of JSON, in one write that is forced to disk before returning."""
    with path.open("ab") as file:
        file.write(format_lines(values).encode())
        file.flush()
        os.fsync(file.fileno())


def format_lines(values: Iterable[Any]) -> str:
    """`values` as the text of a file with a line of JSON for each. NaN and Inf are refused (`ValueError`)."""
    return "".join(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n" for value in values)


def describe_write_fault(error: BaseException, folder: Path) -> str:
    """The reason, in the system's words where it is known, why something cannot be written in `folder`.

    Libraries hide the system's error behind one of theirs, or lose it; then the room on the disk is looked at.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__

    if shutil.disk_usage(folder).free < ROOM_BYTES:
        return os.strerror(errno.ENOSPC)
    return " ".join(str(error).split()) or type(error).__name__


def fingerprint(path: Path) -> str:
    """XXH3-128 of a file's content, as `xxh3_128:HEX`. It tells versions apart at the speed of memory.

    The system is asked for each stretch ahead of its turn, so that a file not yet in its cache comes at the speed of
    the disk. It is no protection against somebody who forges a file; the hub's own SHA-256 is used where there is one.
    """
    import xxhash

    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size:  # an empty file cannot be mapped
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content, memoryview(content) as view:
                for start in range(0, size, STRETCH_BYTES):
                    _expect(file.fileno(), start + STRETCH_BYTES)
                    digest.update(view[start : start + STRETCH_BYTES])
    return f"xxh3_128:{digest.hexdigest()}"


def _expect(descriptor: int, start: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, STRETCH_BYTES, os.POSIX_FADV_WILLNEED)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
