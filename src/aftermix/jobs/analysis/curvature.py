"""`aftermix analyze --curvature`: derivatives of every domain's loss at the base, beside the experts' vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from aftermix.analysis.curvature import (
    CurvatureDomain,
    Direction,
    Loss,
    LossCurvature,
    measure_curvature,
    measure_descent_cosines,
)
from aftermix.analysis.curvature_tables import DomainDerivatives, dump_derivatives
from aftermix.analysis.geometry import measure_geometry
from aftermix.config import Config
from aftermix.errors import CheckpointError
from aftermix.files import write_atomically
from aftermix.jobs.analysis.live_base import DomainTexts, open_domain_texts, read_live_vector
from aftermix.jobs.analysis.targets import NumberSink, determine_picture_kind, hand_over
from aftermix.jobs.calibrate.command import CalibrationPlan


def analyze_curvature(
    config: Config, *, json: NumberSink | None = None, picture: Path | None = None, dtype: torch.dtype = torch.float32
) -> tuple[DomainDerivatives, str]:
    """Derivatives of the loss of every expert's domain at the base.

    All numbers also go to `json`, a file or a function that takes their text, and a drawing to the file `picture`.

    A domain is what `vectors.NAME.calibration` of an expert names, in the sample that `calibrate` chooses. Returns the
    numbers and the base's name. Raises :class:`AftermixError`, before weights are read, for a domain without text, and
    for models that do not align: other shapes, another tokenizer than the base's.
    """
    kind = determine_picture_kind(picture) if picture else None
    texts = open_domain_texts(config, reason="curvature is that of the loss on its text")

    derivatives = _measure_derivatives(texts, dtype=dtype)
    if json is not None:
        hand_over(_build_record(derivatives, texts.config, texts.plans), json)
    if picture is not None and kind is not None:
        from aftermix.analysis.curvature_picture import draw_derivatives

        write_atomically(picture, draw_derivatives(derivatives, kind=kind))
    return derivatives, texts.pool.frame.label


def _measure_derivatives(texts: DomainTexts, *, dtype: torch.dtype) -> DomainDerivatives:
    pool, domains = texts.pool, texts.domains
    live = texts.open_base(dtype)
    model = live.model

    model.requires_grad_(requires_grad=True)
    names, parameters = zip(*model.named_parameters(), strict=True)
    measured, gradients = _differentiate(build_loss(model), parameters, domains, label=pool.frame.label)

    parameters_by_name = dict(zip(names, parameters, strict=True))
    vectors = (read_live_vector(pool, domain.name, live, parameters_by_name) for domain in domains)
    geometry = measure_geometry(pool)
    # The vectors stand in the file's order there, the domains in order of name.
    order_K = [geometry.vectors.index(domain.name) for domain in domains]

    return DomainDerivatives(
        curvature=measured,
        vector_cosines_KK=geometry.whole.cosines[np.ix_(order_K, order_K)],
        descent_cosines_KK=measure_descent_cosines(vectors, names, gradients),
        tokens={domain.name: domain.predicted_tokens for domain in domains},
    )


def build_loss(model: Any) -> Loss:
    """The summed loss of batches under `model`, which has second derivatives."""

    def compute_loss(tokens_BT: torch.Tensor) -> torch.Tensor:
        # The fused kernels of attention have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            logits_BTV = model(tokens_BT, use_cache=False).logits[:, :-1]
        return cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="sum")

    return compute_loss


def _differentiate(
    loss: Loss, parameters: tuple[torch.Tensor, ...], domains: list[CurvatureDomain], *, label: str
) -> tuple[LossCurvature, list[Direction]]:
    try:
        return measure_curvature(loss, parameters, domains)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        if "derivative" not in reason and "differentiate" not in reason:
            raise

        remedy = "Curvature cannot be measured for this architecture."
        raise CheckpointError(
            label, f"a step of its forward pass has no second derivative ({reason})", remedy
        ) from error


def _build_record(derivatives: DomainDerivatives, config: Config, plans: list[CalibrationPlan]) -> dict[str, Any]:
    record = dump_derivatives(derivatives)
    for plan in plans:
        source = {"model": config.vectors[plan.vector].model, "data": plan.data.source, "samples": plan.data.samples}
        record["domains"][plan.vector] |= source
    return {"base": config.base} | record
