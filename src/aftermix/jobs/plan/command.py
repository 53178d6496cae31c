"""`aftermix plan`: disk, memory, evaluations, tokens and time of a job, before it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.checkpoints.safe_files import InputStamps
from aftermix.config import Config, EvaluateConfig, require
from aftermix.errors import AftermixError, ConfigError, Problem
from aftermix.jobs.compare.checks import refuse_bad_rivals
from aftermix.jobs.compare.contest_counts import ContestCounts, count_contest
from aftermix.jobs.evaluate.own_tasks import settle_tasks
from aftermix.jobs.job_kind import NEEDED, find_job_kind, list_sections, refuse_no_dataset
from aftermix.jobs.merge.given_weights import refuse_missing_weights
from aftermix.jobs.merge.kinship import list_kinship_remarks
from aftermix.jobs.merge.statistics import open_merger
from aftermix.jobs.plan.counts import (
    build_verification_settings,
    count_at_once,
    describe_mixtures,
    list_adapter_ranks,
    list_retrained_ratios,
    list_training_tokens,
    read_verification_tokens,
)
from aftermix.jobs.plan.earlier import EarlierScores, count_earlier_scores
from aftermix.jobs.plan.estimate import JobEstimate
from aftermix.jobs.plan.speeds import measure_busy_cores, measure_mixture_speed, measure_refill_s
from aftermix.jobs.run_folder.settling import settle_for_run
from aftermix.jobs.search.space_from_config import build_space, describe_space
from aftermix.merging.blocks import BLOCK_ELEMENTS, LOOKAHEAD
from aftermix.merging.merge import Merger
from aftermix.merging.prepared import count_prepared_bytes
from aftermix.merging.recipe import MergeRecipe
from aftermix.search.objective import ObjectiveSet
from aftermix.search.space import SearchSpace
from aftermix.training.base_model import open_base
from aftermix.training.trainer import uses_cuda
from aftermix.workers.layout import WorkerLayout
from aftermix.workers.opening import find_site

if TYPE_CHECKING:
    from aftermix.jobs.evaluator import ModelEvaluator
    from aftermix.jobs.plan.measurements import PlannedMeasurements

BYTES_PER_NUMBER = 4


def plan(config: Config, *, source: Path | None = None) -> JobEstimate:
    """Plan the mixture of `config`, else its search, else its merge, else its training. Writes nothing.

    `source` is an earlier run that a search or mixture starts from. The first for which the file has what is needed:
    `mixture`, `evaluate`, `vectors`, `train`. Raises what the job itself would raise on its input.
    """
    job = find_job_kind(list_sections(config))
    if source is not None and job not in ("search", "mixture"):
        raise ConfigError("--from", f"is for a search or a mixture, and the file is of a {job}", "Leave it out.")
    if job == "train":
        return _plan_training(config)

    require(config, *dict.fromkeys(("vectors", *NEEDED[job])))
    refuse_missing_weights(config, job)
    config = settle_for_run(settle_tasks(config), resumed=None, source=source)
    for_search = job == "search"
    pool = open_pool(config)
    space = build_space(config) if for_search else None
    merger = open_merger(
        config, pool, MergeRecipe.from_config(config.merge, vectors=config.vectors, for_search=for_search)
    )

    remarks = tuple(list_kinship_remarks(pool))
    disk = sum(spec.nbytes for spec in merger.list_specs())
    free = psutil.virtual_memory().available

    # A merge alone holds, for each thread, the blocks that it works on and those read ahead.
    if config.evaluate is None:
        blocks = torch.get_num_threads() * (LOOKAHEAD + len(pool.experts) + 2)
        memory = BYTES_PER_NUMBER * min(BLOCK_ELEMENTS, pool.parameters) * blocks
        tokens = list_training_tokens(config)
        ranks = list_adapter_ranks(config)
        return JobEstimate(pool.parameters, disk, memory, free, training=tokens, adapter_ranks=ranks, remarks=remarks)
    refuse_bad_rivals(config, pool, checked=config.compare)
    estimate = _plan_evaluations(config, pool, merger, space=space, disk=disk, free=free, source=source)
    return replace(estimate, remarks=(*remarks, *estimate.remarks))


def _plan_training(config: Config) -> JobEstimate:
    """Weights, gradients and AdamW's two moments in float32; adapters of low rank take less."""
    require(config, *NEEDED["train"])
    assert config.base is not None  # noqa: S101 - required above; for the type checker
    assert config.train is not None  # noqa: S101
    refuse_no_dataset(config.train)
    from aftermix.jobs.train.expert_run import refuse_own_vector
    from aftermix.jobs.train.speed import STEPS, count_step_sequences, measure_training_speeds
    from aftermix.jobs.train.vector_disk import count_vector_bytes

    base = open_base(locate(config.base), label=config.base)
    uses_cuda(config.train.device)
    speeds: dict[str, float] = {}
    remarks: tuple[Problem, ...] = ()
    try:
        refuse_own_vector(config.train)
        speeds = measure_training_speeds(config.train, base)
    except AftermixError as error:  # what the training will refuse leaves disk, memory and tokens to be told
        remarks = error.problems

    tensors = [info for name, info in base.tensors.items() if name not in base.alias]
    parameters = sum(info.elements for info in tensors)
    tokens = list_training_tokens(config)
    ranks = list_adapter_ranks(config)

    return JobEstimate(
        parameters=parameters,
        disk_bytes=len(tokens) * sum(info.nbytes for info in tensors),
        vector_bytes=count_vector_bytes(tensors, tokens, ranks, vector=config.train.vector),
        memory_bytes=4 * BYTES_PER_NUMBER * parameters,
        memory_free_bytes=psutil.virtual_memory().available,
        experts=len(tokens),
        training=tokens,
        adapter_ranks=ranks,
        training_speeds=speeds,
        remarks=remarks,
        timed_step=f"{STEPS - 1} steps of {count_step_sequences(config.train)} x {config.train.context:,} tokens",
        busy_cores=measure_busy_cores(),
    )


def _plan_evaluations(
    config: Config,
    pool: ModelPool,
    merger: Merger,
    *,
    space: SearchSpace | None,
    disk: int,
    free: int,
    source: Path | None,
) -> JobEstimate:
    """A search through `space`, or a mixture, which has none."""
    from aftermix.evaluation.engines.vllm.installed import describe_engine
    from aftermix.evaluation.remarks import remark_on_warnings
    from aftermix.evaluation.suites.contract import count_answered_items
    from aftermix.jobs.evaluate.opening import open_task_suite
    from aftermix.jobs.evaluator import ModelEvaluator
    from aftermix.jobs.orders.engines import open_engine
    from aftermix.jobs.orders.opened import plan_opening
    from aftermix.jobs.plan.measurements import PlannedMeasurements
    from aftermix.jobs.search.response_stage import refuse_fine_precision

    assert config.evaluate is not None  # noqa: S101 - the caller looked
    layout = _settle_workers(config.evaluate)
    suite = open_task_suite(config.evaluate)
    objectives = ObjectiveSet.build(config.search.objective, tasks=list(suite.tasks))
    if space is not None:
        refuse_fine_precision(config.search, objectives, count_answered_items(suite, "search"))
    opening = plan_opening(config, merger.recipe, space.settings if space is not None else {})
    engine = open_engine(pool, config.evaluate, suite, opening)
    lm, busy = engine.lm, measure_busy_cores()
    model = ModelEvaluator(engine, suite, wants_answers=True)
    threads = model.rehearse(config.evaluate)

    contest = count_contest(config)
    earlier = _count_earlier(source, config, merger, model, space=space, threads=threads)
    count = PlannedMeasurements.count_mixture if space is None else PlannedMeasurements.count_search
    planned = count(config, model, contest=contest, earlier=earlier)
    remarks = (*suite.remarks, *remark_on_warnings(suite.take_warnings()))

    local = layout.workers if layout is not None and layout.cluster is None else 1
    prepared = count_prepared_bytes(merger) if opening.prepares else 0
    estimate = JobEstimate(
        parameters=pool.parameters,
        disk_bytes=disk * (1 + contest.models),
        memory_bytes=BYTES_PER_NUMBER * pool.parameters * (4 * bool(contest.trainings) + local) + prepared,
        memory_free_bytes=free,
        tokens_per_s=suite.measure_speed(lm),
        workers=layout.describe() if layout is not None else "",
        at_once=count_at_once(config, layout.workers, batches=space is not None) if layout is not None else {},
        threads=threads,
        busy_cores=busy,
        engine=describe_engine(config.evaluate.engine),
        combine_s=measure_refill_s(merger, prepared=opening.prepares),
        space=describe_space(config, space) if space is not None else describe_mixtures(config),
        remarks=remarks,
    )
    estimate = _add_measurements(estimate, model, planned, earlier, objectives)
    return _add_trainings(estimate, config, contest)


def _add_measurements(
    estimate: JobEstimate,
    model: ModelEvaluator,
    planned: PlannedMeasurements,
    earlier: EarlierScores,
    objectives: ObjectiveSet,
) -> JobEstimate:
    """`estimate` with what is measured on which items, and the tokens of it."""
    from aftermix.evaluation.suites.contract import count_answered_items

    suite, lm = model.suite, model.engine.lm
    return replace(
        estimate,
        measurements=planned.counts,
        items=suite.count_items(),
        earlier=earlier.words,
        rescored=earlier.rescored,
        resolution=objectives.describe_resolution(count_answered_items(suite)),
        cut_prompts=suite.count_cut_prompts(lm),
        tokens=planned.tokens,
        sharing=suite.describe_sharing(lm),
        runs=planned.runs,
    )


def _add_trainings(estimate: JobEstimate, config: Config, contest: ContestCounts) -> JobEstimate:
    """`estimate` with the trainings beside it: of the experts, of a verification, of the models to compare."""
    return replace(
        estimate,
        training=list_training_tokens(config),
        adapter_ranks=list_adapter_ranks(config),
        verification_tokens=read_verification_tokens(config),
        retrained_ratios=list_retrained_ratios(config),
        verification_tokens_per_s=measure_mixture_speed(config, build_verification_settings),
        compared=len(config.compare),
        compared_trainings=contest.describe(),
        compared_tokens=contest.tokens,
        compared_tokens_per_s=measure_mixture_speed(config, lambda _: contest.settings),
    )


def _settle_workers(config: EvaluateConfig) -> WorkerLayout | None:
    """Workers that would measure, and what they run on; this process then computes with the threads of one of them."""
    site = find_site(config)
    if site is None:
        return None
    site.leave()
    torch.set_num_threads(site.layout.threads)
    return site.layout


def _count_earlier(
    source: Path | None,
    config: Config,
    merger: Merger,
    model: ModelEvaluator,
    *,
    space: SearchSpace | None,
    threads: int,
) -> EarlierScores:
    """Merges that the run in `source` gives; none without one."""
    from aftermix.jobs.evaluator import MergeEvaluator

    if source is None:
        return EarlierScores(0, 0, "")
    unwatched = InputStamps.take(())
    evaluator = MergeEvaluator(config, merger, None, model, threads, prepare_s=0.0, inputs=unwatched)
    return count_earlier_scores(source, evaluator, space=space)
