"""Everything that the template shows, computed from a run's records; nothing is computed in the template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from aftermix.config import SEARCH_EXCLUDE, Dimension, SearchConfig
from aftermix.files import shorten_path
from aftermix.report.certificate_text import describe_certificate
from aftermix.report.elimination_text import describe_elimination
from aftermix.report.number_format import ScoreScale, choose_scale, format_count, format_setting
from aftermix.report.optimism_text import describe_expected_optimism, describe_fall
from aftermix.report.reused_text import compose_reused
from aftermix.report.sections.compared import compose_rival_lead
from aftermix.report.sections.mixture import is_mixture
from aftermix.report.sections.mixture_tree import count_searched_groups
from aftermix.report.tables.cost import RunCost, summarise_cost
from aftermix.report.tables.ended_trials import FailureRow, OriginRow, count_origins, list_failures
from aftermix.report.tables.models import (
    CandidateRow,
    ModelRow,
    build_candidate_rows,
    build_model_rows,
    list_tasks,
    list_whole_tasks,
)
from aftermix.report.tables.nested_values import flatten
from aftermix.report.tables.vectors import VectorRow, build_vector_rows
from aftermix.report.trials import select_measured
from aftermix.report.usage import UsageCommands, build_usage
from aftermix.report.verdict import (
    JudgedResult,
    ObjectiveVerdict,
    compose_headline,
    judge_objectives,
    judge_result,
    name_objectives,
)
from aftermix.runs.reader import RunContents
from aftermix.runs.records import ItemsRecord, ObjectiveRecord
from aftermix.runs.trials import quote_setting

CONFIDENCE = "95 %"
"""Of all intervals of a run."""


@dataclass(frozen=True)
class ReportContext:
    """The report's content but for the drawings."""

    title: str
    finished: bool
    headline: str
    verdicts: tuple[ObjectiveVerdict, ...]
    floors: str
    """A sentence on the floors; empty when there are none."""
    floors_met: bool
    warnings: tuple[str, ...]
    scale: ScoreScale
    confidence: str
    objectives: tuple[str, ...]
    judged: JudgedResult | None
    """Winner and baselines with the measure that they are compared by."""
    tasks: tuple[str, ...]
    models: tuple[ModelRow, ...]
    vectors: tuple[VectorRow, ...]
    weights_searched: bool
    ratios_note: str
    candidates: tuple[CandidateRow, ...]
    elimination: str
    """A sentence on the finalists that were dropped; empty where all were measured at once."""
    optimism: str
    origins: tuple[OriginRow, ...]
    progress: str
    certificate: tuple[str, ...]
    """Sentences on why the search ended and what is certain of its winner."""
    merged: tuple[tuple[str, str], ...]
    items: ItemsRecord | None
    metrics: dict[str, str]
    """Task -> the metric that counts, `metric,filter`; empty before the run has ended."""
    cost: RunCost | None
    failures: tuple[FailureRow, ...]
    usage: UsageCommands
    model_files: tuple[str, ...]
    recipe: str
    provenance: tuple[tuple[str, str], ...]


def build_context(run: RunContents) -> ReportContext:
    """The content of the report on `run`."""
    best, scale = run.best, choose_run_scale(run)
    names = name_run_objectives(run)

    compared = judge_result(best, names=names, scale=scale) if best else None
    return ReportContext(
        title=run.folder.resolve().name,
        finished=best is not None,
        headline=_compose_headline(run, compared),
        verdicts=judge_objectives(compared.best, scale=compared.scale) if compared else (),
        floors=_describe_floors(run, scale),
        floors_met=best is None or best.floors_met,
        warnings=_list_warnings(run),
        scale=scale,
        confidence=CONFIDENCE if best else "",
        objectives=names,
        judged=compared,
        tasks=list_tasks(best) if best else (),
        models=build_model_rows(compared.best, scale=compared.scale, task_scale=scale) if compared else (),
        vectors=build_vector_rows(run),
        weights_searched=run.config.search.over.weights,
        ratios_note=(best and best.ratios_note) or "",
        candidates=build_candidate_rows(best, scale=scale) if best else (),
        elimination=describe_elimination(best),
        optimism=" ".join(filter(None, (describe_fall(run, scale), describe_expected_optimism(best, scale)))),
        origins=count_origins(run.trials),
        progress=_describe_progress(run, scale),
        certificate=tuple(describe_certificate(best, scale)),
        merged=_list_merge_facts(run),
        items=run.items,
        metrics=dict(best.metrics) if best else {},
        cost=summarise_cost(run),
        failures=list_failures(run.trials),
        usage=build_usage(run.folder),
        model_files=run.model_files,
        recipe=next((name for name in run.model_files if PurePath(name).suffix in (".yaml", ".yml")), ""),
        provenance=_list_provenance(run),
    )


def _list_provenance(run: RunContents) -> tuple[tuple[str, str], ...]:
    """Entries of the lock, its paths as everywhere on the page."""
    pairs = flatten(run.lock.model_dump(mode="json", exclude_unset=True)) if run.lock else ()
    return tuple((key, shorten_path(value, run=run.folder)) for key, value in pairs)


def choose_run_scale(run: RunContents) -> ScoreScale:
    """The unit of this report, from all scores that the run holds."""
    scores = [score for trial in run.trials for score in [*trial.scores.values(), *(trial.objective or ())]]
    if run.best:
        rivals = (row.test for row in run.best.compared or () if row.test is not None)
        for measurement in [run.best.test, *(baseline.test for baseline in run.best.baselines), *rivals]:
            scores += [*measurement.objective, *(task.score for task in measurement.tasks.values())]
    return choose_scale(scores)


def name_run_objectives(run: RunContents) -> tuple[str, ...]:
    """Names of the objectives, from the result, or from the trials and the configuration."""
    records = list_objectives(run)
    if run.best:
        return name_objectives(records, len(run.best.test.objective))
    counts = [len(trial.objective) for trial in run.trials if trial.objective]
    return name_objectives(records, counts[0] if counts else len(records))


def list_objectives(run: RunContents) -> tuple[ObjectiveRecord, ...]:
    """Resolved objectives of the result, else those of the configuration."""
    if run.best and run.best.objective:
        return run.best.objective
    return tuple(
        ObjectiveRecord(name=objective.name, tasks=dict(objective.tasks), floors=dict(objective.floors))
        for objective in run.config.search.objective
    )


def _compose_headline(run: RunContents, compared: JudgedResult | None) -> str:
    if compared:
        verdict = compose_headline(judge_objectives(compared.best, scale=compared.scale))
        return " ".join(filter(None, (compose_rival_lead(compared), verdict)))

    mixture = run.config.mixture if is_mixture(run.folder) else None
    done, wanted = len(run.trials), run.config.search.trials
    new = sum(not trial.is_imported for trial in run.trials)
    groups = count_searched_groups(run.folder)
    if groups is not None:
        return f"This search is unfinished: {groups[0]} of {format_count(groups[1], 'group')} have been searched."
    if mixture is not None:  # points that were taken over from another run stand in for its own
        new, wanted = done, mixture.points + sum(mixture.rounds)

    if not done:
        return f"This search has not finished its first trial of {wanted}."
    if new < wanted:
        return f"This search is unfinished: {new} of {format_count(wanted, 'trial')} have ended."
    return f"All {format_count(wanted, 'trial')} have ended, but the winner is not chosen and measured yet."


def _describe_floors(run: RunContents, scale: ScoreScale) -> str:
    floors = {task: floor for record in list_objectives(run) for task, floor in record.floors.items()}
    if not floors:
        return ""

    limits = ", ".join(f"{task} at least {scale.format(floor)}" for task, floor in floors.items())
    if run.best is None:
        return f"Floors: {limits}."
    return f"Floors {'met' if run.best.floors_met else 'not met'} by the winner on the select items: {limits}."


def _list_warnings(run: RunContents) -> tuple[str, ...]:
    warnings = []
    if run.items and (run.items.overlap or run.items.scheme == "first"):
        warnings.append(
            "Search and select items overlap (item scheme “first”, the OptiMer paper's own): the winner was chosen on "
            "items that the search had already seen, so its select score is optimistic. Only the test items are unseen."
        )

    whole = list_whole_tasks(run.best) if run.best else ()
    if whole:
        warnings.append(
            f"{', '.join(whole)}: scored whole, as one number for all items of a split. No interval follows from it, "
            "and differences between models have no paired interval: what noise would give is not known."
        )

    if run.trials and not select_measured(run.trials):
        warnings.append("No trial has a score yet: see the failed trials below.")
    return tuple(warnings)


def _describe_progress(run: RunContents, scale: ScoreScale) -> str:
    scored = select_measured(run.trials)
    failed = sum(trial.state == "failed" for trial in run.trials)
    parts = [f"{format_count(len(run.trials), 'trial')}, {len(scored)} with a score"]
    parts += [f"{failed} failed"] if failed else []

    feasible = [trial for trial in scored if trial.objective and trial.feasible]
    if feasible:
        top = max(feasible, key=lambda trial: trial.objective or ())
        score = scale.format((top.objective or (0.0,))[0])
        parts.append(f"best on the search items so far {score} (trial {top.number})")
    return f"{'; '.join(parts)}. {compose_reused(run.best.reused if run.best else None)}".rstrip()


def _list_merge_facts(run: RunContents) -> tuple[tuple[str, str], ...]:
    merge = run.config.merge
    winner = run.best.winner if run.best else None

    # The winner's own values stand before the file's: a search may have set others.
    exclude = winner.exclude if winner else merge.exclude
    given = winner.options if winner else merge.options
    options = {name: value for name, value in given.items() if name not in _OWN_ROW and value is not None}

    pairs = [
        ("Base", shorten_path(run.config.base, run=run.folder) if run.config.base else "none"),
        ("Method", _find_method(run)),
        ("Options", ", ".join(f"{name} {format_setting(value)}" for name, value in options.items()) or "none"),
        ("Factor λ", f"{given.get('lambda', merge.scale):g}"),
        ("Left at the base's values", ", ".join(SEARCH_EXCLUDE if exclude is None else exclude) or "nothing"),
        ("Stored type", merge.dtype or "the base's"),
        ("Objective", "; ".join(map(_describe_objective, list_objectives(run)))),
        *_list_function(run),
        *_list_searched(run),
        _describe_search(run),
        ("Seeds", f"{_describe_seed(run)}, merge {merge.seed}{_format_items_seed(run)}"),
    ]
    return tuple(pairs)


def _list_function(run: RunContents) -> Iterator[tuple[str, str]]:
    """The user's own scorer and the class of models that it is handed; nothing where lm-eval's tasks are scored."""
    lock = run.lock.evaluation if run.lock else None
    if lock is not None and lock.function is not None and run.config.evaluate is not None:
        yield "Evaluation", f"{lock.function.name}, {run.config.evaluate.model_class or 'AutoModelForCausalLM'}"


def _list_searched(run: RunContents) -> Iterator[tuple[str, str]]:
    """Settings that were searched besides the weights, and those that won; nothing where only weights were."""
    over = run.config.search.over
    if over.settings:
        kinds = ", ".join(f"{name} {_format_dimension(kind)}" for name, kind in over.settings.items())
        yield "Searched", f"{'weights, ' if over.weights else ''}{kinds}"
    if run.best and run.best.settings:
        yield (
            "Winning settings",
            "; ".join(f"{quote_setting(n)} {format_setting(value)}" for n, value in run.best.settings.items()),
        )


def _describe_search(run: RunContents) -> tuple[str, str]:
    """The design of a mixture run, or the sampler of a search: the way its points came about."""
    search, mixture = run.config.search, run.config.mixture
    if mixture is not None and is_mixture(run.folder):
        rounds = "".join(f", then {count}" for count in mixture.rounds)
        if (groups := count_searched_groups(run.folder)) is not None:
            design = f"{mixture.direction.replace('_', ' ')}, {format_count(groups[1], 'group')}"
            return "Design", f"{design} of at most {format_count(mixture.points, 'point')}{rounds}"
        return "Design", f"{format_count(mixture.points, 'point')}{rounds}"
    return "Search", _describe_strategy(search)


def _describe_strategy(search: SearchConfig) -> str:
    """`preset default, 100 trials in batches of 4, start-up 20`"""
    at_once = f" in batches of {search.points_at_once}" if search.points_at_once > 1 else ""
    trials = f"{format_count(search.trials, 'trial')}{at_once}"
    if search.strategy == "random":
        return f"random points, {trials}"
    if search.strategy == "response":
        design = "" if search.startup is None else f", first design {search.startup}"
        return f"by response, at most {trials}{design}"
    return f"preset {search.preset}, {trials}, start-up {search.startup_trials}"


def _describe_seed(run: RunContents) -> str:
    mixture = run.config.mixture if is_mixture(run.folder) else None
    return f"search {run.config.search.seed}" if mixture is None else f"mixture {mixture.seed}"


def _format_dimension(kind: Dimension) -> str:
    """`0.1 to 0.9`, `0.05 to 0.5 by 0.05` or `rotation / first`"""
    if kind.choices is not None:
        return " / ".join(map(format_setting, kind.choices))
    step = f" by {kind.step:g}" if kind.step is not None else ""
    return f"{kind.low:g} to {kind.high:g}{step}"


_OWN_ROW = ("lambda", "seed")
"""Settings of every method, which have a row of their own."""


def _format_items_seed(run: RunContents) -> str:
    return f", items {run.config.evaluate.items.seed}" if run.config.evaluate else ""


def _find_method(run: RunContents) -> str:
    if run.best:
        return run.best.winner.method
    merge = run.config.merge
    if merge.method or not (merge.intra or merge.inter):
        return merge.method or "task_arithmetic"
    return f"{merge.intra} x {merge.inter}"


def _describe_objective(record: ObjectiveRecord) -> str:
    """`weighted mean of gsm8k (0.70), mgsm (0.30), with gsm8k at least 0.3`"""
    if len(set(record.tasks.values())) <= 1:
        text = f"mean of {', '.join(record.tasks)}" if len(record.tasks) > 1 else next(iter(record.tasks), "all tasks")
    else:
        text = "weighted mean of " + ", ".join(f"{task} ({share:.2f})" for task, share in record.tasks.items())
    floors = ", ".join(f"{task} at least {floor:g}" for task, floor in record.floors.items())
    name = f"{record.name}: " if record.name not in (None, "mean", *record.tasks) else ""
    return f"{name}{text}{', with ' + floors if floors else ''}"
