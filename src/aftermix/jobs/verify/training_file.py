"""The training file of mixtures that are trained for real: one dataset for each, over the data of the domains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from aftermix.config import Config, DatasetConfig, ScaleConfig, SourceConfig, TrainConfig, require
from aftermix.errors import AftermixError, Problem, TrainingError, ask_meant, refuse_if_any
from aftermix.training.data.files import list_data_parts

Shares = Mapping[str, float]
ROUNDING = 1e-9


def training_config(config: Config, *, domains: Sequence[str], mixtures: Mapping[str, Shares], tokens: int) -> Config:
    """`config` with a `train:` that trains each of `mixtures` (shares in tokens, by name) on `tokens` tokens.

    Everything else of `train:` holds, but no checkpoints are written along the way. Where all datasets of the domains
    have one learning rate of their own, it holds too. A share that would give less than one sequence is none. Raises
    :class:`ManyProblemsError` naming each domain without data.
    """
    require(config, "base", "train")
    assert config.train is not None  # noqa: S101 - required above; for the type checker

    sources = find_sources(config.train, domains)
    scale = config.train.optimizer.scale
    if isinstance(scale, ScaleConfig) and scale.data is not None:
        sources |= find_sources(config.train, [scale.data])
    datasets = {
        name: DatasetConfig(mixture=_drop_partial_sequences(shares, tokens / config.train.context), tokens=tokens)
        for name, shares in mixtures.items()
    }

    rates = {dataset.learning_rate for dataset in _list_datasets(config.train, domains)}
    update = {
        "datasets": datasets,
        "sources": sources,
        "checkpoint_tokens": None,
        "vector": "none",  # what is trained here is measured, and merged with nothing
        "learning_rate": (rates.pop() if len(rates) == 1 else None) or config.train.learning_rate,
    }
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


def find_sources(train: TrainConfig, domains: Sequence[str]) -> dict[str, SourceConfig]:
    """The data of each domain: the dataset or source of its name.

    Raises :class:`ManyProblemsError` naming each domain that has none.
    """
    data_by_name = {
        name: source for name, dataset in train.datasets.items() if (source := dataset.source)
    } | train.sources

    known = ", ".join(data_by_name) or "none"
    remedy = "Add a dataset or source of this name under `train:`."
    refuse_if_any(
        [
            Problem("train", f"no data of domain '{name}'; known are: {known}", ask_meant(remedy, name, data_by_name))
            for name in domains
            if name not in data_by_name
        ]
    )
    return {name: data_by_name[name] for name in domains}


def refuse_missing_data(sources: Mapping[str, SourceConfig]) -> None:
    """Raise :class:`ManyProblemsError` naming each domain whose data is not there or not of a kind that is read."""
    problems: list[Problem] = []
    for name, source in sources.items():
        try:
            list_data_parts(Path(source.data), split=source.split)
        except AftermixError as error:
            problems += [
                Problem(f"train, '{name}': {problem.where}", problem.found, problem.remedy)
                for problem in error.problems
            ]
    refuse_if_any(problems)


def _drop_partial_sequences(shares: Shares, sequences: float) -> dict[str, float]:
    """
    >>> _drop_partial_sequences({"ja": 0.9, "math": 0.099, "code": 0.001}, 100)
    {'ja': 0.9009009009009009, 'math': 0.0990990990990991}
    """
    whole = {domain: share for domain, share in shares.items() if share * sequences >= 1 - ROUNDING}
    total = math.fsum(whole.values())
    return {domain: share / total for domain, share in whole.items()} if total > 0 else dict(shares)


def read_expert_tokens(train: TrainConfig, domains: Sequence[str], *, option: str) -> int:
    """The tokens that every domain's expert is trained on; `option` is what sets them otherwise, for the message.

    Raises :class:`TrainingError` where the datasets do not say one number.
    """
    given = [train.datasets[name].tokens if name in train.datasets else None for name in domains]
    if len(set(given)) == 1 and given[0] is not None:
        return given[0]

    shown = ", ".join(f"{name} {tokens or 'none'}" for name, tokens in zip(domains, given, strict=True))
    found = f"expected one number of `tokens` for the datasets of all domains, found {shown}"
    raise TrainingError("train.datasets", found, f"Say how many each mixture is trained on: {option}.")


def _list_datasets(train: TrainConfig, domains: Sequence[str]) -> list[DatasetConfig]:
    return [dataset for name, dataset in train.datasets.items() if name in domains]
