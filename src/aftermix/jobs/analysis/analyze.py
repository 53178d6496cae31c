"""`aftermix analyze`: which distribution the entries of each vector follow, as values, a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aftermix.analysis.distribution import VectorFit, fit_vectors
from aftermix.files import write_atomically
from aftermix.jobs.analysis.targets import (
    NumberSink,
    determine_picture_kind,
    hand_over,
    load_target,
    open_target_pool,
    parse_prefixes,
)


def analyze(
    target: str,
    *,
    base: str | None,
    json: NumberSink | None = None,
    picture: Path | None = None,
    prefix: Sequence[str] = (),
) -> tuple[dict[str, VectorFit], str]:
    """Fit the vectors of the file or model `target`; `prefix` maps names of a model, as `OWN=BASE`.

    All numbers also go to `json`, a file or a function that takes their text, and a drawing to the file `picture`.

    Returns the fits by vector and the base's name.
    Raises :class:`AftermixError`, before weights are read, for a picture of a kind that is not drawn, and for models
    that do not align; and for NaN or Inf in any of them.
    """
    kind = determine_picture_kind(picture) if picture else None
    config = load_target(target, base=base, prefixes=parse_prefixes(prefix))
    pool = open_target_pool(config, base=base)

    fits = fit_vectors(pool)
    if json is not None:
        vectors = {name: {"model": config.vectors[name].model} | _build_record(fit) for name, fit in fits.items()}
        hand_over({"base": config.base, "vectors": vectors}, json)

    if picture is not None and kind is not None:
        from aftermix.analysis.distribution_picture import draw_distributions

        write_atomically(picture, draw_distributions(fits, kind=kind))
    return fits, pool.frame.label


def _build_record(fit: VectorFit) -> dict[str, Any]:
    tensors = {name: tensor_fit and asdict(tensor_fit) for name, tensor_fit in fit.tensors.items()}
    return {"whole": fit.whole and asdict(fit.whole), "tensors": tensors}
