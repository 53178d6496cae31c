"""Tensors without numbers: parameters that several processes shared, saved by one of them without being gathered."""

from __future__ import annotations

from collections.abc import Sequence

from aftermix.errors import Problem

GATHER = (
    "Save it again with `stage3_gather_16bit_weights_on_model_save` in DeepSpeed's settings, or make it from the "
    "training's checkpoint with DeepSpeed's `zero_to_fp32.py`."
)


def describe_ungathered(names: Sequence[str], *, where: str, owner: str) -> list[Problem]:
    """One problem for all tensors `names` of `owner` that hold no numbers; none without such tensors."""
    if not names:
        return []
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    found = f"{owner} holds no numbers in {names[0]}{more}, as ZeRO-3 saves what is not gathered"
    return [Problem(where, found, GATHER)]
