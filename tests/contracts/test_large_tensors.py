"""Methods that survey a tensor of all vectors, on tensors of several blocks and with rows longer than a block."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aftermix.checkpoints.pool import ModelPool, open_pool
from aftermix.config import Config, MergeConfig, VectorConfig
from aftermix.errors import CheckpointError
from aftermix.merging.blocks import list_block_spans
from aftermix.merging.merge import Merger
from aftermix.merging.methods import METHODS, bind
from aftermix.merging.prepared import prepare_vectors
from aftermix.merging.prepared_gpu import ResidentVectors
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.stream import stream_merged_pieces, stream_merged_tensors

SHAPES = {
    "layers.0.a.weight": ((500, 700), torch.bfloat16),
    "layers.0.b.weight": ((2, 300_000), torch.float32),
    "layers.1.a.weight": ((350_001,), torch.bfloat16),
    "norm.weight": ((5,), torch.float32),
    "scale": ((), torch.float32),
    "zeros": ((4, 3), torch.bfloat16),
}
SURVEYING = [name for name, method in METHODS.items() if method.inter.surveys_tensors]
IN_BLOCKS = [name for name in SURVEYING if not bind(MergeConfig(method=name)).needs_whole_tensors]
CASES = [(name, {}) for name in IN_BLOCKS] + [
    ("model_stock", {"filter_wise": True}),
    ("pcb", {"clamp": 0.001}),
    ("pcb", {"scores": "softmax"}),
]
NAMES = [name + "".join(options) for name, options in CASES]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for number, name in enumerate(["base", "a", "b", "c"]):
        folders[name] = folder = tmp_path_factory.mktemp(name)
        draw = torch.Generator().manual_seed(0)
        tensors = {key: torch.randn(shape, generator=draw) for key, (shape, _) in SHAPES.items()}
        if number:
            draw.manual_seed(number)
            tensors = {key: tensor + 0.3 * torch.randn(tensor.shape, generator=draw) for key, tensor in tensors.items()}
        tensors["zeros"].zero_()
        stored = {key: tensor.to(SHAPES[key][1]) for key, tensor in tensors.items()}
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folders


def config_of(models: dict[str, Path], method: str, **options: object) -> Config:
    names = "ab" if method == "slerp" else "abc"
    vectors = {name: VectorConfig(model=str(models[name])) for name in names}
    merge = MergeConfig.model_validate({"method": method, **options})
    return Config(base=str(models["base"]), vectors=vectors, merge=merge)


def merger(models: dict[str, Path], method: str, **options: object) -> Merger:
    config = config_of(models, method, **options)
    pool: ModelPool = open_pool(config)
    return Merger.build(pool, MergeRecipe.from_config(config.merge))


@pytest.mark.parametrize(("method", "options"), CASES, ids=NAMES)
def test_streamed_prepared_and_resident_are_the_same_bits_on_any_number_of_threads(
    method: str, options: dict[str, object], models: dict[str, Path]
) -> None:
    merges, weights = merger(models, method, **options), {"a": 0.7, "b": 0.4, "c": 0.2}
    streamed = dict(stream_merged_tensors(merges, weights))
    assert len(list_block_spans(SHAPES["layers.0.b.weight"][0])) == 3
    assert not streamed["zeros"].any()
    pieces = list(stream_merged_pieces(merges, weights, threads=3))
    for piece in pieces:
        part = streamed[piece.name].view(-1)[piece.start : piece.start + piece.values.numel()]
        assert piece.values.equal(part), piece.name
    prepared = prepare_vectors(merges)
    base = {info.name: merges.pool.read_base_block(info.name, (0, info.elements)) for info in prepared.moved}
    resident = ResidentVectors(prepared, torch.device("cpu"), base, prepared.kept)
    for vectors in (prepared, prepared, resident):  # twice: what a survey found is kept
        for name, tensor in vectors.stream_merged(weights):
            assert tensor.equal(streamed[name]), name


@pytest.mark.parametrize(("method", "options"), CASES, ids=NAMES)
def test_blocks_of_another_size_give_the_same_up_to_the_last_place(
    method: str, options: dict[str, object], models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {"a": 0.7, "b": 0.4, "c": 0.2}
    expected = dict(stream_merged_tensors(merger(models, method, dtype="float32", **options), weights))
    for module in ("merge", "prepared"):
        monkeypatch.setattr(
            f"aftermix.merging.{module}.list_block_spans", lambda shape: list_block_spans(shape, 99_999)
        )
    for name, tensor in stream_merged_tensors(merger(models, method, dtype="float32", **options), weights):
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", SURVEYING)
@pytest.mark.parametrize("model", ["base", "b"])
def test_a_faulty_number_is_found_where_it_is(method: str, model: str, models: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    if model == "base" and METHODS[method].operands == "models":
        pytest.skip("the base's values take no part")
    folder = tmp_path / "faulty"
    folder.mkdir()
    (folder / "config.json").write_text((models[model] / "config.json").read_text())
    tensors = load_file(models[model] / "model.safetensors")
    tensors["layers.0.a.weight"].view(-1)[349_999] = float("inf")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    merges = merger({**models, model: folder}, method, exclude=["layers.0.b", "layers.1"])
    owner = str(folder) if model == "base" else "vector 'b'"
    with pytest.raises(CheckpointError, match=rf"layers\.0\.a\.weight: {owner}.* holds 1 NaN or Inf values"):
        list(stream_merged_pieces(merges, {"a": 0.5, "b": 0.5, "c": 0.5}))
