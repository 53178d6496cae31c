"""Records of `adapter.json`: how a merge was written as an adapter, and what that lost of it."""

from __future__ import annotations

from typing import Literal

from aftermix.runs.json_record import Finite, RunRecord

ADAPTER_FILE = "adapter.json"


class ModuleFactorsRecord(RunRecord):
    """Factors of one module."""

    rank: int
    factors: Literal["concatenated", "svd"]
    """`concatenated`: those of the vectors side by side; `svd`: the best ones of this rank."""
    relative_error: Finite
    """||D - B A|| / ||D||, Frobenius, D being the merged difference; 0 where D is."""


class MergedAdapterRecord(RunRecord):
    """`adapter.json`."""

    format: Literal["aftermix adapter"]
    version: Literal[1]
    method: str
    exact: bool
    """True where every module has the merged difference up to the rounding of float32."""
    rank: int | None
    """The highest that was asked for; None where none was."""
    relative_error: Finite
    """As of a module, over all modules together."""
    modules: dict[str, ModuleFactorsRecord]
    """By path of the module in the base."""
    whole: tuple[str, ...]
    """Tensors that are stored whole, and so exactly."""
