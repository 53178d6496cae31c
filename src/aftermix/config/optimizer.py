"""The optimizer of a training, and the scale of merge-aware noise."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from aftermix.config.fields import ConfigSection, Count, Finite, Positive

OPTIMIZER_OPTIONS = {
    "adamw": (),
    "sgd": ("momentum",),
    "merge_aware": (
        "base",
        "momentum",
        "scale",
        "pilot",
        "location",
        "coefficients",
        "max_experts",
        "distribution",
        "exclude",
        "offset",
        "noise",
        "memory",
    ),
    "sam": ("base", "momentum", "rho"),
    "asam": ("base", "momentum", "rho", "eta"),
}
"""Keys of `train.optimizer` that each optimizer takes."""


def _list_alone(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class ScaleConfig(ConfigSection):
    """Origin of the scale of merge-aware noise: what the noise costs the base, or the vectors of siblings."""

    damage: Positive | None = None
    """Nats a token that noise of this scale, added once to the base's weights, raises its loss by."""
    data: str | None = None
    """Name of the source or dataset that `damage` is measured on; by default each expert's own data."""
    pilot: Annotated[tuple[str, ...], BeforeValidator(_list_alone), Field(min_length=1)] | None = None
    """Folders or hub names of experts of this base: each tensor's noise gets the mean norm of their vectors there."""

    @model_validator(mode="after")
    def _one_origin(self) -> ScaleConfig:
        if (self.damage is None) == (self.pilot is None):
            raise ValueError("takes one of `damage: NATS` and `pilot: [FOLDER, ...]`")
        if self.data is not None and self.damage is None:
            raise ValueError("'data' is what `damage` is measured on; remove it, or write `damage: NATS`")
        return self

    @model_serializer(mode="wrap")
    def _given_alone(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in plain(self).items() if value is not None}


def _pick_form(value: Any) -> str:
    """Form in which a scale is written, in brackets: such parts of a place are left out of messages."""
    if isinstance(value, dict | ScaleConfig):
        return "[section]"
    return "[word]" if isinstance(value, str) and not _is_number(value) else "[number]"


def _is_number(text: str) -> bool:
    try:
        float(text)  # YAML reads 5e-4, without a dot, as a text
    except ValueError:
        return False
    return True


Scale = Annotated[
    Annotated[float, Field(ge=0, allow_inf_nan=False), Tag("[number]")]
    | Annotated[Literal["auto"], Tag("[word]")]
    | Annotated[ScaleConfig, Tag("[section]")],
    Discriminator(_pick_form),
]


class OptimizerConfig(ConfigSection):
    """The optimizer; learning rate, weight decay and AdamW's betas stand in `train` for all of them."""

    name: Literal["adamw", "sgd", "merge_aware", "sam", "asam"] = "adamw"
    base: Literal["adamw", "sgd"] = "adamw"
    """Optimizer that `merge_aware`, `sam` and `asam` step with."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of `sgd`, by name or as base."""
    scale: Scale = 5e-4
    """Scale of the imagined experts' vectors, in units of the weights, or where it comes from.

    0 is the base optimizer to the bit.
    """
    pilot: str | None = None
    """Folder or hub name of an expert whose vector gives `scale: auto`."""
    location: Finite = 0.0
    """Location of the imagined experts' vectors."""
    coefficients: Annotated[tuple[Finite, ...], Field(min_length=1)] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    """Merge weights that are imagined."""
    max_experts: Count = 7
    """Largest number of experts that is imagined."""
    distribution: Literal["laplace", "gaussian"] = "laplace"
    exclude: tuple[str, ...] = ()
    """Tensors that the noise leaves where they are; patterns as in `merge.exclude`."""
    offset: Literal["paper", "own_vector"] = "paper"
    """`own_vector` is refused where a training begins: it is known for the runs that began with it."""
    noise: Literal["fresh", "table"] = "fresh"
    """`table` is an approximation: stretches of one shared table of noise."""
    memory: Literal["copy", "regenerate"] = "copy"
    """Way in which moved weights come back: from a copy, or by drawing the noise again."""
    rho: Positive | None = None
    """Radius of the neighbourhood. Default 0.05 for `sam`, 0.5 for `asam`."""
    eta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """Added to each weight's magnitude by `asam`."""

    @model_validator(mode="after")
    def _options_belong_together(self) -> OptimizerConfig:
        foreign = sorted(self.model_fields_set - {"name", *self.options})
        if foreign == ["momentum"] and "momentum" in OPTIMIZER_OPTIONS[self.name]:
            raise ValueError("'momentum' is an option of sgd; add `base: sgd` or remove it")
        if foreign:
            takes = ", ".join(OPTIMIZER_OPTIONS[self.name]) or "no options"
            raise ValueError(f"'{foreign[0]}' is no option of {self.name}, which takes: {takes}")
        if (self.scale == "auto") != (self.pilot is not None):
            raise ValueError("'scale: auto' and 'pilot' go together; the pilot's vector gives the scale")
        if (self.offset, self.memory) == ("own_vector", "regenerate"):
            raise ValueError("'offset: own_vector' holds a copy anyway; use `memory: copy`")
        return self

    @property
    def options(self) -> tuple[str, ...]:
        """The keys that say something about this optimizer."""
        uses_sgd = "sgd" in (self.name, self.base)
        return tuple(key for key in OPTIMIZER_OPTIONS[self.name] if key != "momentum" or uses_sgd)

    @model_serializer(mode="wrap")
    def _own_options_alone(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Form in which the section would be written: read again, an option of another optimizer would be refused.

        `exclude` where it excludes anything: records of versions that did not know it mean the same.
        """
        keys = {"name", *self.options} - ({"exclude"} if not self.exclude else set())
        return {key: value for key, value in plain(self).items() if key in keys}
