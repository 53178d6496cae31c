"""A load that ends early, whatever ends it, leaves nothing that the next one could take for its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from aftermix.checkpoints.open_model import open_model
from aftermix.checkpoints.pool import open_pool
from aftermix.config import Config, MergeConfig
from aftermix.errors import CheckpointError, EvaluationError
from aftermix.evaluation.engines.live_weights import LiveWeights
from aftermix.merging.merge import Merger
from aftermix.merging.prepared import prepare_vectors
from aftermix.merging.recipe import MergeRecipe

INTERRUPTIONS = [
    MemoryError(),
    KeyboardInterrupt(),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    CheckpointError("model.safetensors", "has changed since it was opened", "Restore it."),
    StopIteration("of a stream's own"),
]


def make_moe(folder: Path, *, seed: int) -> Path:
    """A model whose experts are stored one by one and held fused."""
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        moe_intermediate_size=8,
        num_experts=3,
        num_experts_per_tok=2,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(params=["plain", "fused"])
def pair(request: Any, tmp_path: Path, model_a: Path, model_b: Path) -> tuple[Path, Path]:
    """Folders of two models of one architecture."""
    if request.param == "plain":
        return model_a, model_b
    return make_moe(tmp_path / "a", seed=1), make_moe(tmp_path / "b", seed=2)


def open_live(folder: Path) -> tuple[Any, LiveWeights]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, LiveWeights(model, open_model(str(folder)))


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_holds(model: Any, folder: Path) -> None:
    """To the bit what transformers loads."""
    fresh = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, fresh[name]), name


def break_off(tensors: dict[str, torch.Tensor], error: BaseException, *, after: int) -> Iterator[tuple[str, Any]]:
    for number, (name, tensor) in enumerate(tensors.items()):
        if number == after:
            raise error
        yield name, tensor


@pytest.mark.parametrize("error", INTERRUPTIONS, ids=lambda error: type(error).__name__)
def test_the_next_load_after_an_exception_in_the_stream_begins_clean(pair: tuple[Path, Path], error: Any) -> None:
    base, expert = pair
    model, live = open_live(base)
    given = read_weights(expert)
    for after in (0, 3, len(given) - 1):
        # `RuntimeError`: what a generator makes of a StopIteration.
        with pytest.raises((type(error), RuntimeError)):
            live.load(break_off(given, error, after=after))
        live.load((), unchanged=frozenset(given))
        assert_holds(model, base)

        with pytest.raises((type(error), RuntimeError)):
            live.load(break_off(given, error, after=after))
        live.load(given.items())
        assert_holds(model, expert)


def test_faults_of_one_load_are_none_of_the_next(pair: tuple[Path, Path]) -> None:
    base, expert = pair
    model, live = open_live(base)
    given = read_weights(expert)
    bent = {**given, "model.norm.weight": torch.ones(3)}
    for _ in range(2):
        with pytest.raises(EvaluationError, match=r"1 tensors do not match it: model\.norm\.weight: is \(3,\)"):
            live.load(bent.items())
    live.load((), unchanged=frozenset(given))
    assert_holds(model, base)


def test_a_restoration_that_fails_is_made_up_for(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    base, expert = pair
    model, live = open_live(base)
    given = read_weights(expert)
    live.load(given.items())

    stored, reads = live.read_stored, iter(range(len(given)))

    def fail_late(name: str) -> torch.Tensor:
        if next(reads) == len(given) // 2:
            raise CheckpointError(name, "has changed since it was opened", "Restore it.")
        return stored(name)

    monkeypatch.setattr(live, "read_stored", fail_late)
    with pytest.raises(CheckpointError):
        live.load((), unchanged=frozenset(given))
    monkeypatch.undo()
    live.load((), unchanged=frozenset(given))
    assert_holds(model, base)


def test_threads_of_a_stream_that_was_left_write_no_more(
    model_a: Path, model_b: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, live = open_live(model_a)
    config = Config.model_validate({"base": str(model_a), "vectors": {"b": {"model": str(model_b)}}})
    merger = Merger.build(open_pool(config), MergeRecipe.from_config(MergeConfig(method="task_arithmetic")))
    prepared = prepare_vectors(merger)

    def fail(target: str, tensor: torch.Tensor) -> None:
        raise MemoryError(target, tensor.shape)

    # Values that were computed ahead lie in parameters whose names have not come out.
    monkeypatch.setattr(live, "copy", fail)
    with pytest.raises(MemoryError):
        live.load(prepared.stream_merged({"b": 1.0}, place=live.place, threads=2), unchanged=prepared.unchanged)
    monkeypatch.undo()
    live.load((), unchanged=frozenset(read_weights(model_a)))
    assert_holds(model, model_a)

    live.load(prepared.stream_merged({"b": 0.0}, place=live.place, threads=2), unchanged=prepared.unchanged)
    assert_holds(model, model_a)


def test_a_model_that_writes_its_own_weights_is_refused_for_good(model_a: Path) -> None:
    model, live = open_live(model_a)
    given = read_weights(model_a)
    live.load(given.items())
    with torch.no_grad():
        model.model.norm.weight.mul_(0.5)  # as RWKV does when it first runs
    for _ in range(2):
        with pytest.raises(EvaluationError, match="has changed 1 of its own weights by running"):
            live.load(given.items())
