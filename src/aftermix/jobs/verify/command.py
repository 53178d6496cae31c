"""`aftermix mixture --verify N`: mixtures trained for real, held against the merges that stand for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.config import Config, require
from aftermix.errors import MixtureError, SearchError
from aftermix.evaluation.suites.contract import EvaluationSuite
from aftermix.evaluation.suites.opening import open_suite
from aftermix.jobs import run_folder
from aftermix.jobs.evaluator import MergeEvaluator, ModelEvaluator
from aftermix.jobs.mixture.baselines import MixtureBaselines
from aftermix.jobs.mixture.command import mixture
from aftermix.jobs.mixture.points import FittedSurrogates, read_fitted
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.proxies import ExpertScores, ProxyComparison, build_worth, count_positions
from aftermix.jobs.mixture.scores import UtilityScorer, describe_utility
from aftermix.jobs.search.score_lock import (
    build_evaluation_lock,
    is_hashed,
    read_threads,
    refuse_other_function,
    refuse_other_scores,
)
from aftermix.jobs.train.command import write_to_stderr
from aftermix.jobs.verify.cost import build_cost_record
from aftermix.jobs.verify.doremi import doremi_ratios
from aftermix.jobs.verify.expert_training import adopt_training
from aftermix.jobs.verify.trained_mixtures import (
    MixtureToTrain,
    TrainedMixture,
    choose_mixtures,
    measure_mixtures,
    read_train_record,
    train_mixtures,
)
from aftermix.jobs.verify.training_file import find_sources, read_expert_tokens, refuse_missing_data
from aftermix.merging.merge import MergeRecipe
from aftermix.mixture.optimum import find_optimum
from aftermix.mixture.rank_consistency import DECIMALS, FEWEST, Score, measure_consistency, measure_spearman
from aftermix.mixture.regmix import find_regmix, list_plain_mixtures
from aftermix.mixture.simplex import Floats, name_shares
from aftermix.mixture.surrogates.surrogate import FEWEST_POINTS, Surrogate
from aftermix.mixture.utility import MixtureUtility
from aftermix.report.page import write_report
from aftermix.runs.answers.reading import keeps_answers, read_requests
from aftermix.runs.item_scores import complete_scores
from aftermix.runs.journal import read_trials
from aftermix.runs.mixture_records import MixtureRecord, ProxyRecord
from aftermix.runs.records import BEST_FILE
from aftermix.runs.session import RunSession, open_session
from aftermix.runs.trials import ItemScores
from aftermix.runs.verification_records import (
    VERIFICATION_FILE,
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
OPTION = "--tokens T"


def refuse_unverifiable(config: Config, *, mixtures: int, tokens: int | None) -> int:
    """The tokens of each training, when `config` says all that a verification needs.

    Raises :class:`AftermixError` for fewer than three mixtures or more than are measured, a file without `train:`, a
    domain without data or whose data is not there, experts without a rate and schedule in common, no number of tokens
    or too small a one, and a tree of domains.
    """
    require(config, "base", "vectors", "evaluate", "mixture", "train")
    assert config.mixture is not None  # noqa: S101 - required above; for the type checker
    assert config.train is not None  # noqa: S101

    if config.mixture.tree is not None:
        raise MixtureError("--verify", "expected a mixture without a tree", "Verify a file that has all experts flat.")
    if mixtures < FEWEST:
        raise MixtureError("--verify", f"expected at least {FEWEST} mixtures, found {mixtures}", "Train more of them.")
    if mixtures > config.mixture.points:
        found = f"expected at most the {config.mixture.points} mixtures of `mixture.points`, found {mixtures}"
        raise MixtureError("--verify", found, "Train fewer, or measure more points.")

    domains = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    refuse_missing_data(find_sources(config.train, domains))
    adopt_training(config, domains)
    tokens = read_expert_tokens(config.train, domains, option=OPTION) if tokens is None else tokens
    needed = len(domains) * config.train.context
    if tokens < needed:
        found = f"expected at least {needed:,} tokens, a sequence of `train.context` for each domain, found {tokens:,}"
        raise MixtureError("--verify", found, f"Lower `train.context`, or train on more: {OPTION}.")
    return tokens


def run_and_verify(
    config: Config,
    run: Path,
    *,
    mixtures: int,
    resume: bool = False,
    source: Path | None = None,
    tokens: int | None = None,
    doremi: bool = False,
    log: Callable[[str], object] = lambda _: None,
) -> Path:
    """A mixture run, as :func:`~aftermix.jobs.mixture.command.mixture` makes it, and then its verification; its path.

    What the verification needs is checked before the run begins.
    """
    with open_session(run, resume=resume):
        tokens = refuse_unverifiable(config, mixtures=mixtures, tokens=tokens)
        mixture(config, run, resume=resume, source=source, log=log)
        return verify(config, run, mixtures=mixtures, tokens=tokens, doremi=doremi)


def verify(
    config: Config,
    run: Path,
    *,
    mixtures: int,
    tokens: int | None = None,
    doremi: bool = False,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Train `mixtures` mixtures of the finished run in `run` for real and write RUN/verification.json, its path.

    The mixtures are measured points of the run that lie far apart, uniform and the winner the first, single domains
    the last; each is trained from the base on `tokens` tokens (by default those of the experts) by the settings of
    `config.train`, at the rate and schedule of the experts, into RUN/trained. Merges and trained models are measured
    on the run's test items, and their ranks and scales compared; the trained runs are what RegMix learns from, and with
    `doremi` the uniform one is the reference of DoReMi. Every finished training and measurement is kept, so the same
    call goes on after an interruption. All but `train:` is taken from the run. Source: MergeMix, sections 4.2 and 4.3;
    docs/mixture.md, "Consistency" and "Baselines". Raises :class:`AftermixError`, and
    :class:`RunFailedError` once a training may have begun.
    """
    with open_session(run, resume=True) as session:
        _verify(config, session, mixtures=mixtures, tokens=tokens, doremi=doremi, log=log or write_to_stderr)
    return run / VERIFICATION_FILE


def _verify(
    config: Config,
    session: RunSession,
    *,
    mixtures: int,
    tokens: int | None,
    doremi: bool,
    log: Callable[[str], None],
) -> None:
    run = session.run
    if not (run / BEST_FILE).is_file():
        raise SearchError(str(run), f"is not finished: it has no {BEST_FILE}", "Finish it by --resume first.")
    run_folder.refuse_other_kind(run, mixture=True)

    config = run_folder.read_run_config(run).model_copy(update={"train": config.train})
    tokens = refuse_unverifiable(config, mixtures=mixtures, tokens=tokens)
    experts = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    config = config.model_copy(update={"train": adopt_training(config, experts)})

    pool, suite = _open_tasks(config, run)

    session.go_on()
    verification = _MixtureVerification.train_and_measure(
        config, run, pool, suite, mixtures=mixtures, tokens=tokens, log=log
    )
    record = verification.build_record(doremi=doremi, log=log)
    record.write(run / VERIFICATION_FILE)
    # A run of an earlier version says nothing of proxies, and stays as it is.
    best = MixtureRecord.read(run / BEST_FILE)
    if best.proxies is not None:
        best.model_copy(update={"proxies": record.proxies}).write(run / BEST_FILE)
    write_report(run)


@dataclass(frozen=True)
class _MixtureVerification:
    """Trained and measured mixtures of one run."""

    config: Config
    run: Path
    problem: MixtureProblem
    evaluator: MergeEvaluator
    scorer: UtilityScorer
    """The run's utility, in units of its merged points."""
    fitted: FittedSurrogates
    """To the merges on search items."""
    tokens: int
    measured: Sequence[TrainedMixture]

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
        log: Callable[[str], None],
    ) -> _MixtureVerification:
        """Choose, train and measure."""
        assert config.train is not None  # noqa: S101 - required before; for the type checker
        problem = MixtureProblem.build_flat(config, fitted=read_fitted(run))
        trials = [trial for trial in read_trials(run) if trial.is_complete]
        best = MixtureRecord.read(run / BEST_FILE)
        chosen = choose_mixtures(problem, trials, best.weights, mixtures)

        if config.train.schedule != "constant":
            log(f"train.schedule is {config.train.schedule}: merges stand for trainings at a constant rate")
        rate = f"{config.train.learning_rate:g}, {config.train.schedule}"
        log(f"mixtures are trained at the experts' own rate and schedule: {rate}")

        folders = train_mixtures(config, run, chosen, domains=problem.domains, tokens=tokens, log=log)

        recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors)
        threads, keeps = read_threads(run), keeps_answers(run)
        evaluator = MergeEvaluator.open(
            config, pool, recipe, space=problem.space, suite=suite, threads=threads, keeps_answers=keeps
        )
        objectives = ObjectiveSet.build((problem.objective,), tasks=list(suite.tasks))

        fitted = FittedSurrogates.fit(problem, trials, run=run)
        scorer = UtilityScorer(problem, objectives, problem.build_utility(fitted.scores_NM))
        measured = measure_mixtures(evaluator, run, scorer, chosen, folders)
        return cls(config, run, problem, evaluator, scorer, fitted, tokens, measured)

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
            cost=build_cost_record(
                self.evaluator, self.run, self.problem, trained=len(self.measured), tokens=self.tokens
            ),
        )

    def _describe_mixture(self, entry: TrainedMixture) -> TrainedMixtureRecord:
        record = read_train_record(entry.folder)
        return TrainedMixtureRecord(
            name=entry.chosen.name,
            point=entry.chosen.point,
            trial=entry.chosen.trial,
            shares=name_shares(entry.chosen.shares_K.round(9), self.problem.domains),
            folder=str(entry.folder.relative_to(self.run)),
            tokens=record.tokens,
            loss=record.loss.final,
            merged=self._summarise_scores(entry.merged),
            trained=self._summarise_scores(entry.trained),
            trained_on_search_items=self._summarise_scores(entry.search),
        )

    def _summarise_scores(self, items: ItemScores) -> MixtureSideRecord:
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
                bounds=problem.bounds,
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
        return find_optimum(fitted, problem.build_goal(utility), problem.bounds, seed=seed).shares

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


def _open_tasks(config: Config, run: Path) -> tuple[ModelPool, EvaluationSuite]:
    """Models and tasks, which must be those of the run; no model stays in memory while mixtures are trained."""
    assert config.evaluate is not None  # noqa: S101 - required before; for the type checker
    pool = open_pool(config)
    suite = open_suite(config.evaluate, equal_rows_together=is_hashed(run))

    if is_hashed(run):
        refuse_other_function(run, suite.function)
    if keeps_answers(run):
        suite.adopt_requests(read_requests(run))
    evaluator = ModelEvaluator.open(pool, config.evaluate, suite)
    try:
        refuse_other_scores(run, build_evaluation_lock(pool, evaluator), chat=suite.chat)
    finally:
        evaluator.engine.close()
    return pool, suite


def _measure_unevenness(chosen: MixtureToTrain) -> float:
    return float(np.abs(chosen.shares_K - 1 / len(chosen.shares_K)).max())


def _build_mean(tasks: Sequence[str]) -> Score:
    return lambda means: np.asarray(np.mean([means[task] for task in tasks], axis=0))


def _stack_tables(measured: Sequence[ItemScores]) -> dict[str, Floats]:
    """(N, I) item scores by task, one for every item."""
    return {
        task: np.array([complete_scores(items[task]) for items in measured], dtype=np.float64) for task in measured[0]
    }
