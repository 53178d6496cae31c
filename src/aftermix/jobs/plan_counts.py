"""Numbers of evaluations and of training tokens that a file asks for, counted before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aftermix.config import Config, Split
from aftermix.errors import TrainingError
from aftermix.jobs.mixture.baselines import compared_mixtures
from aftermix.jobs.mixture.problem import Setting
from aftermix.jobs.mixture.tree_problem import Levels
from aftermix.jobs.search.baselines import fixed_baselines, instruction_scan
from aftermix.jobs.verify.training_file import tokens_of


def search_measurements(config: Config) -> dict[Split, int]:
    """Evaluations by split; candidates that coincide and tuned baselines that repeat others make it an upper bound."""
    search = config.search
    instructions = [name for name, vector in config.vectors.items() if vector.role == "instruction"]
    experts = len(config.vectors) - len(instructions)
    fixed = len(list(fixed_baselines(config))) if search.baselines else 0

    # An instruction vector brings a scan of its weight, alone and beside the best expert.
    scan = len(instruction_scan(instructions[0])) if search.baselines and instructions else 0
    tuned = (2 * scan + experts if experts else scan) if scan else 0

    return {
        "search": search.trials,
        "select": min(search.top, max(search.trials, 1)) + tuned,
        "test": 1 + fixed + ((2 if experts else 1) if scan else 0),
    }


def mixture_measurements(config: Config) -> dict[Split, int]:
    """Evaluations by split, over all groups of a tree; verified mixtures that coincide make it an upper bound.

    Points and rounds are measured on search items; the optimum, its neighbours, the best measured point and the repeats
    on select, as the whole that a tree comes to; the winner and what it is compared with on test. Raises what the job
    would on its input.
    """
    settings, compared = _settings(config)
    whole = int(config.mixture is not None and config.mixture.tree is not None)
    return {
        "search": sum(one.mixture.points + sum(one.mixture.rounds) for one in settings),
        "select": whole + sum(2 + one.mixture.verify + len(one.design.repeats) for one in settings),
        "test": 1 + compared,
    }


def mixture_text(config: Config) -> str:
    """`mixtures of 3 members: ja, math, code; it at 0.6`"""
    settings, _ = _settings(config)
    groups = "; ".join(f"{len(one.domains)} members: {', '.join(one.domains)}" for one in settings)
    fixed = "".join(f"; {name} at {weight:g}" for name, weight in settings[0].instruction.items())
    return f"mixtures of {groups}{fixed}"


def _settings(config: Config) -> tuple[list[Setting], int]:
    """Problems that are searched, group by group, and the number of mixtures that the winner is compared with."""
    assert config.mixture is not None  # noqa: S101 - the caller looked
    if config.mixture.tree is None:
        setting = Setting.of(config)
        return [setting], len(list(compared_mixtures(setting)))

    levels = Levels.of(config)
    return list(levels.planned()), len(list(levels.compared()))


def training_tokens(config: Config) -> Mapping[str, int | None]:
    """Tokens to train on by dataset; None for one epoch of its data."""
    return {name: dataset.tokens for name, dataset in config.train.datasets.items()} if config.train else {}


def verification_tokens(config: Config) -> int | None:
    """Tokens of each mixture that `aftermix mixture --verify N` trains; None where the file does not say."""
    if config.train is None or config.mixture is None or config.mixture.tree is not None:
        return None

    domains = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    try:
        return tokens_of(config.train, domains, option="--tokens T")
    except TrainingError:
        return None


def training_text(tokens: Mapping[str, int | None]) -> Iterator[str]:
    """`ja 1,000,000 tokens`, `math one epoch`."""
    for name, count in tokens.items():
        yield f"{name} {count:,} tokens" if count is not None else f"{name} one epoch"
