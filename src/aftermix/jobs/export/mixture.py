"""`aftermix export --to megatron|interleave|...`: the data mixture that was found, as a trainer takes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.writer import refuse_occupied
from aftermix.config import Config, DatasetConfig, TrainConfig, load_config
from aftermix.errors import AftermixError, ConfigError
from aftermix.files import write_atomically
from aftermix.jobs.export.domain_counts import CACHE, Counting
from aftermix.jobs.run_folder import BEST, CONFIG, read_run_config
from aftermix.jobs.train.expert_data import Ingredients, ingredients
from aftermix.mixture.exports.consumers import CONSUMERS
from aftermix.mixture.exports.domain_data import DomainData
from aftermix.mixture.exports.epoch_caps import allotted, unrepeated_tokens
from aftermix.mixture.exports.plan import Domain, MixturePlan, Place, lines_of
from aftermix.mixture.exports.table import FILE as TABLE
from aftermix.mixture.exports.table import table
from aftermix.training.data.files import JSON_LINES, data_parts, kind_of

MAX_EPOCHS = 4.0
"""Repeating data up to four times is nearly as good as new data (Muennighoff et al. 2023)."""
ASKED = "(export)"
"""A dataset of this name stands for the mixture that is exported; no dataset of a file can be called so."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Options that the user adds to the ratios. None: what the file says, else the default."""

    data: Path | None = None
    """YAML file whose `train` names the data of each domain."""
    dataset: str | None = None
    """Name of one of the mixtures of a YAML file."""
    tokens: float | None = None
    max_epochs: float | None = None
    root: str = "."
    sequence_tokens: int | None = None


@dataclass(frozen=True)
class _Mixture:
    """Ratios with the data they are of."""

    base: str
    what: Ingredients
    tokens: int | None
    max_epochs: float
    cache: str | None


def export_mixture(
    source: Path, output: Path, *, to: str, asked: Asked | None = None, say: Callable[[str], None]
) -> list[Path]:
    """Write the mixture of `source` for the trainer `to`, a key of `CONSUMERS`, and return the new files.

    `source` is a run folder, a `best.json`, or a YAML file one of whose datasets is a mixture. `output` is a new
    folder, for `csv` a new file. Ratios are of tokens, which are counted in the data with the base's tokenizer. What
    each domain gives and how often it is repeated is told to `say`. All is checked before anything is written;
    raises :class:`AftermixError`.
    """
    asked = asked or Asked()
    _refuse_numbers(asked)
    _refuse_output(output, is_file=to == "csv")

    mixture = _mixture(source, asked)
    cache = (Path(mixture.cache) if mixture.cache else output.absolute().parent) / CACHE
    places = _places(mixture.what)
    CONSUMERS[to].check(places)

    # From here on it takes time: the data is read.
    data = Counting(locate(mixture.base), mixture.base, cache).counts(mixture.what)
    plan = _plan(mixture, places, data, asked, folder=output)

    files = dict(CONSUMERS[to].write(plan))
    for line in lines_of(plan):
        say(line)

    if to == "csv":
        write_atomically(output, files[TABLE])
        return [output]
    for name, text in {**files, **table(plan)}.items():
        write_atomically(output / name, text)
    return [output / name for name in files]


def _refuse_numbers(asked: Asked) -> None:
    if asked.tokens is not None and not 1 <= asked.tokens < math.inf:
        raise ConfigError("--tokens", f"expected a number of tokens, found {asked.tokens}", "Name one, as 2e9.")
    if asked.max_epochs is not None and not asked.max_epochs > 0:
        raise ConfigError("--max-epochs", f"expected more than 0, found {asked.max_epochs}", "Name a number, as 4.")


def _refuse_output(output: Path, *, is_file: bool) -> None:
    if not output.absolute().parent.is_dir():
        raise ConfigError(str(output.parent), "is no folder", "Make it, or name another place.")
    if not is_file:
        refuse_occupied(output)
    elif output.exists():
        raise ConfigError(str(output), "exists", "Name a new file.")


def _mixture(source: Path, asked: Asked) -> _Mixture:
    if not source.is_dir() and source.suffix != ".json":
        return _of_yaml(source, asked)
    if asked.dataset is not None:
        remedy = "Leave it out: a run has one mixture."
        raise ConfigError("--dataset", "is for a YAML file with several mixtures", remedy)

    best = _best_file(source)
    config, where = _data_config(best.parent, asked.data)
    # The section of a mixture has a budget; a run has none.
    return _found(config, DatasetConfig(mixture=str(best), tokens=1), None, asked, where=where)


def _best_file(source: Path) -> Path:
    if not source.is_dir():
        return source
    if (source / BEST).is_file():
        return source / BEST
    if (source / CONFIG).is_file():
        raise ConfigError(str(source), "is a run without a winner yet", "Finish it with --resume.")
    raise ConfigError(str(source), f"holds no {BEST}", "Name a run folder, a best.json, or a YAML file with a mixture.")


def _data_config(run: Path, data: Path | None) -> tuple[Config, str]:
    """The configuration that names data and base, and where it is from."""
    own = read_run_config(run) if (run / CONFIG).is_file() else None
    if data is None:
        if own is None or own.train is None:
            found = "the run's file names no data: it has no `train:`"
            raise ConfigError(str(run), found, "Name a file with `train:` by --data FILE.")
        return own, f"{run.name}/{CONFIG}"
    config = load_config(data)

    if config.base is None and own is not None:
        config = config.model_copy(update={"base": own.base})
    return config, data.name


def _of_yaml(source: Path, asked: Asked) -> _Mixture:
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
    if asked.dataset is None and len(mixtures) > 1:
        raise ConfigError(source.name, f"holds several mixtures: {names}", "Choose one by --dataset NAME.")
    if asked.dataset is not None and asked.dataset not in mixtures:
        found = f"there is no mixture '{asked.dataset}'; the file's are: {names}"
        raise ConfigError("--dataset", found, "Correct the name.")

    dataset = mixtures[asked.dataset or names]
    if asked.data is None:
        return _found(config, dataset, dataset.tokens, asked, where=source.name)

    other = load_config(asked.data)
    other = other if other.base is not None else other.model_copy(update={"base": config.base})
    return _found(other, dataset, dataset.tokens, asked, where=asked.data.name)


def _found(config: Config, dataset: DatasetConfig, tokens: int | None, asked: Asked, *, where: str) -> _Mixture:
    """`dataset`, a mixture, with the data that `config` names."""
    settings = config.train
    if settings is None or config.base is None:
        lacks = "train" if settings is None else "base"
        remedy = "Add it: the base's tokenizer counts, `train.sources` or `train.datasets` name the data."
        raise ConfigError(where, f"has no `{lacks}:`", remedy)

    what = ingredients(ASKED, _with(settings, dataset))
    max_epochs = asked.max_epochs or dataset.max_epochs or MAX_EPOCHS
    return _Mixture(config.base, what, int(asked.tokens) if asked.tokens else tokens, max_epochs, settings.cache)


def _with(settings: TrainConfig, dataset: DatasetConfig) -> TrainConfig:
    return settings.model_copy(update={"datasets": {**settings.datasets, ASKED: dataset}})


def _places(what: Ingredients) -> list[Place]:
    found = []
    for name, source in what.sources.items():
        try:
            parts = data_parts(Path(source.data))
        except AftermixError as error:
            raise what.placed(name, error) from error
        paths = tuple(str(part.absolute()) for part in parts)
        found.append(Place(name, paths, _kind_of_all(parts), source.format, source.text_field))
    return found


def _plan(
    mixture: _Mixture, places: Sequence[Place], data: Mapping[str, DomainData], asked: Asked, *, folder: Path
) -> MixturePlan:
    ratios = mixture.what.ratios or {}
    budget = mixture.tokens or unrepeated_tokens(ratios, data)
    given = allotted(ratios, data, budget_tokens=budget, max_epochs=mixture.max_epochs)

    domains = tuple(Domain(**vars(place), data=data[place.name], given=given[place.name]) for place in places)
    return MixturePlan(domains, budget, str(folder.absolute()), asked.root, asked.sequence_tokens)


def _kind_of_all(parts: list[Path]) -> str:
    kinds = {_kind(part) for part in parts}
    return kinds.pop() if len(kinds) == 1 else "several"


def _kind(part: Path) -> str:
    if part.is_dir():
        return "saved"
    if kind_of(part) in JSON_LINES:
        return "json"
    return "parquet" if kind_of(part) == ".parquet" else "text"
