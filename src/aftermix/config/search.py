"""The search for merge weights and for settings of the merge."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from aftermix.config.fields import ConfigSection, Count, Finite, Positive, Tokens

Strategy = Literal["response", "tpe", "random"]
STARTUP = 20
"""Trials of the start-up where the file does not say."""


class Objective(ConfigSection):
    """A weighted mean of task scores, with floors that other tasks must not fall below."""

    tasks: dict[str, Positive] = {}  # noqa: RUF012 - pydantic copies defaults
    """Weight of each task; empty means the unweighted mean of all evaluated tasks."""
    floors: dict[str, Finite] = {}  # noqa: RUF012 - pydantic copies defaults
    """Lowest acceptable score of a task, in its metric's own unit; below 0 where scores may be (a log-likelihood)."""
    name: str | None = None


def _objectives(value: Any) -> Any:
    return [value] if isinstance(value, dict | Objective) else value


def _choice(value: Any) -> Any:
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    infinite = isinstance(value, float) and not math.isfinite(value)
    if value is None or infinite or isinstance(value, list | tuple | dict):
        raise ValueError("a choice is a number, a text, true, false, or a list of vectors")
    return value


Choice = Annotated[Any, BeforeValidator(_choice)]
"""`bool | int | float | str | tuple[str, ...]`, told apart by hand so that a fault is one message and not five."""


def _dimension(value: Any) -> Any:
    return {"choices": value} if isinstance(value, list | tuple) else value


class Dimension(ConfigSection):
    """Values that one setting may have: an interval, perhaps in steps, or one of several choices."""

    low: Finite | None = None
    high: Finite | None = None
    step: Positive | None = None
    """Only `low`, `low + step`, ... are tried."""
    each: bool = False
    """A dimension for each vector instead of one for all; for `density`. `ratio` is always one for each."""
    choices: tuple[Choice, ...] | None = None
    """A list alone stands for this."""


class SearchedSettings(BaseModel):
    """Dimensions of the search: merge weights, and settings of the merge by the name of the method's option."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Annotated[Dimension, BeforeValidator(_dimension)]] = Field(init=False)

    weights: bool = True
    """False keeps every vector at its `weight`."""

    @property
    def settings(self) -> dict[str, Dimension]:
        """The searched settings as the file gives them."""
        return dict(self.__pydantic_extra__)


class SearchConfig(ConfigSection):
    """The search for merge weights (OptiMer, Algorithm 1)."""

    trials: Annotated[int, Field(ge=0)] = 100
    """Trials of this run; with `--from`, new trials on top of the re-scored ones."""
    startup: Annotated[int, Field(ge=0)] | None = None
    """Trials of the first design, priors before scattered points; null is 20, and where the strategy is `response`
    `max(2 d + 2, 8)` in `d` dimensions, or fewer where `trials` are few, or those that `budget_tokens` buys."""
    top: Count = 3
    """Best distinct trials that are measured again on the select items."""
    preset: Literal["default", "paper"] = "default"
    """`paper`: univariate TPE without priors. `default`: multivariate TPE with enqueued priors."""
    strategy: Strategy = "response"
    """`response`: by a model of every item's answers to the weights, until further merges would tell too little.
    `tpe`: by Optuna's tree-structured Parzen estimator. `random`: uniform random points, and no prior."""
    precision: Annotated[float, Field(gt=0)] | None = None
    """Gain over the winner, in the unit of the objective, below which a search by response stops looking; null is a
    quarter of the paired standard error of the objective, at least 0.1 points."""
    batch: Count = 4
    """Points that are proposed together, before the first of them is measured. The `paper` preset proposes one."""
    budget_tokens: Tokens | None = None
    """Positions to compute on search and select items, padding included; baselines and test items are apart."""
    seed: Annotated[int, Field(ge=0)] = 0
    objective: Annotated[tuple[Objective, ...], BeforeValidator(_objectives)] = (Objective(),)
    """One objective, or several for a Pareto front."""
    over: SearchedSettings = SearchedSettings()
    """Settings of the merge that are searched beside the weights, or instead of them."""
    baselines: bool = True
    """Measure the baselines that cost no training beside the winner."""
    max_consecutive_failures: Count = 5
    """Stop the search after so many failed trials in a row."""

    @property
    def startup_trials(self) -> int:
        """`startup`, or its default."""
        return STARTUP if self.startup is None else self.startup

    @property
    def points_at_once(self) -> int:
        """Size of a batch. OptiMer's Algorithm 1, which the `paper` preset is, proposes one point after another."""
        return 1 if self.preset == "paper" else self.batch

    @model_validator(mode="before")
    @classmethod
    def _paper_says_tpe(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") == "paper":
            return {"strategy": "tpe"} | values
        return values

    @model_validator(mode="after")
    def _paper_is_tpe(self) -> SearchConfig:
        if self.preset == "paper" and self.strategy != "tpe":
            raise ValueError(
                f"`preset: paper` is `strategy: tpe`, found `strategy: {self.strategy}`; remove one of them"
            )
        return self
