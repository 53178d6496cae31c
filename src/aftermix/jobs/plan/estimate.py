"""`JobEstimate`: what a job needs, as `aftermix plan` tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aftermix.config import Split
from aftermix.errors import Problem


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
