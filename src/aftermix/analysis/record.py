"""A geometry as plain values, for JSON: what cannot be told (the angle of a vector of 0) is null."""

from __future__ import annotations

import math
from typing import Any

from aftermix.analysis.geometry import Floats, Geometry, Part
from aftermix.analysis.tensor_kinds import layer_labels


def geometry_record(geometry: Geometry) -> dict[str, Any]:
    """Every number of the tables, the cosines by layer and kind, and each tensor on its own."""
    whole = _by_vector(geometry, geometry.whole)
    labels = layer_labels(geometry.places.values())
    return {
        "elements": geometry.whole.elements,
        "base_norm": math.sqrt(geometry.whole.base),
        "vectors": {vector: entry | {"unmoved": geometry.unmoved(vector)} for vector, entry in whole.items()},
        "cosines": {
            "vectors": list(geometry.vectors),
            "whole": _matrix(geometry.whole.cosines),
            "layers": {label: _matrix(part.cosines) for label, part in geometry.layers.items()},
            "kinds": {kind: _matrix(part.cosines) for kind, part in geometry.kinds.items()},
        },
        "layers": {label: _by_vector(geometry, part) for label, part in geometry.layers.items()},
        "kinds": {kind: _by_vector(geometry, part) for kind, part in geometry.kinds.items()},
        "tensors": {
            name: {
                "layer": labels[geometry.places[name].stack, geometry.places[name].number],
                "kind": geometry.places[name].kind,
                "elements": part.elements,
                "base_norm": math.sqrt(part.base),
                "vectors": _by_vector(geometry, part),
            }
            for name, part in geometry.tensors.items()
        },
    }


def _by_vector(geometry: Geometry, part: Part) -> dict[str, dict[str, Any]]:
    norms, relative, shares = part.norms, part.relative, part.shares
    return {
        vector: {
            "norm": float(norms[row]),
            "relative": _finite(relative[row]),
            "changed": float(shares[row]),
            "max_abs": float(part.max_abs_V[row]),
        }
        for row, vector in enumerate(geometry.vectors)
    }


def _matrix(values: Floats) -> list[list[float | None]]:
    return [[_finite(value) for value in row] for row in values]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
