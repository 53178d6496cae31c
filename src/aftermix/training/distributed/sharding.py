"""FSDP2 as a launcher asks for it, also where Accelerate would quietly do something else."""

from __future__ import annotations

import os
from typing import Any

from accelerate.utils import DistributedType

from aftermix.errors import TrainingError
from aftermix.training.distributed.processes import count_processes

REMEDY = "Use `fsdp_version: 2` in the launcher's file."


def asks_for_fsdp() -> bool:
    """True when the launcher asked for fully sharded training."""
    return count_processes() > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def refuse_unsupported_launch() -> None:
    """Raise :class:`TrainingError` for what the optimizers cannot work under, before a model is loaded."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        found = "DeepSpeed steps inside the backward pass, where neither clipping nor merge-aware training can reach"
        raise TrainingError("accelerate", found, "Use `distributed_type: FSDP` with `fsdp_version: 2`.")

    if asks_for_fsdp() and os.environ.get("FSDP_VERSION", "1") != "2":
        raise TrainingError("accelerate", "FSDP version 1 flattens the parameters", REMEDY)
    if asks_for_fsdp() and os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() == "true":
        found = "only the first process would load the model"
        raise TrainingError("accelerate", found, "Use `fsdp_cpu_ram_efficient_loading: false` in the launcher's file.")


def enable_cpu_sharding(trainer: Any) -> None:
    """Have `trainer` shard its model over CPU processes: Accelerate takes these for plain data parallelism."""
    state = trainer.accelerator.state
    if asks_for_fsdp() and state.distributed_type == DistributedType.MULTI_CPU:
        from accelerate.utils import FullyShardedDataParallelPlugin

        plugin = FullyShardedDataParallelPlugin()
        if state.mixed_precision != "no":
            plugin.set_mixed_precision(state.mixed_precision)
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, plugin
        trainer.is_fsdp_enabled = True
