"""Rows of `compare:`, checked against the rest of the file before any model is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from aftermix.config import Config, RivalConfig
from aftermix.config.compare import TUNED
from aftermix.errors import AftermixError, ConfigError, Problem, join_place, refuse_if_any
from aftermix.jobs.compare.rival_training import RivalTraining, plan_training
from aftermix.jobs.search.named_weights import complete_weights
from aftermix.merging.recipe import MergeRecipe, check_weights

SECTION = "compare"


@dataclass(frozen=True)
class RivalPlan:
    """One row: its origin, and the instruction vector that is added to it."""

    name: str
    config: RivalConfig
    instruction: str | None
    """Name of the vector that is added; None where none is."""
    weights: Mapping[str, float] | None
    """Of a merge, a number for every vector of the file."""
    training: RivalTraining | None

    @property
    def is_tuned(self) -> bool:
        """True where the weight of the instruction vector is chosen on select items."""
        return self.config.instruction == TUNED

    @property
    def place(self) -> str:
        """Place of the row in the file."""
        return locate_rival(self.name)


def locate_rival(name: str) -> str:
    """Place in the file of the row called `name`."""
    return join_place(SECTION, name)


def plan_rivals(config: Config) -> tuple[RivalPlan, ...]:
    """The rows of `config`, with what they leave to the rest of the file settled.

    Raises :class:`ManyProblemsError` with the faults of all rows: vectors and datasets that are not there, an
    instruction vector that the file has not or has more than one of, trainings without data or with experts that were
    trained unlike.
    """
    problems: list[Problem] = []
    plans = []
    for name, rival in config.compare.items():
        try:
            plans.append(_plan_rival(config, name, rival))
        except AftermixError as error:
            problems += error.problems
    refuse_if_any(problems)
    return tuple(plans)


def _plan_rival(config: Config, name: str, rival: RivalConfig) -> RivalPlan:
    place = locate_rival(name)
    instruction = _find_instruction(config, place) if rival.adds_instruction else None

    weights = None
    if rival.weights is not None:
        where = f"{place}.weights"
        weights = complete_weights(rival.weights, config.vectors, where=where)
        if instruction in rival.weights:
            found = f"'{instruction}' has a weight, and `instruction` says another"
            raise ConfigError(where, found, "Remove one of them.")
        with relabel_problems(where):
            check_weights(MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True), weights)

    training = None
    if rival.train is not None:
        with relabel_problems(f"{place}.train"):
            training = plan_training(config, rival.train, where=f"{place}.train")
    return RivalPlan(name, rival, instruction, weights, training)


def _find_instruction(config: Config, place: str) -> str:
    names = [name for name, vector in config.vectors.items() if vector.role == "instruction"]
    if len(names) == 1:
        return names[0]
    found = f"expected one vector with `role: instruction`, found {', '.join(names) or 'none'}"
    raise ConfigError(f"{place}.instruction", found, "Give one vector that role, or say `instruction: none`.")


@contextmanager
def relabel_problems(place: str) -> Iterator[None]:
    """Raise problems of the block as those of `place`, whose own stay as they are."""
    try:
        yield
    except AftermixError as error:
        refuse_if_any([_relabel(problem, place) for problem in error.problems])
        raise


def _relabel(problem: Problem, place: str) -> Problem:
    if problem.where.startswith(place):
        return problem
    # What another command calls an option, or the section, is the row itself here.
    where = place if problem.where.startswith("--") or problem.where == "train" else f"{place}: {problem.where}"
    return Problem(where, problem.found, problem.remedy)
