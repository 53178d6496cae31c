"""The files of one round's jobs: what its training and its search or mixture are given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from aftermix.config import Config, IterateConfig, VectorConfig, require
from aftermix.errors import Problem, ask_meant, join_place, refuse_if_any
from aftermix.jobs.job_kind import refuse_no_dataset

NEEDED = ("base", "train", "evaluate")


def check_iteration(config: Config) -> IterateConfig:
    """The section `iterate`, or its defaults. Raises :class:`ManyProblemsError` for a file that no round can be of."""
    require(config, *NEEDED)
    assert config.train is not None  # noqa: S101 - required above; for the type checker
    refuse_no_dataset(config.train)
    section, datasets = config.iterate or IterateConfig(), list(config.train.datasets)

    problems = []
    if config.vectors:
        found = f"names {', '.join(config.vectors)}: the vectors of each round are the experts that it trains"
        problems.append(Problem("vectors", found, "Remove the section; ranges of weights stand in `iterate.ranges`."))
    if config.compare:
        problems.append(Problem("compare", "is of one search, and there is one each round", "Remove the section."))
    if not config.search.baselines:
        found = "is false, and the base of each round is measured as a baseline"
        problems.append(Problem("search.baselines", found, "Remove it."))
    problems += [
        Problem(
            join_place("iterate.ranges", name),
            f"expected a dataset ({', '.join(datasets)})",
            ask_meant("Correct the name.", name, datasets),
        )
        for name in section.ranges
        if name not in datasets
    ]
    refuse_if_any(problems)
    return section


def build_training_file(config: Config, base: str) -> Config:
    """The training of a round from the model `base`."""
    return Config(base=base, train=config.train, track=config.track, tensor_names=config.tensor_names)


def build_search_file(config: Config, base: str, experts: Mapping[str, Path | str]) -> Config:
    """The search of a round, or its mixture where the file has one, over `experts` of `base`."""
    section = config.iterate or IterateConfig()
    assert config.train is not None  # noqa: S101 - checked before the first round
    vectors = {
        name: VectorConfig(model=str(folder), range=section.ranges.get(name), tokens=config.train.datasets[name].tokens)
        for name, folder in experts.items()
    }
    return config.model_copy(update={"base": base, "vectors": vectors, "train": None, "iterate": None})
