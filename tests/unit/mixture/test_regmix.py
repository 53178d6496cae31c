"""RegMix on its own tables: the mixture for the loss on web text is mostly web text, as its authors found."""

from __future__ import annotations

import numpy as np

from aftermix.mixture.regmix import find_regmix
from aftermix.mixture.utility import MixtureUtility
from support.regmix import DATA, losses, table

# Shares of the tokens of the Pile's domains, in the columns' order, as the authors draw candidates around them.
TOKENS = (
    *(0.113, 0.080, 0.004, 0.185, 0.051, 0.016, 0.102, 0.004, 0.067),
    *(0.002, 0.027, 0.237, 0.012, 0.008, 0.008, 0.039, 0.046),
)


def test_web_text_is_best_for_web_text() -> None:
    domains = (DATA / "train_mixture_1m.csv").read_text().splitlines()[0].split(",")[1:]
    place = losses().index("pile_cc")
    loss_N1 = table("train_pile_loss")[:, [place]]
    utility = MixtureUtility.build(["pile_cc"], loss_N1, smaller_is_better=["pile_cc"])
    prior_K = np.array(TOKENS) / sum(TOKENS)
    found_K = find_regmix(table("train_mixture"), loss_N1, utility, prior_K=prior_K, candidates=50_000)
    web = next(number for number, name in enumerate(domains) if name.endswith("pile_cc"))
    assert 0.8 < found_K[web] < 0.95  # the paper's own: 0.87
    assert np.delete(found_K, web).max() < 0.1
