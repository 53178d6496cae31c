"""The base as a living model, and the text of each expert's domain: what losses around the base are measured with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from aftermix.analysis.curvature import CurvatureDomain
from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.config import Config, require
from aftermix.devices import open_device
from aftermix.errors import ConfigError, Problem, join_place, refuse_if_any
from aftermix.evaluation.engines.live_weights import LiveWeights
from aftermix.jobs.calibrate.command import CalibrationPlan, plan_calibration
from aftermix.jobs.calibrate.layer_inputs import StoredValues
from aftermix.saliency.streamed_model import StreamedModel, build_empty_model
from aftermix.terminal import quiet_transformers


@dataclass(frozen=True)
class DomainTexts:
    """Experts of a file, each with the sample of its text that `calibrate` chooses."""

    config: Config
    """With the vectors that stand for data alone."""
    pool: ModelPool
    plans: list[CalibrationPlan]
    domains: list[CurvatureDomain]
    """In order of name."""
    device: torch.device

    def open_base(self, dtype: torch.dtype) -> StreamedModel:
        """The base as a living model of type `dtype`, with its values."""
        base = self.pool.frame
        with quiet_transformers():
            model = build_empty_model(base.config, dtype=dtype, label=base.label)

        stored = StoredValues(base, LiveWeights(model, base))
        stored.refuse_homeless()
        live = StreamedModel(model, stored, device=self.device, label=base.label)
        live.fill()
        return live


def open_domain_texts(config: Config, *, reason: str) -> DomainTexts:
    """Open the experts of `config` and what they read.

    A domain is what `vectors.NAME.calibration` of an expert names. Raises :class:`AftermixError`, before weights are
    read, for a domain without text (`reason` says why it is needed), and for models that do not align: other shapes,
    another tokenizer than the base's.
    """
    config = _select_experts(config, reason)
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
    return DomainTexts(config, pool, plans, domains, device)


def read_live_vector(
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


def _select_experts(config: Config, reason: str) -> Config:
    """`config` with the vectors that stand for data. Raises :class:`AftermixError` for one that names no text."""
    require(config, "base", "vectors")
    experts = {name: vector for name, vector in config.vectors.items() if vector.role == "expert"}
    if not experts:
        raise ConfigError("vectors", "none has `role: expert`", "Name the experts of the domains.")

    remedy = "Name a file whose vectors have `calibration: PATH`, text of their domain."
    refuse_if_any(
        [
            Problem(join_place("vectors", name, "calibration"), f"missing, but {reason}", remedy)
            for name, vector in experts.items()
            if vector.calibration is None
        ]
    )

    return config.model_copy(update={"vectors": experts})


def _refuse_single_tokens(domains: list[CurvatureDomain]) -> None:
    remedy = "Name text of two tokens or more."
    refuse_if_any(
        [
            Problem(
                join_place("vectors", domain.name, "calibration"), "none of its samples has a token to predict", remedy
            )
            for domain in domains
            if not domain.predicted_tokens
        ]
    )
