"""Parameter competition against numbers of its authors' code; `data/pcb_merging.json` says how they were made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from aftermix.checkpoints.model import TensorInfo
from aftermix.merging.rules.pcb import pcb, survey_competition
from aftermix.merging.topk.magnitude import TensorBlocks

PUBLISHED = json.loads((Path(__file__).parent / "data/pcb_merging.json").read_text())


@pytest.mark.parametrize("ratio", PUBLISHED["merged_by_ratio"])
def test_competition_is_its_authors_with_their_outliers_clamped(ratio: str) -> None:
    deltas = torch.tensor(PUBLISHED["deltas"])
    bounds = [(0, 16), (16, 32), (32, 40)]
    tensors = [TensorBlocks(bounds, lambda run, delta=delta: delta[slice(*run)].clone()) for delta in deltas]
    info = TensorInfo("t", (40,), torch.float32, Path())
    # Their 0.0001 of 40 entries still moves the largest magnitude to the second largest.
    found = survey_competition(tensors, info, density=float(ratio), clamp=0.0001)
    merged = pcb(found, [1.0] * len(tensors))(list(deltas), 0)
    theirs = np.array(PUBLISHED["merged_by_ratio"][ratio])
    assert 0 < (theirs == 0).sum() < 40
    np.testing.assert_allclose(merged.numpy(), theirs, rtol=1e-5, atol=1e-8)
