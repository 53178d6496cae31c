"""A verification of a mixture run: mixtures trained and measured, their ranks, and what other methods make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from aftermix.checkpoints.pool import ModelPool
from aftermix.config import Config
from aftermix.errors import MixtureError
from aftermix.evaluation.suites.contract import EvaluationSuite
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.mixture.baselines import MixtureBaselines
from aftermix.jobs.mixture.points import FittedSurrogates
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.proxies import ExpertScores, ProxyComparison, build_worth, count_positions
from aftermix.jobs.mixture.scores import UtilityScorer, describe_utility
from aftermix.jobs.parallel.crew import hire_workers
from aftermix.jobs.search.score_lock import (
    read_threads,
)
from aftermix.jobs.verify.cost import build_cost_record
from aftermix.jobs.verify.doremi import doremi_ratios
from aftermix.jobs.verify.finished_run import FinishedMixture
from aftermix.jobs.verify.trained_mixtures import (
    MixtureToTrain,
    TrainedMixture,
    choose_mixtures,
    measure_mixtures,
    read_train_record,
    train_mixtures,
)
from aftermix.merging.recipe import MergeRecipe
from aftermix.mixture.optimum import find_optimum
from aftermix.mixture.rank_consistency import DECIMALS, Score, measure_consistency, measure_spearman
from aftermix.mixture.regmix import find_regmix, list_plain_mixtures
from aftermix.mixture.simplex import Floats, name_shares
from aftermix.mixture.surrogates.surrogate import FEWEST_POINTS, Surrogate
from aftermix.mixture.utility import MixtureUtility
from aftermix.runs.answers.reading import keeps_answers
from aftermix.runs.item_scores import complete_scores
from aftermix.runs.mixture_records import ProxyRecord
from aftermix.runs.trials import ItemScores
from aftermix.runs.verification_records import (
    ConsistencyByScoreRecord,
    ConsistencyRecord,
    DoremiRecord,
    MixtureSideRecord,
    RegmixRecord,
    TrainedMixtureRecord,
    VerificationRecord,
)
from aftermix.search.objective import ObjectiveSet

# N trained mixtures, K domains, M capabilities, T columns of scores

DOREMI = "doremi"


@dataclass(frozen=True)
class MixtureVerification:
    """Trained and measured mixtures of one run."""

    config: Config
    run: Path
    finished: FinishedMixture
    evaluator: MergeEvaluator
    scorer: UtilityScorer
    """The run's utility, in units of its merged points."""
    tokens: int
    measured: Sequence[TrainedMixture]

    @property
    def problem(self) -> MixtureProblem:
        """All experts side by side."""
        return self.finished.problem

    @property
    def fitted(self) -> FittedSurrogates:
        """Surrogates of the merges on search items."""
        return self.finished.fitted

    @classmethod
    def train_and_measure(
        cls,
        config: Config,
        run: Path,
        pool: ModelPool,
        suite: EvaluationSuite,
        *,
        mixtures: int,
        tokens: int,
        workers: ExitStack,
        log: Callable[[str], None],
    ) -> MixtureVerification:
        """Choose, train and measure; the workers that are hired for it leave with the stack `workers`."""
        assert config.train is not None  # noqa: S101 - required before; for the type checker
        finished = FinishedMixture.read(config, run)
        problem = finished.problem
        chosen = choose_mixtures(
            problem, finished.trials, finished.best.weights, mixtures, adds_uniform=finished.is_tree
        )

        if config.train.schedule != "constant":
            log(f"train.schedule is {config.train.schedule}: merges stand for trainings at a constant rate")
        rate = f"{config.train.learning_rate:g}, {config.train.schedule}"
        log(f"mixtures are trained at the experts' own rate and schedule: {rate}")

        shares = {mixture.name: name_shares(mixture.shares_K, problem.domains) for mixture in chosen}
        folders = train_mixtures(config, run, shares, domains=problem.domains, tokens=tokens, log=log)

        recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors)
        threads, keeps = read_threads(run), keeps_answers(run)
        evaluator = MergeEvaluator.open(
            config, pool, recipe, space=problem.space, suite=suite, threads=threads, keeps_answers=keeps
        )
        evaluator = workers.enter_context(hire_workers(evaluator, run, problem.space, for_search=False))
        objectives = ObjectiveSet.build((problem.objective,), tasks=list(suite.tasks))

        scorer = UtilityScorer(problem, objectives, finished.utility)
        measured = measure_mixtures(evaluator, run, scorer, chosen, folders)
        return cls(config, run, finished, evaluator, scorer, tokens, measured)

    def build_record(self, *, doremi: bool, log: Callable[[str], None]) -> VerificationRecord:
        """`verification.json`."""
        train = self.config.train
        assert train is not None  # noqa: S101 - required before; for the type checker

        predicted_NT = self.fitted.surrogate.mean([entry.chosen.shares_K for entry in self.measured])
        predicted_NM = self.scorer.utility.score_capabilities(predicted_NT)
        consistency = ConsistencyByScoreRecord(
            utility=self._compare_ranks("utility", self._compute_utility, self.scorer.utility.values(predicted_NT)),
            capabilities={
                name: self._compare_ranks(name, _build_mean(tasks), predicted_NM[:, m])
                for m, (name, tasks) in enumerate(self.problem.capabilities.items())
            },
        )

        return VerificationRecord(
            mixtures=tuple(self._describe_mixture(entry) for entry in self.measured),
            split="test",
            items={task: len(scores) for task, scores in self.measured[0].trained.items()},
            tokens=self.tokens,
            schedule=train.schedule,
            learning_rate=read_train_record(self.measured[0].folder).learning_rate,
            utility=describe_utility(self.scorer.utility),
            consistency=consistency,
            proxies=self._judge_proxies(),
            plain=self._list_plain_mixtures(),
            regmix=self._run_regmix(),
            doremi=self._run_doremi(log) if doremi else None,
            cost=build_cost_record(self.evaluator, self.finished, trained=len(self.measured), tokens=self.tokens),
        )

    def _describe_mixture(self, entry: TrainedMixture) -> TrainedMixtureRecord:
        record = read_train_record(entry.folder)
        return TrainedMixtureRecord(
            name=entry.chosen.name,
            point=entry.chosen.point,
            trial=None if self.finished.is_tree else entry.chosen.trial,
            shares=name_shares(entry.chosen.shares_K.round(9), self.problem.domains),
            folder=str(entry.folder.relative_to(self.run)),
            tokens=record.tokens,
            loss=record.loss.final,
            merged=self.summarise_scores(entry.merged),
            trained=self.summarise_scores(entry.trained),
            trained_on_search_items=self.summarise_scores(entry.search),
        )

    def summarise_scores(self, items: ItemScores) -> MixtureSideRecord:
        """Utility and capabilities of a model with their intervals."""
        summary = self.scorer.summarise_items(items)
        return MixtureSideRecord(utility=summary.utility, capabilities=summary.capabilities)

    def _compare_ranks(self, name: str, score: Score, predicted_N: Floats) -> ConsistencyRecord:
        merged, trained = (
            _stack_tables([getattr(entry, side) for entry in self.measured]) for side in ("merged", "trained")
        )
        ranks = measure_consistency(merged, trained, score, seed=self.problem.mixture.seed, key=name)
        trained_N = score({task: table.mean(axis=1) for task, table in trained.items()})
        predicted = measure_spearman(predicted_N.round(DECIMALS), trained_N.round(DECIMALS))
        return ConsistencyRecord(**asdict(ranks), predicted_spearman=predicted)

    def _compute_utility(self, means: Mapping[str, Floats]) -> Floats:
        columns = [_build_mean(tasks)(means) for tasks in self.problem.columns.values()]
        return self.scorer.utility.values(np.stack(columns, axis=1))

    def _judge_proxies(self) -> tuple[ProxyRecord, ...]:
        """Every proxy of the run against the trained models, on the same test items."""
        shares_NK = np.stack([entry.chosen.shares_K for entry in self.measured])
        merged_NT, trained_NT = (
            np.concatenate([self.scorer.score_items(getattr(entry, side)) for entry in self.measured])
            for side in ("merged", "trained")
        )

        baselines = MixtureBaselines.open(self.evaluator, self.scorer, self.run)
        experts = ExpertScores.read_baselines(self.run, self.problem, baselines)
        proxies = ProxyComparison(self.problem, self.scorer, experts, count_positions(self.evaluator))
        forecasts = proxies.forecast_trained(self.fitted, shares_NK, merged_NT)
        return build_worth(forecasts, self.scorer.utility.values(trained_NT))

    def _list_plain_mixtures(self) -> dict[str, dict[str, float]]:
        """Mixtures that need no measurement."""
        vectors, domains = self.config.vectors, self.problem.domains
        known = {name: vectors[name].tokens for name in domains}
        tokens = {name: count for name, count in known.items() if count is not None}
        mixtures = list_plain_mixtures(
            domains, tokens=tokens if len(tokens) == len(domains) else None, priors=self.problem.mixture.priors
        )
        return {name: name_shares(row_K, domains) for name, row_K in mixtures.items()}

    def _run_regmix(self) -> RegmixRecord:
        """Ratios that RegMix, and our surrogates, learn from the trained models' scores on search items."""
        problem, domains, seed = self.problem, self.problem.domains, self.problem.mixture.seed
        weights_NK = np.stack([entry.chosen.shares_K for entry in self.measured])
        scores_NT = np.concatenate([self.scorer.score_items(entry.search) for entry in self.measured])
        prior: Literal["tokens", "uniform"] = "tokens" if "tokens" in problem.named_mixtures else "uniform"
        record = RegmixRecord(prior=prior, trained=len(weights_NK), ratios=None, surrogate=None, note=None)

        try:
            utility = problem.build_utility(scores_NT)
            ratios_K = find_regmix(
                weights_NK,
                scores_NT,
                utility,
                prior_K=problem.named_mixtures[prior],
                bounds=self.finished.limits,
                seed=seed,
            )
        except MixtureError as error:
            return record.model_copy(update={"note": str(error)})

        ours = self._find_surrogate_optimum(weights_NK, scores_NT, utility)
        return record.model_copy(update={"ratios": name_shares(ratios_K, domains), "surrogate": ours})

    def _find_surrogate_optimum(
        self, weights_NK: Floats, scores_NT: Floats, utility: MixtureUtility
    ) -> dict[str, float] | None:
        """The optimum of our surrogates on the same trained models; None where they are too few to fit any."""
        problem = self.problem
        if len(weights_NK) < max(FEWEST_POINTS, len(problem.domains)):
            return None
        names, seed = list(problem.columns), problem.mixture.seed
        fitted = Surrogate.fit(weights_NK, scores_NT, seed=seed, capabilities=names)
        return find_optimum(fitted, problem.build_goal(utility), self.finished.limits, seed=seed).shares

    def _run_doremi(self, log: Callable[[str], None]) -> DoremiRecord:
        """DoReMi on the same data, its reference the model trained on the most even mixture."""
        reference = min(self.measured, key=lambda entry: _measure_unevenness(entry.chosen))
        record = doremi_ratios(
            self.config,
            self.run / DOREMI,
            domains=self.problem.domains,
            reference=reference.folder,
            tokens=self.tokens,
            log=log,
        )
        return DoremiRecord(ratios=record.ratios, tokens=record.tokens, reference=reference.chosen.name)


def _measure_unevenness(chosen: MixtureToTrain) -> float:
    return float(np.abs(chosen.shares_K - 1 / len(chosen.shares_K)).max())


def _build_mean(tasks: Sequence[str]) -> Score:
    return lambda means: np.asarray(np.mean([means[task] for task in tasks], axis=0))


def _stack_tables(measured: Sequence[ItemScores]) -> dict[str, Floats]:
    """(N, I) item scores by task, one for every item."""
    return {
        task: np.array([complete_scores(items[task]) for items in measured], dtype=np.float64) for task in measured[0]
    }
