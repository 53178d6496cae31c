"""Rivals of the winner: models of any origin that are scored on the same test items."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from aftermix.config.fields import ConfigSection, Count, Finite, Name, Tokens

RATIOS = ("uniform", "found", "tokens")
SUM_TOLERANCE = 0.01
"""Distance from 1 that ratios may have together: people round to two decimals."""
TUNED, NONE = "tuned", "none"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _ratios(value: Any) -> Any:
    if isinstance(value, str) and value in RATIOS:
        return value
    if not isinstance(value, Mapping) or not all(_is_number(share) and share >= 0 for share in value.values()):
        raise ValueError(f"expected one of {', '.join(RATIOS)}, or numbers of at least 0 by name of a dataset")
    total = math.fsum(value.values())
    if not abs(total - 1) <= SUM_TOLERANCE + 1e-9:
        raise ValueError(f"expected ratios that sum to 1, found a sum of {total:.4g}")
    return {name: share / total for name, share in value.items()}


def _instruction(value: Any) -> Any:
    if value in (TUNED, NONE) or _is_number(value):
        return value
    raise ValueError(f"expected a number, {TUNED} or {NONE}")


class RivalTrainingConfig(ConfigSection):
    """A training on the data of the experts together."""

    ratios: Annotated[str | dict[str, float], BeforeValidator(_ratios)] = "uniform"
    """Share of each dataset, in tokens: alike, as the winner's weights say, by the experts' tokens, or by name."""
    tokens: Tokens | None = None
    """Tokens to train on; by default those of all experts together."""
    seeds: Count = 1
    """Models that are trained, each with a seed of its own."""


class RivalConfig(ConfigSection):
    """One model that the winner is compared with: a finished one, a merge, or one that is trained."""

    model: str | None = None
    """Folder or hub name of a finished model."""
    weights: Annotated[dict[Name, Finite], Field(min_length=1)] | None = None
    """Merge weights under the file's own `merge`; a vector that is not named weighs 0."""
    train: RivalTrainingConfig | None = None
    instruction: Annotated[str | float, BeforeValidator(_instruction)] = NONE
    """Weight of the instruction vector that is added to the model; `tuned` chooses it on select items."""

    @model_validator(mode="after")
    def _one_origin(self) -> RivalConfig:
        given = [name for name in ("model", "weights", "train") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"found {' and '.join(given)}" if given else "found none"
            raise ValueError(f"takes one of 'model', 'weights' and 'train', {found}")
        return self

    @property
    def adds_instruction(self) -> bool:
        """True where the instruction vector is added, at a weight that is given or tuned."""
        return self.instruction != NONE
