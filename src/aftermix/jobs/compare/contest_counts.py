"""Number of evaluations and trainings that the rows of `compare:` ask for, counted before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aftermix.config import Config, Split, TrainConfig
from aftermix.jobs.compare.contest import list_tuned_weights
from aftermix.jobs.compare.rival_plans import RivalPlan, plan_rivals
from aftermix.jobs.compare.rival_training import RivalTraining
from aftermix.jobs.plan.counts import MIXTURE
from aftermix.jobs.verify.training_file import training_config


@dataclass(frozen=True)
class ContestCounts:
    """Needs of all rows."""

    measurements: Mapping[Split, int]
    """Evaluations by split; rows that coincide make it an upper bound."""
    trainings: Mapping[str, tuple[int, int]]
    """Models and tokens of each, by the row that asks for them first."""
    settings: TrainConfig | None
    """`train:` of the first training, by which its speed is measured; None where nothing is trained."""

    @property
    def models(self) -> int:
        """Models that are trained."""
        return sum(models for models, _ in self.trainings.values())

    @property
    def tokens(self) -> int:
        """Tokens of all trainings."""
        return sum(models * tokens for models, tokens in self.trainings.values())

    def describe(self) -> str:
        """`datamix trains on 640 tokens, again 2 x 640 tokens`; empty where nothing is trained."""
        told = [f"{name} {_format_tokens(*each)}" for name, each in self.trainings.items()]
        return f"trainings: {', '.join(told)}" if told else ""


def count_contest(config: Config) -> ContestCounts:
    """Needs of the rows of `config`. Raises as :func:`~aftermix.jobs.compare.rival_plans.plan_rivals`."""
    plans = plan_rivals(config)
    models = {plan.name: plan.training.seeds if plan.training is not None else 1 for plan in plans}
    tuned = [plan for plan in plans if plan.is_tuned and plan.instruction is not None]
    select = sum(models[plan.name] * len(list_tuned_weights(config, str(plan.instruction))) for plan in tuned)
    trainings = [plan.training for plan in plans if plan.training is not None]
    return ContestCounts(
        measurements={"select": select, "test": sum(models.values())},
        trainings=dict(_list_trainings(plans)),
        settings=_build_settings(trainings[0]) if trainings else None,
    )


def _list_trainings(plans: Sequence[RivalPlan]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Each training once, under the first row that asks for it; ratios that are still to be found are of their own."""
    seen: set[str] = set()
    for plan in plans:
        training = plan.training
        if training is None:
            continue
        shares = {"the ratios found": 1.0} if training.shares is None else training.shares
        new = set(training.name_folders(shares).values()) - seen
        seen |= new
        if new:
            yield plan.name, (len(new), training.tokens)


def _build_settings(training: RivalTraining) -> TrainConfig | None:
    names = list(training.sources)
    shares = training.shares or dict.fromkeys(names, 1 / len(names))
    return training_config(training.config, domains=names, mixtures={MIXTURE: shares}, tokens=training.tokens).train


def _format_tokens(models: int, tokens: int) -> str:
    return f"{tokens:,} tokens" if models == 1 else f"{models} x {tokens:,} tokens"
