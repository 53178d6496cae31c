"""The base of all records: a JSON file of a run read and written by one class, with the bytes that it had.

A key that is absent stays absent, which is not null; an integer stays an integer; keys come in the order in which the
class names them, its bases' first. A key that the class does not know is refused, and so are NaN and infinity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import ErrorDetails

from aftermix.errors import AftermixError, join_place
from aftermix.files import format_json, write_atomically

REMEDY = "Restore the file from a backup; `aftermix search --resume` says what can be kept."


def _keep_integer(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    number = validate(value)
    return value if type(value) is int else number


Finite = Annotated[float, WrapValidator(_keep_integer)]
"""A number, neither NaN nor infinite; one that the file holds as an integer stays one."""
Interval = tuple[Finite, Finite]
"""Low and high end."""
OptionValue = bool | int | float | str | tuple[str, ...] | dict[str, Finite] | None
"""Setting of a merge method: one for all vectors, or one for each."""


class JsonRecord(BaseModel):
    """Content of one file, or a part of it."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, protected_namespaces=())

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in the file `path`. Raises :class:`AftermixError` for a file that is missing or damaged."""
        return cls.parse(read_text(path), where=str(path))

    @classmethod
    def parse(cls, text: str, *, where: str) -> Self:
        """The record in `text`, or the first thing that is wrong with it, at its place in `where`."""
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = join_place("", *first["loc"])
            raise AftermixError(f"{where}: {place}" if place else where, describe_fault(first), REMEDY) from error

    def write(self, path: Path) -> None:
        """Write the file `path`: a reader sees the old content or the new one."""
        write_atomically(path, self.to_bytes())

    def to_bytes(self, *, escaped: bool = False) -> bytes:
        """Content of the file; `escaped` writes all but ASCII as escapes."""
        return format_json(self.model_dump(exclude_unset=True), escaped=escaped).encode()


class RunRecord(JsonRecord):
    """An object in a file, all of whose keys are known."""

    model_config = ConfigDict(extra="forbid")


R = TypeVar("R", bound=JsonRecord)


def read_record(path: Path, kind: type[R]) -> R | None:
    """The record in `path`; None when there is no such file."""
    return kind.read(path) if path.is_file() else None


def read_text(path: Path) -> str:
    """The text in `path`. Raises :class:`AftermixError` for a file that cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AftermixError(str(path), f"cannot be read ({error})", REMEDY) from error


def describe_fault(fault: ErrorDetails) -> str:
    """A fault that pydantic found, in the words of this program where its own say too little."""
    kind = fault["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return "expected no such key: this version does not know it"
    if kind == "model_type":
        return f"expected a JSON object, found {type(fault['input']).__name__}"
    return fault["msg"]
