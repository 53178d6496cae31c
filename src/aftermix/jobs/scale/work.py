"""`Workload`: vectors, evaluations and trainings that a file asks for, counted without a model or a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aftermix.config import Config, HardwareConfig, ItemsConfig, Split, require
from aftermix.config.machines.hardware import WorkConfig
from aftermix.jobs.job_kind import NEEDED, JobKind, find_job_kind, list_sections, refuse_no_dataset
from aftermix.jobs.plan.counts import count_mixture_measurements, count_search_measurements

SPLITS: tuple[Split, ...] = ("search", "select", "test")


@dataclass(frozen=True)
class Workload:
    """Work of a job, whatever the machines."""

    job: JobKind
    vectors: int
    measurements: Mapping[Split, int]
    """Evaluations by split; empty of a merge or a training."""
    items: Mapping[Split, int]
    """Items of one evaluation by split, over all tasks."""
    batch: int
    """Points that are proposed together: no more are measured at once."""
    tasks: int
    prompt_tokens: int
    """Of one item."""
    generated_tokens: int
    """Of one item."""
    requests: int
    """Of one item."""
    training: Mapping[str, int]
    """Tokens by expert."""
    context: int
    vector_width: int
    """Bytes of a number of the vector beside a trained expert; 0 for none."""

    @property
    def request_tokens(self) -> int:
        """Tokens of one request at its longest: its share of the prompt, and the answer."""
        return -(-self.prompt_tokens // self.requests) + self.generated_tokens

    def count_scored(self, split: Split) -> int:
        """Prompt positions of one evaluation."""
        return self.items[split] * self.prompt_tokens

    def count_generated(self, split: Split) -> int:
        """Generated tokens of one evaluation."""
        return self.items[split] * self.generated_tokens

    def count_requests(self, split: Split) -> int:
        """Requests of one evaluation."""
        return self.items[split] * self.requests


def count_work(config: Config, hardware: HardwareConfig) -> Workload:
    """Count the work of `config`; what it does not say is taken from `hardware.work`.

    Raises :class:`ConfigError` for a file that lacks a section which its job needs, and what the job itself would raise
    on ranges and domains.
    """
    job = find_job_kind(list_sections(config))
    require(config, *dict.fromkeys(("base", *(NEEDED[job] if job != "evaluate" else ("vectors",)))))
    work, measured = hardware.work, config.evaluate is not None and job in ("search", "mixture")
    items = config.evaluate.items if config.evaluate is not None else ItemsConfig()
    tasks = len(config.evaluate.tasks) if config.evaluate is not None else 0
    counts = count_search_measurements(config) if job == "search" else {}

    return Workload(
        job=job,
        vectors=len(config.vectors),
        measurements=count_mixture_measurements(config) if job == "mixture" else counts,
        items={split: _count_items(items, split, work) * tasks for split in SPLITS} if measured else {},
        batch=config.search.points_at_once,
        tasks=tasks,
        prompt_tokens=work.prompt_tokens,
        generated_tokens=work.generated_tokens,
        requests=work.requests,
        training=_list_trainings(config, work),
        context=config.train.context if config.train is not None else work.context,
        vector_width=_read_vector_width(config),
    )


def _count_items(items: ItemsConfig, split: Split, work: WorkConfig) -> int:
    count: int | str = getattr(items, split)
    return work.rest_items if isinstance(count, str) else count


def _list_trainings(config: Config, work: WorkConfig) -> dict[str, int]:
    """Tokens by dataset of `train:`, else by expert whose `tokens` the file names; an instruction vector has none."""
    if config.train is not None:
        refuse_no_dataset(config.train)
        return {name: data.tokens or work.training_tokens for name, data in config.train.datasets.items()}
    return {name: vector.tokens for name, vector in config.vectors.items() if vector.tokens is not None}


def _read_vector_width(config: Config) -> int:
    kind = config.train.vector if config.train is not None else "bfloat16"
    return {"bfloat16": 2, "float32": 4, "none": 0}[kind]
