"""A response that is stored predicts the same bits."""

from __future__ import annotations

import dataclasses

import numpy as np
from tests.unit.response.response_world import ParabolaWorld, list_design, place_merges

from aftermix.response.response_model import ResponseModel
from aftermix.response.stored import pack_response, unpack_response
from aftermix.response.surface.coordinates import MergeCoordinates


def test_a_stored_response_predicts_the_same_bits() -> None:
    world, design = ParabolaWorld(), list_design(2, 10)
    measured = world.measure(design)
    measured["task1"] = dataclasses.replace(measured["task1"], kind="score", loglikelihood_NR=None, items=None)
    model = ResponseModel.fit(place_merges(design), measured, seed=0)
    coordinates = MergeCoordinates(("ja", "math"))

    description, arrays = pack_response(model, coordinates, tuple(range(10)))
    again, where = unpack_response(description, arrays)
    new = place_merges(np.random.default_rng(7).uniform(0, 1, (20, 2)))
    assert where == dataclasses.replace(coordinates, choices={})
    for task, predicted in model.predict(new).items():
        assert again.predict(new)[task].tobytes() == predicted.tobytes()
    assert again.calibrate({"task0": 0.5, "task1": 0.5}) == model.calibrate({"task0": 0.5, "task1": 0.5})
    assert all(array.ndim == 1 for array in arrays.values())
