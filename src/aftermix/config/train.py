"""Continual pre-training of the experts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from aftermix.config.fields import Count, Finite, Name, Positive, Section, Tokens


class DatasetConfig(Section):
    """One dataset: one expert."""

    data: str
    """JSONL (may be gzip-compressed) with a `text` field, or a plain text file."""
    text_field: str = "text"
    tokens: Tokens | None = None
    """Tokens to train on; by default one epoch."""
    learning_rate: Positive | None = None


def _dataset(value: Any) -> Any:
    return {"data": value} if isinstance(value, str) else value


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
        "offset",
        "noise",
        "memory",
    ),
    "sam": ("base", "momentum", "rho"),
    "asam": ("base", "momentum", "rho", "eta"),
}
"""Which keys of `train.optimizer` each optimizer takes."""


class OptimizerConfig(Section):
    """The optimizer; learning rate, weight decay and AdamW's betas stand in `train` for all of them."""

    name: Literal["adamw", "sgd", "merge_aware", "sam", "asam"] = "adamw"
    base: Literal["adamw", "sgd"] = "adamw"
    """What `merge_aware`, `sam` and `asam` step with."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of `sgd`, by name or as base."""
    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["auto"] = 5e-4
    """Scale of the imagined experts' vectors, in units of the weights. 0 is the base optimizer to the bit."""
    pilot: str | None = None
    """Folder or hub name of an expert whose vector gives `scale: auto`."""
    location: Finite = 0.0
    """Location of the imagined experts' vectors."""
    coefficients: Annotated[tuple[Finite, ...], Field(min_length=1)] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    """Merge weights that are imagined."""
    max_experts: Count = 7
    """Largest number of experts that is imagined."""
    distribution: Literal["laplace", "gaussian"] = "laplace"
    offset: Literal["paper", "own_vector"] = "paper"
    """`own_vector` moves along the expert's own vector and imagines only the other experts'."""
    noise: Literal["fresh", "table"] = "fresh"
    """`table` is an approximation: stretches of one shared table of noise."""
    memory: Literal["copy", "regenerate"] = "copy"
    """How moved weights come back: from a copy, or by drawing the noise again."""
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
        """What the section would be written as: read again, an option of another optimizer would be refused."""
        return {key: value for key, value in plain(self).items() if key in ("name", *self.options)}


def _optimizer(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class TrainConfig(Section):
    """Continual pre-training of one expert per dataset (SPEC section 5)."""

    datasets: dict[Name, Annotated[DatasetConfig, BeforeValidator(_dataset)]] = Field(min_length=1)
    context: Count = 1024
    """Tokens of one packed sequence."""
    batch_size: Count = 8
    """Sequences of one optimizer step."""
    learning_rate: Positive = 2e-5
    schedule: Literal["cosine", "constant"] = "cosine"
    min_lr_rate: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Final rate of the cosine as a share of the peak."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    max_grad_norm: Positive = 1.0
    optimizer: Annotated[OptimizerConfig, BeforeValidator(_optimizer)] = OptimizerConfig()
    """`adamw`, `sgd`, `merge_aware`, `sam` or `asam`, by name or with its options."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay at the base's values; patterns as in `merge.exclude`."""
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Stored type of the expert; by default the base's. Training keeps float32 masters."""
    device: str = "auto"
    threads: Count | None = None
    seed: Annotated[int, Field(ge=0)] = 0
