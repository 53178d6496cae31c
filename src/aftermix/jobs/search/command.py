"""`aftermix search`: from one YAML to the best measured merge, its ratios, a model that serves and a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from aftermix.config import Config, require
from aftermix.errors import ConfigError
from aftermix.evaluation.suites.contract import count_answered_items
from aftermix.jobs.evaluate.own_tasks import settle_tasks
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.job_kind import NEEDED
from aftermix.jobs.merge.command import write_model
from aftermix.jobs.merge.given_weights import refuse_missing_weights
from aftermix.jobs.parallel.crew import hire_workers
from aftermix.jobs.provenance import format_recipe, resolve_defaults
from aftermix.jobs.run_folder.comparison import refuse_different, refuse_other_kind, refuse_other_vectors
from aftermix.jobs.run_folder.opening import (
    clear_model,
    find_pending_source,
    open_run_folder,
    read_run_config,
    read_source,
)
from aftermix.jobs.run_folder.settling import settle_for_run
from aftermix.jobs.search.beginning.budgeted_design import settle_design
from aftermix.jobs.search.beginning.kept_scores import take_kept_scores
from aftermix.jobs.search.beginning.missing_tasks import MissingTaskScorer
from aftermix.jobs.search.beginning.occupied_run import refuse_occupied_run
from aftermix.jobs.search.beginning.rescoring import asks_for_rescoring, describe_rescoring, set_no_trials
from aftermix.jobs.search.earlier_run import ComparableTrials, import_comparable_trials
from aftermix.jobs.search.response_stage import ResponseStage, refuse_fine_precision
from aftermix.jobs.search.result import build_best_record, complete_certificate
from aftermix.jobs.search.run_inputs import RunInputs
from aftermix.jobs.search.space_from_config import build_space
from aftermix.jobs.tracking.tracker import open_tracker, refuse_missing_trackers
from aftermix.merging.recipe import MergeRecipe
from aftermix.report.page import write_report
from aftermix.runs.journal import read_trials
from aftermix.runs.records import BEST_FILE, MODEL_FOLDER, BestRecord
from aftermix.runs.session import RunSession, open_session
from aftermix.runs.trials import Point, Trial
from aftermix.search.budget import TokenBudget, build_budget
from aftermix.search.choosing.elimination import ROUNDS
from aftermix.search.choosing.finalists import count_rounds
from aftermix.search.objective import ObjectiveSet
from aftermix.search.proposing.response_proposer import ResponseProposer
from aftermix.search.selection import choose_winner
from aftermix.search.space import SearchSpace
from aftermix.search.study import run_study
from aftermix.search.warm_start import ImportedTrial


def search(
    config: Config,
    run: Path,
    *,
    resume: bool = False,
    source: Path | None = None,
    trials_stated: bool = False,
    log: Callable[[str], object] = lambda _: None,
) -> Path:
    """Search merge weights for `config` in the run folder `run`, and return it.

    Everything is checked before the folder is made: configuration, checkpoints and their values, tasks, items,
    objective. `resume` goes on with an unfinished (or longer) run; `source` names an earlier run over the same vectors
    whose trials are re-scored under this file's objective and start the search, at no model cost but on tasks that it
    has no scores of; none is run after them
    where the file is a copy of that run's (:func:`asks_for_rescoring`), unless `trials_stated` says that its number is
    meant for this run. `log` is told of vectors that may be of another base.

    One process works on a run, from its first write to the report. Raises :class:`AftermixError` with nothing written,
    and :class:`RunFailedError` once something is.
    """
    with open_session(run, resume=resume) as session:
        _search(config, session, resume=resume, source=source, trials_stated=trials_stated, log=log)
    return run


def _search(
    config: Config,
    session: RunSession,
    *,
    resume: bool,
    source: Path | None,
    trials_stated: bool,
    log: Callable[[str], object],
) -> None:
    """Check all inputs, make or reopen the folder, and run the stages."""
    run = session.run
    config, recipe = _settle_config(config, run, resume=resume, source=source)
    space = build_space(config)
    if not resume:
        refuse_occupied_run(run, config=config, mixture=False)
    inputs = RunInputs.open(config, run, resume=resume, log=log)
    objectives = ObjectiveSet.build(config.search.objective, tasks=list(inputs.suite.tasks))
    refuse_fine_precision(config.search, objectives, count_answered_items(inputs.suite, "search"))
    source = _choose_source(config, inputs, source)

    inputs.tell_split(objectives, log)
    evaluator, evaluation = inputs.open_evaluator(config, recipe, space)
    earlier = ComparableTrials()
    if source is not None:
        earlier = import_comparable_trials(source, evaluation, evaluator=evaluator, space=space, objectives=objectives)

    # A run that goes on runs none where none was asked for at its beginning.
    if not trials_stated and not (resume and read_run_config(run).search.trials):
        evaluator = _settle_trials(evaluator, run, source, earlier, space=space, log=log)
    budget = _open_budget(evaluator, run)
    requests = None if resume else evaluator.tabulate_requests()
    evaluator = settle_design(evaluator, budget, requests, earlier, space=space, objectives=objectives)

    # The folder is made last: whatever is refused leaves nothing behind.
    open_run_folder(
        session,
        resume=resume,
        config=evaluator.config,
        pool=inputs.pool,
        inputs=evaluator.inputs,
        split=inputs.split,
        evaluation=evaluation,
        requests=requests,
        source=source,
    )
    if source is not None and earlier.is_whole:
        take_kept_scores(source, run, earlier.trials)
    with hire_workers(evaluator, run, space, for_search=True) as measuring:
        scorer = MissingTaskScorer(measuring, tuple(earlier.missing), objectives, space)
        imported = scorer.complete(run, earlier.trials) if earlier.missing else earlier.trials
        _run_stages(measuring, run, space=space, objectives=objectives, imported=imported, budget=budget)


def _settle_config(config: Config, run: Path, *, resume: bool, source: Path | None) -> tuple[Config, MergeRecipe]:
    """The file with all that is left to a run settled, and its merge; raises for what is wrong before models open."""
    require(config, *NEEDED["search"])
    refuse_missing_trackers(config.track)
    if config.search.trials == 0 and source is None and not resume:
        remedy = "Raise it, or start from the trials of an earlier run: --from RUN."
        raise ConfigError("search.trials", "is 0, so there is nothing to choose from", remedy)

    if not resume:  # a run that began at weights goes on at them
        refuse_missing_weights(config, "search")
    resumed = run if resume else None
    config = settle_tasks(config, resumed=resumed)
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True)

    return settle_for_run(resolve_defaults(config, recipe), resumed=resumed, source=source), recipe


def _choose_source(config: Config, inputs: RunInputs, source: Path | None) -> Path | None:
    """The earlier run whose trials are taken: `source` of a new run, and what a run that goes on was to take.

    Raises :class:`SearchError` for a run that goes on with other inputs, and for an earlier one of other vectors.
    """
    run, pool, split = inputs.run, inputs.pool, inputs.split
    if inputs.resume:
        refuse_other_kind(run, mixture=False)
        refuse_different(run, config=config, pool=pool, split=split)
        source = find_pending_source(run)
    if source is not None:
        refuse_other_vectors(source, config=config, pool=pool, split=split)
    return source


def _settle_trials(
    evaluator: MergeEvaluator,
    run: Path,
    source: Path | None,
    comparable: ComparableTrials,
    *,
    space: SearchSpace,
    log: Callable[[str], object],
) -> MergeEvaluator:
    """The evaluator of a search that runs no new trial where its file is a copy of that of the run it started from."""
    earlier = source if source is not None else read_source(run)
    taken = len(comparable.trials) or sum(trial.is_imported for trial in read_trials(run))
    if earlier is None or not taken or not asks_for_rescoring(evaluator.config, earlier, space=space):
        return evaluator

    log(describe_rescoring(earlier, taken, use=comparable.use))
    return replace(evaluator, config=set_no_trials(evaluator.config))


def _open_budget(evaluator: MergeEvaluator, run: Path) -> TokenBudget | None:
    """The budget of the search in `run`, new or resumed; None where its file sets none.

    Raises as :func:`~aftermix.search.budget.build_budget` does.
    """
    config, measured = evaluator.config.search, evaluator.model_evaluator
    if config.budget_tokens is None:
        return None
    own = [trial for trial in read_trials(run) if not trial.is_imported]
    return build_budget(
        config,
        trial_tokens=measured.count_positions("search"),
        finalist_tokens=measured.count_finalist_positions(config),
        finalists_before=sum(count_rounds(run, trial.number, rounds=ROUNDS) > 0 for trial in own),
    )


def _run_stages(
    evaluator: MergeEvaluator,
    run: Path,
    *,
    space: SearchSpace,
    objectives: ObjectiveSet,
    imported: Sequence[ImportedTrial],
    budget: TokenBudget | None,
) -> None:
    """Trials, selection, test, model, report; each stage leaves files that a resumed run takes up."""
    stage = ResponseStage.open(evaluator, run, space=space, objectives=objectives)
    responds = stage.proposes
    proposer = stage.proposer if responds else None
    trials = _run_trials(evaluator, run, space=space, imported=imported, budget=budget, proposer=proposer)

    # Trials outside the ranges tell the response something, and are not chosen.
    conclusion = stage.conclude(trials)
    if responds:
        stage.tell_expected_best(conclusion)
    rounds = stage.deal_rounds(evaluator) if responds else None
    inside = [trial for trial in trials if space.contains(trial.weights, trial.settings)]
    chosen = choose_winner(
        run,
        trials=inside,
        config=evaluator.config.search,
        tasks=evaluator.tasks,
        measure=evaluator.evaluate,
        announce=evaluator.announce_point,
        ranking=conclusion.ranking if responds else None,
        settled=conclusion.status == "flat" and responds,
        rounds=rounds,
    )

    certificate = complete_certificate(
        stage.certify(conclusion, chosen.winner.trial.number),
        evaluator,
        run,
        trials=trials,
        chosen=chosen,
        rounds=rounds,
        budget=budget,
    )
    overlaps = any(items.overlap for items in evaluator.model_evaluator.suite.tasks.values())
    best = build_best_record(
        evaluator,
        run,
        trials=trials,
        chosen=chosen,
        objectives=objectives,
        rounds=rounds,
        response=conclusion.response,
        certificate=certificate,
        optimism=None if overlaps else stage.measure_optimism(conclusion, responds=responds),
    )

    _write_result(evaluator, run, chosen.winner.trial.point, best)


def _run_trials(
    evaluator: MergeEvaluator,
    run: Path,
    *,
    space: SearchSpace,
    imported: Sequence[ImportedTrial],
    budget: TokenBudget | None,
    proposer: ResponseProposer | None,
) -> list[Trial]:
    """All trials of the search, at points of `proposer`, or the sampler's without one; trackers are told of each."""
    with open_tracker(evaluator.config.track, run, name="search") as tracker:
        return run_study(
            run,
            space=space,
            config=evaluator.config.search,
            tasks=evaluator.tasks,
            measure=evaluator.evaluate,
            announce=evaluator.announce_point,
            imported=imported,
            propose=proposer.propose if proposer else None,
            design=proposer.full_design if proposer else None,
            budget=budget,
            after_trial=tracker.note_trial,
        )


def _write_result(evaluator: MergeEvaluator, run: Path, winner: Point, best: BestRecord) -> None:
    """Model, `best.json` and report; `best.json` comes after the model: a run that holds it has one to export."""
    merged, merger = evaluator.build_config(winner.settings), evaluator.build_merger(winner.settings)
    weights = evaluator.place_weights(winner)
    recipe = format_recipe(merged, merger.recipe, weights, folder=run / MODEL_FOLDER)
    if not clear_model(run, recipe):
        output = run / MODEL_FOLDER
        write_model(merger, weights, config=merged, output=output, inputs=evaluator.inputs, best=best)
    best.write(run / BEST_FILE)
    write_report(run)
