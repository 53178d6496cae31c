"""The lab of the studies, cheaper: half the select text chooses coefficients, and items are answered where wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from studies.world.bits import HeldOut
from studies.world.data import texts_of
from studies.world.lab import Lab, Part, Point, Scores
from studies.world.layout import World
from studies.world.store import Store

ITEMS = {"search": 200, "select": 150, "test": 200}
"""The split is the other studies' but for the number of test items."""
SUM = {"method": "task_arithmetic"}


class NotMeasured(Exception):  # noqa: N818 - no error: a study is shown before it is finished
    """A measurement is not there, and none is to be made."""


class Bench(Lab):
    """A lab that leaves the items out, unless it is asked for them; with `found_only` it measures nothing new."""

    def __init__(self, world: World, store: Store, *, threads: int, found_only: bool = False) -> None:
        super().__init__(world, store, threads=threads, items=ITEMS)
        self._found_only = found_only

    def bits(self, models: Mapping[str, Path], point: Point, tasks: Sequence[str], part: Part) -> Scores:
        """Scores without accuracy."""
        return self.measure(models, point, tasks, part, items=False)

    def scores(self, models: Mapping[str, Path], point: Point, tasks: Sequence[str]) -> Scores:
        """Scores on test text and items."""
        return self.measure(models, point, tasks, "test")

    def base(self, tasks: Sequence[str], part: Part) -> Scores:
        """Bits per byte of the base, measured task by task."""
        found = [self.bits({}, Point(SUM, {}), (task,), part) for task in tasks]
        return Scores({task: scores.bits[task] for task, scores in zip(tasks, found, strict=True)}, {})

    def _measured(self, *arguments: Any) -> dict[str, Any]:
        if self._found_only:
            raise NotMeasured
        return super()._measured(*arguments)

    @lru_cache  # noqa: B019 - a lab lives as long as its process
    def _held_out(self, domain: str, part: Part) -> HeldOut:
        if part == "test":
            return super()._held_out(domain, part)
        texts = texts_of(self.world.held_out(domain, part))
        return HeldOut.of(_half(texts), self._live.engine.lm.tokenizer, context=self.world.context)

    def _identity(self, *arguments: Any) -> dict[str, Any]:
        return {**super()._identity(*arguments), "select_text": "half"}


def _half(texts: Sequence[str]) -> list[str]:
    """Documents up to half of all characters, the last one cut.

    >>> _half(["abcd", "efgh", "ij"])
    ['abcd', 'e']
    """
    left, chosen = sum(map(len, texts)) // 2, []
    for text in texts:
        chosen.append(text[:left])
        left -= len(chosen[-1])
        if not left:
            break
    return chosen
