"""Images for the vision part: scikit-learn's digits in four views, the base having seen a few in all of them.

N images of 8 x 8 grey values from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from aftermix.seeds import generator

PARTS = {"pretrain": 449, "train": 719, "select": 180, "test": 449}
"""Images of each; no digit is in two parts, and the split is the same for all seeds."""
TASKS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "quarter-turn": lambda images_NHW: images_NHW.rot90(1, (1, 2)),
    "half-turn": lambda images_NHW: images_NHW.rot90(2, (1, 2)),
    "negative": lambda images_NHW: 1 - images_NHW,
    "mirrored": lambda images_NHW: images_NHW.flip(2),
}
"""One expert each; the labels are the same ten digits, so all share one head."""


@dataclass(frozen=True)
class Images:
    """What a model sees, and what it should say."""

    pixels_N1HW: torch.Tensor
    labels_N: torch.Tensor

    def first(self, count: int) -> Images:
        """So many of them."""
        return Images(self.pixels_N1HW[:count], self.labels_N[:count])

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels_N)


@lru_cache
def images(task: str, part: str) -> Images:
    """One part of the digits in one view."""
    pixels_NHW, labels_N = _digits()
    order_N = torch.from_numpy(generator(0, "digits").permutation(len(labels_N)))
    chosen = dict(zip(PARTS, order_N.split(list(PARTS.values())), strict=True))[part]
    return Images(TASKS[task](pixels_NHW[chosen])[:, None].contiguous(), labels_N[chosen])


def all_views(part: str) -> Images:
    """One part of the digits in every view."""
    seen = [images(task, part) for task in TASKS]
    return Images(torch.cat([one.pixels_N1HW for one in seen]), torch.cat([one.labels_N for one in seen]))


@lru_cache
def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    bundle = load_digits()
    return torch.tensor(bundle.images, dtype=torch.float32) / 16, torch.tensor(bundle.target)
