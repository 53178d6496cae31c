"""`aftermix mixture`: from experts to the data ratios whose merge is best by measured score (MergeMix)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from aftermix.checkpoints.pool import ModelPool
from aftermix.config import Config, SearchConfig, require
from aftermix.jobs.analysis.second_order import open_second_order_texts
from aftermix.jobs.evaluate.own_tasks import settle_tasks
from aftermix.jobs.evaluator import MergeEvaluator
from aftermix.jobs.job_kind import NEEDED
from aftermix.jobs.landscape import write_cosines, write_landscape
from aftermix.jobs.merge.command import write_model
from aftermix.jobs.merge.given_weights import refuse_missing_weights
from aftermix.jobs.mixture.earlier.merges import EarlierMerges
from aftermix.jobs.mixture.points import PointSampler, build_design_record, read_fitted, refuse_equal_scores
from aftermix.jobs.mixture.problem import MixtureProblem
from aftermix.jobs.mixture.result import MixtureResult
from aftermix.jobs.mixture.tree import search_tree
from aftermix.jobs.mixture.tree_problem import TreeProblem
from aftermix.jobs.parallel.crew import hire_workers
from aftermix.jobs.provenance import format_recipe, resolve_defaults
from aftermix.jobs.run_folder.comparison import refuse_difference, refuse_different, refuse_other_kind
from aftermix.jobs.run_folder.opening import clear_model, find_pending_source, open_run_folder, read_run_config
from aftermix.jobs.run_folder.settling import settle_for_run
from aftermix.jobs.search.beginning.occupied_run import refuse_occupied_run
from aftermix.jobs.search.run_inputs import RunInputs
from aftermix.jobs.tracking.tracker import open_tracker, refuse_missing_trackers
from aftermix.merging.recipe import MergeRecipe
from aftermix.report.page import write_report
from aftermix.runs.input_records import SplitRecord
from aftermix.runs.journal import read_trials
from aftermix.runs.json_record import read_record
from aftermix.runs.mixture_records import MixtureDesignRecord, MixtureRecord, TreeRecord
from aftermix.runs.records import BEST_FILE, MODEL_FOLDER
from aftermix.runs.session import RunSession, open_session
from aftermix.runs.verification_records import VERIFICATION_FILE, VerificationRecord
from aftermix.search.objective import ObjectiveSet
from aftermix.search.study import run_study
from aftermix.search.warm_start import ImportedTrial

CHANGEABLE = {"verify", "experts", "second_order"}
"""Keys of `mixture:` that a run which goes on may have otherwise."""


def mixture(
    config: Config,
    run: Path,
    *,
    resume: bool = False,
    source: Path | None = None,
    log: Callable[[str], object] = lambda _: None,
) -> Path:
    """Find the mixture of the experts' data for `config` in the run folder `run`, and return it.

    Candidate: `base + sum_k w_k (expert_k - base)` with `w` on the simplex, instruction vectors at their own weight.
    Points of a design are measured on search items and surrogates fitted to their scores; the optimum, its neighbours
    and the best measured point are merged and measured on select items; the best of them is the result. By default
    nothing is excluded from the merge.

    With a `tree`, the members of each of its groups are such a mixture, see :mod:`aftermix.jobs.mixture.tree`.

    Everything is checked before the folder is made. `resume` goes on with an unfinished run; `source` names an earlier
    mixture run whose merges stand in for points of the design where they are merges of these vectors, under this file's
    utility and limits (:mod:`aftermix.jobs.mixture.earlier.vectors`); on tasks that it has no scores of they are scored
    now. `log` is told of vectors that may be of another base. Source: MergeMix, section 3; docs/how-to/mixture.md.

    One process works on a run, from its first write to the report. Raises :class:`AftermixError` with nothing written,
    and :class:`RunFailedError` once something is.
    """
    with open_session(run, resume=resume) as session:
        _mix(config, session, resume=resume, source=source, log=log)
    return run


@dataclass(frozen=True)
class CheckedMixture:
    """File of a mixture that has passed every check which needs no model."""

    config: Config
    """With all that is left to a run settled."""
    recipe: MergeRecipe
    problem: MixtureProblem
    """Of the whole; of a tree as long as nothing is known."""
    tree: TreeProblem | None

    @classmethod
    def from_config(cls, config: Config, run: Path, *, resume: bool, source: Path | None) -> CheckedMixture:
        """Check `config` for the run in `run`, which goes on with `resume`, or starts from that in `source`."""
        require(config, *NEEDED["mixture"])
        refuse_missing_trackers(config.track)
        if not resume:  # a run that began at weights goes on at them
            refuse_missing_weights(config, "mixture")
        resumed = run if resume else None
        config = settle_tasks(config, resumed=resumed)
        recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors)

        assert config.mixture is not None  # noqa: S101 - required above; for the type checker
        fitted = read_fitted(run) if resume else "tasks"
        tree = TreeProblem.from_config(config, fitted=fitted) if config.mixture.tree is not None else None
        problem = tree.first_problem if tree else MixtureProblem.build_flat(config, fitted=fitted)

        config = settle_for_run(resolve_defaults(config, recipe), resumed=resumed, source=source)
        if resume:
            refuse_other_kind(run, mixture=True)
        else:
            refuse_occupied_run(run, config=config, mixture=True)

        if config.mixture is not None and config.mixture.second_order:
            open_second_order_texts(config)  # what it would refuse after hours of work, it refuses here
        return cls(config, recipe, problem, tree)

    def build_design_record(self) -> MixtureDesignRecord:
        """`design.json` of the run."""
        return self.tree.build_design_record() if self.tree else build_design_record(self.problem)


def _mix(
    config: Config, session: RunSession, *, resume: bool, source: Path | None, log: Callable[[str], object]
) -> None:
    """Check all inputs, make or reopen the folder, and find the best mixture."""
    run = session.run
    checked = CheckedMixture.from_config(config, run, resume=resume, source=source)
    config, problem, tree = checked.config, checked.problem, checked.tree
    inputs = RunInputs.open(config, run, resume=resume, log=log)
    pool, split = inputs.pool, inputs.split
    objectives = ObjectiveSet.build((problem.objective,), tasks=list(inputs.suite.tasks))

    if resume:
        _refuse_other_mixture(run, config, pool, split)
        source = find_pending_source(run)
    earlier = EarlierMerges.open(source, config, pool, problem=problem, split=split) if source is not None else None

    inputs.tell_split(objectives, log)
    evaluator, evaluation = inputs.open_evaluator(config, checked.recipe, problem.space)
    imported: Sequence[ImportedTrial] = ()
    if earlier is not None:
        earlier = earlier.keep_tasks(
            evaluation, evaluator.model_evaluator, tasks=evaluator.tasks, objectives=objectives
        )
        imported = earlier.import_all(problem, objectives) if tree is None else ()

    # Everything has been checked: only now is the folder made.
    open_run_folder(
        session,
        resume=resume,
        config=config,
        pool=pool,
        inputs=evaluator.inputs,
        split=split,
        evaluation=evaluation,
        requests=None if resume else evaluator.tabulate_requests(),
        source=source,
        design=checked.build_design_record(),
    )

    with hire_workers(evaluator, run, problem.space, for_search=False) as measuring:
        if tree:
            _write(measuring, run, search_tree(measuring, run, tree, earlier))
            return
        if earlier is not None:
            imported = earlier.complete(imported, measuring, run, problem=problem, objectives=objectives)
        _write(measuring, run, _find_best(measuring, run, problem, objectives=objectives, imported=imported))


def _find_best(
    evaluator: MergeEvaluator,
    run: Path,
    problem: MixtureProblem,
    *,
    objectives: ObjectiveSet,
    imported: Sequence[ImportedTrial],
) -> MixtureRecord:
    """Points, surrogates, verification and test; each stage leaves files that a resumed run takes up."""
    earlier = [point.trial for point in imported] or [trial for trial in read_trials(run) if trial.is_imported]
    shares_NK = problem.compute_shares(earlier) if earlier else np.zeros((0, len(problem.domains)))
    points = PointSampler(problem, shares_NK, run=run)

    failures = evaluator.config.search.max_consecutive_failures
    study = partial(
        run_study,
        run,
        space=problem.space,
        tasks=evaluator.tasks,
        measure=evaluator.evaluate,
        announce=evaluator.announce_point,
        imported=imported,
        propose=points.propose_batch,
        label="mixture",
    )

    # A round needs scores that differ, so they are looked at before it.
    with open_tracker(evaluator.config.track, run, name="mixture") as tracker:
        for count in sorted({len(points.planned), points.new_count}):
            asked = SearchConfig(trials=count, objective=(problem.objective,), max_consecutive_failures=failures)
            trials = study(config=asked, after_trial=tracker.note_trial)
            refuse_equal_scores(run, problem, trials)

    result = MixtureResult.fit(evaluator, run, problem, objectives=objectives, trials=trials)
    best = result.build_record()
    write_landscape(run, problem=problem, fitted=result.fitted, trials=trials, best=best)
    return best


def _write(evaluator: MergeEvaluator, run: Path, best: MixtureRecord | TreeRecord) -> None:
    """Model, result and report."""
    weights, inputs = best.weights, evaluator.inputs
    output = run / MODEL_FOLDER
    if not clear_model(run, format_recipe(evaluator.config, evaluator.merger.recipe, weights, folder=output)):
        write_model(evaluator.merger, weights, config=evaluator.config, output=output, inputs=inputs, best=best)
    write_cosines(run, evaluator.merger.pool)
    _take_worth(run, best).write(run / BEST_FILE)
    write_report(run)


def _take_worth(run: Path, best: MixtureRecord | TreeRecord) -> MixtureRecord | TreeRecord:
    """`best` with the worth of its proxies, where mixtures of the run were trained before."""
    verified = read_record(run / VERIFICATION_FILE, VerificationRecord)
    if verified is None or verified.proxies is None:
        return best
    return best.model_copy(update={"proxies": verified.proxies})


def _refuse_other_mixture(run: Path, config: Config, pool: ModelPool, split: SplitRecord) -> None:
    """Like a search's, and `mixture:` is the same but for keys that change no point."""
    refuse_different(run, config=config, pool=pool, split=split)
    theirs, ours = (
        side.mixture.model_dump(mode="json", exclude=CHANGEABLE) if side.mixture else {}
        for side in (read_run_config(run), config)
    )
    complaint = "the file says otherwise in"
    refuse_difference(run, {"mixture": theirs}, {"mixture": ours}, complaint=complaint)

    before, now = _list_orders(read_run_config(run)), _list_orders(config)
    refuse_difference(run, before, now, complaint="the file has another order in")


def _list_orders(config: Config) -> dict[str, list[str] | str]:
    """Names whose order decides which point is measured when, and the text of the tree, whose groups have an order."""
    section = config.mixture
    assert section is not None  # noqa: S101 - the run of a mixture; for the type checker
    tree = json.dumps(section.tree, ensure_ascii=False)
    return {"vectors": list(config.vectors), "mixture.priors": list(section.priors), "mixture.tree": tree}
