"""Places of workers: the devices and CPU threads of each, settled and checked before anything is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from aftermix.config import EvaluateConfig
from aftermix.config.evaluate import CALLABLE
from aftermix.errors import EvaluationError
from aftermix.extras import refuse_missing_extra

VISIBLE = "CUDA_VISIBLE_DEVICES"
DEVICES = ("auto", "cpu", "cuda")
"""Devices that can be dealt out."""


@dataclass(frozen=True)
class WorkerLayout:
    """Workers and what each of them runs on."""

    workers: int
    cluster: str | None
    gpus: int
    """GPUs of each worker; 0 where they compute on the CPU."""
    visible: tuple[str, ...] = ()
    """GPUs of this machine that are dealt out, as CUDA names them; empty in a cluster, which deals out its own."""
    threads: int = 1
    """CPU threads that each may take."""

    def build_environments(self, threads: int) -> tuple[Mapping[str, str], ...]:
        """Environment variables of each worker, which computes with so many CPU threads."""
        common = {"OMP_NUM_THREADS": str(threads)}
        if self.cluster is not None:  # the cluster says which devices an actor sees
            return (common,) * self.workers
        groups = (self.visible[n * self.gpus : (n + 1) * self.gpus] for n in range(self.workers))
        return tuple({**common, VISIBLE: ",".join(group)} for group in groups)

    def describe(self) -> str:
        """One line: workers, where they run, and their devices.

        >>> WorkerLayout(2, None, 1, ("0", "1"), 4).describe()
        '2 processes of this machine, 4 CPU threads each, GPU 0 | 1'
        >>> WorkerLayout(8, "ray", 2).describe()
        '8 actors of Ray, 1 CPU thread each, 2 GPUs each'
        """
        kind = "actor" if self.cluster is not None else "process"
        plural = {"actor": "actors", "process": "processes"}[kind] if self.workers > 1 else kind
        where = "of Ray" if self.cluster is not None else "of this machine"
        threads = f"{self.threads} CPU thread{'s' if self.threads > 1 else ''} each"
        return f"{self.workers} {plural} {where}, {threads}, {self._describe_devices()}"

    def _describe_devices(self) -> str:
        if not self.gpus:
            return "on the CPU"
        if not self.visible:
            return f"{self.gpus} GPU{'s' if self.gpus > 1 else ''} each"
        groups = [self.visible[n * self.gpus : (n + 1) * self.gpus] for n in range(self.workers)]
        return "GPU " + " | ".join("+".join(group) for group in groups)


def needs_workers(config: EvaluateConfig) -> bool:
    """True where measurements are made in other processes than the one that asks for them."""
    return config.workers > 1 or config.cluster is not None or config.timeout_s is not None


def lay_out_processes(config: EvaluateConfig) -> WorkerLayout:
    """The workers of `config` on this machine. Raises :class:`EvaluationError` where it has too few GPUs for them."""
    refuse_undealt(config)
    cores = torch.get_num_threads()
    threads = config.threads if isinstance(config.threads, int) else max(1, cores // config.workers)
    visible = list_visible_gpus() if config.device != "cpu" else ()
    if not visible and config.device != "cuda":
        return WorkerLayout(config.workers, None, 0, (), threads)

    needed = config.workers * config.gpus_per_worker
    refuse_too_few_gpus(config, needed, len(visible), where="this machine")
    return WorkerLayout(config.workers, None, config.gpus_per_worker, tuple(visible[:needed]), threads)


def lay_out_cluster(config: EvaluateConfig, resources: Mapping[str, float]) -> WorkerLayout:
    """The workers of `config` in a cluster that has `resources`. Raises :class:`EvaluationError` for too few."""
    refuse_undealt(config)
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    if cpus < config.workers:
        found = f"expected a cluster with a CPU for each of {config.workers} workers, found {cpus}"
        raise EvaluationError("evaluate.workers", found, "Lower it, or add nodes to the cluster.")

    threads = config.threads if isinstance(config.threads, int) else max(1, cpus // config.workers)
    if config.device == "cpu" or (config.device == "auto" and not gpus):
        return WorkerLayout(config.workers, "ray", 0, (), threads)
    refuse_too_few_gpus(config, config.workers * config.gpus_per_worker, gpus, where="the cluster")
    return WorkerLayout(config.workers, "ray", config.gpus_per_worker, (), threads)


def refuse_undealt(config: EvaluateConfig) -> None:
    """Raise :class:`AftermixError` for what workers cannot open or be dealt, and for a cluster without its extra."""
    if config.function is not None and config.function.startswith(CALLABLE):
        found = "expected a function in a file, which workers can open, found one that was handed over in Python"
        raise EvaluationError("evaluate.function", found, "Put it into a file, as `my_eval.py:score`.")
    if config.cluster == "ray":
        refuse_missing_extra("ray", what="evaluate.cluster: ray")
    if config.device not in DEVICES:
        found = f"expected auto, cpu or cuda, whose devices are dealt out to workers, found '{config.device}'"
        raise EvaluationError("evaluate.device", found, f"Use `auto`, and choose devices by {VISIBLE}.")
    if config.engine == "hf" and config.gpus_per_worker > 1:
        found = f"expected 1 with the engine hf, which computes on one device, found {config.gpus_per_worker}"
        raise EvaluationError("evaluate.gpus_per_worker", found, "Leave it out, and raise `evaluate.workers`.")


def refuse_too_few_gpus(config: EvaluateConfig, needed: int, found: int, *, where: str) -> None:
    """Raise :class:`EvaluationError` unless `where` has as many GPUs as the workers need."""
    if found < needed:
        text = (
            f"expected {needed} GPUs ({config.workers} workers of {config.gpus_per_worker}), found {found} on {where}"
        )
        raise EvaluationError("evaluate.workers", text, "Lower it, or compute on the CPU: `evaluate.device: cpu`.")


def list_visible_gpus() -> Sequence[str]:
    """GPUs that this process may use, as the environment names them, or by their numbers."""
    count = torch.cuda.device_count()
    named = os.environ.get(VISIBLE)
    if named is None:
        return [str(number) for number in range(count)]
    return [each.strip() for each in named.split(",") if each.strip()][:count]
