"""Positions, the cost of an evaluation: rows times tokens of every forward pass, padding and repetition included."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aftermix.evaluation.engines.live_model import HarnessModel


class PositionCounter:
    """Positions that a model has computed in this process, counted where its tokens become embeddings."""

    def __init__(self, model: Any) -> None:
        self.count = 0
        model.get_input_embeddings().register_forward_hook(self._add)

    def _add(self, _module: Any, _inputs: Any, embedded_BTD: Any) -> None:
        self.count += embedded_BTD.shape[:-1].numel()


def count_request_positions(lm: HarnessModel, requests: Sequence[Any]) -> int:
    """Positions that `lm` computes to answer `requests`, asked for together; computes no model output.

    Generated text counts at its limit: of it this is the most that can come.
    """
    by_kind: dict[str, list[Any]] = defaultdict(list)
    for request in requests:
        by_kind[request.request_type].extend([request] * (request.repeats or 1))

    total = 0
    for kind, of_kind in by_kind.items():
        if kind == "generate_until":
            batches = lm.find_generation_plan(of_kind).batches
            total += sum(batch.most_positions * int(batch.settings.options.get("num_beams") or 1) for batch in batches)
        elif kind == "loglikelihood_rolling":
            total += lm.find_windows(of_kind).chosen.plan.positions
        else:
            total += lm.find_scoring_plan(of_kind).plan.positions
    return total
