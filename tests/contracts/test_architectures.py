"""Every architecture family of the table merges as any other, on disk, in memory and in a live model."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aftermix.checkpoints.names import build_matcher
from aftermix.checkpoints.pool import open_pool
from aftermix.checkpoints.reader import open_checkpoint
from aftermix.config import SEARCH_EXCLUDE, Config, EvaluateConfig, MergeConfig, VectorConfig
from aftermix.errors import ConfigError, EvaluationError, ManyProblemsError
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.engines.live_weights import LiveWeights
from aftermix.jobs.doctor.command import doctor
from aftermix.jobs.merge.command import merge
from aftermix.merging.merge import Merger
from aftermix.merging.prepared import prepare_vectors
from aftermix.merging.recipe import MergeRecipe
from aftermix.merging.stream import stream_merged_tensors
from contracts.families import CAUSAL, FAMILIES, IMAGE_TOKEN, IMAGES, PAIRED, TOKENS, Family
from contracts.named_families import COMPARING, HEARING, NAMED, SEEING

Tensors = Mapping[str, torch.Tensor]
OFTEN = ("qwen3_5", "whisper")
"""Families asked for by name that every run of the tests looks at."""
EVERY = [*FAMILIES, *(name if name in OFTEN else pytest.param(name, marks=pytest.mark.whole) for name in NAMED)]
HALF = {"ties": {"density": 0.5}}
A, B = {"a": 0.6, "b": 0.4}, {"a": -0.5, "b": 1.0}


@dataclass(frozen=True)
class Instance:
    """A base and two experts of one family, on disk."""

    family: Family
    folder: Path

    def load(self, folder: str | Path, **options: Any) -> Any:
        """What transformers makes of a folder, in the stored type or in `dtype`."""
        import transformers

        loader = getattr(transformers, self.family.loader)
        return loader.from_pretrained(self.folder / folder, **{"dtype": "auto", **options})

    def config(self, method: str, weights: Mapping[str, float], **options: Any) -> Config:
        vectors = {name: VectorConfig(model=str(self.folder / name), weight=w) for name, w in weights.items()}
        settings = MergeConfig.model_validate({"method": method, **HALF.get(method, {}), **options})
        return Config(base=str(self.folder / "base"), vectors=vectors, merge=settings)

    def merger(self, method: str, weights: Mapping[str, float], *, for_search: bool = False) -> Merger:
        config = self.config(method, weights)
        return Merger.build(open_pool(config), MergeRecipe.from_config(config.merge, for_search=for_search))

    def outputs(self, model: Any) -> torch.Tensor:
        """Logits of a fixed input."""
        with torch.no_grad():
            output = model.eval()(**_inputs(self.family))
        return (output.logits_per_image if self.family.loader == COMPARING else output.logits).clone()


def _inputs(family: Family) -> dict[str, torch.Tensor]:
    pixels = {"pixel_values": torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)}
    if family.loader == IMAGES:
        return pixels
    tokens = torch.tensor([[5, 9, 200, 31, 7, 64, 2, 11]])
    if family.further:
        return _further_inputs(family, tokens)
    if family.loader == PAIRED:
        return {"input_ids": tokens, "decoder_input_ids": tokens[:, 2:6]}
    if "vision_config" not in family.config:
        return {"input_ids": tokens}
    tokens[0, 2:6] = IMAGE_TOKEN
    return {"input_ids": tokens, "token_type_ids": (tokens == IMAGE_TOKEN).long(), **pixels}


def _further_inputs(family: Family, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tokens, those of an image among them, with what is seen or heard."""
    tokens[0, 2 : 2 + family.image_tokens] = IMAGE_TOKEN
    further = {
        name: torch.linspace(-1, 1, math.prod(given)).reshape(given)
        if isinstance(given, tuple)
        else torch.tensor(given)
        for name, given in family.further.items()
    }
    kinds = {"mm_token_type_ids": (tokens == IMAGE_TOKEN).long()} if len(further) > 1 else {}
    return {"decoder_input_ids" if family.loader == HEARING else "input_ids": tokens, **further, **kinds}


def _make(family: Family, folder: Path) -> Instance:
    import transformers

    config = transformers.AutoConfig.for_model(family.kind, **family.config)
    torch.manual_seed(0)
    model = getattr(transformers, family.loader).from_config(config)
    for number, name in enumerate(("base", "a", "b")):
        torch.manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
            for buffer in model.buffers():
                if not buffer.is_floating_point():
                    buffer.add_(number)  # batches seen: an expert has seen more
        model.to(torch.bfloat16).save_pretrained(folder / name, max_shard_size="8KB" if name == "a" else "5GB")
        _as_before_5(family, folder / name)
        model.float()
    return Instance(family, folder)


def _as_before_5(family: Family, folder: Path) -> None:
    """Rewrite the weights as the family's earlier files have them."""
    if not family.dropped_prefix and not family.buffers:
        return
    tensors = {name.removeprefix(family.dropped_prefix): tensor for name, tensor in stored(folder).items()}
    for name, (dtype, shape) in family.buffers.items():
        tensors[name] = torch.ones(shape).tril().to(getattr(torch, dtype)) if shape[1:] else torch.full(shape, -1e4)
    for file in folder.glob("model*"):
        file.unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=EVERY)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Instance:
    """A base and experts a (sharded where the family is stored as transformers writes it) and b."""
    return _make((FAMILIES | NAMED)[request.param], tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def written(made: Instance) -> dict[str, Path]:
    """Two merges by method, on disk."""
    return {
        method: merge(made.config(method, A), made.folder / f"by-{method}") for method in ("task_arithmetic", "ties")
    }


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def merged(merger: Merger, weights: Mapping[str, float]) -> dict[str, torch.Tensor]:
    return dict(stream_merged_tensors(merger, weights))


def assert_same_bits(found: Tensors, expected: Tensors) -> None:
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert found[name].contiguous().view(-1).view(torch.uint8).equal(tensor.contiguous().view(-1).view(torch.uint8))


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_transformers_loads_the_merge_without_a_remark(
    made: Instance, written: Mapping[str, Path], method: str
) -> None:
    model, report = made.load(written[method], output_loading_info=True)
    found = {key: tuple(value) for key, value in report.items() if value}
    assert found == ({"unexpected_keys": made.family.remarks} if made.family.remarks else {})
    assert model.dtype == torch.bfloat16
    assert (written[method] / "config.json").read_bytes() == (made.folder / "base/config.json").read_bytes()
    assert not torch.equal(made.outputs(model.float()), made.outputs(made.load("base", dtype=torch.float32)))


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_weights_of_zero_give_the_base_to_the_bit(made: Instance, method: str) -> None:
    weights = {"a": 0.0, "b": 0.0}
    assert_same_bits(merged(made.merger(method, weights), weights), stored(made.folder / "base"))


@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_one_vector_at_one_gives_that_expert(made: Instance, method: str) -> None:
    base, expert = stored(made.folder / "base"), stored(made.folder / "a")
    expected = {name: base[name] if name in made.family.passed else tensor for name, tensor in expert.items()}
    found = merged(made.merger(method, {"a": 1.0}), {"a": 1.0})
    if method == "linear":
        assert_same_bits(found, expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=2**-8, atol=1e-9)


def test_a_merge_is_the_sum_in_float64_of_what_transformers_loads(made: Instance, written: Mapping[str, Path]) -> None:
    base, a, b = (made.load(name).state_dict() for name in ("base", "a", "b"))
    found = made.load(written["task_arithmetic"]).state_dict()
    assert found.keys() == base.keys()
    for name, tensor in found.items():
        if not tensor.is_floating_point():
            assert tensor.equal(base[name])
            continue
        theta = base[name].double()
        expected = theta + A["a"] * (a[name].double() - theta) + A["b"] * (b[name].double() - theta)
        torch.testing.assert_close(tensor.double(), expected, rtol=2**-8, atol=1e-7)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_streamed_is_prepared_is_written(
    made: Instance, written: Mapping[str, Path], method: str, tmp_path: Path
) -> None:
    merger = made.merger(method, A)
    streamed = merged(merger, A)
    assert_same_bits(streamed, stored(written[method]))
    for prepared in (prepare_vectors(merger), prepare_vectors(merger, memory_bytes=0, scratch=tmp_path)):
        assert prepared.unchanged == set(made.family.passed)
        live = dict(prepared.stream_merged(A))
        assert_same_bits(live, {name: tensor for name, tensor in streamed.items() if name in live})


def test_a_live_model_is_the_written_one(made: Instance, written: Mapping[str, Path]) -> None:
    """Every tensor given, buffers that transformers ignores included."""
    model = made.load("base", dtype=torch.float32)
    LiveWeights(model, open_checkpoint(made.folder / "base")).load(merged(made.merger("ties", A), A).items())
    assert made.outputs(model).equal(made.outputs(made.load(written["ties"], dtype=torch.float32)))


def test_the_weights_of_a_live_model_leave_no_trace(made: Instance) -> None:
    """A, then B, then A again, with what a search leaves at the base."""
    prepared = prepare_vectors(made.merger("task_arithmetic", A, for_search=True))
    model = made.load("base", dtype=torch.float32)
    live = LiveWeights(model, open_checkpoint(made.folder / "base"))
    seen = []
    for weights in (A, B, A):
        live.load(prepared.stream_merged(weights), unchanged=prepared.unchanged)
        seen.append((made.outputs(model), {name: tensor.clone() for name, tensor in model.state_dict().items()}))
    assert seen[0][0].equal(seen[2][0])
    assert not seen[0][0].equal(seen[1][0])
    assert_same_bits(seen[0][1], seen[2][1])


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("llama", "num_attention_heads"),
        ("gpt2", "n_head"),
        ("mixtral", "num_experts_per_tok"),
        ("gemma3_multimodal", "num_attention_heads"),
    ],
)
def test_the_same_shapes_with_other_heads_are_refused(name: str, key: str, tmp_path: Path) -> None:
    made = _make(FAMILIES[name], tmp_path)
    path = made.folder / "b/config.json"
    assert f'"{key}": 2' in path.read_text()
    path.write_text(path.read_text().replace(f'"{key}": 2', f'"{key}": 4'))
    with pytest.raises(ManyProblemsError) as error:
        merge(made.config("ties", A), tmp_path / "merged")
    assert str(error.value).startswith(f"config.json: vector 'b' has {key} = 4, base has 2")
    assert str(error.value).endswith(". Was it trained from this base?")


@pytest.mark.parametrize("with_names", ["base", "a"])
@pytest.mark.parametrize(
    "name",
    [
        *("t5", "bert", "gemma3_multimodal", "qwen3_5"),
        *(pytest.param(name, marks=pytest.mark.whole) for name in ("modernbert", "whisper", "qwen3_vl", "gemma4")),
    ],
)
def test_second_names_of_an_embedding_may_be_stored_or_not(name: str, with_names: str, tmp_path: Path) -> None:
    """Random masks are drawn once for all names, so they stay one tensor."""
    made = _make((FAMILIES | NAMED)[name], tmp_path)
    tensors = stored(made.folder / with_names)
    tensors |= {second: tensors[first].clone() for second, first in made.family.ties.items()}
    for file in (made.folder / with_names).glob("model*"):
        file.unlink()
    save_file(tensors, made.folder / with_names / "model.safetensors", metadata={"format": "pt"})
    config = made.config("dare_ties", A, density=0.5)
    assert doctor(config).problems == []
    found = stored(merge(config, tmp_path / "merged"))
    assert found.keys() == stored(made.folder / "base").keys()
    for second, first in made.family.ties.items():
        assert found.get(second, found[first]).equal(found[first])
        assert not found[first].equal(stored(made.folder / "base")[first])
    model, report = made.load(tmp_path / "merged", output_loading_info=True)
    assert {key: tuple(value) for key, value in report.items() if value} == {}
    assert made.outputs(model.float()).isfinite().all()


def test_an_unknown_kind_of_tensors_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        build_matcher(["kind:heads"], where="merge.exclude")
    assert str(error.value) == (
        "merge.exclude: there is no kind 'heads' of tensors. There are: embeddings, head, positions. "
        "Did you mean 'head'?"
    )


@pytest.mark.parametrize("early", ["base", "a"])
@pytest.mark.parametrize("name", ["gpt2_before_5", "gpt_neox_before_5"])
def test_a_file_may_store_what_the_model_computes_or_leave_it_out(name: str, early: str, tmp_path: Path) -> None:
    """An expert saved by today's library of a base that an earlier one saved, and the other way round."""
    made = _make(FAMILIES[name], tmp_path)
    folder = made.folder / ("a" if early == "base" else "base")
    kept = {key: tensor for key, tensor in stored(folder).items() if key not in made.family.passed}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    config = made.config("linear", {"a": 1.0})
    assert doctor(config).problems == []
    base, expert = stored(made.folder / "base"), stored(made.folder / "a")
    expected = {key: tensor if key in made.family.passed else expert[key] for key, tensor in base.items()}
    assert_same_bits(stored(merge(config, tmp_path / "merged")), expected)


def test_a_model_that_rescales_its_own_weights_is_refused(tmp_path: Path) -> None:
    rwkv = FAMILIES["rwkv"]
    made = _make(replace(rwkv, config={**rwkv.config, "rescale_every": 1}), tmp_path)
    model = made.load("base", dtype=torch.float32)
    live, expert = LiveWeights(model, open_checkpoint(made.folder / "base")), stored(made.folder / "a")
    live.load(expert.items())
    live.load(expert.items())
    assert made.outputs(model).equal(made.outputs(made.load("a", dtype=torch.float32)))
    with pytest.raises(EvaluationError) as error:
        live.load(expert.items())
    assert str(error.value) == (
        "live model: has changed 4 of its own weights by running, first 'rwkv.blocks.0.attention.output.weight'. "
        "Switch that off in its config.json (RWKV: `rescale_every: 0`); candidates would not be comparable."
    )


def test_the_engine_scores_what_was_written(
    made: Instance, written: Mapping[str, Path], family: Mapping[str, Path], tmp_path: Path
) -> None:
    if made.family.loader not in (CAUSAL, SEEING):
        pytest.skip("lm-eval has no tasks for it")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(family["base"] / name, tmp_path)
    config = EvaluateConfig.model_validate({"tasks": ["unused"], "device": "cpu", "batch_size": 2, "max_length": 24})
    engine = HuggingFaceEngine.open(made.folder / "base", tokenizer_folder=tmp_path, config=config)
    request = [(("", ""), [5, 9, 200], [31, 7]), (("", ""), [4], [8, 15, 16])]
    merger = made.merger("task_arithmetic", A)
    for weights in (B, A):
        engine.load(merged(merger, weights).items())
        plan = engine.lm._plan_pairs(
            [(context, continuation) for _, context, continuation in request], batch_size=2
        ).plan
        answers = engine.lm._score_plan(plan)
    fresh = made.load(written["task_arithmetic"], dtype=torch.float32).eval()
    for (_, context, continuation), (found, _) in zip(request, answers, strict=True):
        with torch.no_grad():
            logits = fresh(input_ids=torch.tensor([context + continuation])).logits[0]
        places = range(len(context) - 1, len(context) + len(continuation) - 1)
        expected = sum(logits[place].log_softmax(-1)[token] for place, token in zip(places, continuation, strict=True))
        torch.testing.assert_close(found, float(expected), rtol=1e-5, atol=1e-5)


def test_the_doctor_finds_ties_and_buffers_and_nothing_wrong(made: Instance, written: Mapping[str, Path]) -> None:
    found = doctor(made.config("ties", A))
    assert found.problems == []
    ties = [f"tied: {second} is {name}" for second, name in made.family.ties.items()]
    assert [fact for fact in found.facts if fact.startswith("tied")] == ties
    passed = [fact.partition(": ")[2] for fact in found.facts if fact.startswith("passed through from the base")]
    assert [text.split(" ")[0] for text in passed] == ([str(len(made.family.passed))] if made.family.passed else [])
    base, result = stored(made.folder / "base"), stored(written["ties"])
    assert {name for name in base if not base[name].is_floating_point()} <= set(made.family.passed)
    assert all(result[name].equal(base[name]) for name in made.family.passed)


def test_tied_tensors_stay_tied(made: Instance, written: Mapping[str, Path]) -> None:
    model = made.load(written["ties"])
    ties = dict(model.all_tied_weights_keys)
    assert len(ties) >= len(made.family.ties)
    for second, name in ties.items():
        assert model.get_parameter(second).data_ptr() == model.get_parameter(name).data_ptr()


def test_a_search_leaves_embeddings_head_and_positions_at_the_base(made: Instance) -> None:
    held = build_matcher(SEARCH_EXCLUDE, where="merge.exclude")
    names = sorted(stored(made.folder / "base").keys() - set(made.family.passed))
    assert tuple(name for name in names if held(name)) == made.family.held
    merger = made.merger("task_arithmetic", A, for_search=True)
    assert {info.name for info in merger.pool.layout if not merger.moves(info)} == {
        *made.family.held,
        *made.family.passed,
    }


def test_every_family_is_of_the_size_that_the_table_promises(made: Instance) -> None:
    assert 2_000 < open_pool(made.config("ties", A)).parameters < 50_000
    assert (made.family.loader in (IMAGES, COMPARING)) or made.load("base").get_input_embeddings().weight.shape[
        0
    ] == TOKENS
    names, live = set(stored(made.folder / "base")), set(made.load("base").state_dict())
    assert made.family.fused == any(name.endswith("gate_up_proj") for name in live - names)
