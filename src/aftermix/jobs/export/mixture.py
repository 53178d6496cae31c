"""`aftermix export --to megatron|interleave|...`: the data mixture that was found, as a trainer takes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.writer import stage_folder
from aftermix.config import Config, DatasetConfig, TrainConfig, load_config
from aftermix.errors import AftermixError, ConfigError, ask_meant
from aftermix.files import write_atomically
from aftermix.jobs.export.data_files import NamedDataFiles
from aftermix.jobs.export.domain_counts import CACHE, DomainCounter
from aftermix.jobs.export.output_place import refuse_output
from aftermix.jobs.export.ratio_spread import RatioSpread, read_spread
from aftermix.jobs.run_folder.opening import read_run_config
from aftermix.jobs.train.expert_data import DatasetSources, collect_sources
from aftermix.mixture.exports.consumers import CONSUMERS
from aftermix.mixture.exports.domain_data import DomainData
from aftermix.mixture.exports.epoch_caps import allot, count_unrepeated_tokens
from aftermix.mixture.exports.plan import DomainFiles, ExportDomain, MixturePlan, describe_plan
from aftermix.mixture.exports.table import FILE as TABLE
from aftermix.mixture.exports.table import write_table
from aftermix.runs.input_records import CONFIG_FILE
from aftermix.runs.records import BEST_FILE
from aftermix.training.data.files import JSON_LINES, find_suffix, list_data_parts

MAX_EPOCHS = 4.0
"""Repeating data up to four times is nearly as good as new data (Muennighoff et al. 2023)."""
EXPORT_DATASET = "(export)"
"""A dataset of this name stands for the mixture that is exported; no dataset of a file can be called so."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options that the user adds to the ratios. None: what the file says, else the default."""

    data: Path | Sequence[Path] | None = None
    """YAML file whose `train` names the data of the domains, or several that do together."""
    dataset: str | None = None
    """Name of one of the mixtures of a YAML file."""
    tokens: float | None = None
    max_epochs: float | None = None
    root: str = "."
    sequence_tokens: int | None = None

    @property
    def data_files(self) -> tuple[Path, ...]:
        """The files of `data`."""
        return (self.data,) if isinstance(self.data, Path) else tuple(self.data or ())


@dataclass(frozen=True)
class _MixtureToExport:
    """Ratios with the data they are of."""

    base: str
    sources: DatasetSources
    tokens: int | None
    max_epochs: float
    cache: str | None
    spread: RatioSpread | None
    """Of the ratios, where a run found them."""


def export_mixture(
    source: Path, output: Path, *, to: str, options: ExportOptions | None = None, log: Callable[[str], None]
) -> list[Path]:
    """Write the mixture of `source` for the trainer `to`, a key of `CONSUMERS`, and return the new files.

    `source` is a run folder, a `best.json`, or a YAML file one of whose datasets is a mixture. `output` is a new
    folder, for `csv` a new file. Ratios are of tokens, which are counted in the data with the base's tokenizer. What
    each domain gives and how often it is repeated is told to `log`. All is checked before anything is written;
    raises :class:`AftermixError`.
    """
    options = options or ExportOptions()
    _refuse_numbers(options)
    refuse_output(output, is_file=to == "csv")

    mixture = _find_mixture(source, options)
    cache = (Path(mixture.cache) if mixture.cache else output.absolute().parent) / CACHE
    domain_files = _locate_data(mixture.sources)
    CONSUMERS[to].check(domain_files)

    # From here on it takes time: the data is read.
    data = DomainCounter(locate(mixture.base), mixture.base, cache).count_domains(mixture.sources)
    plan = _build_plan(mixture, domain_files, data, options, folder=output)

    files = dict(CONSUMERS[to].write(plan))
    for line in describe_plan(plan):
        log(line)

    if to == "csv":
        write_atomically(output, files[TABLE])
        return [output]
    with stage_folder(output) as hidden:
        for name, text in {**files, **write_table(plan)}.items():
            write_atomically(hidden / name, text)
    return [output / name for name in files]


def _refuse_numbers(options: ExportOptions) -> None:
    if options.tokens is not None and not 1 <= options.tokens < math.inf:
        raise ConfigError("--tokens", f"expected a number of tokens, found {options.tokens}", "Name one, as 2e9.")
    if options.max_epochs is not None and not options.max_epochs > 0:
        raise ConfigError("--max-epochs", f"expected more than 0, found {options.max_epochs}", "Name a number, as 4.")


def _find_mixture(source: Path, options: ExportOptions) -> _MixtureToExport:
    if not source.is_dir() and source.suffix != ".json":
        return _read_yaml_mixture(source, options)
    if options.dataset is not None:
        remedy = "Leave it out: a run has one mixture."
        raise ConfigError("--dataset", "is for a YAML file with several mixtures", remedy)

    best = _find_best_file(source)
    # The section of a mixture has a budget; a run has none.
    found = DatasetConfig(mixture=str(best), tokens=1)
    own = read_run_config(best.parent) if (best.parent / CONFIG_FILE).is_file() else None
    if options.data_files:
        return _attach_named_data(own.base if own is not None else None, found, None, options)

    if own is None or own.train is None:
        told = "the run's file names no data: it has no `train:`"
        raise ConfigError(str(best.parent), told, "Name a file with `train:` by --data FILE.")
    return _attach_data(own, found, None, options, where=f"{best.parent.name}/{CONFIG_FILE}")


def _find_best_file(source: Path) -> Path:
    if not source.is_dir():
        return source
    if (source / BEST_FILE).is_file():
        return source / BEST_FILE
    if (source / CONFIG_FILE).is_file():
        raise ConfigError(str(source), "is a run without a winner yet", "Finish it with --resume.")
    raise ConfigError(
        str(source), f"holds no {BEST_FILE}", "Name a run folder, a best.json, or a YAML file with a mixture."
    )


def _read_yaml_mixture(source: Path, options: ExportOptions) -> _MixtureToExport:
    config = load_config(source)
    mixtures = {
        name: dataset
        for name, dataset in (config.train.datasets if config.train else {}).items()
        if dataset.mixture is not None
    }

    # Without --dataset the file's only mixture is meant.
    names = ", ".join(mixtures)
    if not mixtures:
        remedy = "Name a run folder, a best.json, or a file with a `mixture` under `train.datasets`."
        raise ConfigError(source.name, "no dataset of the file is a mixture", remedy)
    if options.dataset is None and len(mixtures) > 1:
        raise ConfigError(source.name, f"holds several mixtures: {names}", "Choose one by --dataset NAME.")
    if options.dataset is not None and options.dataset not in mixtures:
        found = f"there is no mixture '{options.dataset}'; the file's are: {names}"
        raise ConfigError("--dataset", found, ask_meant("Correct the name.", options.dataset, mixtures))

    dataset = mixtures[options.dataset or names]
    if options.data_files:
        return _attach_named_data(config.base, dataset, dataset.tokens, options)
    return _attach_data(config, dataset, dataset.tokens, options, where=source.name)


def _attach_named_data(
    base: str | None, dataset: DatasetConfig, tokens: int | None, options: ExportOptions
) -> _MixtureToExport:
    """`dataset`, a mixture, with the data that the files of --data name; `base` counts where none of them names one."""
    files = NamedDataFiles.read(options.data_files)
    config = Config(base=files.base or base, train=files.join())
    mixture = _attach_data(config, dataset, tokens, options, where=files.where)
    files.refuse_clashes(mixture.sources.by_name)
    return mixture


def _attach_data(
    config: Config, dataset: DatasetConfig, tokens: int | None, options: ExportOptions, *, where: str
) -> _MixtureToExport:
    """`dataset`, a mixture, with the data that `config` names."""
    settings = config.train
    if settings is None or config.base is None:
        lacks = "train" if settings is None else "base"
        remedy = "Add it: the base's tokenizer counts, `train.sources` or `train.datasets` name the data."
        raise ConfigError(where, f"has no `{lacks}:`", remedy)

    sources = collect_sources(EXPORT_DATASET, _add_dataset(settings, dataset))
    max_epochs = options.max_epochs or dataset.max_epochs or MAX_EPOCHS
    tokens = int(options.tokens) if options.tokens else tokens
    spread = read_spread(Path(dataset.mixture)) if isinstance(dataset.mixture, str) else None
    return _MixtureToExport(config.base, sources, tokens, max_epochs, settings.cache, spread)


def _add_dataset(settings: TrainConfig, dataset: DatasetConfig) -> TrainConfig:
    return settings.model_copy(update={"datasets": {**settings.datasets, EXPORT_DATASET: dataset}})


def _locate_data(sources: DatasetSources) -> list[DomainFiles]:
    domain_files = []
    for name, source in sources.by_name.items():
        try:
            parts = list_data_parts(Path(source.data), split=source.split)
        except AftermixError as error:
            raise sources.locate_error(name, error) from error
        paths = tuple(str(part.absolute()) for part in parts)
        kind, ignored = _find_common_kind(parts), source.ignore_columns
        domain_files.append(DomainFiles(name, paths, kind, source.format, source.text_field, ignored=ignored))
    return domain_files


def _build_plan(
    mixture: _MixtureToExport,
    domain_files: Sequence[DomainFiles],
    data: Mapping[str, DomainData],
    options: ExportOptions,
    *,
    folder: Path,
) -> MixturePlan:
    ratios = mixture.sources.ratios or {}
    budget = mixture.tokens or count_unrepeated_tokens(ratios, data)
    given = allot(ratios, data, budget_tokens=budget, max_epochs=mixture.max_epochs)

    spread = mixture.spread
    domains = tuple(
        ExportDomain(
            **vars(files),
            data=data[files.name],
            given=given[files.name],
            spread=spread.bounds.get(files.name) if spread is not None else None,
        )
        for files in domain_files
    )
    source = spread.source if spread is not None else None
    return MixturePlan(domains, budget, str(folder.absolute()), options.root, options.sequence_tokens, source)


def _find_common_kind(parts: list[Path]) -> str:
    kinds = {_determine_kind(part) for part in parts}
    return kinds.pop() if len(kinds) == 1 else "several"


def _determine_kind(part: Path) -> str:
    if part.is_dir():
        return "saved"
    if find_suffix(part) in JSON_LINES:
        return "json"
    return "parquet" if find_suffix(part) == ".parquet" else "text"
