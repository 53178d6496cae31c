"""Log-likelihoods by a tree are those of each request alone; a model that cannot be run so is on plain batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from aftermix.config import EvaluateConfig
from aftermix.evaluation.engines.batches import ScoringPlan
from aftermix.evaluation.engines.hf import HuggingFaceEngine
from aftermix.evaluation.engines.prefix_tree import Pair
from aftermix.evaluation.engines.tree_plan import TreePlan, build_tree_plan
from aftermix.evaluation.engines.tree_scoring import TreeScorer, find_reason_against_trees, find_window
from aftermix.evaluation.suites.harness_suite import HarnessSuite
from contracts.families import FAMILIES

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=6)
PAIRS = st.lists(st.tuples(TOKENS, TOKENS), min_size=2, max_size=10)
CPU = torch.device("cpu")
SENTENCE = [9, 8, 7, 6, 5, 4] * 6
NOT_ON_TREES = {
    "mistral": "its tokens do not see those above them alone",  # a window of four
    "jamba": "its tokens do not see those above them alone",
    "mamba": "its forward pass takes no position_ids",
    "rwkv": "its forward pass takes no position_ids",
    "bloom": "its forward pass takes no position_ids",  # and would know none from a mask of four dimensions
}
WINDOWED: dict[str, dict[str, object]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "doge": {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "keep_window_size": 256},
}
CAUSAL = [name for name, family in FAMILIES.items() if family.loader.endswith("CausalLM")]


@pytest.fixture(scope="module")
def model(model_a: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(model_a, dtype=torch.float32).eval()


def score_alone(model: torch.nn.Module, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
    """The slow twin: one sequence a call, without a mask."""
    answers = []
    for context, continuation in pairs:
        with torch.no_grad():
            logits = model(torch.tensor([[*context, *continuation[:-1]]])).logits[0, -len(continuation) :]
        chosen = logits.log_softmax(-1)[range(len(continuation)), list(continuation)]
        answers.append((float(chosen.sum()), logits.argmax(-1).tolist() == list(continuation)))
    return answers


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=PAIRS, batch_size=st.integers(1, 4), shared=st.sampled_from([0, 3, 36]))
def test_a_tree_scores_as_each_request_alone(
    model: torch.nn.Module, pairs: list[Pair], batch_size: int, shared: int
) -> None:
    pairs = [([*SENTENCE[:shared], *context], continuation) for context, continuation in pairs]
    plan = build_tree_plan(pairs, batch_size=batch_size, max_length=60, device=CPU)
    with torch.no_grad():
        found = TreeScorer(model, keeps_logits=True).score(plan)
    for (value, greedy), (expected, expected_greedy) in zip(found, score_alone(model, pairs), strict=True):
        assert value == pytest.approx(expected, abs=1e-4)
        assert greedy == expected_greedy


def test_the_head_is_run_on_scored_tokens_alone(model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs: list[Pair] = [([1, 2, 3, n], [10 + choice, 5]) for n in range(6) for choice in range(2)]
    plan = build_tree_plan(pairs, batch_size=4, max_length=60, device=CPU)
    shapes: list[tuple[int, ...]] = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, inputs, __: shapes.append(tuple(inputs[0].shape[:-1])))
    with torch.no_grad():
        found = TreeScorer(model, keeps_logits=True).score(plan)
    handle.remove()
    assert shapes == [(1, len(batch.row_S)) for batch in plan.passes]
    assert not head._forward_pre_hooks

    # A model that names no head is asked for the logits of all kept tokens.
    monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    with torch.no_grad():
        whole = TreeScorer(model, keeps_logits=True).score(plan)
    assert [greedy for _, greedy in whole] == [greedy for _, greedy in found]
    assert [value for value, _ in whole] == pytest.approx([value for value, _ in found], abs=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_every_family_scores_the_same_by_a_tree_or_says_why_not(name: str) -> None:
    family = FAMILIES[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(family.kind, **family.config)
    live = getattr(transformers, family.loader).from_config(config).float().eval()
    with torch.no_grad():
        for parameter in live.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)

    length = min(48, getattr(config.get_text_config(), "max_position_embeddings", 48))
    assert find_reason_against_trees(live, max_length=length) == NOT_ON_TREES.get(name)
    if name in NOT_ON_TREES:
        return
    contexts = [[5, 6, 7, *range(10, 10 + n)] for n in (4, 7, 9)] + [[8, 9]]
    pairs = [(context, [20 + n, *range(n)]) for context in contexts for n in range(3)]
    keeps = name not in ("gpt2_before_5",)
    with torch.no_grad():
        found = TreeScorer(live, keeps).score(build_tree_plan(pairs, batch_size=2, max_length=length, device=CPU))
    for (value, greedy), (expected, expected_greedy) in zip(found, score_alone(live, pairs), strict=True):
        assert value == pytest.approx(expected, abs=1e-4)
        assert greedy == expected_greedy


@pytest.mark.parametrize(("kind", "window"), [("gpt_neo", "window_size"), ("doge", "keep_window_size")])
def test_a_window_over_places_in_a_row_takes_plain_batches(kind: str, window: str) -> None:
    """No probe of few tokens sees it: by a tree of contexts of 300 tokens GPT-Neo was off by 0.008 nats."""
    config = AutoConfig.for_model(kind, vocab_size=64, hidden_size=8, num_layers=2, num_heads=2, **WINDOWED[kind])
    assert getattr(config, window) == 256
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert find_reason_against_trees(model, max_length=512) == "its window of attention counts places in a row"


@pytest.mark.parametrize(
    ("options", "window"),
    [
        ({}, None),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, 64),
        ({"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2}, None),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, 128),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, None),
    ],
)
def test_the_length_up_to_which_all_layers_see_everything(options: dict[str, object], window: int | None) -> None:
    config = AutoConfig.for_model("qwen2", num_hidden_layers=2, max_position_embeddings=128, **options)
    assert find_window(config) == window


def test_a_tree_is_taken_where_it_saves_and_the_window_allows(model_a: Path, tokenizer_folder: Path) -> None:
    config = EvaluateConfig.model_validate({"tasks": ["unused"], "device": "cpu", "batch_size": 4, "max_length": 60})
    lm = HuggingFaceEngine.open(model_a, tokenizer_folder=tokenizer_folder, config=config).lm
    assert lm.reason_against_trees is None
    items: list[Pair] = [([n, *range(30, 50)], [60 + choice, 70 + choice]) for n in range(5) for choice in range(4)]
    tree = lm._plan_pairs(items, batch_size=4).plan
    assert isinstance(tree, TreePlan)
    assert (tree.tokens, tree.positions) == (5 * (21 + 4), 5 * (21 + 4))
    with torch.inference_mode():
        by_tree = lm._score_plan(tree)

    # Sequences that share nothing gain nothing; beyond a window, a mask would be another.
    assert isinstance(lm._plan_pairs([([n], [n]) for n in range(5)], batch_size=4).plan, ScoringPlan)
    lm.model.config.sliding_window = 16
    plain = lm._plan_pairs(items, batch_size=4).plan
    assert isinstance(plain, ScoringPlan)
    for (value, greedy), (expected, expected_greedy) in zip(by_tree, lm._score_plan(plain), strict=True):
        assert value == pytest.approx(expected, abs=1e-4)
        assert greedy == expected_greedy


def test_plan_names_the_task_and_what_its_model_takes_plain_batches_for(
    tasks: Path, tokenizer_folder: Path, tmp_path: Path
) -> None:
    config = AutoConfig.for_model("mamba", **{**FAMILIES["mamba"].config, "vocab_size": 512})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    values = {"tasks": ["colours"], "include_path": str(tasks), "device": "cpu", "items": {"search": 8, "select": 8}}
    evaluate = EvaluateConfig.model_validate(values)
    engine = HuggingFaceEngine.open(tmp_path, tokenizer_folder=tokenizer_folder, config=evaluate)
    told = "no beginnings are shared (colours: its forward pass takes no position_ids)"
    assert HarnessSuite.build(evaluate).describe_sharing(engine.lm) == told
