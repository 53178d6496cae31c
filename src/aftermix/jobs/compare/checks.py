"""Refusal of bad rows of `compare:` before work begins."""

from __future__ import annotations

from collections.abc import Collection

from aftermix.checkpoints.pool import ModelPool
from aftermix.config import Config
from aftermix.errors import AftermixError, Problem, refuse_if_any
from aftermix.jobs.compare.rival_models import RivalModel
from aftermix.jobs.compare.rival_plans import RivalPlan, plan_rivals, relabel_problems
from aftermix.jobs.compare.rival_training import refuse_tokens_beyond_data


def refuse_bad_rivals(config: Config, pool: ModelPool, *, checked: Collection[str] = ()) -> None:
    """Raise :class:`ManyProblemsError` with every fault of the rows of `config`, whose vectors are in `pool`.

    Models are opened, and read for NaN and Inf; data are counted where a training asks for more tokens than the experts
    took. The rows called `checked` are read no further than their headers: a run that goes on has looked at them.
    """
    problems: list[Problem] = []
    for plan in plan_rivals(config):
        try:
            with relabel_problems(plan.place):
                _refuse_bad_rival(plan, config, pool, whole=plan.name not in checked)
        except AftermixError as error:
            problems += error.problems
    refuse_if_any(problems)


def _refuse_bad_rival(plan: RivalPlan, config: Config, pool: ModelPool, *, whole: bool) -> None:
    if plan.config.model is not None:
        model = RivalModel.open(config, pool, plan.config.model)
        if whole:
            model.refuse_non_finite()
    if plan.training is not None and whole:
        refuse_tokens_beyond_data(plan.training, where=f"{plan.place}.train")
