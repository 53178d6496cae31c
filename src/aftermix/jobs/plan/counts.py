"""Numbers of evaluations and of training tokens that a file asks for, counted before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from aftermix.config import Config, Split, TrainConfig
from aftermix.errors import TrainingError
from aftermix.jobs.mixture.baselines import LABELS, list_named_mixtures
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.tree_problem import TreeProblem
from aftermix.jobs.search.baselines import (
    build_instruction_scan,
    list_common_scans,
    list_fixed_baselines,
    list_single_weights,
)
from aftermix.jobs.verify.expert_training import adopt_training
from aftermix.jobs.verify.training_file import read_expert_tokens, training_config

MIXTURE = "mixture"
"""Name of a training that is only timed."""


def count_search_measurements(config: Config) -> dict[Split, int]:
    """Evaluations by split; candidates that coincide and tuned baselines that repeat others make it an upper bound."""
    search = config.search
    tuned, compared = (_count_tuning(config), _count_baselines(config)) if search.baselines else (0, 0)
    return {
        "search": search.trials,
        "select": min(search.top, max(search.trials, 1)) + tuned,
        "test": 1 + compared,
    }


def _count_tuning(config: Config) -> int:
    """Most measurements on select items by which weights of baselines are chosen."""
    instructions = [name for name, vector in config.vectors.items() if vector.role == "instruction"]
    experts = len(config.vectors) - len(instructions)
    scans = [len(list_single_weights(vector.bounds[1])) for vector in config.vectors.values()]

    # About what is found best come scans of the best single vector, and of the instruction beside the best expert.
    beside = len(build_instruction_scan(instructions[0])) if instructions and experts else 0
    return len(list(list_common_scans(config))) + max(scans) + beside


def _count_baselines(config: Config) -> int:
    """Most baselines on test items."""
    roles = {vector.role for vector in config.vectors.values()}
    tuned = 2 + ("instruction" in roles) + (roles == {"instruction", "expert"})
    return len(list(list_fixed_baselines(config))) + tuned


def count_at_once(config: Config, workers: int, *, batches: bool) -> dict[Split, float]:
    """Evaluations that `workers` make in the time of one: of a search (`batches`) a whole batch before the next.

    >>> count_at_once(Config(), 3, batches=True)
    {'search': 2.0, 'select': 3.0, 'test': 3.0}
    """
    batch = config.search.points_at_once
    search = batch / math.ceil(batch / workers) if batches else float(workers)
    return {"search": search, "select": float(workers), "test": float(workers)}


def count_mixture_measurements(config: Config) -> dict[Split, int]:
    """Evaluations by split, over all groups of a tree; verified mixtures that coincide make it an upper bound.

    Points and rounds are measured on search items; the optimum, its neighbours, the best measured point and the repeats
    on select, as the whole that a tree comes to; the winner and what it is compared with on test. Raises what the job
    would on its input.
    """
    problems, compared = _list_problems(config)
    whole = int(config.mixture is not None and config.mixture.tree is not None)
    return {
        "search": sum(problem.mixture.points + sum(problem.mixture.rounds) for problem in problems),
        "select": whole + sum(_count_verified(problem) + len(problem.design.repeats) for problem in problems),
        "test": 1 + compared,
    }


def _count_verified(problem: MixtureProblem) -> int:
    """The optimum, its neighbours and the best measured point; the paper's preset takes the first as it is."""
    return 1 if problem.mixture.preset == "paper" else 2 + problem.mixture.verify


def describe_mixtures(config: Config) -> str:
    """`mixtures of 3 members: ja, math, code; it at 0.6`"""
    problems, _ = _list_problems(config)
    groups = "; ".join(f"{len(problem.domains)} members: {', '.join(problem.domains)}" for problem in problems)
    fixed = "".join(f"; {name} at {weight:g}" for name, weight in problems[0].instruction.items())
    return f"mixtures of {groups}{fixed}"


def _list_problems(config: Config) -> tuple[list[MixtureProblem], int]:
    """Problems that are searched, group by group, and the number of mixtures that the winner is compared with."""
    assert config.mixture is not None  # noqa: S101 - the caller looked
    if config.mixture.tree is None:
        problem = MixtureProblem.build_flat(config)
        return [problem], len(list(list_named_mixtures(problem)))

    tree = TreeProblem.from_config(config)
    return list(tree.plan_problems()), len(list(tree.list_named_mixtures()))


def list_training_tokens(config: Config) -> Mapping[str, int | None]:
    """Tokens to train on by dataset; None for one epoch of its data."""
    return {name: dataset.tokens for name, dataset in config.train.datasets.items()} if config.train else {}


def read_verification_tokens(config: Config) -> int | None:
    """Tokens of each mixture that `aftermix mixture --verify N` trains; None where the file does not say."""
    if config.train is None or config.mixture is None:
        return None

    domains = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    try:
        return read_expert_tokens(config.train, domains, option="--tokens T")
    except TrainingError:
        return None


def list_retrained_ratios(config: Config) -> tuple[str, ...]:
    """Methods whose ratios `aftermix mixture --verify N --seeds S` trains at, without DoReMi.

    Raises what the mixture itself would on its input.
    """
    if read_verification_tokens(config) is None:
        return ()
    tree = config.mixture is not None and config.mixture.tree is not None
    problem = TreeProblem.from_config(config).flat_problem if tree else MixtureProblem.build_flat(config)
    plain = (LABELS.get(name, f"prior {name}") for name in problem.named_mixtures)
    return "found", *plain, "RegMix"


def build_verification_settings(config: Config) -> TrainConfig | None:
    """`train:` of a mixture that a verification trains, by which its speed is measured; None where there is none.

    Raises :class:`MixtureError` for experts that were trained unlike, as the verification does.
    """
    tokens = read_verification_tokens(config)
    if tokens is None:
        return None
    domains = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    adopted = config.model_copy(update={"train": adopt_training(config, domains)})
    uniform = dict.fromkeys(domains, 1 / len(domains))
    return training_config(adopted, domains=domains, mixtures={MIXTURE: uniform}, tokens=tokens).train


def list_adapter_ranks(config: Config) -> Mapping[str, int]:
    """Rank of the adapters of each dataset that trains such, by name."""
    if config.train is None:
        return {}
    settled = {name: config.train.settle_for(name).lora for name in config.train.datasets}
    return {name: lora.rank for name, lora in settled.items() if lora is not None}


def describe_training(tokens: Mapping[str, int | None], ranks: Mapping[str, int]) -> Iterator[str]:
    """`ja 1,000,000 tokens`, `math one epoch (adapters of rank 8)`."""
    for name, count in tokens.items():
        adapters = f" (adapters of rank {ranks[name]})" if name in ranks else ""
        yield (f"{name} {count:,} tokens" if count is not None else f"{name} one epoch") + adapters
