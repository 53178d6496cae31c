"""The search for merge weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from aftermix.config.fields import Count, Positive, Section


class Objective(Section):
    """A weighted mean of task scores, with floors that other tasks must not fall below."""

    tasks: dict[str, Positive] = {}  # noqa: RUF012 - pydantic copies defaults
    """Weight of each task; empty means the unweighted mean of all evaluated tasks."""
    floors: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = {}  # noqa: RUF012 - pydantic copies defaults
    """Lowest acceptable score of a task."""
    name: str | None = None


def _objectives(value: Any) -> Any:
    return [value] if isinstance(value, dict | Objective) else value


class SearchConfig(Section):
    """The search for merge weights (OptiMer, Algorithm 1)."""

    trials: Annotated[int, Field(ge=0)] = 100
    """Trials of this run; with `--from`, new trials on top of the re-scored ones."""
    startup: Annotated[int, Field(ge=0)] = 20
    """Trials before the model-based sampler takes over: enqueued priors first, then random points."""
    top: Count = 3
    """Best distinct trials that are measured again on the select items."""
    preset: Literal["default", "paper"] = "default"
    """`paper`: univariate TPE without priors. `default`: multivariate TPE with enqueued priors."""
    seed: Annotated[int, Field(ge=0)] = 0
    objective: Annotated[tuple[Objective, ...], BeforeValidator(_objectives)] = (Objective(),)
    """One objective, or several for a Pareto front."""
    baselines: bool = True
    """Measure the baselines that cost no training beside the winner."""
    max_consecutive_failures: Count = 5
    """Stop the search after so many failed trials in a row."""
