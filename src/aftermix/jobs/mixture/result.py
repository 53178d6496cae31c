"""`best.json` of a mixture run: surrogates, their optimum, what real merges of it scored, and comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from aftermix import progress
from aftermix.config import Split
from aftermix.jobs.compare.contest import compare_rivals
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.mixture.baselines import MixtureBaselines, list_named_mixtures
from aftermix.jobs.mixture.first_order import build_orders
from aftermix.jobs.mixture.points import FittedSurrogates
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.proxies import SAME, ExpertScores, ProxyComparison, count_positions
from aftermix.jobs.mixture.scores import UtilityScorer, describe_utility, estimate_noise
from aftermix.jobs.search.beginning.missing_tasks import read_reused
from aftermix.jobs.search.result import (
    build_vector_records,
    count_items,
    list_metrics,
    list_options,
    read_earlier_seconds,
    sum_by_phase,
)
from aftermix.mixture.optimum import (
    MixtureGoal,
    MixtureOptimum,
    MixturePrediction,
    choose_neighbours,
    estimate_ratio_interval,
    find_best_measured,
    find_optimum,
    predict_mixture,
)
from aftermix.mixture.ratios import convert_weights
from aftermix.mixture.simplex import Floats, name_shares
from aftermix.mixture.surrogates.out_of_fold import CONSTANT, CapabilityReport, score_predictions
from aftermix.mixture.surrogates.surrogate import is_constant
from aftermix.mixture.utility import MixtureUtility
from aftermix.runs.journal import read_items
from aftermix.runs.mixture_records import (
    FoundMixtureRecord,
    MergedMixtureRecord,
    MixtureRecord,
    MixtureWinnerRecord,
    MomentsRecord,
    NoiseRecord,
    OptimumRecord,
    OutOfFoldRecord,
    PointCountsRecord,
    PredictedUtilityRecord,
    SurrogateRecord,
    VerifiedMixtureRecord,
)
from aftermix.runs.records import CandidateRecord, MixtureScoresRecord, StageSeconds
from aftermix.runs.trials import ItemScores, Trial, Weights
from aftermix.search.objective import ObjectiveSet

# N points, K domains, M capabilities

OF_TASKS = "mean of tasks"
"""The choice for a capability of several tasks, each of which has a regressor."""


@dataclass(frozen=True)
class VerifiedMixture:
    """One mixture that was merged and measured on the select items."""

    name: str
    shares_K: Floats
    trial: Trial | None
    """The point of the design that it is, if any."""
    select: ItemScores
    summary: MixtureScoresRecord
    """The summary of `select`."""


@dataclass(frozen=True)
class MixtureResult:
    """Result of a run whose points are measured: surrogates, their optimum, and what real merges of it scored."""

    evaluator: MergeEvaluator
    run: Path
    problem: MixtureProblem
    trials: Sequence[Trial]
    fitted: FittedSurrogates
    scorer: UtilityScorer
    goal: MixtureGoal
    optimum: MixtureOptimum
    baselines: MixtureBaselines

    @classmethod
    def fit(
        cls,
        evaluator: MergeEvaluator,
        run: Path,
        problem: MixtureProblem,
        *,
        objectives: ObjectiveSet,
        trials: Sequence[Trial],
        cache_folder: Path | None = None,
    ) -> MixtureResult:
        """Fit surrogates and find their optimum. `cache_folder` keeps what is measured now; by default the run does."""
        fitted = FittedSurrogates.fit(problem, trials, run=run)
        utility = problem.build_utility(fitted.scores_NM)
        goal = problem.build_goal(utility)
        optimum = find_optimum(fitted.surrogate, goal, problem.bounds, seed=problem.mixture.seed)
        scorer = UtilityScorer(problem, objectives, utility)
        baselines = MixtureBaselines.open(evaluator, scorer, cache_folder or run)
        return cls(evaluator, run, problem, trials, fitted, scorer, goal, optimum, baselines)

    @property
    def utility(self) -> MixtureUtility:
        """The utility that is made largest, without the pull to a prior."""
        return self.scorer.utility

    def build_record(self) -> MixtureRecord:
        """Measure what is left to measure, and tell everything: what was found, and how it stands on test items."""
        best = self.decide_winner()
        test = self.baselines.measure_items(best.weights, "test")
        baselines = self.baselines.build_records(test, list(list_named_mixtures(self.problem)))

        # Experts alone are among the baselines: what proxies make of them costs nothing more.
        proxies, agreement = self._compare_proxies().build_agreement(self.fitted)
        test_s = best.seconds.test + self.baselines.score_cache.seconds.get("test", 0.0)
        record = MixtureRecord(
            **dict(best) | {"seconds": best.seconds.model_copy(update={"test": test_s})},
            test=self.scorer.summarise_items(test),
            baselines=baselines,
            proxies=proxies,
            agreement=agreement,
        )

        # Keys that only some runs have.
        orders = build_orders(self.evaluator.config, best.ratios)
        rivals = compare_rivals(self.evaluator, self.run, self.scorer, test, best.ratios)
        return record.model_copy(update={**read_reused(self.run), **orders, **rivals})

    def decide_winner(self) -> FoundMixtureRecord:
        """Measure what decides the winner; all of `best.json` but the comparison on test items."""
        before = read_earlier_seconds(self.run)
        noise_record = self._measure_noise()
        verified = self._verify_mixtures()
        scores_CT = np.concatenate([self.scorer.score_items(mixture.select) for mixture in verified])

        winner = verified[self.utility.best(scores_CT)]
        weights = self.problem.compute_weights(winner.shares_K)
        trial = winner.trial.number if winner.trial else None
        merged = describe_mixture(self.evaluator, self.scorer, weights, trial=trial, point=winner.name)

        return FoundMixtureRecord(
            **dict(merged),
            points=PointCountsRecord(
                measured=len(self.fitted.shares_NK), failed=len(self.trials) - len(self.fitted.shares_NK)
            ),
            surrogates=describe_surrogates(self.fitted, self.problem, self.utility),
            noise=noise_record,
            optimum=describe_optimum(self.optimum, self.fitted, self.problem, self.goal),
            verified=tuple(self._describe_verified(mixture) for mixture in verified),
            search=self._summarise_search(winner),
            select=winner.summary,
            floors_met=floors_met(self.scorer, winner.select),
            candidates=tuple(self._build_candidate(mixture) for mixture in verified),
            seconds=StageSeconds(
                prepare=self.evaluator.prepare_s,
                search=sum_by_phase([trial.seconds for trial in self.trials]),
                select=before["select"] + self.baselines.score_cache.seconds.get("select", 0.0),
                test=before["test"],
            ),
        )

    def _compare_proxies(self) -> ProxyComparison:
        experts = ExpertScores.open(self.run, self.problem, self.trials, self.baselines)
        positions = count_positions(self.evaluator)
        return ProxyComparison(self.problem, self.scorer, experts, positions)

    def _measure_noise(self) -> NoiseRecord:
        """The anchors of the design, measured on select items too."""
        design, pairs = self.problem.design, {}
        found = [(place, self._find_trial(design.weights_NK[place])) for place in design.repeats]
        anchors = [self.problem.compute_shares([trial])[0] for _, trial in found if trial is not None]
        self.baselines.announce_all(map(self.problem.compute_weights, anchors), "select")
        for place, trial in found:
            if trial is not None:
                items = self._measure_items(self.problem.compute_shares([trial])[0], "select")
                search_1M = self.utility.score_capabilities(self.problem.compute_scores([trial.scores]))
                pairs[design.kinds[place]] = (search_1M[0], self.scorer.score_capabilities(items)[0])
        return estimate_noise(pairs, list(self.problem.capabilities))

    def _verify_mixtures(self) -> list[VerifiedMixture]:
        """The optimum, its neighbours and the best measured point, on select items; of the paper's preset the first."""
        mixture, bounds = self.problem.mixture, self.problem.bounds
        near_CK = choose_neighbours(
            self.fitted.surrogate, self.goal, bounds, self.optimum.weights_K, count=mixture.verify, seed=mixture.seed
        )

        wanted = [("optimum", self.optimum.weights_K)]
        wanted += [(f"neighbour {place}", row_K) for place, row_K in enumerate(near_CK, 1)]
        place = find_best_measured(self.fitted.shares_NK, self.fitted.scores_NM, self.utility, bounds)
        if place is not None and mixture.preset != "paper":
            wanted.append(("best measured", self.fitted.shares_NK[place]))

        self.baselines.announce_all([self.problem.compute_weights(row_K) for _, row_K in wanted], "select")
        shown = progress.bar(wanted, label="verify", unit="merge")
        return [self._measure_mixture(name, row_K) for name, row_K in shown]

    def _measure_mixture(self, name: str, shares_K: Floats) -> VerifiedMixture:
        items = self._measure_items(shares_K, "select")
        return VerifiedMixture(name, shares_K, self._find_trial(shares_K), items, self.scorer.summarise_items(items))

    def _describe_verified(self, verified: VerifiedMixture) -> VerifiedMixtureRecord:
        expected = predict_mixture(
            self.fitted.surrogate, self.utility, verified.shares_K, seed=self.problem.mixture.seed
        )
        return VerifiedMixtureRecord(
            name=verified.name,
            trial=verified.trial.number if verified.trial else None,
            shares=name_shares(verified.shares_K, self.problem.domains),
            predicted=predicted_utility(expected),
            select=verified.summary,
        )

    def _build_candidate(self, verified: VerifiedMixture) -> CandidateRecord:
        """The same in the shape that a search's candidates have."""
        return CandidateRecord(
            trial=verified.trial.number if verified.trial else None,
            weights=self.problem.compute_weights(verified.shares_K),
            settings={},
            search=self._summarise_search(verified),
            select=verified.summary,
        )

    def _summarise_search(self, verified: VerifiedMixture) -> MixtureScoresRecord | None:
        return (
            self.scorer.summarise_items(read_items(self.run, "search", verified.trial.number))
            if verified.trial
            else None
        )

    def _find_trial(self, shares_K: Floats) -> Trial | None:
        """The complete trial that measured these shares."""
        complete = [trial for trial in self.trials if trial.is_complete]
        apart_N = np.abs(self.problem.compute_shares(complete) - shares_K).max(axis=1)
        return complete[int(apart_N.argmin())] if apart_N.min() <= SAME else None

    def _measure_items(self, shares_K: Floats, split: Split) -> ItemScores:
        """Item scores of one mixture, measured now or kept from before."""
        return self.baselines.measure_items(self.problem.compute_weights(shares_K), split)


def describe_surrogates(
    fitted: FittedSurrogates, problem: MixtureProblem, utility: MixtureUtility
) -> dict[str, SurrogateRecord]:
    """Regressors by capability; one of several tasks has theirs, and how well their mean is predicted."""
    report = {entry.capability: _describe_regressors(entry) for entry in fitted.surrogate.report}
    measured_NM = utility.score_capabilities(fitted.scores_NM)
    held_out_RNM = np.stack([utility.score_capabilities(each) for each in fitted.surrogate.held_out_RNM])

    records = {}
    for m, (name, columns) in enumerate(problem.groups.items()):
        tasks = {column: report[column] for column in columns}
        if len(columns) == 1:
            records[name] = tasks[columns[0]]
        elif is_constant(measured_NM[:, m]):
            records[name] = SurrogateRecord(choice=CONSTANT, candidates={}, tasks=tasks)
        else:
            errors = score_predictions(held_out_RNM[:, :, m], measured_NM[:, m], larger_is_better=True)
            candidates = {OF_TASKS: OutOfFoldRecord(**asdict(errors))}
            records[name] = SurrogateRecord(choice=OF_TASKS, candidates=candidates, tasks=tasks)
    return records


def _describe_regressors(entry: CapabilityReport) -> SurrogateRecord:
    candidates = {name: OutOfFoldRecord(**asdict(errors)) for name, errors in entry.candidates.items()}
    return SurrogateRecord(choice=entry.choice, candidates=candidates)


def describe_optimum(
    optimum: MixtureOptimum, fitted: FittedSurrogates, problem: MixtureProblem, goal: MixtureGoal
) -> OptimumRecord:
    """The optimum with an interval for each share, and what the surrogates promise there."""
    seed, surrogate = problem.mixture.seed, fitted.surrogate
    expected = predict_mixture(surrogate, goal.utility, optimum.weights_K, seed=seed)
    low_K, high_K = estimate_ratio_interval(surrogate, goal, problem.bounds, seed=seed)

    ends = zip(problem.domains, low_K, high_K, strict=True)
    moments = zip(problem.capabilities, expected.scores_M, expected.std_M, strict=True)
    utility = predicted_utility(expected)
    return OptimumRecord(
        shares=optimum.shares,
        share_intervals={name: (float(low), float(high)) for name, low, high in ends},
        utility=utility.utility,
        interval=utility.interval,
        scores={name: MomentsRecord(mean=float(mean), sd=float(sd)) for name, mean, sd in moments},
        floors_met=optimum.floors_met,
        averaged=optimum.averaged,
    )


def predicted_utility(expected: MixturePrediction) -> PredictedUtilityRecord:
    """The predicted utility with its interval; null where an expression has no value, or some draws have none."""
    value, ends = expected.utility, expected.interval
    known = bool(np.isfinite(value))
    return PredictedUtilityRecord(
        utility=value if known else None, interval=ends if known and np.isfinite(ends).all() else None
    )


def describe_mixture(
    evaluator: MergeEvaluator, scorer: UtilityScorer, weights: Weights, *, trial: int | None, point: str
) -> MergedMixtureRecord:
    """Beginning of any mixture's `best.json`: the winner, its merge, its vectors and the tasks that judged it."""
    problem, recipe = scorer.problem, evaluator.merger.recipe
    winner = MixtureWinnerRecord(
        trial=trial, point=point, method=recipe.method.name, options=list_options(recipe), exclude=recipe.exclude
    )

    return MergedMixtureRecord(
        winner=winner,
        weights=weights,
        settings={},
        ratios=convert_weights(weights, problem.experts),
        ratios_note=None,
        vectors=build_vector_records(evaluator.config),
        capabilities={name: tuple(tasks) for name, tasks in problem.capabilities.items()},
        utility=describe_utility(scorer.utility),
        objective=scorer.objectives.build_records(),
        metrics=list_metrics(evaluator),
        front=None,
        scan=None,
        items=count_items(evaluator),
    )


def floors_met(scorer: UtilityScorer, items: ItemScores) -> bool:
    """True if a mixture measured on `items` meets every floor."""
    return bool(scorer.utility.violation(scorer.score_items(items))[0] == 0)
