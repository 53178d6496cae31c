"""The surrogate on real tables: 40 of 512 measured mixtures foretell 256 others (Spearman's rank correlation)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from aftermix.mixture import Surrogate
from support.regmix import drawn, losses, table


def test_mean_loss_and_pile_cc_from_forty_mixtures() -> None:
    """Here the mean loss is a capability by itself, which is harder than the mean of 13 predictions."""
    pile_cc = losses().index("pile_cc")

    def of_interest(scores: np.ndarray) -> np.ndarray:
        return np.stack([scores.mean(axis=1), scores[:, pile_cc]], axis=1)

    test = of_interest(table("test_pile_loss"))
    correlations = []
    for draw in range(8):
        weights, scores = drawn(draw)
        mean, _ = Surrogate.fit(weights, of_interest(scores), seed=draw).predict(table("test_mixture"))
        correlations.append([spearmanr(mean[:, column], test[:, column])[0] for column in (0, 1)])
    mean_loss, pile_cc_loss = np.median(correlations, axis=0)
    assert mean_loss >= 0.89
    assert pile_cc_loss >= 0.96


@pytest.mark.slow
def test_all_losses_and_the_mean_of_their_predictions() -> None:
    test = table("test_pile_loss")
    correlations, inside = [], []
    for draw in range(2):
        weights, scores = drawn(draw)
        mean, std = Surrogate.fit(weights, scores, seed=draw, larger_is_better=False).predict(table("test_mixture"))
        pairs = [*zip(mean.T, test.T, strict=True), (mean.mean(axis=1), test.mean(axis=1))]
        correlations.append([spearmanr(ours, theirs)[0] for ours, theirs in pairs])
        inside.append(np.mean(np.abs(test - mean) < 1.96 * std))
    *each, mean_loss = np.median(correlations, axis=0)
    assert mean_loss >= 0.95
    assert min(each) >= 0.9
    assert np.median(each) >= 0.97
    assert 0.9 <= np.mean(inside) <= 0.995
