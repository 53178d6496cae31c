"""DoReMi's update against a twin in plain float64, and its training against Algorithm 1 written out."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from aftermix.config import OptimizerConfig
from aftermix.errors import TrainingError
from aftermix.training.data.collate import TokenSequence
from aftermix.training.data.encoding import EncodedExample
from aftermix.training.data.mixture import SequenceMixture, mix_streams
from aftermix.training.data.packing import CutStream
from aftermix.training.data.token_store import TokenStore
from aftermix.training.doremi import average_by_domain, compute_token_losses, train_doremi, update_weights
from aftermix.training.trainer import TrainingRecipe

VOCABULARY, CONTEXT = 40, 8
RECIPE = TrainingRecipe(batch_size=4, learning_rate=0.1, schedule="constant", optimizer=OptimizerConfig(name="sgd"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(seed: int = 0, **changed: Any) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(
        LlamaConfig(**{"vocab_size": VOCABULARY, "max_position_embeddings": 16, **sizes, **changed})
    )


def stream(tokens: list[int]) -> CutStream:
    encoded = [EncodedExample(np.asarray(tokens, dtype=np.int32))]
    return CutStream(TokenStore.collect(encoded, characters=[len(tokens)], empty=0), CONTEXT, 0)


def domains(*, tokens: int = 160) -> SequenceMixture:
    """One domain of a single repeated token, one of tokens at random."""
    noise = np.random.default_rng(0).integers(1, VOCABULARY, size=80).tolist()
    streams = {"same": stream([3] * 80), "noise": stream(noise)}
    return mix_streams(streams, {"same": 0.5, "noise": 0.5}, tokens=tokens, seed=0, where="mixture")


shares = st.integers(2, 6).flatmap(
    lambda size: st.tuples(
        st.lists(st.floats(0.01, 1), min_size=size, max_size=size),
        st.lists(st.floats(0, 20), min_size=size, max_size=size),
    )
)


@given(shares, st.floats(0.1, 3), st.floats(0, 1))
def test_the_update_is_the_papers(drawn: tuple[list[float], list[float]], eta: float, c: float) -> None:
    weights, excess = [share / math.fsum(drawn[0]) for share in drawn[0]], drawn[1]
    raised = [weight * math.exp(eta * each) for weight, each in zip(weights, excess, strict=True)]
    expected = [(1 - c) * each / math.fsum(raised) + c / len(raised) for each in raised]
    found = update_weights(weights, excess, step_size=eta, smoothing=c)
    assert found.tolist() == pytest.approx(expected, rel=1e-9)
    assert found.sum() == pytest.approx(1)


@given(shares)
def test_a_domain_without_excess_loses_weight_to_one_with(drawn: tuple[list[float], list[float]]) -> None:
    weights_K = np.array(drawn[0]) / sum(drawn[0])
    excess_K = np.array([0.0, *(each + 0.1 for each in drawn[1][1:])])
    assert update_weights(weights_K, excess_K, smoothing=0.0)[0] < weights_K[0]


def test_a_domain_that_is_absent_keeps_its_excess() -> None:
    values, counted = torch.tensor([[1.0, 3.0], [5.0, 9.0]]), torch.tensor([[True, True], [True, False]])
    assert average_by_domain(values, counted, [0, 0], fallback=np.array([7.0, 8.0])).tolist() == [3.0, 8.0]
    assert average_by_domain(values, counted, [1, 0], fallback=np.zeros(2)).tolist() == [5.0, 2.0]


def written_out(proxy: Any, reference: Any, sequences: SequenceMixture, recipe: TrainingRecipe) -> np.ndarray:
    """Algorithm 1, one sequence at a time, with plain gradient descent; the weights of each step."""
    names = list(sequences.ratios)
    alpha = [0.5, 0.5]
    found = []
    for start in range(0, len(sequences), recipe.batch_size):
        numbers = range(start, min(start + recipe.batch_size, len(sequences)))
        mean_loss, excess = [], []
        for name in names:
            rows = [sequences[number] for number in numbers if sequences.domains[number] == name]
            ours = torch.cat([one_by_one(proxy, row) for row in rows])
            with torch.no_grad():
                theirs = torch.cat([one_by_one(reference, row) for row in rows])
            mean_loss.append(ours.mean())
            excess.append(float((ours.detach() - theirs).clamp(min=0).mean()))
        raised = [weight * math.exp(each) for weight, each in zip(alpha, excess, strict=True)]
        alpha = [0.999 * each / sum(raised) + 0.001 / 2 for each in raised]
        proxy.zero_grad()
        torch.stack([weight * loss for weight, loss in zip(alpha, mean_loss, strict=True)]).sum().backward()
        norm = math.sqrt(sum(float((p.grad**2).sum()) for p in proxy.parameters()))
        with torch.no_grad():
            for p in proxy.parameters():
                p -= recipe.learning_rate * (p.grad * min(1.0, recipe.max_grad_norm / (norm + 1e-6)) + decay(p, recipe))
        found.append(alpha)
    return np.array(found)


def decay(parameter: torch.Tensor, recipe: TrainingRecipe) -> torch.Tensor:
    return parameter * (recipe.weight_decay if parameter.ndim >= 2 else 0.0)


def one_by_one(model: Any, row: TokenSequence) -> torch.Tensor:
    log_p = torch.log_softmax(model(input_ids=row.ids[None], use_cache=False).logits[0], dim=-1)
    return torch.stack([-log_p[place - 1, row.ids[place]] for place in range(1, len(row))])


def test_the_training_is_algorithm_1() -> None:
    reference = tiny(1)
    expected_TK = written_out(tiny().double(), copy.deepcopy(reference).double(), domains(), RECIPE)
    found = train_doremi(tiny(), reference, domains(), recipe=RECIPE, device="cpu", threads=1)
    assert found.domains == ("same", "noise")
    assert found.tokens == 160
    assert found.weights_TK.shape == (5, 2)
    assert found.weights_TK == pytest.approx(expected_TK, abs=1e-5)
    assert found.ratios == pytest.approx(dict(zip(found.domains, expected_TK.mean(axis=0), strict=True)), abs=1e-5)


def test_it_is_deterministic_and_leaves_the_reference_alone() -> None:
    reference = tiny(1)
    before = {name: value.clone() for name, value in reference.state_dict().items()}
    recipe = TrainingRecipe(batch_size=4, learning_rate=1e-2, optimizer=OptimizerConfig(name="merge_aware"))
    first, second = (train_doremi(tiny(), reference, domains(), recipe=recipe, device="cpu") for _ in range(2))
    assert first.weights_TK.tolist() == second.weights_TK.tolist()
    assert first.excess_TK.tolist() == second.excess_TK.tolist()
    assert all(torch.equal(value, before[name]) for name, value in reference.state_dict().items())


def test_dropout_goes_by_the_recipes_seed_and_no_other_randomness() -> None:
    found = []
    for other, seed in enumerate((0, 0, 1)):
        proxy, reference = tiny(attention_dropout=0.5), tiny(1)
        torch.manual_seed(other)
        before = torch.get_rng_state()
        recipe = TrainingRecipe(batch_size=4, learning_rate=0.1, schedule="constant", seed=seed)
        found.append(train_doremi(proxy, reference, domains(), recipe=recipe, device="cpu").excess_TK.tolist())
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1] != found[2]


def test_what_the_proxy_cannot_yet_do_and_the_reference_can_gains_weight() -> None:
    """The reference knows the domain of one token; neither can learn the noise in so few steps."""
    reference = tiny()
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-2)
    row = TokenSequence(torch.full((CONTEXT,), 3), torch.full((CONTEXT,), 3))
    for _ in range(60):
        optimizer.zero_grad()
        batch = {"input_ids": row.ids[None], "labels": row.labels[None]}
        compute_token_losses(reference, batch)[0].mean().backward()
        optimizer.step()
    slow = TrainingRecipe(batch_size=4, learning_rate=1e-4, schedule="constant")
    found = train_doremi(tiny(), reference, domains(), recipe=slow, device="cpu")
    assert found.ratios["same"] > 0.8
    assert 0.9 < found.weights_TK[0, 0] < found.weights_TK[-1, 0]
    assert found.excess_TK[0, 0] > 1 > found.excess_TK[0, 1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"step_size": 0.0}, "doremi.step_size: expected a number above 0, found 0"),
        ({"smoothing": 1.5}, "doremi.smoothing: expected 0 to 1, found 1.5"),
        ({"reference": tiny(vocab_size=41)}, "the reference has 41 tokens, the proxy 40"),
        (
            {"sequences": mix_streams({"a": stream([3] * 80)}, {"a": 1.0}, tokens=80, seed=0, where="-")},
            "expected two domains or more, found 1",
        ),
    ],
)
def test_what_cannot_be_is_refused(changed: dict[str, Any], message: str) -> None:
    given_ = {"reference": tiny(1), "sequences": domains(), **changed}
    with pytest.raises(TrainingError, match=message):
        train_doremi(tiny(), given_.pop("reference"), given_.pop("sequences"), recipe=RECIPE, device="cpu", **given_)
