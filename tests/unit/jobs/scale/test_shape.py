"""Counts on meta tensors against sums by hand and against real models of the published sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aftermix.errors import AftermixError
from aftermix.jobs.scale.shape import ModelShape, count_shape

EXAMPLES = Path(__file__).parents[4] / "examples" / "scale"
DENSE = {
    "model_type": "llama",
    "dtype": "float16",
    "hidden_size": 32,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "tie_word_embeddings": False,
}
SPARSE = DENSE | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None}


def count(folder: Path, values: dict[str, Any]) -> ModelShape:
    (folder / "config.json").write_text(json.dumps(values))
    return count_shape(str(folder), moves=lambda name: "embed_tokens" not in name)


def test_a_dense_model_is_the_sum_by_hand(tmp_path: Path) -> None:
    shape = count(tmp_path, DENSE)
    attention, mlp, norms = 32 * (32 + 16 + 16) + 32 * 32, 3 * 32 * 88, 2 * 32
    layer = attention + mlp + norms
    assert shape.parameters == 3 * layer + 32 + 2 * 100 * 32
    assert shape.moved == shape.parameters - 100 * 32
    assert shape.active == shape.parameters
    assert shape.multiplied == shape.parameters - 100 * 32  # an embedding of its own is looked up
    assert shape.replicated == 3 * norms + 32
    assert (shape.largest_layer, shape.largest_tensor) == (layer, 100 * 32)
    assert (shape.stored_bytes, shape.file_bytes) == (2, 2 * shape.parameters)
    assert shape.widths == (32 + 32) + 2 * (32 + 16) + (32 + 32) + 3 * (32 + 88)


def test_a_mixture_of_experts_meets_its_top_ones(tmp_path: Path) -> None:
    shape = count(tmp_path, SPARSE)
    routed = 3 * 8 * 3 * 32 * 88
    assert (shape.routed, shape.experts, shape.top) == (routed, 8, 2)
    assert shape.active == shape.parameters - routed + routed * 2 // 8
    assert shape.met_parameters(1) == shape.active
    assert shape.met_parameters(3) == pytest.approx(shape.parameters - routed * 0.75**3)


def test_a_cache_is_the_sum_over_layers_and_heads(tmp_path: Path) -> None:
    windowed = {"model_type": "gemma3_text", "layer_types": ["sliding_attention", "full_attention"], "head_dim": 8}
    shape = count(tmp_path, DENSE | windowed | {"num_hidden_layers": 2, "sliding_window": 50})
    by_hand = sum(2 * 2 * 2 * 8 * min(tokens, window) for tokens, window in ((70, 50), (70, 70)))
    assert shape.cache_bytes(70) == by_hand
    assert shape.cache_bytes(70, gpus=2) == by_hand // 2
    assert shape.cache_bytes(70, gpus=4) == by_hand // 2  # each GPU holds one of two heads
    assert shape.cache_bytes(70, width=4) == 2 * by_hand


def test_weights_are_shared_but_for_vectors_of_one_dimension(tmp_path: Path) -> None:
    shape = count(tmp_path, DENSE)
    assert shape.weight_bytes(gpus=1, width=2) == 2 * shape.parameters
    assert shape.weight_bytes(gpus=4, width=4) == 4 * (224 + (shape.parameters - 224) // 4)


@pytest.mark.parametrize(
    ("name", "parameters", "active"),
    [("gemma-3-27b", 27_009_346_304, 27_009_346_304), ("llama-4-maverick", 400_711_848_960, 17_184_691_200)],
)
def test_published_models_have_their_published_sizes(name: str, parameters: int, active: int) -> None:
    shape = count_shape(str(EXAMPLES / name), moves=lambda _: True)
    assert (shape.parameters, shape.active) == (parameters, active)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"model_type": "nobody"}, "its architecture cannot be planned"),
        ({"model_type": "mamba", "num_hidden_layers": 1, "hidden_size": 8, "vocab_size": 9}, "cannot be planned"),
        (DENSE | {"num_attention_heads": 0}, "cannot be planned"),
        (DENSE | {"num_hidden_layers": 10**9}, "`num_hidden_layers` is 1,000,000,000, expected 1 to 10,000"),
        ([1], "expected a mapping"),
    ],
)
def test_a_configuration_that_is_none_is_refused(tmp_path: Path, values: Any, text: str) -> None:
    with pytest.raises(AftermixError, match=text):
        count(tmp_path, values)


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AftermixError, match=r"has no config\.json"):
        count_shape(str(tmp_path), moves=lambda _: True)
