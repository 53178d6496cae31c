"""From merge weights to data ratios: the mixtures that are measured, what is wanted of one, and its limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from aftermix.config.fields import ConfigSection, Count, Finite, Name, Positive, Tokens

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Shares = Annotated[dict[Name, Share], Field(min_length=1)]


class UtilityConfig(ConfigSection):
    """One number for the scores of all capabilities."""

    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    """Weight by capability; those not named do not count. By default all count alike."""
    expression: str | None = None
    """Arithmetic over capabilities instead of weights: `0.5*math + min(ja, code)`."""
    normalisation: Literal["zscore", "percentile", "raw"] | None = None
    """Scale on which a score counts. By default `zscore`, and `raw` in an expression."""
    floors: dict[str, Finite] = {}  # noqa: RUF012 - pydantic copies defaults
    """Lowest acceptable score of a capability."""

    @model_validator(mode="after")
    def _weights_or_expression(self) -> UtilityConfig:
        if self.weights is not None and self.expression is not None:
            raise ValueError("takes 'weights' or 'expression', one of them")
        return self


def _utility(value: Any) -> Any:
    return {"expression": value} if isinstance(value, str) else value


class LevelConfig(ConfigSection):
    """Departures of the search within one group of the tree from the section."""

    points: Count | None = None
    """Mixtures of the group's members that are measured first."""
    rounds: tuple[Count, ...] | None = None
    """Points of its further rounds."""
    utility: Annotated[UtilityConfig | None, BeforeValidator(_utility)] = None
    """The utility that is made largest there."""


def _priors(value: Any) -> Any:
    return {str(number): shares for number, shares in enumerate(value, 1)} if isinstance(value, list | tuple) else value


class MixtureConfig(ConfigSection):
    """The mixture of the experts' data, found by merging them (MergeMix, section 3)."""

    preset: Literal["default", "paper"] = "default"
    """`paper`: LightGBM alone learns one design, and the optimum that it promises is taken (MergeMix, section 3.2).
    `default`: the regressor of least error out of fold, and the best of several verified mixtures."""
    points: Count = 40
    """Mixtures that are measured first: uniform, priors, each expert alone, and points that cover the rest."""
    rounds: tuple[Count, ...] = ()
    """Points of further rounds, each near the best that the points before it promise."""
    repeats: Annotated[int, Field(ge=0)] = 3
    """Points that are measured once more, on the select items, which tells the noise."""
    verify: Annotated[int, Field(ge=0)] = 3
    """Neighbours of the optimum that are merged and measured beside it."""
    priors: Annotated[dict[Name, Shares], BeforeValidator(_priors)] = {}  # noqa: RUF012 - pydantic copies defaults
    """Mixtures by name that are measured too; a list gets the names 1, 2, ..."""
    capabilities: dict[Name, Annotated[tuple[str, ...], Field(min_length=1)]] = {}  # noqa: RUF012 - pydantic copies
    """Tasks by capability, whose score is their mean. A task in none is a capability of its own."""
    utility: Annotated[UtilityConfig, BeforeValidator(_utility)] = UtilityConfig()
    """The utility that is made largest. A text alone is its `expression`."""
    bounds: dict[Name, tuple[Finite, Finite]] = {}  # noqa: RUF012 - pydantic copies defaults
    """Lowest and highest share of an expert's data."""
    fixed: dict[Name, Finite] = {}  # noqa: RUF012 - pydantic copies defaults
    """Share of an expert's data that is settled."""
    budget_tokens: Tokens | None = None
    """Tokens of the training that the mixture is for; with `max_epochs`."""
    max_epochs: Positive | None = None
    """No data is repeated more often in that training; needs the `tokens` of every expert."""
    pull: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Price of the distance (Kullback-Leibler) from the prior named in `toward`."""
    toward: str = "uniform"
    """`uniform`, `tokens` (in proportion to the experts' tokens), or the name of a prior."""
    seed: Annotated[int, Field(ge=0)] = 0
    second_order: bool = False
    """Measure by how much a training at the ratios and the merge part to second order, on the `calibration` text of
    every expert; of a tree at the ratios of the whole."""
    tree: Any = None
    """Groups of experts, and of groups: each a list of members, or a mapping where a name without value is an expert.
    Read by :mod:`aftermix.mixture.tree`, which knows the experts."""
    direction: Literal["top_down", "bottom_up"] = "top_down"
    """The level of the tree that is searched first."""
    levels: dict[Name, LevelConfig] = {}  # noqa: RUF012 - pydantic copies defaults
    """Settings that hold within a group instead."""
    experts: bool = False
    """Write each group's merge, its consolidated expert, too."""

    @model_validator(mode="before")
    @classmethod
    def _paper_verifies_its_optimum_alone(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") == "paper":
            return {"repeats": 0, "verify": 0} | values
        return values

    @model_validator(mode="after")
    def _paper_has_one_design(self) -> MixtureConfig:
        if self.preset == "paper":
            rounds = any(level.rounds for level in self.levels.values())
            given = {"rounds": self.rounds, "verify": self.verify, "pull": self.pull, "rounds in 'levels'": rounds}
            contrary = [name for name, value in given.items() if value]
            if contrary:
                found = f"found {contrary[0]}; remove one of them"
                raise ValueError(f"`preset: paper` measures one design and takes its optimum, {found}")
        return self

    @model_validator(mode="after")
    def _levels_are_of_a_tree(self) -> MixtureConfig:
        if self.tree is None:
            defaults = {name: type(self).model_fields[name].default for name in ("direction", "levels", "experts")}
            given = [name for name, default in defaults.items() if getattr(self, name) != default]
            if given:
                raise ValueError(f"'{given[0]}' is about the groups of a 'tree', and there is none")
        return self

    @model_validator(mode="after")
    def _caps_have_a_budget(self) -> MixtureConfig:
        if (self.budget_tokens is None) != (self.max_epochs is None):
            raise ValueError("'budget_tokens' and 'max_epochs' go together: the cap is on repeats in that training")
        return self

    @model_validator(mode="after")
    def _priors_have_names_of_their_own(self) -> MixtureConfig:
        taken = sorted({"uniform", "tokens"} & self.priors.keys())
        if taken:
            raise ValueError(f"'{taken[0]}' is the name of a mixture that is measured anyway; rename the prior")
        return self
