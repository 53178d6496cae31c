"""`aftermix analyze --robustness`: how the vectors of a file would bear being merged, measured around its base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from aftermix.analysis.geometry import measure_geometry
from aftermix.analysis.robustness.forecast import OffsetDraw, measure_robustness
from aftermix.analysis.robustness.interference import measure_interference
from aftermix.analysis.robustness.tables import RobustnessFindings, dump_robustness
from aftermix.config import Config
from aftermix.files import write_atomically
from aftermix.jobs.analysis.live_base import DomainTexts, open_domain_texts, read_live_vector
from aftermix.jobs.analysis.targets import NumberSink, determine_picture_kind, hand_over
from aftermix.seeds import derived_seed

SMALLEST = 2.0**-24
"""Distance of a uniform draw from 0: half a step of 2^-23."""


def analyze_robustness(
    config: Config, *, json: NumberSink | None = None, picture: Path | None = None, dtype: torch.dtype = torch.float32
) -> tuple[RobustnessFindings, str]:
    """Losses of every expert's domain around the base.

    All numbers also go to `json`, a file or a function that takes their text, and a drawing to the file `picture`.

    A domain is what `vectors.NAME.calibration` of an expert names, in the sample that `calibrate` chooses; its `seed`
    draws the offsets. Returns the findings and the base's name. Raises :class:`AftermixError`, before weights are read,
    for a domain without text, and for models that do not align.
    """
    kind = determine_picture_kind(picture) if picture else None
    texts = open_domain_texts(config, reason="robustness is that of the loss on its text")

    probe = LiveProbe.open(texts, dtype=dtype, seed=texts.config.calibrate.seed)
    names = [domain.name for domain in texts.domains]
    forecast = measure_robustness(probe, names, scales=probe.scales, seed=texts.config.calibrate.seed)
    findings = RobustnessFindings(forecast, measure_interference(texts.pool), measure_geometry(texts.pool))

    if json is not None:
        sources = {
            plan.vector: {
                "model": texts.config.vectors[plan.vector].model,
                "data": plan.data.source,
                "samples": plan.data.samples,
            }
            for plan in texts.plans
        }
        hand_over(dump_robustness(findings, base=texts.config.base, sources=sources), json)
    if picture is not None and kind is not None:
        from aftermix.analysis.robustness.picture import draw_robustness

        write_atomically(picture, draw_robustness(findings, kind=kind))
    return findings, texts.pool.frame.label


@dataclass
class LiveProbe:
    """The base as a living model that is moved along vectors and by noise; memory is the base and all vectors."""

    model: Any
    texts: DomainTexts
    base: Mapping[str, torch.Tensor]
    """Values of the living parameters, on the host."""
    vectors: Mapping[str, Mapping[str, torch.Tensor]]
    scales: Mapping[str, float]
    """Mean magnitude of the entries of each vector: the most likely scale of a Laplace distribution around 0."""
    seed: int
    _placed: tuple[Any, ...] = field(default=(), repr=False)

    @classmethod
    def open(cls, texts: DomainTexts, *, dtype: torch.dtype, seed: int) -> LiveProbe:
        """The living base, and each vector by name of the living parameter."""
        live = texts.open_base(dtype)
        parameters = dict(live.model.named_parameters())
        vectors = {domain.name: read_live_vector(texts.pool, domain.name, live, parameters) for domain in texts.domains}
        base = {name: parameter.detach().cpu().clone() for name, parameter in parameters.items()}
        entries = max(1, sum(tensor.numel() for tensor in base.values()))
        scales = {
            name: sum(float(tensor.double().abs().sum()) for tensor in tensors.values()) / entries
            for name, tensors in vectors.items()
        }
        return cls(live.model, texts, base, vectors, scales, seed)

    def probe_loss(self, domain: str, weights: Mapping[str, float], draw: OffsetDraw | None = None) -> float:
        """Mean loss of `domain` at `base + sum of weight * vector`, with the noise of `draw`, in nats a token."""
        wanted = (tuple(weights.items()), draw, domain if draw is not None else None)
        if wanted != self._placed:
            self._move(domain, weights, draw)
            self._placed = wanted

        read = next(each for each in self.texts.domains if each.name == domain)
        total = 0.0
        with torch.no_grad():
            for tokens_BT in read.batches:
                logits_BTV = self.model(tokens_BT, use_cache=False).logits[:, :-1]
                labels = tokens_BT[:, 1:].flatten()
                total += float(cross_entropy(logits_BTV.flatten(0, 1).float(), labels, reduction="sum"))
        return total / read.predicted_tokens

    def _move(self, domain: str, weights: Mapping[str, float], draw: OffsetDraw | None) -> None:
        scale = self.scales[domain] if draw is not None else 0.0
        for name, parameter in self.model.named_parameters():
            values = self.base[name].clone()
            for vector, weight in weights.items():
                if weight and name in self.vectors[vector]:
                    values.add_(self.vectors[vector][name], alpha=weight)
            if draw is not None and name in self.vectors[domain]:
                values.add_(self._draw_noise(name, domain, draw, values), alpha=draw.factor * scale)
            parameter.data.copy_(values)

    def _draw_noise(self, name: str, domain: str, draw: OffsetDraw, like: torch.Tensor) -> torch.Tensor:
        """Laplace noise of scale 1, of the shape of `like`: the difference of two exponentials."""
        streams = torch.Generator().manual_seed(derived_seed(self.seed, "robustness", domain, draw.number, name))
        uniform = torch.rand((2, *like.shape), generator=streams) + SMALLEST
        return (uniform[0].log() - uniform[1].log()).to(like.dtype)
