"""Types of fields and what every section of the file has in common."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

NAME_PATTERN, LONGEST_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$", 64
"""Names become names of folders and files."""
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=LONGEST_NAME)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Threads = Literal["auto"] | Count | None
"""CPU threads: `auto` is one or all, whichever is faster on the first batches; null is all cores."""


class ConfigSection(BaseModel):
    """A frozen part of the file that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


def _tokens(value: Any) -> Any:
    """Token counts are often written `1.0e9`; a whole float is a count."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Tokens = Annotated[int, BeforeValidator(_tokens), Field(gt=0)]


def _check_day(value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError as error:
        raise ValueError("expected a day such as 2026-11-28") from error


Day = Annotated[str, AfterValidator(_check_day)]
"""A day as `2026-11-28`."""
