"""The vectors and how they are merged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from aftermix.config.calibrate import CalibrationConfig, _calibration
from aftermix.config.fields import ConfigSection, Finite, Name, Tokens
from aftermix.config.places import PlacedNumber, PlacedRange, PlacedShare, RangeRule, list_numbers, list_range_rules

SEARCH_EXCLUDE = ("kind:embeddings", "kind:head", "kind:positions")
"""Tensors that a search leaves at the base's values unless the recipe says otherwise (OptiMer, section 4.1)."""


class VectorConfig(ConfigSection):
    """One expert (or instruction model) whose distance from the base is a distribution vector."""

    model: str
    """Folder or hub name of the model."""
    weight: PlacedNumber = 1.0
    """Merge weight, used by `merge`: a number, or a list of rules by the place of a tensor in the model."""
    range: PlacedRange | None = None
    """Bounds of the merge weight in a search; equal ends hold it fixed. Default [0.3, 1.0] for an instruction vector
    and [0, 1] for an expert. Or rules by the place of a tensor, each with a weight of its own."""
    role: Literal["instruction", "expert"] = "expert"
    """An instruction vector carries behaviour and no data: it gets no mixture ratio."""
    tokens: Tokens | None = None
    """Tokens the expert was trained on; recorded beside the ratios."""
    ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of every tensor that this vector gets in an exclusive merge; by default equal shares."""
    prefix: Annotated[dict[str, str], Field(min_length=1)] | None = None
    """The base's prefix of tensor names by the model's own; the longest that fits a name holds."""
    layers: Annotated[list[tuple[int, int]], Field(min_length=1)] | None = None
    """Blocks of the model that are taken, as half-open ranges, stacked in this order; only without a base."""
    density: PlacedShare | None = None
    """Density of this vector, or rules by the place of a tensor; by default that of the method, for all vectors."""
    calibration: Annotated[CalibrationConfig | None, BeforeValidator(_calibration)] = None
    """Text that `calibrate` has this expert read: a path, or `{data: PATH}`, or `{task: NAME}`."""

    @model_validator(mode="after")
    def _range_is_sound(self) -> VectorConfig:
        if self.range is not None and "weight" in self.model_fields_set:
            low, high = self.bounds
            outside = [number for number in list_numbers(self.weight) if not low <= number <= high]
            if outside:
                raise ValueError(f"weight must lie within range [{low:g}, {high:g}], found {outside[0]:g}")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """The search interval of this vector's weight; of rules the lowest and the highest end."""
        if self.range is None:
            return (0.3, 1.0) if self.role == "instruction" else (0.0, 1.0)
        rules = list_range_rules(self.range)
        if not rules:
            low, high = (end for end in self.range if not isinstance(end, RangeRule))
            return low, high
        return min(rule.bounds[0] for rule in rules), max(rule.bounds[1] for rule in rules)


def _check_template(value: str) -> str:
    if value != "auto" and "{" not in value:
        raise ValueError("expected `auto` or a template, which holds a {")
    return value


class MergeConfig(BaseModel):
    """The merge method, what it leaves alone, and the method's own options (`density`, `normalize`, ...)."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    method: str | None = None
    """A row of the method table; `task_arithmetic` when neither a method nor a pair of rules is named."""
    intra: str | dict[str, Any] | None = None
    """Rule of what each vector keeps, for a pair of rules without a name: `{rule: magnitude, density: 0.3}`."""
    inter: str | dict[str, Any] | None = None
    """Rule of how kept vectors combine, for a pair of rules without a name."""
    compat: Literal["mergekit"] | None = None
    """Another tool's defaults, where they differ from ours."""
    exclude: tuple[str, ...] | None = None
    """Tensors that keep the base's values: a part of the name, a shell glob over the whole name, or `re:EXPRESSION`."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every random choice of the method."""
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Stored type of the result; by default the base's, tensor by tensor."""
    operand_dtype: Literal["bfloat16", "float16"] | None = None
    """Type to which models and their differences from the base are rounded before they are merged."""
    statistics: str | None = None
    """Folder that `calibrate` wrote, for methods that rank by saliency."""
    uncalibrated: Literal["refuse", "magnitude"] = "refuse"
    """Treatment of a vector that has no statistics there: an error, or magnitude ranks all its tensors."""
    scale: Finite = Field(default=1.0, alias="lambda")
    """Factor on the combined vector, written `lambda`."""
    max_shard_bytes: Tokens = 5_000_000_000
    """Upper size of one safetensors file of the result."""
    chat_template: Annotated[str, AfterValidator(_check_template)] | None = None
    """Chat template of the result: `auto`, which most of the models have, or the template itself."""
    vocabulary: Name | None = None
    """Tokens of the rows of embeddings and head, where models differ: `base`'s, a vector's, or the `union`."""
    vocabulary_multiple: Tokens | None = None
    """Rows of a union are filled up to a multiple of this with their mean."""

    @model_validator(mode="after")
    def _only_a_union_is_filled_up(self) -> MergeConfig:
        if self.vocabulary_multiple is not None and self.vocabulary != "union":
            raise ValueError("vocabulary_multiple needs `vocabulary: union`")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The method's own options as the file gives them."""
        return dict(self.model_extra or {})

    def exclusions(self, *, for_search: bool) -> tuple[str, ...]:
        """The patterns that hold: the file's, or else none for a merge and `SEARCH_EXCLUDE` for a search.

        mergekit excludes nothing.
        """
        if self.exclude is not None:
            return self.exclude
        return SEARCH_EXCLUDE if for_search and self.compat is None else ()
