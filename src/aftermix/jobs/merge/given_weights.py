"""Weights that a file gives: the one place where a vector without `weight` is taken at 1, or refused."""

from __future__ import annotations

from collections.abc import Mapping

from aftermix.config import Config
from aftermix.config.places import Weight, describe_range
from aftermix.errors import Problem, join_place, refuse_if_any
from aftermix.jobs.job_kind import JobKind

SEARCH_FOR_IT = "Give it a `weight`, or search for one: `aftermix search FILE -o RUN`."
REMEDIES: Mapping[JobKind, str] = {
    "search": "Give it a `weight`, or have the weights searched: remove `weights: false` from `search.over`.",
    "mixture": "Give it a `weight`: a mixture keeps an instruction vector at it in every merge.",
}


def read_given_weights(config: Config) -> dict[str, Weight]:
    """Vector -> merge weight, a number or rules by the place of a tensor.

    A vector with neither `weight` nor `range` weighs 1; a range alone says that its weight is still to be found. Raises
    :class:`AftermixError` naming every vector with a range and no weight.
    """
    refuse_missing_weights(config, "merge")
    return {name: vector.weight for name, vector in config.vectors.items()}


def refuse_missing_weights(config: Config, job: JobKind) -> None:
    """Raise :class:`AftermixError` where `job` takes a weight from the file that the file does not give.

    A search takes them where it keeps the weights (`search.over.weights: false`), a mixture those of instruction
    vectors, a merge and an evaluation all of them, a training none.
    """
    refuse_if_any(
        [
            Problem(
                join_place("vectors", name),
                f"has a range, {describe_range(vector.range or vector.bounds)}, and no weight to be merged at",
                REMEDIES.get(job, SEARCH_FOR_IT),
            )
            for name, vector in config.vectors.items()
            if vector.range is not None and "weight" not in vector.model_fields_set
            if _takes_weight(config, job, role=vector.role)
        ]
    )


def _takes_weight(config: Config, job: JobKind, *, role: str) -> bool:
    if job == "search":
        return not config.search.over.weights
    return job in ("merge", "evaluate") or (job == "mixture" and role == "instruction")
