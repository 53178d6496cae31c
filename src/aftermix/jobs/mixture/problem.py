"""Mixture problem of a file: domains, limits, design and utility, checked before any work begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from aftermix.config import Config, MixtureConfig, Objective
from aftermix.config.places import list_range_rules, require_number
from aftermix.errors import Problem, ask_meant, join_place
from aftermix.jobs.mixture.faults import ProblemCollector
from aftermix.mixture.bounds import ShareBounds
from aftermix.mixture.design import SimplexDesign, build_design
from aftermix.mixture.expression import parse_expression
from aftermix.mixture.optimum import MixtureGoal
from aftermix.mixture.simplex import Floats, name_shares, order_shares, share_by_tokens
from aftermix.mixture.surrogates.surrogate import FEWEST_POINTS
from aftermix.mixture.tree import GroupEmbedding
from aftermix.mixture.utility import MixtureUtility
from aftermix.runs.trials import Trial, Weights
from aftermix.search.space import SearchSpace

# N points, K domains, T columns of scores

UNIFORM, TOKENS = "uniform", "tokens"
PAPER_REGRESSOR = "lightgbm"
"""Regressor of every capability in MergeMix, section 3.2."""
FittedScores = Literal["tasks", "capabilities"]
"""Scores that have a surrogate each: of tasks, aggregated afterwards; or, in runs of old, of whole capabilities."""


@dataclass(frozen=True)
class MixtureProblem:
    """A mixture job, checked: domains are the experts, or the members of a group, whose shares are searched."""

    mixture: MixtureConfig
    vectors: tuple[str, ...]
    """All vectors, in the file's order."""
    instruction: Mapping[str, float]
    """Weight of each vector that carries no data, the same in every merge."""
    capabilities: Mapping[str, tuple[str, ...]]
    bounds: ShareBounds
    design: SimplexDesign
    named_mixtures: Mapping[str, Floats]
    """(K,) `uniform`, `tokens` where all are known, and the priors."""
    embedding: GroupEmbedding
    """The merge weights that shares stand for: themselves, where domains are experts."""
    fitted: FittedScores

    @classmethod
    def build_flat(cls, config: Config, *, fitted: FittedScores = "capabilities") -> MixtureProblem:
        """Mixture of all experts, each a domain; raises :class:`ManyProblemsError` with the faults of `mixture:`."""
        assert config.mixture is not None  # noqa: S101 - the job requires it; for the type checker
        domains = [name for name, vector in config.vectors.items() if vector.role == "expert"]
        tokens = {name: t for name in domains if (t := config.vectors[name].tokens) is not None}
        return cls.from_config(
            config, config.mixture, tokens=tokens, embedding=GroupEmbedding.flat(domains), fitted=fitted
        )

    @classmethod
    def from_config(
        cls,
        config: Config,
        section: MixtureConfig,
        *,
        tokens: Mapping[str, int],
        embedding: GroupEmbedding,
        largest_shares: Mapping[str, float] | None = None,
        stray_priors: bool = False,
        fitted: FittedScores = "capabilities",
    ) -> MixtureProblem:
        """The mixture that `section` looks for among the members of `embedding`, with the `tokens` that are known.

        `largest_shares` caps members, where `section` has no cap of its own. With `stray_priors` a prior outside of the
        limits is no point of the design, else it is a fault. Raises :class:`ManyProblemsError` with every fault of
        `mixture:` and of its needs of the vectors.
        """
        assert config.evaluate is not None  # noqa: S101 - the job requires it; for the type checker
        problems, domains = ProblemCollector(), list(embedding.members)
        problems.add(*_find_placed_ranges(config))

        # Each part by itself: a fault in one does not hide those of the others.
        capabilities = _group_capabilities(section, [task.task for task in config.evaluate.tasks], problems)
        problems.add(*_find_missing(section, domains, tokens), *find_textless(config, section))
        with problems.collect("mixture"):
            _refuse_utility(section, list(capabilities))
        bounds = None
        with problems.collect("mixture"):
            bounds = _build_bounds(section, domains, tokens, largest_shares)

        wanted = dict(_list_named_shares(section, domains, tokens))
        mixtures: dict[str, Floats] = {}
        for name, shares in wanted.items():
            with problems.collect("mixture"):
                mixtures[name] = order_shares(shares, domains, where=f"prior '{name}'")

        # The design needs sound bounds and mixtures: with faults there, their own message is enough.
        design = None
        if bounds is not None and len(mixtures) == len(wanted):
            with problems.collect("mixture"):
                design = _build_design(section, bounds, mixtures, stray_priors=stray_priors)
            with problems.collect("mixture"):
                _refuse_pull(section, list(capabilities), bounds, mixtures)

        problems.refuse()
        assert bounds is not None  # noqa: S101 - no problems; for the type checker
        assert design is not None  # noqa: S101
        fixed = {
            name: require_number(vector.weight, where=join_place("vectors", name, "weight"), who="a mixture")
            for name, vector in config.vectors.items()
            if vector.role == "instruction"
        }
        return cls(section, tuple(config.vectors), fixed, capabilities, bounds, design, mixtures, embedding, fitted)

    @property
    def domains(self) -> tuple[str, ...]:
        """Owners of shares: the experts, in the file's order, or the members of a group."""
        return self.bounds.domains

    @property
    def experts(self) -> tuple[str, ...]:
        """All experts, in the file's order."""
        return self.embedding.experts

    @property
    def columns(self) -> Mapping[str, tuple[str, ...]]:
        """Tasks by column of scores, each of which has a surrogate: a task by itself, or a whole capability."""
        if self.fitted == "capabilities":
            return self.capabilities
        return {task: (task,) for group in self.capabilities.values() for task in group}

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Columns of scores by capability."""
        return {name: (name,) for name in self.capabilities} if self.fitted == "capabilities" else self.capabilities

    @property
    def regressor(self) -> str | None:
        """The regressor of all surrogates, of the paper's preset; None where each is chosen out of fold."""
        return PAPER_REGRESSOR if self.mixture.preset == "paper" else None

    @property
    def space(self) -> SearchSpace:
        """Space of the merge weights of measured mixtures."""
        limits = {name: (self.instruction.get(name, 0.0), self.instruction.get(name, 1.0)) for name in self.vectors}
        return SearchSpace(limits, tuple(self.instruction))

    @property
    def objective(self) -> Objective:
        """The mean of raw capability scores, weighted as in the utility: a score in the tasks' own unit."""
        weights = self.mixture.utility.weights
        if self.mixture.utility.expression is not None:
            names = parse_expression(self.mixture.utility.expression, capabilities=list(self.capabilities)).names
            weights = dict.fromkeys(names, 1.0)

        tasks: dict[str, float] = {}
        for name, weight in (weights or dict.fromkeys(self.capabilities, 1.0)).items():
            for task in self.capabilities[name]:
                tasks[task] = tasks.get(task, 0.0) + weight / len(self.capabilities[name])
        return Objective(tasks={task: weight for task, weight in tasks.items() if weight > 0}, name="mean score")

    def compute_weights(self, shares_K: Floats) -> Weights:
        """The merge that stands for a mixture."""
        return self.complete_weights(self.embedding.weights(shares_K))

    def complete_weights(self, experts: Mapping[str, float]) -> Weights:
        """The merge with these weights of experts, and the instruction vectors at their own."""
        return {name: self.instruction.get(name, experts.get(name, 0.0)) for name in self.vectors}

    def compute_shares(self, trials: Sequence[Trial]) -> Floats:
        """(N, K) the mixtures that trials measured."""
        return self.embedding.shares(np.array([[trial.weights[name] for name in self.experts] for trial in trials]))

    def compute_scores(self, scores_by_task: Sequence[Mapping[str, float]]) -> Floats:
        """(N, T) scores by column."""
        columns = self.columns.values()
        return np.array(
            [[float(np.mean([scores[task] for task in tasks])) for tasks in columns] for scores in scores_by_task]
        )

    def build_utility(self, scores_NT: Floats) -> MixtureUtility:
        """The utility that the section wants, normalised by the scores of the measured points."""
        options = self.mixture.utility
        return MixtureUtility.build(
            list(self.capabilities),
            scores_NT,
            groups=self.groups,
            weights=options.weights,
            expression=options.expression,
            floors=options.floors,
            normalisation=options.normalisation,
        )

    def build_goal(self, utility: MixtureUtility) -> MixtureGoal:
        """The goal that is made largest: the utility, less the pull to a prior."""
        mixture = self.mixture
        return MixtureGoal.build(utility, self.bounds, prior=self.named_mixtures.get(mixture.toward), pull=mixture.pull)


def _find_placed_ranges(config: Config) -> Iterator[Problem]:
    for name, vector in config.vectors.items():
        if list_range_rules(vector.range):
            found = "depends on the place, and a mixture gives one weight to a vector: shares of data have no place"
            yield Problem(join_place("vectors", name, "range"), found, "Remove it, or search: `aftermix search FILE`.")


def _group_capabilities(
    section: MixtureConfig, tasks: Sequence[str], problems: ProblemCollector
) -> dict[str, tuple[str, ...]]:
    """Groups first, then every task that is in none."""
    for name, group in section.capabilities.items():
        where = join_place("mixture.capabilities", name)
        for task in group:
            if task not in tasks:
                found = f"expected tasks that are evaluated ({', '.join(tasks)}), found '{task}'"
                problems.add(Problem(where, found, "Correct it, or add it to `evaluate.tasks`."))
        if len(set(group)) < len(group):
            problems.add(Problem(where, "names a task twice", "Name each task once."))

    grouped = {task for group in section.capabilities.values() for task in group}
    alone = {task: (task,) for task in tasks if task not in grouped}

    for name in sorted(alone.keys() & section.capabilities.keys()):
        found = "has the name of a task that is a capability of its own"
        problems.add(Problem(join_place("mixture.capabilities", name), found, "Add that task to it, or rename it."))
    return {**section.capabilities, **alone}


def _find_missing(section: MixtureConfig, domains: Sequence[str], tokens: Mapping[str, int]) -> Iterator[Problem]:
    """Faults of a section that needs something that is not there."""
    missing = [name for name in domains if name not in tokens]
    if section.max_epochs is not None:
        for name in missing:
            found = "missing, but `mixture.max_epochs` caps the repeats of its data"
            yield Problem(join_place("vectors", name, "tokens"), found, "Add how many the expert was trained on.")

    if section.pull and section.toward == TOKENS and missing:
        found = f"expected the tokens of every expert, found none of {', '.join(missing)}"
        yield Problem("mixture.toward", found, "Add `tokens` to them, or name a prior.")
    if section.toward not in (UNIFORM, TOKENS, *section.priors):
        known = ", ".join((UNIFORM, TOKENS, *section.priors))
        remedy = ask_meant("Correct the name.", section.toward, (UNIFORM, TOKENS, *section.priors))
        yield Problem("mixture.toward", f"expected one of {known}, found '{section.toward}'", remedy)

    if section.points < FEWEST_POINTS:
        found = f"expected at least {FEWEST_POINTS} points for surrogates to learn from, found {section.points}"
        yield Problem("mixture.points", found, "Measure more points.")


def find_textless(config: Config, section: MixtureConfig) -> Iterator[Problem]:
    """Experts without the text that the second order is measured on."""
    for name, vector in config.vectors.items() if section.second_order else ():
        if vector.role == "expert" and vector.calibration is None:
            found = "missing, but `mixture.second_order` is measured on text of its domain"
            yield Problem(join_place("vectors", name, "calibration"), found, "Add it, or leave `second_order` out.")


def _build_bounds(
    section: MixtureConfig,
    domains: Sequence[str],
    tokens: Mapping[str, int],
    largest_shares: Mapping[str, float] | None,
) -> ShareBounds:
    """Limits of the section; its cap on epochs needs all tokens, and what is missing of them has been told."""
    if section.max_epochs is None or set(tokens) != set(domains):
        return ShareBounds.build(domains, bounds=section.bounds, fixed=section.fixed, largest_shares=largest_shares)
    return ShareBounds.build(
        domains,
        bounds=section.bounds,
        fixed=section.fixed,
        tokens=tokens,
        budget_tokens=section.budget_tokens,
        max_epochs=section.max_epochs,
    )


def _list_named_shares(
    section: MixtureConfig, domains: Sequence[str], tokens: Mapping[str, int]
) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Mixtures that have a name."""
    if len(domains) > 1:
        yield UNIFORM, dict.fromkeys(domains, 1 / len(domains))
        if len(tokens) == len(domains):
            yield TOKENS, share_by_tokens(tokens)
    yield from section.priors.items()


def _build_design(
    section: MixtureConfig, bounds: ShareBounds, mixtures: Mapping[str, Floats], *, stray_priors: bool
) -> SimplexDesign:
    """The token-proportional mixture is a point only if it lies within the bounds; the user's priors must, unless they
    may stray."""
    inside = {name for name, shares_K in mixtures.items() if bounds.admits(shares_K[None])[0]}
    included = [name for name in mixtures if name in section.priors and (name in inside or not stray_priors)]
    included += [TOKENS] if TOKENS in inside else []

    priors = {name: name_shares(mixtures[name], bounds.domains) for name in included}
    return build_design(
        bounds.domains,
        points=section.points,
        priors=priors,
        seed=section.seed,
        bounds=bounds,
        repeats=section.repeats,
    )


def _refuse_pull(
    section: MixtureConfig, capabilities: Sequence[str], bounds: ShareBounds, mixtures: Mapping[str, Floats]
) -> None:
    """All that is wrong with the pull to a prior whatever the scores are."""
    prior_K = mixtures.get(section.toward)
    if prior_K is not None:  # a name that stands for none has been told
        MixtureGoal.build(_build_any_utility(capabilities), bounds, prior=prior_K, pull=section.pull)


def _refuse_utility(section: MixtureConfig, capabilities: Sequence[str]) -> None:
    """All that is wrong with the utility whatever the scores are."""
    if section.utility.expression is not None:
        parse_expression(section.utility.expression, capabilities=capabilities, where="utility.expression")
    _build_any_utility(capabilities, weights=section.utility.weights, floors=section.utility.floors)


def _build_any_utility(
    capabilities: Sequence[str],
    *,
    weights: Mapping[str, float] | None = None,
    floors: Mapping[str, float] | None = None,
) -> MixtureUtility:
    """A utility over made-up scores."""
    made_up_NM = np.linspace(0.0, 1.0, 2)[:, None].repeat(len(capabilities), axis=1)
    return MixtureUtility.build(capabilities, made_up_NM, weights=weights, floors=floors)
