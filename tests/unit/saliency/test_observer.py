"""What a watched model is fed, against hooks on the modules of a plain one that pads and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from aftermix.checkpoints.open_model import open_model
from aftermix.config import CalibrateConfig
from aftermix.errors import CheckpointError
from aftermix.jobs.calibrate.layer_inputs import measure_layer_inputs
from aftermix.saliency.calibration_text import CalibrationSamples
from aftermix.saliency.naming import ChannelStatistic, ParameterLocation, name_statistics
from aftermix.saliency.observer import LayerObserver
from aftermix.saliency.statistics import ChannelSums
from contracts.families import FAMILIES, Family

CPU = torch.device("cpu")
CAUSAL = {name: family for name, family in FAMILIES.items() if family.loader == "AutoModelForCausalLM"}
LENGTHS = (7, 5, 7, 9)
HEADS = {
    "llama_tied": "model.embed_tokens",
    "gemma3_text": "model.embed_tokens",
    "gpt2": "transformer.wte",
    "gpt_neox": "embed_out",
}
"""What the file calls the weight of a head that transformers calls `lm_head`."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def samples() -> CalibrationSamples:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(2, 256, (length,), generator=generator).tolist() for length in LENGTHS]
    return CalibrationSamples(tuple(map(tuple, drawn)), len(drawn))


def saved(family: Family, folder: Path) -> Any:
    """A model of `family` with random values, and its folder written by transformers."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family.kind, **family.config)).eval()
    model.save_pretrained(folder)
    return model


def measured(folder: Path, **settings: Any) -> dict[str, ChannelStatistic]:
    expert = open_model(str(folder))
    return measure_layer_inputs(expert, expert.config, samples(), CalibrateConfig(**settings), CPU, label="expert")


def twin(model: Any) -> dict[str, tuple[torch.Tensor, int]]:
    """Mean squares and tokens by module, from hooks, one padded batch and the attention mask."""
    length = max(LENGTHS)
    padded = torch.tensor([[*row, *[0] * (length - len(row))] for row in samples().sequences])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in samples().sequences])
    inputs: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            module.register_forward_pre_hook(lambda _, args, name=name: inputs.__setitem__(name, args[0].double()))
    with torch.no_grad():
        model(padded, attention_mask=mask, use_cache=False)
    real = mask.reshape(-1).bool()
    return {
        name: (x.reshape(len(real), -1)[real].square().mean(dim=0), int(real.sum()))
        for name, x in inputs.items()
        if x.shape[:-1].numel() == len(real)
    }


@pytest.mark.parametrize("name", ["llama", "llama_tied", "gpt2", "gpt_neox", "phi3", "gemma3_text", "mixtral"])
def test_every_linear_layer_has_the_mean_square_of_its_inputs(name: str, tmp_path: Path) -> None:
    model = saved(CAUSAL[name], tmp_path)
    found = measured(tmp_path, batch_size=2)
    stored = {"lm_head": HEADS.get(name, "lm_head")}
    expected = twin(model)
    assert len(expected) >= 9
    for module, (mean, tokens) in expected.items():
        statistic = found[f"{stored.get(module, module)}.weight"]
        assert statistic.tokens == (tokens,)
        assert statistic.axis == (0 if ".h." in module else 1)
        torch.testing.assert_close(statistic.mean_square.double(), mean, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", CAUSAL)
def test_layer_by_layer_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    saved(CAUSAL[name], tmp_path)
    whole, streamed = measured(tmp_path), measured(tmp_path, stream=True)
    assert whole.keys() == streamed.keys()
    for weight, statistic in whole.items():
        assert torch.equal(statistic.mean_square, streamed[weight].mean_square), weight
        assert (statistic.tokens, statistic.axis) == (streamed[weight].tokens, streamed[weight].axis)
        shape = open_model(str(tmp_path)).info(weight).shape
        assert statistic.mean_square.shape[-1] == shape[statistic.axis]


def test_streaming_holds_one_layer_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aftermix.saliency.streamed_model import StreamedModel

    held: list[list[int]] = []
    fill = StreamedModel.fill

    def counted(live: StreamedModel, *wanted: Any) -> None:
        fill(live, *wanted)
        layers = live.find_layers()[1]
        held.append(
            [n for n, layer in enumerate(layers) if any(p.device != torch.device("meta") for p in layer.parameters())]
        )

    monkeypatch.setattr(StreamedModel, "fill", counted)
    saved(CAUSAL["llama"], tmp_path)
    measured(tmp_path, stream=True)
    assert held == [[], [0], [1]]


def routed(model: Any) -> dict[str, list[tuple[torch.Tensor, int]]]:
    """Mean squares and tokens of each expert's input in each layer, from the router's choice, token by token."""
    found: dict[str, list[tuple[torch.Tensor, int]]] = {}
    for number, layer in enumerate(model.model.layers):

        def hook(module: Any, args: Any, number: int = number) -> None:
            hidden, chosen = args[0].double(), args[1]
            for expert in range(module.num_experts):
                rows = [hidden[token] for token, experts in enumerate(chosen.tolist()) if expert in experts]
                found.setdefault(f"{number}.{expert}", []).extend([(row.square(), 1) for row in rows])

        layer.mlp.experts.register_forward_pre_hook(hook)
    with torch.no_grad():
        for sequence in samples().sequences:
            model(torch.tensor([sequence]), use_cache=False)
    return found


@pytest.mark.parametrize("implementation", ["grouped_mm", "eager"])
def test_each_expert_of_a_mixture_has_the_statistics_of_its_own_tokens(tmp_path: Path, implementation: str) -> None:
    model = saved(CAUSAL["qwen3_moe"], tmp_path)
    model.set_experts_implementation(implementation)
    observer = LayerObserver("second_moment")
    observer.watch(model)
    with torch.no_grad(), observer:
        for sequence in samples().sequences:
            model(torch.tensor([sequence]), use_cache=False)
    expected = routed(model)
    for layer in range(2):
        total = observer.totals[f"model.layers.{layer}.mlp.experts.gate_up_proj"]
        assert total.axis == 2
        assert sum(total.tokens) == 2 * sum(LENGTHS)
        for expert in range(4):
            rows = expected.get(f"{layer}.{expert}", [])
            assert total.tokens[expert] == len(rows)
            wanted = torch.stack([row for row, _ in rows]).sum(dim=0)
            torch.testing.assert_close(total.sums_EC[expert], wanted, rtol=1e-5, atol=1e-7)


def test_experts_that_are_stored_one_by_one_have_their_own_statistics(tmp_path: Path) -> None:
    saved(CAUSAL["qwen3_moe"], tmp_path)
    found = measured(tmp_path)
    block = "model.layers.0.mlp.experts"
    counts = [found[f"{block}.{expert}.up_proj.weight"].tokens for expert in range(4)]
    assert sum(count for (count,) in counts) == 2 * sum(LENGTHS)
    gate, up = found[f"{block}.1.gate_proj.weight"], found[f"{block}.1.up_proj.weight"]
    assert torch.equal(gate.mean_square, up.mean_square)
    assert not torch.equal(up.mean_square, found[f"{block}.2.up_proj.weight"].mean_square)
    assert found[f"{block}.1.down_proj.weight"].mean_square.shape == (8,)


def test_an_expert_that_no_token_is_routed_to_has_zeros(tmp_path: Path) -> None:
    model = saved(CAUSAL["gpt_oss"], tmp_path)
    with torch.no_grad():
        model.model.layers[0].mlp.router.bias[2] = -1e9
    model.save_pretrained(tmp_path)
    statistic = measured(tmp_path)["model.layers.0.mlp.experts.down_proj"]
    assert statistic.axis == 1
    assert statistic.mean_square.shape == (4, 16 * 2)
    assert statistic.tokens[2] == 0
    assert statistic.mean_square[2].tolist() == [0.0] * 32
    assert all(count for expert, count in enumerate(statistic.tokens) if expert != 2)


def test_the_live_model_is_the_one_that_transformers_loads(tmp_path: Path) -> None:
    from aftermix.evaluation.engines.live_weights import LiveWeights
    from aftermix.jobs.calibrate.layer_inputs import StoredValues
    from aftermix.saliency.streamed_model import StreamedModel, build_empty_model

    for name in ("llama_tied", "gemma3_text", "gpt2_before_5", "mixtral"):
        saved(CAUSAL[name], tmp_path / name)
        expert = open_model(str(tmp_path / name))
        model = build_empty_model(expert.config, dtype=torch.float32, label=name)
        StreamedModel(model, StoredValues(expert, LiveWeights(model, expert)), device=CPU, label=name).fill()
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        tokens = torch.tensor([samples().sequences[0]])
        with torch.no_grad():
            assert torch.equal(model(tokens).logits, loaded(tokens).logits)


def test_a_layer_that_is_never_fed_is_known_all_the_same(tmp_path: Path) -> None:
    saved(CAUSAL["gemma3_multimodal"], tmp_path)
    unseen = [name for name, statistic in measured(tmp_path).items() if not any(statistic.tokens)]
    assert unseen
    assert all(name.startswith("vision_tower.") for name in unseen)


def test_shared_inputs_are_summed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from aftermix.saliency import observer

    calls: list[int] = []
    plain = observer.sum_channels
    monkeypatch.setattr(observer, "sum_channels", lambda x, s: calls.append(1) or plain(x, s))
    saved(CAUSAL["llama"], tmp_path)
    measured(tmp_path, batch_size=1)
    # Of seven matrices of a layer q, k, v share an input, and gate and up; two layers, the head, four batches.
    assert len(calls) == 4 * (2 * 4 + 1)


def test_rows_of_zeros_in_a_batched_product_are_no_tokens() -> None:
    experts = torch.nn.Module()
    experts.weight = torch.nn.Parameter(torch.randn(2, 3, 4), requires_grad=False)
    inputs = torch.tensor([[[1.0, 2, 3], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
    observer = LayerObserver("second_moment")
    observer.watch(experts)
    with torch.no_grad(), observer:
        torch.bmm(inputs, experts.weight)
    total = observer.totals["weight"]
    assert (total.axis, total.tokens) == (1, [1, 0])
    assert total.sums_EC.tolist() == [[1, 4, 9], [0, 0, 0]]


def test_a_parameter_of_three_dimensions_that_holds_no_experts_is_left_alone() -> None:
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.randn(2, 3, 4), requires_grad=False)
    observer = LayerObserver("second_moment")
    observer.watch(module)
    with torch.no_grad(), observer:
        torch.ones(5, 1, 2, 3) @ module.weight
        torch.nn.functional.linear(torch.ones(5, 4), module.weight.view(6, 4))
    assert observer.totals == {}


def test_the_weight_may_stand_on_the_left_and_by_keyword() -> None:
    layer = torch.nn.Linear(3, 2, bias=False)
    inputs = torch.tensor([[1.0, 2, 3], [3, 2, 1]])
    observer = LayerObserver("mean_input")
    observer.watch(layer)
    with torch.no_grad(), observer:
        layer.weight @ inputs.T
        torch.nn.functional.linear(input=inputs, weight=layer.weight)
        inputs @ layer.weight.T
    total = observer.totals["weight"]
    assert (total.axis, total.tokens, total.sums_EC.tolist()) == (1, [6], [[12, 12, 12]])


def test_the_order_of_samples_changes_only_the_rounding(tmp_path: Path) -> None:
    saved(CAUSAL["llama"], tmp_path)
    expert = open_model(str(tmp_path))
    there = samples()
    back = CalibrationSamples(there.sequences[::-1], there.texts)
    one, other = (
        measure_layer_inputs(expert, expert.config, order, CalibrateConfig(), CPU, label="expert")
        for order in (there, back)
    )
    for name, statistic in one.items():
        torch.testing.assert_close(statistic.mean_square, other[name].mean_square, rtol=1e-6, atol=0)


def test_inputs_that_overflow_are_refused(tmp_path: Path) -> None:
    model = saved(CAUSAL["llama"], tmp_path)
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight.mul_(1e30)
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"the inputs of this layer of .* hold NaN or Inf. Use an earlier"):
        measured(tmp_path)


def test_a_checkpoint_without_all_weights_is_refused(tmp_path: Path) -> None:
    saved(CAUSAL["llama"], tmp_path)
    expert = open_model(str(tmp_path))
    deeper = expert.config | {"num_hidden_layers": 3}
    with pytest.raises(CheckpointError, match=r"9 weights of its architecture are not in its files, first model"):
        measure_layer_inputs(expert, deeper, samples(), CalibrateConfig(), CPU, label="expert")
    shallower = expert.config | {"num_hidden_layers": 1}
    with pytest.raises(CheckpointError, match=r"9 of its tensors have no place in its architecture, first model"):
        measure_layer_inputs(expert, shallower, samples(), CalibrateConfig(), CPU, label="expert")
    wider = expert.config | {"intermediate_size": 33}
    with pytest.raises(CheckpointError, match=r"is \(16, 32\), its architecture has \(16, 33\)"):
        measure_layer_inputs(expert, wider, samples(), CalibrateConfig(), CPU, label="expert")


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    saved(CAUSAL["llama"], tmp_path)
    expert = open_model(str(tmp_path))
    with pytest.raises(CheckpointError, match="its architecture cannot be run"):
        measure_layer_inputs(expert, {"model_type": "none"}, samples(), CalibrateConfig(), CPU, label="expert")


def test_a_layout_whose_input_channel_cannot_be_told_is_refused(tmp_path: Path) -> None:
    saved(CAUSAL["llama"], tmp_path)
    expert = open_model(str(tmp_path))
    total = ChannelSums((16, 16), 1, CPU)
    total.add(torch.ones(16), 1)
    name = "model.layers.0.self_attn.q_proj.weight"
    place = ParameterLocation("live", converted=True, transposed=True)
    with pytest.raises(CheckpointError, match=r"is stored as \(16, 16\) for a layer of 16 inputs"):
        name_statistics({"live": total}, expert, {name: place}, statistic="second_moment")
    fitting = {"model.layers.0.mlp.up_proj.weight": place}
    found = name_statistics({"live": total}, expert, fitting, statistic="second_moment")
    assert found["model.layers.0.mlp.up_proj.weight"].axis == 1


def test_a_router_that_computes_in_float32_is_watched() -> None:
    router = torch.nn.Linear(3, 2, bias=False, dtype=torch.bfloat16)
    inputs = torch.tensor([[1.0, 2, 3]])
    observer = LayerObserver("second_moment")
    observer.watch(router)
    with torch.no_grad(), observer:
        for cast in (router.weight.float(), router.weight.type(torch.float32), router.weight.to(torch.float32)):
            torch.nn.functional.linear(inputs, cast)
        torch.nn.functional.linear(inputs, router.weight.to(torch.float32))
    total = observer.totals["weight"]
    assert total.tokens == [2]
    assert total.sums_EC.tolist() == [[2, 8, 18]]


class Looped(torch.nn.Module):
    """Layers that are called twice, or not in their order."""

    def __init__(self, order: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 2, bias=False) for _ in range(2)])
        self.order = order

    def forward(self, tokens: torch.Tensor, use_cache: bool) -> torch.Tensor:
        hidden = torch.ones(*tokens.shape, 2)
        for number in self.order:
            hidden = self.layers[number](hidden)
        return hidden

    def get_output_embeddings(self) -> None:
        return None


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        ((0, 1, 0, 1), "its 2 layers are called 4 times"),
        ((1, 0), "layer 1 is called before layer 0"),
        ((0,), "layer 1 is not called"),
        ((0, 1), None),
    ],
)
def test_layers_that_do_not_follow_each_other_cannot_be_streamed(order: tuple[int, ...], reason: str | None) -> None:
    from aftermix.saliency.passes import run_layer_by_layer
    from aftermix.saliency.streamed_model import StreamedModel

    model = Looped(order)
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    class Given:
        def stream_tensors(self, wanted: Any) -> Any:
            return ((name, tensor) for name, tensor in values.items() if wanted(name))

    live = StreamedModel(model, Given(), device=CPU, label="looped")
    observer = LayerObserver("second_moment")
    batches = [torch.zeros(1, 3, dtype=torch.long)]
    if reason is None:
        run_layer_by_layer(live, batches, observer, bar=lambda items, total, unit: items)
        assert [total.tokens for total in observer.totals.values()] == [[3], [3]]
        return
    with pytest.raises(CheckpointError, match=rf"looped: cannot be run layer by layer \({reason}\). Remove `calib"):
        run_layer_by_layer(live, batches, observer, bar=lambda items, total, unit: items)
