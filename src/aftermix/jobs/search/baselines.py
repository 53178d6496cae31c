"""Baselines that the winner has to beat: compositions that cost no training and no search, or a scan of one number.

Source: OptiMer, Table 1 (single experts and uniform merges). The base, the models alone, a scan of the instruction
weight with no expert, the best single expert with a tuned instruction weight, the best single vector at a tuned weight
and the uniform merge at a tuned scale are ours: docs/how-to/search.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from aftermix.config import Config, MergeConfig
from aftermix.config.places import require_number

PAPER_INSTRUCTION_WEIGHT = 0.6
SCAN_WEIGHTS = (0.2, 0.4, 0.6, 0.8, 1.0)
SCAN_STEP = 0.2
PROBE_WEIGHTS = (0.4, 1.0)
"""Weights at which every vector is tried alone before the best of them is scanned: a long training is often past its
best at 1, a short one is not."""
UNIFORM_SCALES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
"""Sums of the weights of a uniform merge."""
UNIFORM_DENSITY = 0.5


@dataclass(frozen=True)
class BaselineMerge:
    """A named composition: vectors and weights under a method of its own, with the search's exclusions or none."""

    name: str
    kind: str
    weights: Mapping[str, float]
    method: str = "task_arithmetic"
    density: float | None = None
    whole_model: bool = False
    """A model as it is: its own embeddings and head too."""
    as_the_file: bool = False
    """Under the file's own merge, settings of the vectors included."""

    def build_merge_config(self, search: MergeConfig) -> MergeConfig:
        """The merge of this baseline beside a search whose merge is `search`."""
        options = {} if self.density is None else {"density": self.density}
        exclude = () if self.whole_model else search.exclude
        common = {"method": self.method, "exclude": exclude, "seed": search.seed, "dtype": search.dtype}
        return MergeConfig.model_validate(common | options)


def list_fixed_baselines(config: Config) -> Iterator[BaselineMerge]:
    """Baselines without any choice: base, models alone, single experts at the paper's weight, uniform merges."""
    names = list(config.vectors)
    instructions = [name for name in names if config.vectors[name].role == "instruction"]
    experts = [name for name in names if config.vectors[name].role == "expert"]

    yield BaselineMerge("base", "base", {})
    for name in names:
        yield BaselineMerge(f"{name} alone", config.vectors[name].role, {name: 1.0}, whole_model=True)

    for instruction in instructions:
        for expert in experts:
            yield build_single_expert(expert, instruction, PAPER_INSTRUCTION_WEIGHT)

    # Where the weights are not searched, the file's own are a result to beat.
    if not config.search.over.weights:
        weights = {name: require_number(v.weight, where=name, who="a search") for name, v in config.vectors.items()}
        yield BaselineMerge("the file's settings", "file", weights, config.merge.method or "a pair", as_the_file=True)

    uniform = dict.fromkeys(names, 1 / len(names))
    yield BaselineMerge("uniform Task Arithmetic", "uniform", uniform)
    yield BaselineMerge("uniform TIES", "uniform", uniform, "ties", UNIFORM_DENSITY)
    yield BaselineMerge("uniform DARE-Linear", "uniform", uniform, "dare_linear", UNIFORM_DENSITY)
    yield BaselineMerge("uniform DARE-TIES", "uniform", uniform, "dare_ties", UNIFORM_DENSITY)


def list_common_scans(config: Config) -> Iterator[BaselineMerge]:
    """Merges that are measured on select items to tune baselines, whichever is found best among them."""
    instruction = next((name for name, vector in config.vectors.items() if vector.role == "instruction"), None)
    for name, vector in config.vectors.items():
        yield from build_single_scan(name, PROBE_WEIGHTS)
        if instruction is not None and vector.role == "expert":
            yield build_single_expert(name, instruction, PAPER_INSTRUCTION_WEIGHT)
    if instruction is not None:
        yield from build_instruction_scan(instruction)
    yield from build_uniform_scan(config.vectors)


def build_single_expert(expert: str, instruction: str, weight: float) -> BaselineMerge:
    """One expert at 1 with the instruction vector at `weight`."""
    name = f"{expert} + {weight:g} {instruction}"
    return BaselineMerge(name, "expert+0.6 instruction", {expert: 1.0, instruction: weight})


def build_instruction_scan(instruction: str) -> list[BaselineMerge]:
    """The instruction vector alone at each weight of the scan."""
    return [
        BaselineMerge(f"{weight:g} {instruction}", "instruction scan", {instruction: weight}) for weight in SCAN_WEIGHTS
    ]


def build_expert_scan(expert: str, instruction: str) -> list[BaselineMerge]:
    """One expert at 1 with the instruction vector at each weight of the scan."""
    return [build_single_expert(expert, instruction, weight) for weight in SCAN_WEIGHTS]


def build_single_scan(vector: str, weights: Iterable[float]) -> list[BaselineMerge]:
    """One vector with no other at each of `weights`."""
    return [BaselineMerge(f"{weight:g} {vector}", "single scan", {vector: weight}) for weight in weights]


def list_single_weights(high: float) -> list[float]:
    """Weights of the scan of one vector: 0.2, 0.4 and so on up to 1, or to `high`, the end of its range, if later."""
    return [round(SCAN_STEP * step, 9) for step in range(1, int(max(high, 1.0) / SCAN_STEP + 1e-9) + 1)]


def build_uniform_scan(vectors: Collection[str]) -> list[BaselineMerge]:
    """All vectors at one weight each, by Task Arithmetic, at each sum of the weights."""
    return [
        BaselineMerge(
            f"uniform Task Arithmetic x {scale:g}", "uniform scan", dict.fromkeys(vectors, scale / len(vectors))
        )
        for scale in UNIFORM_SCALES
    ]
