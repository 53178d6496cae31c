"""Names of a distributed checkpoint's tensors in the model: by the path that was saved, or by the file's own map."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from aftermix.checkpoints.formats.distributed.metadata import StoredTensor
from aftermix.errors import ConfigError, Problem, join_place, refuse_if_any

NameMap = Mapping[str, str | Sequence[str]]
"""`tensor_names` of the file: pattern of the checkpoint's names -> the model's name, or several for equal parts."""
WRAPPERS = frozenset({"app", "model", "state_dict", "module"})
"""Keys of a saved state that hold the model, and are no part of a tensor's name."""
STATES = ("optim", "optimizer", "lr_scheduler", "scheduler", "dataloader", "train_state", "rng_state", "chained_")
"""Beginnings of what a training keeps beside the model."""
INSERTED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Parts that torch's own wrappers put into names."""
STACKED = "[*]"
"""End of a pattern whose tensors hold all layers, one after another."""
LISTED = 3


@dataclass(frozen=True)
class TensorPart:
    """A run of a stored tensor's elements that is a tensor of the model."""

    stored: StoredTensor
    start: int
    shape: tuple[int, ...]


@dataclass
class NamedParts:
    """Tensors of the model by name, and keys of the checkpoint that are none."""

    parts: dict[str, TensorPart] = field(default_factory=dict)
    states: list[str] = field(default_factory=list)
    """Of optimizers and the like."""
    unnamed: list[str] = field(default_factory=list)
    """That the map does not name."""


def name_tensors(stored: Mapping[str, StoredTensor], names: NameMap, *, known: Callable[[str], bool]) -> NamedParts:
    """Find the model's tensors in a checkpoint.

    Without a map, names are those of the path without wrappers. With one, a tensor has the name that it gives; what it
    leaves out is taken where its name is `known`, and listed otherwise. Raises :class:`AftermixError` for a map that
    leads two tensors to one name, and for shapes that it cannot cut.
    """
    found, problems = NamedParts(), []
    rules = [NameRule.parse(own, targets) for own, targets in names.items()]

    for tensor in stored.values():
        name = _read_name(tensor)
        if name is None:
            found.states.append(tensor.key)
            continue

        named = next((rule.apply(tensor, values) for rule in rules if (values := rule.match(name)) is not None), None)
        if named is None and rules and not known(name):
            found.unnamed.append(tensor.key)
            continue

        for target, part in named or [(name, TensorPart(tensor, 0, tensor.shape))]:
            if target in found.parts:
                other = found.parts[target].stored.key
                remedy = "Correct `tensor_names`." if rules else "Give each its own name by `tensor_names`."
                problems.append(Problem(target, f"two tensors have this name: {other} and {tensor.key}", remedy))
            found.parts[target] = part

    refuse_if_any(problems[:LISTED])
    return found


def _read_name(tensor: StoredTensor) -> str | None:
    """The tensor's name in the model; None for the state of an optimizer."""
    path = list(tensor.path)
    while len(path) > 1 and path[0] in WRAPPERS:
        path.pop(0)
    name = ".".join(map(str, path))
    if name.startswith(STATES):
        return None
    for part in INSERTED:
        name = name.replace(part, "")
    return name


@dataclass(frozen=True)
class NameRule:
    """One entry of the map: `*` stands for one part of a name, at both ends."""

    own: str
    pattern: re.Pattern[str]
    targets: tuple[str, ...]
    stacked: bool

    @staticmethod
    def parse(own: str, targets: str | Sequence[str]) -> NameRule:
        """Read an entry. Raises :class:`ConfigError` where the numbers of `*` differ."""
        names = (targets,) if isinstance(targets, str) else tuple(targets)
        stacked = own.endswith(STACKED)
        bare = own.removesuffix(STACKED)
        for target in names:
            if target.count("*") != own.count("*"):
                found = f"expected {own.count('*')} times `*`, as in '{own}', found '{target}'"
                raise ConfigError(join_place("tensor_names", own), found, "Give both as many.")
        pattern = "([^.]+)".join(re.escape(part) for part in bare.split("*"))
        return NameRule(own, re.compile(pattern), names, stacked)

    def match(self, name: str) -> tuple[str, ...] | None:
        """Parts of `name` for which the `*` of the pattern stand; None where it does not fit."""
        found = self.pattern.fullmatch(name)
        return found.groups() if found else None

    def apply(self, tensor: StoredTensor, values: Sequence[str]) -> list[tuple[str, TensorPart]]:
        """The tensors of the model that `tensor` holds."""
        layers = [((), 0, tensor.shape)] if not self.stacked else list(self._cut_layers(tensor))
        return [
            (_fill(target, [*values, *layer]), part)
            for layer, start, shape in layers
            for target, part in self._cut_rows(tensor, start, shape)
        ]

    def _cut_layers(self, tensor: StoredTensor) -> Iterator[tuple[tuple[str, ...], int, tuple[int, ...]]]:
        if not tensor.shape:
            raise ConfigError(
                join_place("tensor_names", self.own), "expected layers, found a number", "Name it without its ending."
            )
        size = math.prod(tensor.shape[1:])
        for layer in range(tensor.shape[0]):
            yield (str(layer),), layer * size, tensor.shape[1:]

    def _cut_rows(self, tensor: StoredTensor, start: int, shape: tuple[int, ...]) -> Iterator[tuple[str, TensorPart]]:
        """Equal runs of rows, one for each name."""
        count = len(self.targets)
        if count > 1 and (not shape or shape[0] % count):
            found = f"expected rows that {count} names share equally, found {shape} in '{tensor.key}'"
            raise ConfigError(join_place("tensor_names", self.own), found, "Correct the list of names.")
        own = (shape[0] // count, *shape[1:]) if count > 1 else shape
        for number, target in enumerate(self.targets):
            yield target, TensorPart(tensor, start + number * math.prod(own), own)


def _fill(target: str, values: Sequence[str]) -> str:
    """`target` with its `*` replaced in order."""
    rest = iter(values)
    return re.sub(r"\*", lambda _: next(rest), target)
