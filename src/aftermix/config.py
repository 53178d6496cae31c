"""The YAML file as frozen models: every field documented, every bound checked before work begins.

Paths are taken relative to the YAML file's folder. Options of merge methods are kept as given here and bound by
:mod:`aftermix.merging.methods`, which knows them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from aftermix.errors import Problem, refuse_if_any
from aftermix.yaml_file import read_yaml

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$", max_length=64)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]

SEARCH_EXCLUDE = ("kind:embeddings", "kind:head", "kind:positions")
"""Tensors that a search leaves at the base's values unless the recipe says otherwise (OptiMer, section 4.1)."""


class Section(BaseModel):
    """A frozen part of the file that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


def _tokens(value: Any) -> Any:
    """Token counts are often written `1.0e9`; a whole float is a count."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Tokens = Annotated[int, BeforeValidator(_tokens), Field(gt=0)]


class CalibrationConfig(Section):
    """What an expert reads while the inputs of its linear layers are measured: a file or the prompts of a task."""

    data: str | None = None
    """JSONL (may be gzip-compressed) with a `text` field, or a plain text file."""
    text_field: str = "text"
    task: str | None = None
    """An lm-evaluation-harness task, whose prompts are read without their answers."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Few-shot examples of the task's prompts; by default the task's own setting."""

    @model_validator(mode="after")
    def _one_source(self) -> CalibrationConfig:
        if (self.data is None) == (self.task is None):
            raise ValueError("calibration takes one of `data: PATH` and `task: NAME`")
        return self


def _calibration(value: Any) -> Any:
    return {"data": value} if isinstance(value, str) else value


class VectorConfig(Section):
    """One expert (or instruction model) whose distance from the base is a distribution vector."""

    model: str
    """Folder or hub name of the model."""
    weight: Finite = 1.0
    """Merge weight, used by `merge`."""
    range: tuple[Finite, Finite] | None = None
    """Bounds of the merge weight in a search. Default [0.3, 1.0] for an instruction vector and [0, 1] for an expert."""
    role: Literal["instruction", "expert"] = "expert"
    """An instruction vector carries behaviour and no data: it gets no mixture ratio."""
    tokens: Tokens | None = None
    """Tokens the expert was trained on; recorded beside the ratios."""
    ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of every tensor that this vector gets in an exclusive merge; by default equal shares."""
    prefix: Annotated[dict[str, str], Field(min_length=1)] | None = None
    """The base's prefix of tensor names by the model's own; the longest that fits a name holds."""
    density: Annotated[float, Field(gt=0, le=1)] | None = None
    """Density of this vector; by default that of the method, for all vectors."""
    calibration: Annotated[CalibrationConfig | None, BeforeValidator(_calibration)] = None
    """Text that `calibrate` has this expert read: a path, or `{data: PATH}`, or `{task: NAME}`."""

    @model_validator(mode="after")
    def _range_is_sound(self) -> VectorConfig:
        if self.range is not None and not self.range[0] < self.range[1]:
            low, high = self.range
            raise ValueError(f"range must be [low, high] with low < high, found [{low:g}, {high:g}]")
        if self.range is not None and "weight" in self.model_fields_set:
            low, high = self.range
            if not low <= self.weight <= high:
                raise ValueError(f"weight must lie within range [{low:g}, {high:g}], found {self.weight:g}")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """The search interval of this vector's weight."""
        return self.range or ((0.3, 1.0) if self.role == "instruction" else (0.0, 1.0))


class MergeConfig(BaseModel):
    """The merge method, what it leaves alone, and the method's own options (`density`, `normalize`, ...)."""

    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    method: str | None = None
    """A row of the method table; `task_arithmetic` when neither a method nor a pair of rules is named."""
    intra: str | dict[str, Any] | None = None
    """What each vector keeps, for a pair of rules without a name: `{rule: magnitude, density: 0.3}`."""
    inter: str | dict[str, Any] | None = None
    """How kept vectors combine, for a pair of rules without a name."""
    compat: Literal["mergekit"] | None = None
    """Another tool's defaults, where they differ from ours."""
    exclude: tuple[str, ...] | None = None
    """Tensors that keep the base's values: a part of the name, a shell glob over the whole name, or `re:EXPRESSION`."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of every random choice of the method."""
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    """Stored type of the result; by default the base's, tensor by tensor."""
    statistics: str | None = None
    """Folder that `calibrate` wrote, for methods that rank by saliency."""
    scale: Finite = Field(default=1.0, alias="lambda")
    """Factor on the combined vector, written `lambda`."""
    max_shard_bytes: Tokens = 5_000_000_000
    """Upper size of one safetensors file of the result."""
    vocabulary: Name | None = None
    """Whose tokens the rows of embeddings and head are, where models differ: `base`, or the name of a vector."""

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


Split = Literal["search", "select", "test"]


class ItemsConfig(Section):
    """How many items of each task search, select and test the weights; the three are disjoint."""

    search: Count = 100
    select: Count = 300
    test: Count | Literal["rest"] = "rest"
    scheme: Literal["disjoint", "first"] = "disjoint"
    """`first` is the OptiMer paper's own scheme: the first 100 items search, the first 300 select; they overlap."""
    seed: Annotated[int, Field(ge=0)] = 0


class TaskConfig(Section):
    """One lm-evaluation-harness task or group, and the metric that counts."""

    task: str
    metric: str | None = None
    """Metric name; by default the task's first."""
    filter: str | None = None
    """Filter of the metric, e.g. `flexible-extract`; by default the task's first."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None


def _task(value: Any) -> Any:
    return {"task": value} if isinstance(value, str) else value


class EvaluateConfig(Section):
    """What is measured, on which items, by which engine."""

    tasks: tuple[Annotated[TaskConfig, BeforeValidator(_task)], ...] = Field(min_length=1)
    include_path: str | None = None
    """Folder of local task YAML files."""
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    """Few-shot examples of every task; by default each task's own setting."""
    items: ItemsConfig = ItemsConfig()
    engine: Literal["hf"] = "hf"
    batch_size: Count = 8
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, ..."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type the engine computes in; `auto` is float32 on a CPU and the base's type on an accelerator."""
    threads: Count | None = None
    """CPU threads of the engine; by default all cores."""
    max_length: Count | None = None
    apply_chat_template: bool = False
    unsafe_code: bool = False
    """Allow tasks that run generated code."""

    @model_validator(mode="after")
    def _tasks_are_distinct(self) -> EvaluateConfig:
        names = [task.task for task in self.tasks]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"task '{doubled[0]}' is named twice")
        return self


class Objective(Section):
    """A weighted mean of task scores, with floors that other tasks must not fall below."""

    tasks: dict[str, Positive] = {}
    """Weight of each task; empty means the unweighted mean of all evaluated tasks."""
    floors: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}
    """Lowest acceptable score of a task."""
    name: str | None = None


def _objectives(value: Any) -> Any:
    return [value] if isinstance(value, dict | Objective) else value


class SearchConfig(Section):
    """The search for merge weights (OptiMer, Algorithm 1)."""

    trials: Annotated[int, Field(ge=0)] = 100
    """Trials of this run; with `--from`, new trials on top of the re-scored ones."""
    startup: Annotated[int, Field(ge=0)] = 20
    """Trials before the model-based sampler takes over: enqueued priors first, then random points."""
    top: Count = 3
    """Best distinct trials that are measured again on the select items."""
    preset: Literal["default", "paper"] = "default"
    """`paper`: univariate TPE without priors. `default`: multivariate TPE with enqueued priors."""
    seed: Annotated[int, Field(ge=0)] = 0
    objective: Annotated[tuple[Objective, ...], BeforeValidator(_objectives)] = (Objective(),)
    """One objective, or several for a Pareto front."""
    baselines: bool = True
    """Measure the baselines that cost no training beside the winner."""
    max_consecutive_failures: Count = 5
    """Stop the search after so many failed trials in a row."""


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


class CalibrateConfig(Section):
    """How the inputs of the experts' linear layers are measured (OBIM, section 3.1)."""

    samples: Count = 100
    """Texts that each expert reads; all of them where there are fewer."""
    context: Count | None = None
    """Longest sample in tokens; by default 1024, or the model's limit where that is lower."""
    long_texts: Literal["refuse", "cut"] = "refuse"
    """What becomes of a document that is longer: an error, or several samples. A plain text file is always cut."""
    batch_size: Count = 8
    """Samples that go through the model together; they have one length, so that nothing is padded."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the choice of samples."""
    x_statistic: Literal["second_moment", "mean_input"] = "second_moment"
    """The mean of the squares of a channel, or the square of its mean."""
    stream: bool = False
    """Hold one decoder layer at a time, for a model that does not fit in memory."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the forward pass; `auto` is float32 on a CPU and the model's own on an accelerator."""
    device: str = "auto"
    threads: Count | None = None


class Config(Section):
    """The whole file. Which sections a job needs is checked by :func:`require`."""

    base: str | None = None
    """Folder or hub name of the base. Only `method: linear` does without."""
    vectors: dict[Name, VectorConfig] = {}
    merge: MergeConfig = MergeConfig()
    evaluate: EvaluateConfig | None = None
    search: SearchConfig = SearchConfig()
    train: TrainConfig | None = None
    calibrate: CalibrateConfig = CalibrateConfig()


def load_config(path: Path) -> Config:
    """Read and check the YAML file at `path`; local paths in it become absolute.

    Raises :class:`ConfigError` or :class:`ManyProblemsError` naming every field that is wrong.
    """
    return parse_config(read_yaml(path), where=path.name, folder=path.parent)


def parse_config(values: dict[str, Any], *, where: str, folder: Path) -> Config:
    """Check `values` as the content of a file called `where` whose relative paths start at `folder`."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        refuse_if_any([_problem(where, detail) for detail in error.errors()])
        raise  # unreachable: a ValidationError has at least one detail
    return _with_absolute_paths(config, folder.resolve())


def require(config: Config, *sections: str) -> None:
    """Refuse a file that lacks one of `sections` (`base`, `vectors`, `evaluate`, `train`)."""
    problems = [
        Problem(section, "missing from the YAML file", f"Add `{section}:`; see docs/configuration.md.")
        for section in sections
        if not getattr(config, section)
    ]
    refuse_if_any(problems)


def _problem(where: str, detail: Any) -> Problem:
    """One pydantic error in our words."""
    place = ".".join(str(part) for part in detail["loc"]) or "top level"
    if detail["type"] == "extra_forbidden":
        known = ", ".join(_fields_at(detail["loc"][:-1]))
        return Problem(f"{where}: {place}", "is not a known key", f"This section takes: {known}.")
    found = detail.get("input")
    shown = f"{found!r}" if isinstance(found, str | int | float | bool) or found is None else type(found).__name__
    if isinstance(found, float) and not math.isfinite(found):
        shown = str(found)
    message = detail["msg"].removeprefix("Value error, ")
    return Problem(f"{where}: {place}", f"{message}, found {shown}", "See docs/configuration.md for this field.")


def _fields_at(loc: tuple[str | int, ...]) -> list[str]:
    """Names of the fields of the section that `loc` points at, for error messages."""
    sections: dict[str, type[BaseModel]] = {
        "vectors": VectorConfig,
        "merge": MergeConfig,
        "evaluate": EvaluateConfig,
        "search": SearchConfig,
        "train": TrainConfig,
        "calibrate": CalibrateConfig,
    }
    nested: dict[str, type[BaseModel]] = {
        "items": ItemsConfig,
        "objective": Objective,
        "tasks": TaskConfig,
        "datasets": DatasetConfig,
        "calibration": CalibrationConfig,
        "optimizer": OptimizerConfig,
    }
    found: type[BaseModel] = Config
    for part in loc:
        found = sections.get(str(part), nested.get(str(part), found))
    return [field.alias or name for name, field in found.model_fields.items()]


def _with_absolute_paths(config: Config, folder: Path) -> Config:
    def local(path: str) -> str:
        resolved = _below(folder, path)
        return str(resolved) if _exists(resolved) or _looks_local(path) else path

    update: dict[str, Any] = {"vectors": {}}
    update["base"] = local(config.base) if config.base else None
    for name, vector in config.vectors.items():
        changed: dict[str, Any] = {"model": local(vector.model)}
        if vector.calibration and vector.calibration.data is not None:
            data = str(_below(folder, vector.calibration.data))
            changed["calibration"] = vector.calibration.model_copy(update={"data": data})
        update["vectors"][name] = vector.model_copy(update=changed)
    if config.merge.statistics is not None:
        statistics = str(_below(folder, config.merge.statistics))
        update["merge"] = config.merge.model_copy(update={"statistics": statistics})
    if config.evaluate and config.evaluate.include_path:
        include_path = str(_below(folder, config.evaluate.include_path))
        update["evaluate"] = config.evaluate.model_copy(update={"include_path": include_path})
    if config.train:
        datasets = {
            name: dataset.model_copy(update={"data": str(_below(folder, dataset.data))})
            for name, dataset in config.train.datasets.items()
        }
        update["train"] = config.train.model_copy(update={"datasets": datasets})
        optimizer = config.train.optimizer
        if optimizer.pilot:
            with_pilot = optimizer.model_copy(update={"pilot": local(optimizer.pilot)})
            update["train"] = update["train"].model_copy(update={"optimizer": with_pilot})
    return config.model_copy(update=update)


def _below(folder: Path, path: str) -> Path:
    try:
        return folder / Path(path).expanduser()
    except RuntimeError:  # `~name` of nobody on this machine
        return folder / path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # no name that this file system can hold, or a folder that may not be searched
        return False


def _looks_local(path: str) -> bool:
    """A hub name is `name` or `owner/name`; anything else is a path on this machine."""
    return path.startswith((".", "/", "~")) or path.count("/") > 1


def as_yaml_values(config: Config) -> dict[str, Any]:
    """The resolved configuration as plain values: what `RUN/config.yaml` holds, and what reads back to `config`."""
    values = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    for name, vector in config.vectors.items():
        if "weight" not in vector.model_fields_set:
            del values["vectors"][name]["weight"]  # a weight that nobody wrote need not lie within the range
    if config.evaluate is not None:
        # Item counts that the user wrote bind; defaults shrink for small tasks. Written out, they would all bind.
        values["evaluate"]["items"] = config.evaluate.items.model_dump(mode="json", exclude_unset=True)
    return values
