"""`aftermix analyze --curvature`: derivatives of every domain's loss at the base, beside the experts' vectors."""

from __future__ import annotations

from collections.abc import Iterator
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
from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.config import Config, require
from aftermix.devices import open_device
from aftermix.errors import CheckpointError, ConfigError, Problem, refuse_if_any
from aftermix.evaluation.engines.live_weights import LiveWeights
from aftermix.files import write_atomically
from aftermix.jobs.analysis.targets import NumberSink, determine_picture_kind, hand_over
from aftermix.jobs.calibrate.command import CalibrationPlan, plan_calibration
from aftermix.jobs.calibrate.layer_inputs import StoredValues
from aftermix.saliency.streamed_model import StreamedModel, build_empty_model
from aftermix.terminal import quiet_transformers


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
    config = _select_experts(config)
    device = open_device(config.calibrate.device, where="calibrate.device", error=ConfigError)

    pool = open_pool(config)
    plans = plan_calibration(config, pool)
    if config.calibrate.threads is not None:
        torch.set_num_threads(config.calibrate.threads)
    domains = [
        CurvatureDomain(plan.vector, plan.samples.build_batches(config.calibrate.batch_size, device=device))
        for plan in plans
    ]
    _refuse_single_tokens(domains)

    derivatives = _measure_derivatives(pool, domains, device=device, dtype=dtype)
    if json is not None:
        hand_over(_build_record(derivatives, config, plans), json)
    if picture is not None and kind is not None:
        from aftermix.analysis.curvature_picture import draw_derivatives

        write_atomically(picture, draw_derivatives(derivatives, kind=kind))
    return derivatives, pool.frame.label


def _select_experts(config: Config) -> Config:
    """`config` with the vectors that stand for data. Raises :class:`AftermixError` for one that names no text."""
    require(config, "base", "vectors")
    experts = {name: vector for name, vector in config.vectors.items() if vector.role == "expert"}
    if not experts:
        raise ConfigError("vectors", "none has `role: expert`", "Name the experts of the domains.")

    remedy = "Name a file whose vectors have `calibration: PATH`, text of their domain."
    refuse_if_any(
        [
            Problem(f"vectors.{name}.calibration", "missing, but curvature is that of the loss on its text", remedy)
            for name, vector in experts.items()
            if vector.calibration is None
        ]
    )

    return config.model_copy(update={"vectors": experts})


def _refuse_single_tokens(domains: list[CurvatureDomain]) -> None:
    remedy = "Name text of two tokens or more."
    refuse_if_any(
        [
            Problem(f"vectors.{domain.name}.calibration", "none of its samples has a token to predict", remedy)
            for domain in domains
            if not domain.predicted_tokens
        ]
    )


def _measure_derivatives(
    pool: ModelPool, domains: list[CurvatureDomain], *, device: torch.device, dtype: torch.dtype
) -> DomainDerivatives:
    base = pool.frame
    with quiet_transformers():
        model = build_empty_model(base.config, dtype=dtype, label=base.label)

    stored = StoredValues(base, LiveWeights(model, base))
    stored.refuse_homeless()
    live = StreamedModel(model, stored, device=device, label=base.label)
    live.fill()

    model.requires_grad_(requires_grad=True)
    names, parameters = zip(*model.named_parameters(), strict=True)
    measured, gradients = _differentiate(_build_loss(model), parameters, domains, label=base.label)

    parameters_by_name = dict(zip(names, parameters, strict=True))
    vectors = (_read_vector(pool, domain.name, live, parameters_by_name) for domain in domains)
    geometry = measure_geometry(pool)
    # The vectors stand in the file's order there, the domains in order of name.
    order_K = [geometry.vectors.index(domain.name) for domain in domains]

    return DomainDerivatives(
        curvature=measured,
        vector_cosines_KK=geometry.whole.cosines[np.ix_(order_K, order_K)],
        descent_cosines_KK=measure_descent_cosines(vectors, names, gradients),
        tokens={domain.name: domain.predicted_tokens for domain in domains},
    )


def _build_loss(model: Any) -> Loss:
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


def _read_vector(
    pool: ModelPool, name: str, live: StreamedModel, parameters: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Expert minus base by name of the live parameter, on the host."""
    expert = pool.experts[name]

    def read_differences() -> Iterator[tuple[str, torch.Tensor]]:
        for target, values in StoredValues(expert, LiveWeights(live.model, expert)).stream_tensors(lambda _: True):
            first = live.first_names.get(target, target)
            if first in parameters:
                base = parameters[first].detach().cpu()
                yield first, values.to(base.dtype) - base

    return dict(read_differences())


def _build_record(derivatives: DomainDerivatives, config: Config, plans: list[CalibrationPlan]) -> dict[str, Any]:
    record = dump_derivatives(derivatives)
    for plan in plans:
        source = {"model": config.vectors[plan.vector].model, "data": plan.data.source, "samples": plan.data.samples}
        record["domains"][plan.vector] |= source
    return {"base": config.base} | record
