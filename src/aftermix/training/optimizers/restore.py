"""Moved weights brought back bit for bit: by a copy, or by the noise drawn again and the few bits it cannot give."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from aftermix.errors import TrainingError
from aftermix.training.optimizers.local_shard import LocalShard
from aftermix.training.optimizers.noise import NoiseKey, NoiseSource
from aftermix.training.optimizers.perturbation import Perturbation, compute_shifted, iterate_pieces, unshift_weights

REGENERATED = {torch.float32: torch.int32, torch.float64: torch.int64}
"""Types whose weights regeneration restores, and the integers that hold their bits."""


class WeightCopies:
    """One copy of each moved tensor. The buffers are kept between steps: new pages every step would cost more."""

    def __init__(self) -> None:
        self._copies: dict[str, torch.Tensor] = {}
        self._moved: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(self, name: str, local: torch.Tensor) -> torch.Tensor:
        """Copy `local` before it moves; the copy."""
        copy = self._copies.get(name)
        if copy is None or copy.shape != local.shape or copy.dtype != local.dtype or copy.device != local.device:
            copy = self._copies[name] = torch.empty_like(local)
        copy.copy_(local)
        self._moved.append((local, copy))
        return copy

    def find(self, name: str) -> torch.Tensor | None:
        """The values of `name` before it last moved; None for what has not moved."""
        return self._copies.get(name)

    def restore(self) -> None:
        """Bring every kept tensor back."""
        while self._moved:
            local, copy = self._moved.pop()
            local.copy_(copy)


@dataclass
class _MovedShard:
    shard: LocalShard
    perturbation: Perturbation
    key: NoiseKey
    residues: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    """For each piece, the elements that taking the noise away does not restore, and their values before."""


class NoiseRegeneration:
    """No copy: at the restore the same noise is drawn again and taken away.

    `fl(fl(theta + d) - d)` gives `theta` back wherever the sum has no higher exponent than `theta`. Where it has (a
    weight that is small against the offset), the value is kept beside its position: this is found out by trying, while
    moving, so the restore is exact whatever the rounding. A few percent of a pretrained model's weights are kept.
    """

    def __init__(self, source: NoiseSource) -> None:
        self._source = source
        self._moved: list[_MovedShard] = []

    @property
    def kept_bytes(self) -> int:
        """Memory of what is kept now."""
        return sum(place.nbytes + value.nbytes for moved in self._moved for place, value in moved.residues)

    def move(self, shard: LocalShard, perturbation: Perturbation, key: NoiseKey) -> None:
        """Add the one draw of `perturbation`, and keep what :meth:`restore` could not find again."""
        moved = _MovedShard(shard, perturbation, key)
        # Listed before the first piece moves, so that a failure half-way leaves what has moved to be restored.
        self._moved.append(moved)

        for view, noise in iterate_pieces(shard, self._source, (*key, 0)):
            there = compute_shifted(view, noise, perturbation)
            back = unshift_weights(there.clone(), noise, perturbation)
            moved.residues.append(_find_residue(view, back))
            view.copy_(there)

    def restore(self) -> None:
        """Bring every moved tensor back."""
        while self._moved:
            moved = self._moved.pop()
            views = iterate_pieces(moved.shard, self._source, (*moved.key, 0))
            for (view, noise), (lost, values) in zip(views, moved.residues, strict=False):
                unshift_weights(view, noise, moved.perturbation)
                _put_back(view, lost, values)


def _find_residue(before: torch.Tensor, back: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places where the bits of two flat tensors differ, and the values of `before` there."""
    integers = REGENERATED[before.dtype]
    if before.device.type != "cpu":
        places = (back.view(integers) != before.view(integers)).nonzero().view(-1).to(torch.int32)
        return places, before[places]

    # NumPy, not PyTorch: its search takes a quarter of the time. Where more than a tenth is found it searches without
    # branches, which cannot be predicted here: the ones behind the end bring it there.
    count = before.numel()
    differs = np.ones(count + count // 8 + 1, np.bool_)
    np.not_equal(back.view(integers).numpy(), before.view(integers).numpy(), out=differs[:count])

    positions = np.flatnonzero(differs)[: count - len(differs)]
    values = before.numpy()[positions]
    return torch.from_numpy(positions.astype(np.uint16 if count <= 1 << 16 else np.int32)), torch.from_numpy(values)


def _put_back(flat: torch.Tensor, places: torch.Tensor, values: torch.Tensor) -> None:
    if flat.device.type != "cpu":
        flat[places] = values
    else:
        flat.numpy()[places.numpy()] = values.numpy()


def refuse_low_precision(names_and_types: dict[str, torch.dtype]) -> None:
    """Raise :class:`TrainingError` when regeneration would have to restore a type with too few bits."""
    for name, dtype in names_and_types.items():
        if dtype not in REGENERATED:
            found = f"parameter {name} is {str(dtype).removeprefix('torch.')}, and regeneration needs float32 masters"
            raise TrainingError("memory: regenerate", found, "Load the model in float32, or use `memory: copy`.")
