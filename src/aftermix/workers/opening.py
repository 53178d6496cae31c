"""Machine or cluster of the workers: found and checked before a run begins, and the executor that runs them there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aftermix.config import EvaluateConfig
from aftermix.workers.executor import WorkerExecutor, Workplace
from aftermix.workers.layout import (
    WorkerLayout,
    lay_out_cluster,
    lay_out_processes,
    needs_workers,
    refuse_undealt,
)

if TYPE_CHECKING:
    from aftermix.workers.ray_actors import RayCluster


@dataclass(frozen=True)
class WorkerSite:
    """Machine or cluster on which workers are going to run."""

    layout: WorkerLayout
    cluster: RayCluster | None = None

    def leave(self) -> None:
        """Leave the cluster, if it is one, and nothing has run there."""
        if self.cluster is not None:
            self.cluster.close()

    def open_executor(self, place: Workplace) -> WorkerExecutor:
        """The executor that runs the workers of `place`; closing it leaves the cluster."""
        if self.cluster is None:
            from aftermix.workers.processes import ProcessExecutor

            return ProcessExecutor(place)
        from aftermix.workers.ray_actors import RayExecutor

        return RayExecutor(place, self.cluster, gpus=self.layout.gpus)


def find_site(config: EvaluateConfig) -> WorkerSite | None:
    """The site that `config` asks for; None where this process measures.

    Raises :class:`AftermixError` for a cluster that cannot be reached or has too little, too few GPUs, devices that
    cannot be dealt out, and Ray without its extra.
    """
    if not needs_workers(config):
        return None
    if config.cluster is None:
        return WorkerSite(lay_out_processes(config))

    refuse_undealt(config)
    from aftermix.workers.ray_actors import RayCluster

    cluster = RayCluster(cpus=max(os.cpu_count() or 1, config.workers))
    try:
        return WorkerSite(lay_out_cluster(config, cluster.count_resources()), cluster)
    except Exception:
        cluster.close()
        raise
