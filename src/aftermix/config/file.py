"""The whole YAML file: read, checked and written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ValidationError, model_validator

from aftermix.config.calibrate import CalibrateConfig
from aftermix.config.compare import RivalConfig
from aftermix.config.evaluate import CALLABLE, EvaluateConfig
from aftermix.config.fields import ConfigSection, Name
from aftermix.config.merge import MergeConfig, VectorConfig
from aftermix.config.mixture import MixtureConfig
from aftermix.config.optimizer import OptimizerConfig, ScaleConfig
from aftermix.config.rounds.iterate import IterateConfig
from aftermix.config.search import Dimension, SearchConfig, SearchedSettings
from aftermix.config.tracking.track import TrackConfig, build_track_section
from aftermix.config.train import TrainConfig
from aftermix.errors import Problem, ask_meant, find_meant, join_place, refuse_if_any
from aftermix.files import normalise_path, write_atomically
from aftermix.yaml_file import read_yaml


class Config(ConfigSection):
    """The whole file, checked.

    Which sections a job needs is checked when it runs. ::

        pool.config.write("aftermix.yaml")
        config = aftermix.Config.read("aftermix.yaml")
        aftermix.Pool.from_config(config).vectors
    """

    base: str | None = None
    """Folder or hub name of the base. Only `method: linear` does without."""
    vectors: dict[Name, VectorConfig] = {}  # noqa: RUF012 - pydantic copies defaults
    merge: MergeConfig = MergeConfig()
    evaluate: EvaluateConfig | None = None
    search: SearchConfig = SearchConfig()
    train: TrainConfig | None = None
    mixture: MixtureConfig | None = None
    compare: dict[Name, RivalConfig] = {}  # noqa: RUF012 - pydantic copies defaults
    """Models that the winner of a search or a mixture is compared with, by name."""
    iterate: IterateConfig | None = None
    """Rounds of training, search and merge."""
    calibrate: CalibrateConfig = CalibrateConfig()
    track: Annotated[TrackConfig | None, BeforeValidator(build_track_section)] = None
    """Trackers that are told the numbers of a job."""
    tensor_names: dict[str, str | tuple[str, ...]] = {}  # noqa: RUF012 - pydantic copies defaults
    """Names of tensors in distributed checkpoints -> names in the model."""

    @model_validator(mode="after")
    def _stacks_are_merged_alone(self) -> Config:
        stacked = sorted(name for name, vector in self.vectors.items() if vector.layers is not None)
        if stacked and (self.evaluate is not None or self.mixture is not None):
            raise ValueError(f"vectors.{stacked[0]}.layers is for a merge: merge first, then measure the result")
        return self

    @classmethod
    def read(cls, file: str | Path) -> Config:
        """Read and check a YAML file; raises as :func:`load_config`."""
        return load_config(Path(file))

    def write(self, file: str | Path) -> None:
        """Write the YAML file that reads back to this configuration, with defaults and absolute paths."""
        text = yaml.safe_dump(as_yaml_values(self), sort_keys=False, allow_unicode=True)
        write_atomically(Path(file), text)


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
        refuse_if_any([translate_error(where, detail) for detail in error.errors()])
        raise  # unreachable: a ValidationError has at least one detail
    return resolve_paths(config, folder.resolve())


def require(config: Config, *sections: str) -> None:
    """Refuse a file that lacks one of `sections` (`base`, `vectors`, `evaluate`, `train`)."""
    refuse_if_any([explain_missing_section(name) for name in sections if not getattr(config, name)])


def explain_missing_section(name: str) -> Problem:
    """Say that the file lacks the section called `name`."""
    return Problem(name, "missing from the YAML file", f"Add `{name}:`; see docs/configuration.md.")


def translate_error(where: str, detail: Any, *, root: type[BaseModel] = Config) -> Problem:
    """One pydantic error in our words, of a file whose whole is a `root`."""
    place = join_place("", *(part for part in detail["loc"] if not _is_tag(part))) or "top level"
    if detail["type"] == "extra_forbidden":
        meant = find_meant_key(detail["loc"], root=root)
        known = ", ".join(list_fields(detail["loc"][:-1], root=root))
        question = f" Did you mean `{meant}`?" if meant else ""
        return Problem(f"{where}: {place}", "is not a known key", f"This section takes: {known}.{question}")

    found, remedy = detail.get("input"), "See docs/configuration.md for this field."
    if detail["type"] == "literal_error":
        remedy = ask_meant(remedy, found, re.findall(r"'([^']+)'", detail["ctx"]["expected"]))

    shown = f"{found!r}" if isinstance(found, str | int | float | bool) or found is None else type(found).__name__
    if isinstance(found, float) and not math.isfinite(found):
        shown = str(found)

    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "too_short":
        least, shown = detail["ctx"]["min_length"], str(detail["ctx"]["actual_length"])
        message = f"expected at least {least} of them"

    # A section that contradicts itself has said what is wrong; that it is a mapping tells nothing more.
    text = message if isinstance(found, dict) and detail["type"] == "value_error" else f"{message}, found {shown}"
    return Problem(f"{where}: {place}", text, remedy)


def _is_tag(part: str | int) -> bool:
    """Tell whether `part` of a place is pydantic's own: a mapping's key, or the form in which a value is written."""
    return isinstance(part, str) and part.startswith("[") and part.endswith("]")


def find_meant_key(loc: tuple[str | int, ...], *, root: type[BaseModel] = Config) -> str | None:
    """The known key of its section that the unknown one at the end of `loc` is probably meant to be."""
    return find_meant(loc[-1], list_fields(loc[:-1], root=root))


def list_fields(loc: tuple[str | int, ...], *, root: type[BaseModel] = Config) -> list[str]:
    """Names of the fields of the section that `loc` points at, for error messages; of the last one on the way."""
    section: type[BaseModel] = root
    kind: Any = root
    for part in loc:
        kind = _step_into(kind, part)
        section = _find_section(kind) or section
    return [field.alias or name for name, field in section.model_fields.items()]


def _step_into(kind: Any, part: str | int) -> Any:
    """Type of what lies at `part` of a value of type `kind`: a field, or the entries of a mapping or a list."""
    section = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    if section is not None:
        named = (field for name, field in section.model_fields.items() if part in (name, field.alias))
        field = next(named, None)
        return field.annotation if field is not None else Dimension if section is SearchedSettings else kind

    inner = [each for each in get_args(kind) if each is not type(None)]
    if get_origin(kind) is dict:
        return inner[-1]
    if get_origin(kind) in (tuple, list):
        return inner[0]
    # Of an optional or annotated type, or one of several: the first that holds a section.
    holding = next((each for each in inner if _find_section(each) is not None), None)
    return _step_into(holding, part) if holding is not None else kind


def _find_section(kind: Any) -> type[BaseModel] | None:
    """The first section that a value of type `kind` is, or holds."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((found for each in get_args(kind) if (found := _find_section(each)) is not None), None)


def resolve_paths(config: Config, folder: Path) -> Config:
    def resolve_model(path: str) -> str:
        resolved = _below(folder, path)
        return str(resolved) if _exists(resolved) or _looks_local(path) else path

    def resolve_rival(rival: RivalConfig) -> RivalConfig:
        return rival.model_copy(update={"model": rival.model and resolve_model(rival.model)})

    update: dict[str, Any] = {"vectors": {}}
    update["base"] = resolve_model(config.base) if config.base else None
    for name, vector in config.vectors.items():
        changed: dict[str, Any] = {"model": resolve_model(vector.model)}
        if vector.calibration and vector.calibration.data is not None:
            data = str(_below(folder, vector.calibration.data))
            changed["calibration"] = vector.calibration.model_copy(update={"data": data})
        update["vectors"][name] = vector.model_copy(update=changed)

    update["compare"] = {name: resolve_rival(rival) for name, rival in config.compare.items()}
    if config.merge.statistics is not None:
        statistics = str(_below(folder, config.merge.statistics))
        update["merge"] = config.merge.model_copy(update={"statistics": statistics})
    if config.evaluate:
        update["evaluate"] = _resolve_evaluate_paths(config.evaluate, folder)

    if config.train:
        update["train"] = _resolve_data_paths(config.train, folder)
        optimizer = _resolve_pilots(config.train.optimizer, resolve_model)
        update["train"] = update["train"].model_copy(update={"optimizer": optimizer})
    return config.model_copy(update=update)


def _resolve_pilots(optimizer: OptimizerConfig, resolve_model: Callable[[str], str]) -> OptimizerConfig:
    update: dict[str, Any] = {"pilot": resolve_model(optimizer.pilot)} if optimizer.pilot else {}
    if isinstance(optimizer.scale, ScaleConfig) and optimizer.scale.pilot is not None:
        pilots = tuple(map(resolve_model, optimizer.scale.pilot))
        update["scale"] = optimizer.scale.model_copy(update={"pilot": pilots})
    return optimizer.model_copy(update=update)


def _resolve_evaluate_paths(evaluate: EvaluateConfig, folder: Path) -> EvaluateConfig:
    update: dict[str, Any] = {}
    if evaluate.include_path:
        update["include_path"] = str(_below(folder, evaluate.include_path))
    if evaluate.function and not evaluate.function.startswith(CALLABLE):
        file, _, name = evaluate.function.rpartition(":")
        update["function"] = f"{_below(folder, file)}:{name}"
    if any(task.text for task in evaluate.tasks):
        update["tasks"] = tuple(
            task.model_copy(update={"text": str(_below(folder, task.text))}) if task.text else task
            for task in evaluate.tasks
        )
    return evaluate.model_copy(update=update)


def _resolve_data_paths(train: TrainConfig, folder: Path) -> TrainConfig:
    def resolve_source(section: BaseModel, *keys: str) -> dict[str, str]:
        written = {key: getattr(section, key) for key in keys}
        return {key: str(_below(folder, value)) for key, value in written.items() if isinstance(value, str)}

    datasets = {
        name: dataset.model_copy(update=resolve_source(dataset, "data", "mixture"))
        for name, dataset in train.datasets.items()
    }
    sources = {name: source.model_copy(update=resolve_source(source, "data")) for name, source in train.sources.items()}
    return train.model_copy(update={"datasets": datasets, "sources": sources, **resolve_source(train, "cache")})


def _below(folder: Path, path: str) -> Path:
    try:
        return normalise_path(folder / Path(path).expanduser())
    except RuntimeError:  # `~name` of nobody on this machine
        return normalise_path(folder / path)


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
    for key in ("compare", "tensor_names"):
        if not getattr(config, key):
            del values[key]  # most files have neither
    if config.evaluate is not None:
        # Item counts that the user wrote bind; defaults shrink for small tasks. Written out, they would all bind.
        values["evaluate"]["items"] = config.evaluate.items.model_dump(mode="json", exclude_unset=True)
    return values
