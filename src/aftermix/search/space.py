"""Where merge weights may lie: one interval per vector, negative ones included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aftermix.config import VectorConfig
from aftermix.errors import SearchError
from aftermix.search.records import Weights


@dataclass(frozen=True)
class Space:
    """The box of merge weights. Weights are continuous; nothing is rounded."""

    bounds: Mapping[str, tuple[float, float]]
    """Vector name -> (low, high)."""
    instruction: tuple[str, ...] = ()
    """Vectors that carry instruction following rather than data."""

    def __post_init__(self) -> None:
        if not self.bounds:
            raise SearchError("vectors", "expected at least one vector to weigh, found none", "Add one to `vectors:`.")

    @classmethod
    def of(cls, vectors: Mapping[str, VectorConfig]) -> Space:
        """The space of the file's `vectors:` section."""
        return cls(
            bounds={name: vector.bounds for name, vector in vectors.items()},
            instruction=tuple(name for name, vector in vectors.items() if vector.role == "instruction"),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """All vectors, in the file's order."""
        return tuple(self.bounds)

    @property
    def experts(self) -> tuple[str, ...]:
        """The vectors that carry data."""
        return tuple(name for name in self.bounds if name not in self.instruction)

    def contains(self, weights: Weights) -> bool:
        """Whether `weights` names exactly these vectors and lies within their bounds (both ends count)."""
        if weights.keys() != self.bounds.keys():
            return False
        return all(low <= weights[name] <= high for name, (low, high) in self.bounds.items())

    def clipped(self, weights: Weights) -> Weights:
        """The nearest point of the space.

        >>> Space({"it": (0.3, 1.0), "ja": (-1.0, 0.5)}).clipped({"it": 0.0, "ja": 0.75})
        {'it': 0.3, 'ja': 0.5}
        """
        return {name: min(max(weights[name], low), high) for name, (low, high) in self.bounds.items()}
