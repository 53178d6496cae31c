"""Second order at the ratios of a mixture: by how much a training on it and the merge that stands for it part.

The experts' vectors tell how far a descent went: of each, the part along its domain's gradient. AdamW's steps are no
gradient descent, so this is the size of the effect, and no correction.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from aftermix.analysis.curvature import compute_gradient, measure_mixture_error, measure_reach
from aftermix.config import Config
from aftermix.jobs.analysis.curvature import build_loss
from aftermix.jobs.analysis.live_base import DomainTexts, open_domain_texts, read_live_vector
from aftermix.runs.mixture_records import SecondOrderRecord

BESIDE_GRADIENTS = 12
"""Models' worth of memory besides the gradients: the base, its vector, three sums, and two products on the way."""
REASON = "the second order is that of the loss on its text"


def open_second_order_texts(config: Config) -> DomainTexts:
    """The experts of `config` with their `calibration` texts, which the second order is measured on.

    Raises :class:`AftermixError` as :func:`~aftermix.jobs.analysis.live_base.open_domain_texts`.
    """
    return open_domain_texts(config, reason=REASON)


def count_needed_bytes(texts: DomainTexts) -> int:
    """Bytes of memory that :func:`measure_second_order` takes: the base in float32, a gradient of each expert, and what
    a Hessian-vector product and its sums hold."""
    return torch.float32.itemsize * texts.pool.parameters * (len(texts.domains) + BESIDE_GRADIENTS)


def measure_second_order(texts: DomainTexts, ratios: Mapping[str, float]) -> SecondOrderRecord:
    """The second-order error of the mixture `ratios` of the experts of `texts`, on these texts."""
    live = texts.open_base(torch.float32)
    live.model.requires_grad_(requires_grad=True)
    names, parameters = zip(*live.model.named_parameters(), strict=True)
    loss, by_name = build_loss(live.model), dict(zip(names, parameters, strict=True))

    ratios_K = np.array([ratios[domain.name] for domain in texts.domains])
    gradients, reaches = [], []
    for domain in texts.domains:
        gradient = tuple(part.cpu() for part in compute_gradient(loss, parameters, domain)[1])
        reaches.append(measure_reach(read_live_vector(texts.pool, domain.name, live, by_name), names, gradient))
        gradients.append(gradient)

    reach = float(np.dot(ratios_K, reaches))
    error = measure_mixture_error(loss, parameters, texts.domains, gradients, ratios_K=ratios_K, reach=reach)
    whole, cross, own = (value if np.isfinite(value) else None for value in (error.whole, error.cross, error.own))
    return SecondOrderRecord(
        error=whole,
        cross=cross,
        own=own,
        reach=reach if np.isfinite(reach) else None,
        tokens={domain.name: domain.predicted_tokens for domain in texts.domains},
    )
