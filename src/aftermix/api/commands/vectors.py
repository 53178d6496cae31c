"""Measures of vectors: geometry, distributions, curvature. Each result has the name of its base beside it.

All numbers also go to `json`, a file or a function that is called with their text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aftermix.extras import refuse_missing_extra

if TYPE_CHECKING:
    from aftermix.analysis.curvature_tables import DomainDerivatives
    from aftermix.analysis.distribution import VectorFit
    from aftermix.analysis.geometry import VectorGeometry
    from aftermix.analysis.robustness.tables import RobustnessFindings
    from aftermix.jobs.analysis.targets import NumberSink


def inspect_vectors(
    target: str,
    *,
    base: str | None,
    json: NumberSink | None = None,
    picture: Path | None = None,
    prefix: Sequence[str] = (),
) -> tuple[VectorGeometry, str]:
    """Norms, cosines and untouched tensors of the vectors of a file, or of a model minus `base`: `aftermix inspect`.

    `prefix` maps tensor names of a model to those of its base, as `OWN=BASE`.

    Raises :class:`AftermixError` for models that do not align.
    """
    if picture is not None:
        refuse_missing_extra("report", what="inspect --picture")
    from aftermix.jobs.analysis.inspect import inspect

    return inspect(target, base=base, json=json, picture=picture, prefix=prefix)


def fit_distributions(
    target: str,
    *,
    base: str | None,
    json: NumberSink | None = None,
    picture: Path | None = None,
    prefix: Sequence[str] = (),
) -> tuple[dict[str, VectorFit], str]:
    """Laplace and Gaussian fitted to the entries of the vectors: `aftermix analyze`.

    `prefix` maps tensor names of a model to those of its base, as `OWN=BASE`.

    Raises :class:`AftermixError` for models that do not align.
    """
    refuse_missing_extra("report", what="analyze")
    from aftermix.jobs.analysis.analyze import analyze

    return analyze(target, base=base, json=json, picture=picture, prefix=prefix)


def measure_derivatives(
    target: str, *, base: str | None, json: NumberSink | None = None, picture: Path | None = None
) -> tuple[DomainDerivatives, str]:
    """Derivatives of the loss of every expert's domain at the base: `aftermix analyze --curvature`.

    Raises :class:`AftermixError` for a domain without text, and for models that do not align.
    """
    refuse_missing_extra("search", what="analyze --curvature")
    from aftermix.jobs.analysis.curvature import analyze_curvature
    from aftermix.jobs.analysis.targets import load_target

    return analyze_curvature(load_target(target, base=base), json=json, picture=picture)


def forecast_robustness(
    target: str, *, base: str | None, json: NumberSink | None = None, picture: Path | None = None
) -> tuple[RobustnessFindings, str]:
    """Losses along and around the vectors, their interference, cosines by layer: `aftermix analyze --robustness`.

    Raises :class:`AftermixError` for a domain without text, and for models that do not align.
    """
    refuse_missing_extra("search", what="analyze --robustness")
    from aftermix.jobs.analysis.robustness import analyze_robustness
    from aftermix.jobs.analysis.targets import load_target

    return analyze_robustness(load_target(target, base=base), json=json, picture=picture)
