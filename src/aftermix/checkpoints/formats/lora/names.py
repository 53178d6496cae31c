"""From the names in an adapter's file to the base's tensors: the module of each, and the prefix of all."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from aftermix.checkpoints.model import Model
from aftermix.errors import Problem

ROOT = "base_model.model."
"""Prefix that PEFT puts before the path of a module."""
A, B, BIAS, MAGNITUDE, TOKENS = "lora_A", "lora_B", "lora_B.bias", "lora_magnitude_vector", "trainable_tokens_delta"
EMBEDDING_A, EMBEDDING_B = "lora_embedding_A", "lora_embedding_B"
ENDINGS = {
    ".lora_A.weight": A,
    ".lora_B.weight": B,
    ".lora_B.bias": BIAS,
    ".lora_embedding_A": EMBEDDING_A,
    ".lora_embedding_B": EMBEDDING_B,
    ".lora_magnitude_vector": MAGNITUDE,
    ".lora_magnitude_vector.weight": MAGNITUDE,
    ".token_adapter.trainable_tokens_delta": TOKENS,
}
MARKS = ("lora_", "token_adapter", "vera_", "modules_to_save.")
"""A name that holds one of these and has none of the endings is not a plain copy of a tensor."""
CLASSIFIER = re.compile(r"(score|classifier|classification_head|head|qa_outputs|v_head)\.")
"""Beginnings of the names of heads that turn vectors into classes or values, which a language model has not."""
Size = tuple[int, int] | None
LISTED = 5
LONGEST = 500
"""Most characters of a name."""
DEEPEST = 16
"""Most parts of a prefix."""


@dataclass
class AdapterContents:
    """Names in the file, sorted by what they are."""

    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    """Module -> part (`lora_A` ...) -> name in the file."""
    saved: dict[str, str] = field(default_factory=dict)
    """Tensor that is stored whole -> name in the file."""
    unknown: list[str] = field(default_factory=list)

    @staticmethod
    def from_names(names: Iterable[str]) -> AdapterContents:
        """Sort `names`; what PEFT would not have written is unknown."""
        contents = AdapterContents()
        for name in names:
            path = name.removeprefix(ROOT)
            ending = next((ending for ending in ENDINGS if path.endswith(ending)), None)

            if path == name or len(name) > LONGEST:
                contents.unknown.append(name)
            elif ending is not None:
                module = _strip_wrapper(path.removesuffix(ending))
                contents.modules.setdefault(module, {})[ENDINGS[ending]] = name
            elif any(mark in path for mark in MARKS) or _strip_wrapper(path) in contents.saved:
                contents.unknown.append(name)
            else:
                contents.saved[_strip_wrapper(path)] = name
        return contents

    def leave_out(self, targets: Collection[str]) -> AdapterContents:
        """The contents without the tensors `targets`, a module by its weight."""
        modules = {module: parts for module, parts in self.modules.items() if f"{module}.weight" not in targets}
        saved = {target: name for target, name in self.saved.items() if target not in targets}
        return AdapterContents(modules, saved, self.unknown)

    def list_targets(self, stored: Mapping[str, torch.Tensor]) -> dict[str, Size]:
        """Every tensor that the adapter changes, under its own names, with the size as far as that is known."""
        sizes: dict[str, Size] = {
            target: compute_size(tuple(stored[name].shape)) for target, name in self.saved.items()
        }
        for module, parts in self.modules.items():
            shapes = {part: tuple(stored[name].shape) for part, name in parts.items()}
            a, b = shapes.get(A, shapes.get(EMBEDDING_A)), shapes.get(B, shapes.get(EMBEDDING_B))
            sizes[f"{module}.weight"] = compute_size((b[0], *a[1:])) if a and b else None
            if BIAS in shapes:
                sizes[f"{module}.bias"] = compute_size(shapes[BIAS])
        return dict(sorted(sizes.items()))


@dataclass(frozen=True)
class PrefixSwap:
    """A prefix of the adapter's names and what the base has in its place."""

    drop: str
    add: str

    def __call__(self, name: str) -> str:
        """`name` with its prefix exchanged; as it is when it has another one."""
        return self.add + name.removeprefix(self.drop) if name.startswith(self.drop) else name

    def __str__(self) -> str:
        """`'model.' -> 'language_model.model.'`."""
        return f"'{self.drop}' -> '{self.add}'"


UNCHANGED = PrefixSwap("", "")


def compute_size(shape: tuple[int, ...]) -> Size:
    """The two sides of a tensor seen as a matrix, whichever way round."""
    sides = sorted((shape[0] if shape else 1, math.prod(shape[1:])))
    return sides[0], sides[1]


def find_swap(targets: Mapping[str, Size], base: Model) -> tuple[PrefixSwap, list[Problem]]:
    """The one exchange of prefixes that brings every target without a tensor of its name to one of the base's.

    Targets that the base has under their own name stay. Names count as the same tensor when they end alike from the
    first number on (`layers.0...`) and have the same size, so that no exchange leads to another layer or to the vision
    tower. Problems name the targets that the base lacks, or two exchanges that would serve equally well.
    """
    homeless = [name for name in targets if not base.has(name)]
    by_ending = _group_by_ending(base.tensors, homeless)
    sizes = {name: compute_size(info.shape) for name, info in base.tensors.items()}

    served = Counter(swap for name in homeless for swap in _list_swaps(name, targets[name], by_ending, sizes))
    best = [swap for swap, count in served.items() if count == max(served.values())]
    if len(best) > 1:
        found = f"its tensors fit the base in {len(best)} ways: {', '.join(map(str, best[:LISTED]))}"
        return UNCHANGED, [Problem(homeless[0], found, "Name the base that it was trained on.")]

    swap = best[0] if best else UNCHANGED
    missing = [name for name in homeless if not base.has(swap(name))]
    return swap, _report_missing(missing, total=len(targets))


def _strip_wrapper(path: str) -> str:
    """Without PEFT's name for what it wraps."""
    return path.replace(".base_layer", "")


def _group_by_ending(names: Iterable[str], homeless: Sequence[str]) -> dict[str, list[str]]:
    """The base's names by each of their endings that a homeless name shares."""
    wanted = {ending for name in homeless for _, ending in _list_cuts(name)}
    names_by_ending: dict[str, list[str]] = {}
    for name in names:
        for _, ending in _list_cuts(name):
            if ending in wanted:
                names_by_ending.setdefault(ending, []).append(name)
    return names_by_ending


def _list_cuts(name: str) -> list[tuple[str, str]]:
    """Prefix and ending of `name` at every dot before the first number; the longest ending first, two parts or more."""
    parts = name.split(".")
    last = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
    cuts = range(min(last, len(parts) - 2, DEEPEST) + 1)
    return [("".join(f"{part}." for part in parts[:cut]), ".".join(parts[cut:])) for cut in cuts]


def _list_swaps(
    name: str, size: Size, by_ending: Mapping[str, list[str]], sizes: Mapping[str, Size]
) -> list[PrefixSwap]:
    """Exchanges that lead from `name` to a tensor of the base with which it shares the longest ending, and the size."""
    for drop, ending in _list_cuts(name):
        fitting = [other for other in by_ending.get(ending, ()) if size in (None, sizes[other])]
        if fitting:
            return [PrefixSwap(drop, other.removesuffix(ending)) for other in fitting]
    return []


def _report_missing(names: Sequence[str], *, total: int) -> list[Problem]:
    remedy = "Name the base that the adapter was trained on."
    if names and all(CLASSIFIER.match(name) for name in names):
        patterns = json.dumps(sorted({f"{name.partition('.')[0]}.*" for name in names}))
        remedy = f"Name a base that has this head, or leave the head out: set in `merge`: `exclude: {patterns}`."
    problems = [Problem(name, "the adapter changes this tensor, the base lacks it", remedy) for name in names[:LISTED]]
    if len(names) > LISTED:
        found = f"the adapter changes {total} tensors, the base lacks {len(names)} of them"
        problems.append(Problem("...", found, remedy))
    return problems
