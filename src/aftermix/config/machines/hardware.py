"""The hardware file of `aftermix plan --hardware`: machines, speeds, and the size of the work.

Sizes are in GB of 10^9 bytes, bandwidths in GB/s. What the file leaves out has a default, and the plan lists it as
assumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, ValidationError

from aftermix.config.fields import ConfigSection, Count, Positive
from aftermix.config.file import translate_error
from aftermix.errors import refuse_if_any
from aftermix.yaml_file import read_yaml

Share = Annotated[float, Field(gt=0, le=1)]


class GpuConfig(ConfigSection):
    """One accelerator. Defaults of bandwidth and arithmetic are those of an H200's data sheet."""

    memory_gb: Positive
    hbm_gb_s: Positive = 4800
    """Bandwidth of its own memory."""
    link_gb_s: Positive = 50
    """Bandwidth from host memory to this GPU."""
    tflops: Positive = 989
    """Dense multiplications and additions in the engine's type, 10^12 a second."""


class HostConfig(ConfigSection):
    """One host and its memory."""

    gpus: Count = 8
    """GPUs of a host; of a smaller job, all of them."""
    memory_gb: Positive = 2000
    memory_gb_s: Positive = 400
    """Bandwidth of host memory, which the GPUs of a host share."""
    merge_gb_s: Positive = 50
    """Checkpoints that its cores merge in a second, or prepare with what is kept, if the disk does not hold them up."""


class DiskConfig(ConfigSection):
    """The file system that all hosts see."""

    free_gb: Positive = 30_000
    gb_s: Positive = 5
    """Bandwidth of reading and of writing, to one host."""


class EngineConfig(ConfigSection):
    """One engine: the model in memory for inference, on one or more GPUs of a host."""

    gpus: Literal["auto"] | Count = "auto"
    """GPUs that share its tensors out; `auto` is the fewest on which weights and requests fit."""
    device: Literal["cuda", "cpu"] = "cuda"
    """`cpu`: the model lies in host memory, and merges are computed there block by block in the cache."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    memory_share: Share = 0.9
    """Share of a GPU's memory that weights, cache and activations may take."""
    sequences: Count = 256
    """Most requests in work at once."""
    batch_tokens: Count = 8192
    """Positions of one pass, for the activations."""
    swap: Literal["whole", "sliced"] = "whole"
    """Tensors that each GPU of an engine is given for a merge: all in full, or its own slice alone."""
    vectors_per: Literal["engine", "host"] = "host"
    """Owner of a copy of the prepared vectors: each engine for itself, as workers do, or those of a host together."""


class SpeedConfig(ConfigSection):
    """Tokens a second of one GPU, measured by the user; what is null comes from bandwidth and arithmetic."""

    score: Positive | None = None
    """Prompt positions."""
    generate: Positive | None = None
    """Generated tokens, of all requests in work together."""
    train: Positive | None = None
    arithmetic_share: Share = 0.4
    """Share of `gpu.tflops` that scoring and training reach."""
    bandwidth_share: Share = 0.6
    """Share of the bandwidths that reading weights, cache, vectors and files reaches."""


class WorkConfig(ConfigSection):
    """Size of the work where the job's file does not say it."""

    prompt_tokens: Count = 1000
    """Prompt positions of one item, choices included."""
    generated_tokens: Annotated[int, Field(ge=0)] = 250
    """Generated tokens of one item; 0 where answers are only scored."""
    requests: Count = 1
    """Requests of one item: its choices, or 1 where an answer is generated."""
    rest_items: Count = 500
    """Items of a task in a part that takes the rest of them."""
    training_tokens: Count = 1_000_000_000
    """Tokens that an expert is trained on."""
    context: Count = 4096
    """Length of a training sequence."""


class HardwareConfig(ConfigSection):
    """The whole hardware file, checked."""

    gpus: Count
    """GPUs of the job, over all hosts."""
    gpu: GpuConfig
    host: HostConfig = HostConfig()
    disk: DiskConfig = DiskConfig()
    engine: EngineConfig = EngineConfig()
    speed: SpeedConfig = SpeedConfig()
    work: WorkConfig = WorkConfig()

    @property
    def hosts(self) -> int:
        """Hosts that the GPUs stand in."""
        return -(-self.gpus // self.host.gpus)

    @property
    def gpus_per_host(self) -> int:
        """GPUs of the job on each host."""
        return min(self.gpus, self.host.gpus)

    def list_assumptions(self) -> tuple[str, ...]:
        """Keys that the file leaves out, with the value that is assumed: `gpu.hbm_gb_s 4800`."""
        return tuple(f"{key} {value}" for key, value in _list_defaults(self, ""))


def _list_defaults(section: BaseModel, place: str) -> Iterator[tuple[str, str]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _list_defaults(value, f"{place}{name}.")
        elif name not in section.model_fields_set and value is not None:
            yield f"{place}{name}", f"{value:g}" if isinstance(value, float) else str(value)


def load_hardware(path: Path) -> HardwareConfig:
    """Read and check the hardware file at `path`.

    Raises :class:`ConfigError` or :class:`ManyProblemsError` naming every field that is wrong, a GPU count that does
    not fill whole hosts included.
    """
    try:
        return HardwareConfig.model_validate(read_yaml(path))
    except ValidationError as error:
        refuse_if_any([translate_error(path.name, detail, root=HardwareConfig) for detail in error.errors()])
        raise  # unreachable: a ValidationError has at least one detail
