"""Continual pre-training of the experts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from aftermix.config.fields import ConfigSection, Count, Day, Name, Positive, Threads, Tokens
from aftermix.config.optimizer import OptimizerConfig, ScaleConfig
from aftermix.errors import join_place

Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LoraConfig(ConfigSection):
    """Low-rank adapters in place of the weights; folded into them when the expert is written."""

    rank: Count = 8
    alpha: Positive = 16.0
    """The adapter's change is multiplied by `alpha / rank`."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Linear layers that get an adapter, patterns as in `merge.exclude`; by default all of them but the head."""


def write_own_lora(section: ConfigSection, values: dict[str, Any]) -> dict[str, Any]:
    """`values` of a section whose `lora` goes before that of `train`; null only where it was written."""
    without = {key: value for key, value in values.items() if key != "lora"}
    return without | ({"lora": values.get("lora")} if "lora" in section.model_fields_set else {})


class SourceConfig(ConfigSection):
    """Data that mixtures draw on; no expert of its own."""

    data: str
    """A file (JSONL, parquet, text; perhaps with `.gz`), a saved `datasets` folder, a folder of these, or a pattern."""
    format: Literal["text", "chat", "completion"] = "text"
    """Documents, conversations (`messages`), or a `prompt` with its `completion`."""
    text_field: str = "text"
    long_examples: Literal["refuse", "cut", "skip"] = "refuse"
    """Fate of a conversation or completion that is longer than the context."""
    split: Annotated[str, Field(min_length=1)] | None = None
    """Split of a folder or pattern that holds several, or `all`. By default `train`."""
    ignore_columns: tuple[str, ...] = ()
    """Fields of a record, and keys of its messages, that are as if they were not there."""

    @model_validator(mode="before")
    @classmethod
    def _no_training_of_its_own(cls, values: Any) -> Any:
        if isinstance(values, dict) and "lora" in values:
            raise ValueError("'lora' belongs to a dataset: no expert is trained on a source alone")
        return values


OF_SOURCES = ("format", "text_field", "long_examples", "split", "ignore_columns")
"""Keys of a dataset that a mixture does not take: its sources have them."""


class DatasetConfig(ConfigSection):
    """One dataset: one expert. Either `data`, read as a source is, or a `mixture` of sources."""

    data: str | None = None
    mixture: Annotated[dict[Name, Share], Field(min_length=1)] | str | None = None
    """Ratio in tokens by name of a source or dataset; or the `best.json` of a run, which has them."""
    format: Literal["text", "chat", "completion"] = "text"
    text_field: str = "text"
    long_examples: Literal["refuse", "cut", "skip"] = "refuse"
    split: Annotated[str, Field(min_length=1)] | None = None
    ignore_columns: tuple[str, ...] = ()
    tokens: Tokens | None = None
    """Tokens to train on; by default one epoch. A mixture needs them."""
    max_epochs: Positive | None = None
    """A run that would repeat the data, or a domain of the mixture, more often is refused."""
    learning_rate: Positive | None = None
    lora: LoraConfig | None = None
    """Adapters of this expert in place of `train.lora`; null, where it is written, trains the weights themselves."""

    @model_validator(mode="after")
    def _data_or_mixture(self) -> DatasetConfig:
        if (self.data is None) == (self.mixture is None):
            raise ValueError("takes 'data' or 'mixture', one of them")
        if self.mixture is not None:
            foreign = sorted({*OF_SOURCES} & self.model_fields_set)
            if foreign:
                raise ValueError(f"'{foreign[0]}' belongs to the sources of a mixture, not to the mixture")
            if self.tokens is None:
                raise ValueError("a mixture needs 'tokens': how many to train on")
        return self

    @property
    def source(self) -> SourceConfig | None:
        """The data as a source; None for a mixture."""
        if self.data is None:
            return None
        return SourceConfig(data=self.data, **{key: getattr(self, key) for key in OF_SOURCES})

    @model_serializer(mode="wrap")
    def _own_options_alone(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Form in which the section would be written: read again, a source's option in a mixture would be refused.

        `lora: null` is kept where it was written: it is another thing than no `lora`.
        """
        of_sources = OF_SOURCES if self.mixture is not None else ()
        return {key: value for key, value in write_own_lora(self, plain(self)).items() if key not in of_sources}

    @property
    def has_own_lora(self) -> bool:
        """True where the dataset says for itself whether adapters are trained, and which."""
        return "lora" in self.model_fields_set


def _dataset(value: Any) -> Any:
    return {"data": value} if isinstance(value, str) else value


class TrainedMixturesConfig(ConfigSection):
    """Rate and schedule of the mixtures that `aftermix mixture --verify` trains."""

    learning_rate: Positive
    schedule: Literal["cosine", "constant", "wsd"]
    lora: LoraConfig | None = None
    """Adapters of trained mixtures where the experts have none in common; left out, `train.lora`."""

    @model_serializer(mode="wrap")
    def _written_lora_alone(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Form in which the section would be written, where `lora: null` is another thing than no `lora`."""
        return write_own_lora(self, plain(self))


def _optimizer(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class TrainConfig(ConfigSection):
    """Continual pre-training of one expert per dataset (docs/how-to/train.md)."""

    datasets: dict[Name, Annotated[DatasetConfig, BeforeValidator(_dataset)]] = {}  # noqa: RUF012 - pydantic copies
    """One expert for each. A file that names data alone, for an export or for mixtures, has `sources` alone."""
    sources: dict[Name, Annotated[SourceConfig, BeforeValidator(_dataset)]] = {}  # noqa: RUF012 - pydantic copies
    """Data for mixtures alone. Mixtures may name datasets too."""
    context: Count = 1024
    """Tokens of one packed sequence."""
    date: Day | None = None
    """Day that a chat template is given which asks for today's."""
    batch_size: Count = 8
    """Sequences of one optimizer step."""
    learning_rate: Positive = 2e-5
    accumulation: Count = 1
    """Micro-batches that one step's sequences are worked off in, in each process."""
    schedule: Literal["cosine", "constant", "wsd"] = "cosine"
    min_lr_rate: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Final rate of `cosine` and `wsd` as a share of the peak."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of the steps that `wsd` decays over."""
    decay_shape: Literal["linear", "cosine", "1-sqrt"] = "1-sqrt"
    """Shape of the decay of `wsd`."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    max_grad_norm: Positive = 1.0
    optimizer: Annotated[OptimizerConfig, BeforeValidator(_optimizer)] = OptimizerConfig()
    """`adamw`, `sgd`, `merge_aware`, `sam` or `asam`, by name or with its options."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay at the base's values; patterns as in `merge.exclude`."""
    lora: LoraConfig | None = None
    """Train adapters of low rank instead of the weights; a dataset's own `lora` goes before."""
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Stored type of the expert; by default the base's. Training keeps float32 masters."""
    vector: Literal["bfloat16", "float32", "none"] = "bfloat16"
    """Type of the difference from the base that is stored beside each expert, before `dtype` rounds it."""
    held_out: Annotated[float, Field(ge=0, le=0.5, allow_inf_nan=False)] = 0.0
    """Share of the documents of each dataset that is never trained on, and measured on instead."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of forward and backward pass; `auto` is bfloat16 on a GPU that has it, else float32."""
    checkpoint_tokens: Tokens | Annotated[tuple[Tokens, ...], Field(min_length=1)] | None = None
    """A complete model folder after each so many tokens, or at each of a list of numbers of tokens."""
    save_steps: Annotated[int, Field(ge=0)] = 200
    """A resume point after each so many steps; 0 for none."""
    tangent: bool = False
    """Train the model's linearisation around the base, for small models."""
    mask_documents: bool = False
    """Attention stays within a document, and positions restart in each."""
    cache: str | None = None
    """Folder that keeps tokenised data for later runs. By default it is kept in the output until all is trained."""
    device: str = "auto"
    threads: Threads = "auto"
    seed: Annotated[int, Field(ge=0)] = 0
    mixtures: TrainedMixturesConfig | None = None
    """Said where the experts have no rate and schedule in common, which trained mixtures would get."""

    @model_validator(mode="after")
    def _names_data(self) -> TrainConfig:
        if not self.datasets and not self.sources:
            raise ValueError(
                "expected at least one of `datasets`, each an expert, or of `sources`, which are data alone"
            )
        return self

    @model_validator(mode="after")
    def _tangent_of_whole_weights(self) -> TrainConfig:
        for place in self._list_adapters() if self.tangent else ():
            which = "" if place == "'lora'" else f": {place}"
            raise ValueError(
                f"'tangent' is linear in the weights, and adapters are a product; leave one of them out{which}"
            )
        return self

    @model_validator(mode="after")
    def _names_are_of_one_thing(self) -> TrainConfig:
        doubled = sorted(set(self.sources) & set(self.datasets))
        if doubled:
            raise ValueError(f"'{doubled[0]}' is among 'sources' and 'datasets'; a mixture may name either")
        return self

    @model_validator(mode="after")
    def _damage_is_measured_on_data(self) -> TrainConfig:
        scale = self.optimizer.scale
        if isinstance(scale, ScaleConfig) and scale.data is not None:
            known = {**self.sources, **{name: each for name, each in self.datasets.items() if each.data is not None}}
            if scale.data not in known:
                raise ValueError(
                    f"'optimizer.scale.data' names one of `sources`, or of `datasets` with `data`, found '{scale.data}'"
                )
        return self

    @model_validator(mode="after")
    def _options_of_the_schedule(self) -> TrainConfig:
        given = {"decay_share": self.decay_share, "decay_shape": self.decay_shape}
        foreign = [key for key, value in given.items() if value != type(self).model_fields[key].default]
        if foreign and self.schedule != "wsd":
            raise ValueError(f"'{foreign[0]}' is an option of `schedule: wsd`, found `schedule: {self.schedule}`")
        return self

    @model_validator(mode="after")
    def _adapters_leave_nothing_to_freeze(self) -> TrainConfig:
        for place in self._list_adapters() if self.freeze else ():
            raise ValueError(f"'freeze' and {place} exclude each other: name the layers to train in `lora.targets`")
        return self

    @model_validator(mode="after")
    def _names_leave_room_for_checkpoints(self) -> TrainConfig:
        for name in self.datasets:
            if self.checkpoint_tokens is not None and f"{name}-checkpoints" in self.datasets:
                raise ValueError(f"dataset '{name}-checkpoints' has the name of the folder for '{name}''s checkpoints")
        return self

    def _list_adapters(self) -> Iterator[str]:
        """Every place of the section that asks for adapters, in words."""
        if self.lora is not None:
            yield "'lora'"
        yield from (f"the 'lora' of dataset '{name}'" for name, each in self.datasets.items() if each.lora is not None)

    def settle_for(self, name: str) -> TrainConfig:
        """The section as it holds for the expert of dataset `name`: a `lora` of the dataset goes before the common one.

        A dataset that says `lora: null` trains the weights themselves; one that says nothing is trained as the section.
        """
        dataset = self.datasets[name]
        return self.model_copy(update={"lora": dataset.lora}) if dataset.has_own_lora else self

    def locate_lora(self, name: str) -> str:
        """Place in the file of the `lora` that holds for dataset `name`, for messages."""
        return join_place("train.datasets", name, "lora") if self.datasets[name].has_own_lora else "train.lora"

    def group_alike(self, names: Iterable[str]) -> list[list[str]]:
        """Datasets of `names` whose experts are trained in one way, in groups: by adapters, or the weights."""
        groups: dict[str, list[str]] = {}
        for name in names:
            lora = self.settle_for(name).lora
            groups.setdefault(lora.model_dump_json() if lora else "", []).append(name)
        return list(groups.values())
