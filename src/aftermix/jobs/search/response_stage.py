"""The response in a search: what it proposes, which trial it holds for the best, and what it certifies at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from aftermix import progress
from aftermix.blas_threads import hold_one_thread
from aftermix.config import SearchConfig
from aftermix.errors import SearchError
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.runs.answers.certificate_records import (
    CertificateRecord,
    CertificateStatus,
    OptimismRecord,
    ResponseSummaryRecord,
    ResponseTaskRecord,
)
from aftermix.runs.answers.reading import keeps_answers, read_requests
from aftermix.runs.trials import Trial
from aftermix.search.choosing.finalists import SelectRounds
from aftermix.search.objective import ObjectiveSet
from aftermix.search.proposing.expected_best import describe_expected_best
from aftermix.search.proposing.procedure_optimism import measure_optimism
from aftermix.search.proposing.response_fit import FittedResponse, PredictedCandidates, build_coordinates
from aftermix.search.proposing.response_proposer import LEAST_SHARE, ResponseProposer, measure_likelihood_share
from aftermix.search.proposing.stored_response import write_response
from aftermix.search.space import SearchSpace
from aftermix.search.study import suggest_batch

FLAT_ERRORS = 2.0
"""A prior is as good as any merge where none is better than it by more than so many paired standard errors."""


@dataclass(frozen=True)
class ResponseConclusion:
    """The end of a search as its response sees it."""

    runs: int
    """Complete trials."""
    fitted: FittedResponse | None = None
    """None in runs without answers, and with too few."""
    response: ResponseSummaryRecord | None = None
    predicted: PredictedCandidates | None = None
    """None where the response predicts too little of merges that were not run."""
    places: tuple[int, ...] = ()
    """Fitted trials within the ranges, from the best down by their own tempered scores."""
    status: CertificateStatus = "trials"

    @property
    def ranking(self) -> tuple[int, ...] | None:
        """Numbers of the trials from the best down; None where they cannot be ranked."""
        if self.fitted is None or not self.places:
            return None
        return tuple(self.fitted.trials[place].number for place in self.places)


@dataclass(frozen=True)
class ResponseStage:
    """The response of one search."""

    proposer: ResponseProposer

    @property
    def proposes(self) -> bool:
        """True if the search asks the response for its points: the file says so, and its tasks have answers for it."""
        proposer = self.proposer
        if proposer.config.strategy != "response":
            return False
        if not keeps_answers(proposer.run):
            progress.say("strategy: tpe in place of response, which needs scores and log-likelihoods of items.")
            return False
        share = measure_likelihood_share(read_requests(proposer.run), proposer.objectives)
        if share < LEAST_SHARE:
            progress.warn(
                f"strategy: tpe in place of response: tasks of choices hold {share:.0%} of the objective, and what is "
                "generated has no likelihood that the score must follow."
            )
        return share >= LEAST_SHARE

    @staticmethod
    def open(evaluator: MergeEvaluator, run: Path, *, space: SearchSpace, objectives: ObjectiveSet) -> ResponseStage:
        """The response of the search in `run`."""
        config = evaluator.config.search
        coordinates = build_coordinates(space, normalised=evaluator.merger.recipe.method.divides_by_weights)
        proposer = ResponseProposer(
            run=run,
            space=space,
            coordinates=coordinates,
            config=config,
            objectives=objectives,
            tasks=tuple(evaluator.tasks),
            fall_back=partial(suggest_batch, space, config, objectives),
        )
        fall_back = config.model_copy(update={"startup": proposer.startup})
        return ResponseStage(replace(proposer, fall_back=partial(suggest_batch, space, fall_back, objectives)))

    def deal_rounds(self, evaluator: MergeEvaluator) -> SelectRounds:
        """The rounds of select items in which finalists are measured."""
        proposer = self.proposer
        return SelectRounds.deal(
            proposer.run,
            read_requests(proposer.run),
            measure=evaluator.evaluate,
            announce=evaluator.announce_point,
            objectives=proposer.objectives,
            seed=proposer.config.seed,
        )

    @hold_one_thread()
    def conclude(self, trials: Sequence[Trial]) -> ResponseConclusion:
        """As :meth:`judge`, with the model stored in the run."""
        conclusion = self.judge(trials)
        if conclusion.fitted is not None:
            write_response(conclusion.fitted)
        return conclusion

    @hold_one_thread()
    def judge(self, trials: Sequence[Trial]) -> ResponseConclusion:
        """Fit once more, and rank the trials by the model; nothing is written."""
        proposer = self.proposer
        runs = sum(trial.is_complete for trial in trials)
        fitted = proposer.fit(trials) if keeps_answers(proposer.run) else None
        if fitted is None:
            return ResponseConclusion(runs)

        summary = summarise_response(fitted)
        if not proposer.objectives.is_single:
            return ResponseConclusion(runs, fitted, summary)
        # A merge that was run needs no prediction: its own margins rank it, whatever they tell of others.
        places = fitted.rank_trials()
        if not fitted.is_useful or not places:
            return ResponseConclusion(runs, fitted, summary, places=tuple(places))

        predicted = PredictedCandidates.predict(fitted, seed=proposer.config.seed, number=len(trials))
        flat = self._find_flat_prior(predicted, places)
        if flat is not None:
            others = (place for place in places if place != flat)
            return ResponseConclusion(runs, fitted, summary, predicted, (flat, *others), "flat")
        is_met = predicted.certify(places[0], precision=proposer.config.precision).is_met
        status: CertificateStatus = "met" if is_met else "trials"
        return ResponseConclusion(runs, fitted, summary, predicted, tuple(places), status)

    def tell_expected_best(self, conclusion: ResponseConclusion) -> None:
        """Say what the response expects of merges that were not run, where an earlier run's are asked anew and no more
        are run.
        """
        if not self.proposer.config.trials and conclusion.predicted is not None:
            told = describe_expected_best(conclusion.predicted, conclusion.places[0])
            progress.say(f"{told}; `--resume {self.proposer.run} --trials N` runs N more")

    @hold_one_thread()
    def certify(self, conclusion: ResponseConclusion, winner: int) -> CertificateRecord:
        """The certificate of trial number `winner`; it says where the search stopped and no more without a model."""
        predicted, ranking = conclusion.predicted, conclusion.ranking
        if predicted is None or ranking is None or winner not in ranking:
            return CertificateRecord(
                status=conclusion.status, probability=None, precision=None, bound=None, bound_items_fixed=None,
                runs=conclusion.runs, items=None, tokens=None, model="none",
            )  # fmt: skip

        place, precision = conclusion.places[ranking.index(winner)], self.proposer.config.precision
        certificate = predicted.certify(place, precision=precision)
        return CertificateRecord(
            status=conclusion.status,
            probability=certificate.probability,
            precision=certificate.precision,
            bound=certificate.bound,
            bound_items_fixed=certificate.bound_items_fixed,
            runs=conclusion.runs,
            items=sum(len(task.shares_I) for task in predicted.fitted.model.tasks.values()),
            tokens=None,
            model="response",
            items_factor=certificate.items_factor,
        )

    @hold_one_thread()
    def measure_optimism(self, conclusion: ResponseConclusion, *, responds: bool) -> OptimismRecord | None:
        """The optimism of a search that asks the response for its points, or does not (`responds`).

        None where nothing is fitted, and as :func:`~.procedure_optimism.measure_optimism` says.
        """
        if conclusion.fitted is None:
            return None
        config, is_flat = self.proposer.config, conclusion.status == "flat" and responds
        return measure_optimism(
            conclusion.fitted,
            finalists=1 if is_flat else config.top,
            by_response=conclusion.ranking is not None and responds,
            origins=("prior",) if is_flat else None,
            seed=config.seed,
        )

    def _find_flat_prior(self, predicted: PredictedCandidates, places: Sequence[int]) -> int | None:
        """The safest prior, if no merge can be told to be better: its bound is the least of all priors'."""
        trials, goal = predicted.fitted.trials, self.proposer.objectives.goals[0]
        priors = [place for place in places if trials[place].origin == "prior" and predicted.within_C[place]]
        if not priors:
            return None
        precision = self.proposer.config.precision
        bounds = {place: predicted.certify(place, precision=precision).bound for place in priors}
        safest = min(priors, key=lambda place: bounds[place])
        return safest if bounds[safest] <= FLAT_ERRORS * predicted.measure_paired_error(goal, safest) else None


def refuse_fine_precision(config: SearchConfig, objectives: ObjectiveSet, items: Mapping[str, int]) -> None:
    """Refuse a `precision` below what one search item changes in the objective; `items` counts those of each task whose
    items are answered.

    Raises :class:`SearchError` naming the least precision that the items can tell.
    """
    if config.precision is None:
        return
    changes = [share / items[task] for goal in objectives.goals for task, share in goal.shares.items() if task in items]
    least = min(changes, default=0.0)
    if config.precision < least:
        found = (
            f"expected {least:.2g} or more, which one search item changes in the objective, found {config.precision:g}"
        )
        raise SearchError("search.precision", found, "Raise it or `evaluate.items.search`, or leave it out.")


def summarise_response(fitted: FittedResponse) -> ResponseSummaryRecord:
    """The response as `best.json` tells of it: how well each task is predicted, each trial left out in turn."""
    tasks = {}
    for name, task in fitted.model.tasks.items():
        error = fitted.model.calibrate({name: 1.0})
        tasks[name] = ResponseTaskRecord(
            temperature=None if task.tempered is None else task.tempered.temperature,
            slope=None if task.tempered is None else task.tempered.slope,
            spearman=error.spearman,
            rmse=error.rmse,
            spearman_upper=error.spearman_upper,
            rmse_upper=error.rmse_upper,
            used=task.used,
        )
    return ResponseSummaryRecord(tasks=tasks)
