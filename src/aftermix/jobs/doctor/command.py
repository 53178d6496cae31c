"""`aftermix doctor`: every fault of a file and of what it names, at once, each with its remedy."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from aftermix import progress
from aftermix.analysis.storage.rounding import survey_rounding
from aftermix.checkpoints.alignment.align import describe_alignment
from aftermix.checkpoints.alignment.mismatches import list_remarks
from aftermix.checkpoints.formats.fp8 import DequantisedModel
from aftermix.checkpoints.formats.vector_file import VectorFile, find_content_problems
from aftermix.checkpoints.model import Model, read_tensor
from aftermix.checkpoints.model_files import (
    describe_left_out,
    describe_stops,
    find_tokenizer_folder,
    has_language_head,
    list_companion_remarks,
)
from aftermix.checkpoints.names import build_matcher
from aftermix.checkpoints.pool import ModelPool, PoolExamination, examine_pool, refuse_non_finite
from aftermix.checkpoints.reader import Checkpoint
from aftermix.config import Config, EvaluateConfig
from aftermix.config.places import list_range_rules
from aftermix.errors import AftermixError, Problem, refuse_if_any
from aftermix.jobs.doctor.diagnosis import ConfigDiagnosis
from aftermix.jobs.doctor.own_function import describe_items, examine_function, name_own_tasks
from aftermix.jobs.iterate.round_files import check_iteration
from aftermix.jobs.job_kind import (
    JobKind,
    find_job_kind,
    list_missing_sections,
    list_sections,
    refuse_no_dataset,
)
from aftermix.jobs.merge.given_weights import refuse_missing_weights
from aftermix.jobs.merge.kinship import list_kinship_remarks
from aftermix.jobs.merge.rounding import list_rounding_remarks
from aftermix.jobs.merge.sentence_modules import find_unscored_modules
from aftermix.jobs.merge.statistics import read_all_statistics
from aftermix.jobs.search.space_from_config import build_space, describe_space, refuse_unfit_ranges
from aftermix.jobs.tracking.tracker import refuse_missing_trackers
from aftermix.merging.merge import Merger
from aftermix.merging.methods import bind
from aftermix.merging.recipe import MergeRecipe, check_weights
from aftermix.merging.saliency import refuse_unmeasured
from aftermix.saliency.storage import refuse_no_folder
from aftermix.workers.opening import find_site

if TYPE_CHECKING:
    from aftermix.evaluation.suites.contract import EvaluationSuite
    from aftermix.search.objective import ObjectiveSet


def doctor(
    config: Config, *, faults: Sequence[Problem] = (), written: Collection[str] | None = None
) -> ConfigDiagnosis:
    """Examine everything that the job of `config` reads: checkpoints, every value in them, options, tasks, data.

    Nothing is written, and no model is run unless `mixture.second_order` asks for it. The job after a clean diagnosis
    is refused nothing of its input. Of a file with `faults` of its own, `config` is what could be read of it, and
    `written` names the sections that it has.
    """
    diagnosis = ConfigDiagnosis(problems=list(faults))
    sections = list_sections(config) if written is None else frozenset(written)
    job = find_job_kind(sections)
    diagnosis.problems += list_missing_sections(job, sections)
    diagnosis.run_check(lambda: refuse_missing_weights(config, job))
    config = name_own_tasks(config)
    diagnosis.run_check(lambda: _check_merge(config, job, diagnosis))

    models = examine_pool(config, whole=True)
    diagnosis.problems += models.problems
    if models.opened:
        for checkpoint in models.opened:
            diagnosis.problems += list(_find_non_finite(checkpoint))
            diagnosis.problems += find_content_problems(checkpoint) if isinstance(checkpoint, VectorFile) else []
        if models.pool is not None:
            diagnosis.notes += list_companion_remarks(models.pool, refused=models.unlike)
            _examine_models(models.pool, config, job, diagnosis)
            _check_ranges(models.pool, config, job, diagnosis)
        _check_sharing(config, models.pool, diagnosis)

    if config.evaluate is not None:
        _check_evaluation(config, config.evaluate, job, models, diagnosis)
    if config.mixture is not None and config.vectors and config.evaluate is not None:
        diagnosis.run_check(lambda: _check_mixture(config, diagnosis))
    if config.compare and job in ("search", "mixture"):
        diagnosis.run_check(lambda: _check_rivals(config, models.pool, diagnosis))
    if config.iterate is not None:
        diagnosis.run_check(lambda: check_iteration(config))
    diagnosis.run_check(lambda: refuse_missing_trackers(config.track))
    if config.train is not None:
        if job == "train":
            diagnosis.run_check(partial(refuse_no_dataset, config.train))
        from aftermix.jobs.doctor.training import examine_training  # here: other files need no libraries of training

        base = next((model for model in models.opened if model.label == config.base), None)
        examine_training(config.train, base if isinstance(base, Checkpoint | DequantisedModel) else None, diagnosis)
    diagnosis.problems = list(dict.fromkeys(diagnosis.problems))  # several checks may meet one fault
    return diagnosis


def _check_evaluation(
    config: Config, evaluate: EvaluateConfig, job: JobKind, models: PoolExamination, diagnosis: ConfigDiagnosis
) -> None:
    if evaluate.function is not None:
        diagnosis.run_check(lambda: examine_function(config, job, diagnosis))
    else:
        diagnosis.run_check(lambda: _check_engine(config, diagnosis))
        diagnosis.run_check(lambda: _check_tasks(config, job, _find_prompt_sources(models, config), diagnosis))
    if job in ("search", "mixture"):
        diagnosis.run_check(lambda: _check_workers(evaluate, diagnosis))


def _check_workers(config: EvaluateConfig, diagnosis: ConfigDiagnosis) -> None:
    """Devices of the workers, or why they cannot be had; nothing where the job measures by itself."""
    site = find_site(config)
    if site is not None:
        site.leave()
        diagnosis.facts.append(f"workers: {site.layout.describe()}")


def _check_rivals(config: Config, pool: ModelPool | None, diagnosis: ConfigDiagnosis) -> None:
    """Rows of `compare:`, without their models where the vectors cannot be opened."""
    from aftermix.jobs.compare.checks import refuse_bad_rivals
    from aftermix.jobs.compare.contest_counts import count_contest  # here, since it loads what trainings are read by

    counts = count_contest(config)
    if pool is not None:
        refuse_bad_rivals(config, pool)
    rows = f"compare: {len(config.compare)} models beside the winner"
    diagnosis.facts.append(", ".join(filter(None, (rows, counts.describe()))))


def _check_mixture(config: Config, diagnosis: ConfigDiagnosis) -> None:
    from aftermix.jobs.doctor.second_order import describe_second_order
    from aftermix.jobs.mixture.first_order import note_unlike_trainings
    from aftermix.jobs.mixture.problem import MixtureProblem
    from aftermix.jobs.mixture.tree_problem import TreeProblem  # here, since it loads what fits surrogates
    from aftermix.mixture.simplex import name_shares
    from aftermix.mixture.tree import multiply_shares

    note = note_unlike_trainings(config)
    diagnosis.notes += [note] if note else []
    if config.mixture is not None and config.mixture.tree is not None:
        tree = TreeProblem.from_config(config)
        diagnosis.facts += list(tree.describe_groups())
        diagnosis.facts.append(describe_second_order(config, multiply_shares(tree.root, tree.start)))
        return

    problem = MixtureProblem.build_flat(config)
    first = name_shares(problem.design.weights_NK[0], problem.domains)
    diagnosis.facts.append(describe_second_order(config, first))
    rounds = "".join(f", then {count}" for count in problem.mixture.rounds)
    limits = zip(problem.domains, problem.bounds.low_K, problem.bounds.high_K, strict=True)
    shares = ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, low, high in limits)
    diagnosis.facts.append(f"mixture: {len(problem.design.kinds)} points{rounds}; shares {shares}")


def _check_merge(config: Config, job: JobKind, diagnosis: ConfigDiagnosis) -> None:
    recipe = MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=job == "search")
    build_matcher(recipe.exclude, where="merge.exclude")
    if config.vectors and job == "merge":
        check_weights(recipe, {name: vector.weight for name, vector in config.vectors.items()})

    placed = any(list_range_rules(vector.range) for vector in config.vectors.values())
    if config.vectors and job == "search" and (config.search.over.settings or not config.search.over.weights or placed):
        diagnosis.facts.append(f"search over {describe_space(config, build_space(config))}")


def _check_ranges(pool: ModelPool, config: Config, job: JobKind, diagnosis: ConfigDiagnosis) -> None:
    """Ranges by place, against the tensors that the merges of a search move."""
    if job != "search" or not any(list_range_rules(vector.range) for vector in config.vectors.values()):
        return
    with suppress(AftermixError):  # a recipe that fits neither file nor models has been told
        merger = Merger(pool, MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=True), ())
        diagnosis.run_check(partial(refuse_unfit_ranges, config, merger))


def _check_sharing(config: Config, pool: ModelPool | None, diagnosis: ConfigDiagnosis) -> None:
    """Ratios, order and statistics, each whatever the others are; `pool` is None when a model cannot be opened."""
    try:
        method = bind(config.merge, vectors=config.vectors)
    except AftermixError:  # has been told
        return

    vectors = sorted(config.vectors)
    if vectors:
        diagnosis.run_check(lambda: method.refuse_other_count(vectors))
        if method.is_exclusive:
            diagnosis.run_check(lambda: method.compute_ratios(vectors))
        diagnosis.run_check(lambda: method.refuse_other_order(vectors))

    if method.needs_statistics:
        diagnosis.run_check(lambda: _check_statistics(config, pool, method.name))


def _check_statistics(config: Config, pool: ModelPool | None, method: str) -> None:
    if pool is not None:
        measured = read_all_statistics(config, pool)
        refuse_unmeasured(method, [vector for vector in pool.experts if vector not in measured])
    elif config.merge.statistics is not None:
        refuse_no_folder(Path(config.merge.statistics))


def _find_non_finite(checkpoint: Model) -> Iterator[Problem]:
    for info in progress.bar(
        checkpoint.tensors.values(), label=f"Reading {Path(checkpoint.label).name}", unit="tensor"
    ):
        if not info.mergeable:
            continue
        try:
            refuse_non_finite(read_tensor(checkpoint, info.name), info.name, checkpoint.label)
        except AftermixError as error:
            yield error.problem


def _examine_models(pool: ModelPool, config: Config, job: JobKind, diagnosis: ConfigDiagnosis) -> None:
    gigabytes = sum(info.nbytes for info in pool.layout) / 1e9
    diagnosis.facts.append(f"{pool.parameters:,} parameters in {len(pool.layout)} tensors, {gigabytes:.3g} GB a model")

    for name, expert in pool.experts.items():
        if pool.base is not None:
            diagnosis.notes += list_remarks(pool.base, expert, vector=name)
    diagnosis.notes += list_kinship_remarks(pool)
    diagnosis.notes += list_rounding_remarks(pool, getattr(torch, config.merge.dtype) if config.merge.dtype else None)

    if has_language_head(pool.frame.config):
        diagnosis.facts += [f"tied: {head} is {embedding}" for head, embedding in pool.frame.alias.items()]
    for pattern in config.merge.exclusions(for_search=job == "search"):
        try:
            matches = build_matcher([pattern], where="merge.exclude")
        except AftermixError:  # has been told
            continue
        count = sum(matches(info.name) for info in pool.layout)
        diagnosis.facts.append(f"exclude '{pattern}': {count} tensors keep the base's values")

    diagnosis.facts += [*describe_alignment(pool.base, pool.experts), *describe_left_out(pool), *describe_stops(pool)]
    if job in ("search", "mixture"):
        diagnosis.run_check(lambda: refuse_if_any(find_unscored_modules(pool, config.merge)))
    diagnosis.facts += [f"module {module.name}: {len(module.base.tensors)} tensors, merged" for module in pool.modules]
    diagnosis.facts += [f"vector '{name}' {rounding}" for name, rounding in survey_rounding(pool).items()]
    if any(vector.calibration for vector in config.vectors.values()):
        diagnosis.run_check(lambda: _check_calibration(pool, config, diagnosis))


def _check_calibration(pool: ModelPool, config: Config, diagnosis: ConfigDiagnosis) -> None:
    from aftermix.jobs.calibrate.command import plan_calibration

    for plan in plan_calibration(config, pool):
        data = plan.data
        diagnosis.facts.append(f"calibrate {plan.vector}: {data.samples} of {data.texts} texts, {data.tokens} tokens")


def _check_engine(config: Config, diagnosis: ConfigDiagnosis) -> None:
    from aftermix.evaluation.engines.vllm.installed import describe_engine

    assert config.evaluate is not None  # noqa: S101 - the caller looked
    diagnosis.facts.append(f"engine {describe_engine(config.evaluate.engine)}")


def _check_tasks(config: Config, job: JobKind, sources: tuple[Model, Path] | None, diagnosis: ConfigDiagnosis) -> None:
    """Tasks, and their prompts where the `sources`, a model and the folder of its tokenizer, are at hand."""
    from aftermix.evaluation.remarks import remark_on_warnings
    from aftermix.evaluation.suites.contract import count_answered_items
    from aftermix.evaluation.suites.harness_suite import HarnessSuite
    from aftermix.jobs.doctor.tasks import examine_prompts
    from aftermix.jobs.evaluate.opening import read_task_texts
    from aftermix.search.objective import ObjectiveSet

    assert config.evaluate is not None  # noqa: S101 - the caller looked
    suite = HarnessSuite.build(config.evaluate, texts=read_task_texts(config.evaluate))
    objectives = ObjectiveSet.build(config.search.objective, tasks=list(suite.tasks))

    describe_items(suite.tasks, diagnosis)
    diagnosis.facts += objectives.describe_resolution(count_answered_items(suite))
    if job == "search":
        diagnosis.run_check(partial(_check_precision, config, suite, objectives))
    if sources is not None:
        found = examine_prompts(suite, config, sources=sources, objectives=objectives if job == "search" else None)
        diagnosis.problems += found.problems
        diagnosis.notes += found.notes
    diagnosis.notes += [*suite.remarks, *remark_on_warnings(suite.take_warnings())]


def _check_precision(config: Config, suite: EvaluationSuite, objectives: ObjectiveSet) -> None:
    from aftermix.evaluation.suites.contract import count_answered_items
    from aftermix.jobs.search.response_stage import refuse_fine_precision

    refuse_fine_precision(config.search, objectives, count_answered_items(suite, "search"))


def _find_prompt_sources(models: PoolExamination, config: Config) -> tuple[Model, Path] | None:
    """The model whose architecture is evaluated, in whatever form it is stored, and the folder of its tokenizer."""
    base = next((model for model in models.opened if model.label == config.base), None)
    if base is None or not (base.folder / "config.json").is_file():
        return None
    if models.pool is not None:
        return models.pool.frame, find_tokenizer_folder(models.pool)
    return base, base.folder
