"""`aftermix plan`: disk, memory, evaluations, tokens and time of a job, before it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import psutil
import torch

from aftermix.checkpoints.hub import locate
from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.checkpoints.safe_files import InputStamps
from aftermix.config import Config, EvaluateConfig, Split, TrainConfig, require
from aftermix.errors import AftermixError, ConfigError, Problem
from aftermix.jobs.compare.checks import refuse_bad_rivals
from aftermix.jobs.compare.contest_counts import count_contest
from aftermix.jobs.evaluate.own_tasks import settle_tasks
from aftermix.jobs.job_kind import NEEDED, find_job_kind, list_sections, refuse_no_dataset
from aftermix.jobs.merge.given_weights import refuse_missing_weights
from aftermix.jobs.merge.kinship import list_kinship_remarks
from aftermix.jobs.merge.statistics import open_merger
from aftermix.jobs.plan_counts import (
    MIXTURE,
    build_verification_settings,
    count_at_once,
    count_mixture_measurements,
    count_runs,
    count_search_measurements,
    describe_mixtures,
    describe_runs,
    list_adapter_ranks,
    list_retrained_ratios,
    list_training_tokens,
    read_verification_tokens,
)
from aftermix.jobs.plan_earlier import EarlierScores, count_earlier_scores
from aftermix.jobs.run_folder.settling import settle_for_run
from aftermix.jobs.search.space_from_config import build_space, describe_space
from aftermix.merging.blocks import BLOCK_ELEMENTS, LOOKAHEAD, list_block_spans
from aftermix.merging.merge import Merger, stream_merged_tensors
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

SAMPLE_S = 2.0
"""Seconds of a merge that are measured."""
BUSY_S = 0.5
"""Seconds for which other processes are watched."""
BYTES_PER_NUMBER = 4


@dataclass(frozen=True)
class JobEstimate:
    """Needs of a job. Times are estimates from `tokens_per_s`, measured here and now."""

    parameters: int
    disk_bytes: int
    memory_bytes: int
    memory_free_bytes: int
    measurements: Mapping[Split, int] = field(default_factory=dict)
    """Evaluations by split."""
    items: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Task -> split -> items."""
    resolution: tuple[str, ...] = ()
    """Differences that the test items can tell, in words."""
    earlier: str = ""
    """Words on the merges that an earlier run gives, which are not counted."""
    rescored: int = 0
    """Those of them that are scored on further tasks alone; their tokens and time are counted."""
    cut_prompts: Mapping[str, Mapping[Split, int]] = field(default_factory=dict)
    """Task -> split -> requests that lose their beginning to the model's length."""
    tokens: Mapping[Split, int] = field(default_factory=dict)
    """Tokens through the model by split, over all its measurements."""
    tokens_per_s: float | None = None
    workers: str = ""
    """Workers that measure, and their devices; empty where the job measures by itself."""
    at_once: Mapping[Split, float] = field(default_factory=dict)
    """Evaluations by split that workers make in the time of one; none where the job measures by itself."""
    threads: int | None = None
    """CPU threads with which that was measured, and of a job that begins as busy as the machine is."""
    busy_cores: float = 0.0
    """Cores' worth of work that other processes do."""
    engine: str = ""
    """The engine and its version."""
    sharing: str = ""
    """Words on beginnings that requests share."""
    runs: str = ""
    """Runs by items of a search, and what they cost of a budget."""
    combine_s: float = 0.0
    """Seconds of one merge into the living model."""
    space: str = ""
    """Dimensions that are searched, and what they make a trial do."""
    vector_bytes: int = 0
    """Disk for the vectors and adapters beside the models of a training."""
    experts: int = 0
    """Models that a training writes; 0 where one merged model is written."""
    training: Mapping[str, int | None] = field(default_factory=dict)
    """Tokens to train on by dataset; None for one epoch."""
    adapter_ranks: Mapping[str, int] = field(default_factory=dict)
    """Rank of the adapters, of datasets that train such."""
    training_speeds: Mapping[str, float] = field(default_factory=dict)
    """Tokens a second by dataset, of a training."""
    timed_step: str = ""
    """Words on the steps that were timed."""
    remarks: tuple[Problem, ...] = ()
    """Remarks on vectors that may be of another base, and on the tasks."""
    verification_tokens: int | None = None
    """Tokens of each mixture that is trained to verify a mixture's result."""
    retrained_ratios: tuple[str, ...] = ()
    """Methods at whose ratios mixtures are trained with each seed, DoReMi aside."""
    verification_tokens_per_s: float | None = None
    """Speed of these trainings, measured here and now; None where they will be refused."""
    compared: int = 0
    """Rows of `compare:`, whose evaluations are among those of select and test items."""
    compared_trainings: str = ""
    """Words on the trainings that they ask for."""
    compared_tokens: int = 0
    """Tokens of these."""
    compared_tokens_per_s: float | None = None
    """Speed of these, measured here and now."""
    rounds: int = 0
    """Rounds of `iterate`, each of which has these trainings and evaluations; 0 of one job alone."""

    @property
    def compared_s(self) -> float:
        """Estimated wall seconds of the trainings of compared models; 0 where there are none, or no speed is known."""
        return self.compared_tokens / self.compared_tokens_per_s if self.compared_tokens_per_s else 0.0

    @property
    def training_s(self) -> float | None:
        """Estimated wall seconds of all experts; None where the tokens or the speed of one are not known."""
        if self.training.keys() - self.training_speeds.keys() or None in self.training.values():
            return None
        return sum((count or 0) / self.training_speeds[name] for name, count in self.training.items())

    def _count_rescored(self, split: Split) -> int:
        return self.rescored if split == "search" else 0

    @property
    def seconds(self) -> dict[str, float]:
        """Estimated wall seconds by split, combining included."""
        if not self.tokens_per_s:
            return {}
        return {
            split: (
                tokens / self.tokens_per_s + self.combine_s * (self.measurements[split] + self._count_rescored(split))
            )
            / self.at_once.get(split, 1.0)
            for split, tokens in self.tokens.items()
        }


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
        busy_cores=_measure_busy_cores(),
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

    assert config.evaluate is not None  # noqa: S101 - the caller looked

    layout = _settle_workers(config.evaluate)
    local = layout.workers if layout is not None and layout.cluster is None else 1
    suite = open_task_suite(config.evaluate)
    objectives = ObjectiveSet.build(config.search.objective, tasks=list(suite.tasks))
    opening = plan_opening(config, merger.recipe, space.settings if space is not None else {})
    engine = open_engine(pool, config.evaluate, suite, opening)
    lm, busy = engine.lm, _measure_busy_cores()
    evaluator = ModelEvaluator(engine, suite, wants_answers=True)
    threads = evaluator.rehearse(config.evaluate)

    contest = count_contest(config)
    own = count_search_measurements(config) if space is not None else count_mixture_measurements(config)
    measurements = {split: count + contest.measurements.get(split, 0) for split, count in own.items()}
    cost = {"trial": evaluator.count_positions("search"), "finalist": evaluator.count_finalist_positions(config.search)}
    if space is not None:
        measurements |= {"search": count_runs(config, **cost)}
    earlier = _count_earlier(source, config, merger, evaluator, space=space, threads=threads)
    measurements["search"] = max(0, measurements["search"] - earlier.saved)
    splits: tuple[Split, ...] = ("search", "select", "test")
    tokens = {split: sum(suite.count_tokens(split, lm).values()) * measurements[split] for split in splits}
    tokens["search"] += earlier.rescored_tokens
    remarks = (*suite.remarks, *remark_on_warnings(suite.take_warnings()))

    return JobEstimate(
        parameters=pool.parameters,
        disk_bytes=disk * (1 + sum(models for models, _ in contest.trainings.values())),
        memory_bytes=BYTES_PER_NUMBER * pool.parameters * (4 * bool(contest.trainings) + local)
        + (count_prepared_bytes(merger) if opening.prepares else 0),
        memory_free_bytes=free,
        measurements=measurements,
        items=suite.count_items(),
        earlier=earlier.words,
        rescored=earlier.rescored,
        resolution=objectives.describe_resolution(count_answered_items(suite)),
        cut_prompts=suite.count_cut_prompts(lm),
        tokens=tokens,
        tokens_per_s=suite.measure_speed(lm),
        workers=layout.describe() if layout is not None else "",
        at_once=count_at_once(config, layout.workers, batches=space is not None) if layout is not None else {},
        threads=threads,
        busy_cores=busy,
        engine=describe_engine(config.evaluate.engine),
        sharing=suite.describe_sharing(lm),
        runs=describe_runs(config, suite.count_items(), **cost) if space is not None else "",
        combine_s=_measure_combine_s(merger)
        if opening.prepares and not merger.recipe.method.surveys_tensors
        else _measure_merge_s(merger),
        space=describe_space(config, space) if space is not None else describe_mixtures(config),
        training=list_training_tokens(config),
        adapter_ranks=list_adapter_ranks(config),
        remarks=remarks,
        verification_tokens=read_verification_tokens(config),
        retrained_ratios=list_retrained_ratios(config),
        verification_tokens_per_s=_measure_mixture_speed(config, build_verification_settings),
        compared=len(config.compare),
        compared_trainings=contest.describe(),
        compared_tokens=contest.tokens,
        compared_tokens_per_s=_measure_mixture_speed(config, lambda _: contest.settings),
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


def _measure_mixture_speed(config: Config, build: Callable[[Config], TrainConfig | None]) -> float | None:
    """Tokens a second of training a mixture, whose `train:` is built; None where there is none, or it is refused."""
    try:
        settings = build(config)
        if settings is None or config.base is None:
            return None
        from aftermix.jobs.train.speed import measure_training_speeds

        return measure_training_speeds(settings, open_base(locate(config.base), label=config.base))[MIXTURE]
    except AftermixError:  # the job itself says why, before it begins
        return None


def _measure_busy_cores() -> float:
    """Cores' worth of work that all processes do while this one waits."""
    return psutil.cpu_percent(interval=BUSY_S) / 100 * (psutil.cpu_count() or 1)


def _measure_merge_s(merger: Merger) -> float:
    """Seconds of a merge that reads all its inputs, scaled up from as many tensors as a short time allows."""
    started, seen = perf_counter(), 0
    for _, tensor in stream_merged_tensors(merger, dict.fromkeys(merger.vectors, 1.0)):
        seen += tensor.numel()
        if perf_counter() - started > SAMPLE_S:
            break
    return (perf_counter() - started) * sum(spec.elements for spec in merger.list_specs()) / max(seen, 1)


def _measure_combine_s(merger: Merger) -> float:
    """Seconds to combine all moved tensors on all threads, scaled up from one block of the largest one."""
    moved = [info for info in merger.pool.layout if merger.moves(info) and info.elements]
    if not moved:
        return 0.0

    largest = max(moved, key=lambda info: info.elements)
    bounds = list_block_spans(largest.shape)[0]
    base = merger.pool.read_base_block(largest.name, bounds)
    operands = {vector: merger.read_operand(largest, vector, bounds) for vector in merger.vectors}

    started = perf_counter()
    merger.combine(largest, bounds, base, operands, dict.fromkeys(merger.vectors, 1.0))
    elapsed = perf_counter() - started
    share = (bounds[1] - bounds[0]) / sum(info.elements for info in moved)
    return elapsed / share / torch.get_num_threads()
