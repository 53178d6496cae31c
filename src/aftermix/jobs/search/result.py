"""`best.json`: the winner on items that it was not chosen by, beside the baselines, and what it means as a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

from aftermix.config import Config
from aftermix.config.places import list_dimensions
from aftermix.errors import SearchError
from aftermix.jobs.compare.contest import compare_rivals
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.search.baselines import list_fixed_baselines
from aftermix.jobs.search.beginning.missing_tasks import read_reused
from aftermix.jobs.search.score_cache import BaselineScorer, ScoreCache, build_baseline_records, build_scan_record
from aftermix.merging.recipe import MergeRecipe
from aftermix.mixture.ratios import convert_weights
from aftermix.runs.answers.certificate_records import (
    CertificateRecord,
    EliminationRecord,
    OptimismRecord,
    ResponseSummaryRecord,
)
from aftermix.runs.journal import locate_items
from aftermix.runs.json_record import OptionValue
from aftermix.runs.reader import read_best
from aftermix.runs.records import (
    BEST_FILE,
    BestRecord,
    CandidateRecord,
    ItemsRecord,
    RangeRuleRecord,
    ScoresRecord,
    SearchWinner,
    StageSeconds,
    TaskItemCounts,
    VectorRecord,
)
from aftermix.runs.trials import ItemScores, Trial, Weights, average_scores
from aftermix.search.budget import TokenBudget, count_spent_tokens
from aftermix.search.choosing.elimination import ERROR
from aftermix.search.choosing.finalists import SelectRounds, count_rounds
from aftermix.search.objective import ObjectiveSet
from aftermix.search.selection import SelectedTrial, WinnerSelection
from aftermix.search.summary import compare, summarise


def build_best_record(
    evaluator: MergeEvaluator,
    run: Path,
    *,
    trials: Sequence[Trial],
    chosen: WinnerSelection,
    objectives: ObjectiveSet,
    rounds: SelectRounds | None,
    response: ResponseSummaryRecord | None,
    certificate: CertificateRecord,
    optimism: OptimismRecord | None,
) -> BestRecord:
    """Measure winner and baselines on the test items of the run in `run`; the content of `best.json`."""
    config, seed = evaluator.config, evaluator.config.search.seed
    score_cache = ScoreCache(run, evaluator.tasks)

    winner = chosen.winner.trial
    name, measure = f"winner trial {winner.number}", partial(evaluator.evaluate, winner.point)
    scorer, compared = BaselineScorer(evaluator, score_cache, objectives), config.search.baselines
    score_cache.announce_scores(name, "test", partial(evaluator.announce_point, winner.point))
    scorer.announce_all(list_fixed_baselines(config) if compared else (), "test")
    test = score_cache.scores(name, "test", measure)
    recipe = evaluator.build_merger(winner.settings).recipe
    ratios, ratios_note = _compute_ratios(config, winner.weights)

    best = BestRecord(
        winner=SearchWinner(
            trial=winner.number, method=recipe.method.name, options=list_options(recipe), exclude=recipe.exclude
        ),
        weights=winner.weights,
        settings=winner.settings,
        ratios=ratios,
        ratios_note=ratios_note,
        vectors=build_vector_records(config),
        objective=objectives.build_records(),
        metrics=list_metrics(evaluator),
        search=summarise(chosen.winner.search, objectives=objectives, seed=seed),
        select=summarise(chosen.winner.select, objectives=objectives, seed=seed),
        test=summarise(test, objectives=objectives, seed=seed),
        floors_met=chosen.floors_met,
        candidates=tuple(_build_candidate(candidate, objectives, seed) for candidate in chosen.candidates),
        front=chosen.front,
        baselines=build_baseline_records(scorer, config, test) if compared else (),
        scan=build_scan_record(scorer, config) if compared else None,
        items=count_items(evaluator),
        seconds=_sum_seconds(evaluator, score_cache, trials, chosen, before=read_earlier_seconds(run)),
        certificate=certificate,
    )
    elimination = _build_elimination(evaluator, chosen, rounds) if rounds is not None else None
    known = {"response": response, "elimination": elimination, "optimism": optimism}
    rivals = compare_rivals(evaluator, run, ObjectiveJudge(objectives, seed), test, ratios)
    known = {key: value for key, value in known.items() if value is not None}
    return best.model_copy(update={**known, **rivals, **read_reused(run)})


@dataclass(frozen=True)
class ObjectiveJudge:
    """Judge of compared models by the objectives of a search."""

    objectives: ObjectiveSet
    seed: int

    def summarise_items(self, items: ItemScores) -> ScoresRecord:
        """Objectives and tasks with their intervals."""
        return summarise(items, objectives=self.objectives, seed=self.seed)

    def compare_items(self, ours: ItemScores, theirs: ItemScores) -> ScoresRecord:
        """Ours minus theirs, paired by item."""
        return compare(ours, theirs, objectives=self.objectives, seed=self.seed)

    def measure_worth(self, items: ItemScores) -> float:
        """Mean of the objectives."""
        return fmean(self.objectives.values(average_scores(items)))


def list_options(recipe: MergeRecipe) -> dict[str, OptionValue]:
    """Options of a winner's merge, with those that every method has."""
    return recipe.method.options | {"lambda": recipe.scale, "seed": recipe.seed}


def list_metrics(evaluator: MergeEvaluator) -> dict[str, str]:
    """The metric that counts, by task."""
    return evaluator.model_evaluator.suite.name_metrics()


def build_vector_records(config: Config) -> dict[str, VectorRecord]:
    """`vectors` of `best.json`: model, role, tokens and range of each."""
    return {
        name: VectorRecord(
            model=v.model,
            role=v.role,
            tokens=v.tokens,
            range=v.bounds,
            **({"rules": rules} if (rules := list_rule_records(config, name)) else {}),
        )
        for name, v in config.vectors.items()
    }


def list_rule_records(config: Config, vector: str) -> tuple[RangeRuleRecord, ...]:
    """The rules of the range of `vector`, where its weights are searched by them."""
    if not config.search.over.weights:
        return ()
    return tuple(
        RangeRuleRecord(weight=name, match=dimension.match, range=dimension.bounds)
        for name, dimension in list_dimensions({vector: config.vectors[vector]}).items()
        if dimension.is_placed
    )


def _compute_ratios(config: Config, weights: Weights) -> tuple[dict[str, float] | None, str | None]:
    """The ratios, or the reason that there are none."""
    if not config.search.over.weights:
        return None, "The weights were not searched, so no data ratio follows from them."

    placed = [name for name in config.vectors if list_rule_records(config, name)]
    if placed:
        verb = "depends" if len(placed) == 1 else "depend"
        return (
            None,
            f"The weight of {', '.join(placed)} {verb} on the place, so no data ratio follows from the weights.",
        )

    data_vectors = [name for name, vector in config.vectors.items() if vector.role == "expert"]
    try:
        return convert_weights(weights, data_vectors), None
    except SearchError as error:
        # The merge is found all the same; that no mixture corresponds to it is a result, and is said.
        return None, str(error)


def _build_candidate(candidate: SelectedTrial, objectives: ObjectiveSet, seed: int) -> CandidateRecord:
    return CandidateRecord(
        trial=candidate.trial.number,
        weights=candidate.trial.weights,
        settings=candidate.trial.settings,
        search=summarise(candidate.search, objectives=objectives, seed=seed),
        select=summarise(candidate.select, objectives=objectives, seed=seed),
        **({"dropped_after": candidate.dropped_after} if candidate.dropped_after is not None else {}),
    )


def _build_elimination(
    evaluator: MergeEvaluator, chosen: WinnerSelection, rounds: SelectRounds
) -> EliminationRecord | None:
    """The rounds of the candidates; None where there is one alone."""
    if len(chosen.candidates) < 2:
        return None
    cost = evaluator.model_evaluator.count_positions
    costs = [cost("select", places) for places in rounds.places]
    return EliminationRecord(
        rounds=len(costs),
        error=ERROR,
        tokens=sum(sum(costs[: candidate.dropped_after]) for candidate in chosen.candidates),
        tokens_whole=len(chosen.candidates) * cost("select"),
    )


def count_items(evaluator: MergeEvaluator) -> ItemsRecord:
    """Numbers of items in the splits of each task, with the scheme that split them."""
    assert evaluator.config.evaluate is not None  # noqa: S101 - a search requires it; for the type checker
    suite = evaluator.model_evaluator.suite
    tasks, cut = suite.tasks, suite.count_cut_prompts(evaluator.model_evaluator.engine.lm)
    counts = {
        name: TaskItemCounts(
            search=len(t.search),
            select=len(t.select),
            test=len(t.test),
            note=t.note,
            **({"cut_prompts": cut[name]} if name in cut else {}),
        )
        for name, t in tasks.items()
    }

    scheme = evaluator.config.evaluate.items.scheme
    return ItemsRecord(scheme=scheme, overlap=any(t.overlap for t in tasks.values()), tasks=counts)


def read_earlier_seconds(run: Path) -> dict[str, float]:
    """Seconds that a finished run in `run` spent on the stages whose measurements are kept and not made again."""
    if not (run / BEST_FILE).is_file():
        return {"select": 0.0, "test": 0.0}
    before = read_best(run).seconds
    return {"select": before.select, "test": before.test}


def _sum_seconds(
    evaluator: MergeEvaluator,
    score_cache: ScoreCache,
    trials: Sequence[Trial],
    chosen: WinnerSelection,
    *,
    before: Mapping[str, float],
) -> StageSeconds:
    """Wall seconds by stage, those of `before` included. What an interrupted session measured is not in them."""
    candidates_s = sum(sum(candidate.seconds.values()) for candidate in chosen.candidates)
    return StageSeconds(
        prepare=evaluator.prepare_s,
        search=sum_by_phase([trial.seconds for trial in trials]),
        select=before["select"] + score_cache.seconds.get("select", 0.0) + candidates_s,
        test=before["test"] + score_cache.seconds.get("test", 0.0),
    )


def sum_by_phase(seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums by phase."""
    phases = sorted({phase for entry in seconds for phase in entry})
    return {phase: sum(entry.get(phase, 0.0) for entry in seconds) for phase in phases}


def complete_certificate(
    certificate: CertificateRecord,
    evaluator: MergeEvaluator,
    run: Path,
    *,
    trials: Sequence[Trial],
    chosen: WinnerSelection,
    rounds: SelectRounds | None,
    budget: TokenBudget | None,
) -> CertificateRecord:
    """`certificate` with what the search spent, and with what ended it as its status.

    The response may have held another merge for the best, and had no need of more trials for that one: `met` it is of
    the winner, too, or where trials were left.
    Finalists count as planned, generated answers at their limit. `tokens` is null in runs that did not count them.
    """
    own = [trial for trial in trials if not trial.is_imported]
    config = evaluator.config.search
    is_spent = budget is not None and len(own) < config.trials and not budget.has_room(trials)
    reached = certificate.status if config.strategy == "response" else "trials"  # other strategies know no bound
    if reached == "met" and len(own) >= config.trials and not certificate.is_met:
        reached = "trials"

    items = sum(counts["search"] for counts in evaluator.model_evaluator.suite.count_items().values())
    is_counted = all(trial.tokens is not None for trial in own if trial.is_complete)
    return certificate.model_copy(
        update={
            "status": "budget" if is_spent and reached == "trials" else reached,
            "items": items if certificate.items is None else certificate.items,
            "tokens": _count_tokens(evaluator, run, trials, chosen, rounds) if is_counted else None,
        }
    )


def _count_tokens(
    evaluator: MergeEvaluator,
    run: Path,
    trials: Sequence[Trial],
    chosen: WinnerSelection,
    rounds: SelectRounds | None,
) -> int:
    """Positions of trials and finalists, and of what imported trials were scored on anew."""
    spent = count_spent_tokens(trials, trial_tokens=evaluator.model_evaluator.count_positions("search"))
    own = {trial.number for trial in trials if not trial.is_imported}
    cost = evaluator.model_evaluator.count_positions
    new = {candidate.trial.number for candidate in chosen.candidates if candidate.seconds}
    if rounds is not None:
        costs = [cost("select", places) for places in rounds.places]
        counts = [count_rounds(run, number, rounds=len(costs)) for number in new | own]
        return spent + sum(sum(costs[:count]) for count in counts)

    finalists = new | {number for number in own if locate_items(run, "select", number).exists()}
    return spent + len(finalists) * cost("select")
