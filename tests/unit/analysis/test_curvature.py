"""Curvature by Hessian-vector products against explicit Hessians, finite differences and a model in a file."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.func import functional_call, hessian
from torch.nn.functional import cross_entropy

from aftermix.analysis.curvature import (
    CurvatureDomain,
    Loss,
    LossCurvature,
    compute_gradient,
    measure_curvature,
    measure_descent_cosines,
    measure_mixture_error,
    measure_norm,
    measure_reach,
    multiply_hessian,
)
from aftermix.config import Config, load_config
from aftermix.errors import AftermixError
from aftermix.jobs.analysis.curvature import analyze_curvature
from conftest import run_cli

TEXTS = {
    "a": "the sum of the numbers is even and the answer is one of these",
    "b": "answer numbers even sum these one is of and the",
    "c": "zebra quickly vexing jumps dwarf fox",
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Bigram(torch.nn.Module):
    """Token numbers to the logits of the next one: an embedding, a bend and a head, few enough for a whole Hessian."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(torch.tanh(self.embed(tokens_BT))))


def summed(model: Any, tokens_BT: torch.Tensor) -> torch.Tensor:
    return cross_entropy(model(tokens_BT)[:, :-1].flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="sum")


@pytest.fixture
def bigram() -> Bigram:
    torch.manual_seed(3)
    return Bigram().double()


@pytest.fixture
def domains() -> list[CurvatureDomain]:
    """Batches of several lengths, so that a mean over batches would be another one than the mean over tokens."""
    draw = torch.Generator().manual_seed(5)
    return [
        CurvatureDomain(
            name, [torch.randint(low, 5, (2, 7), generator=draw), torch.randint(low, 5, (1, 3), generator=draw)]
        )
        for low, name in enumerate("abc")
    ]


def explicit(model: Bigram, domain: CurvatureDomain) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient (P,) and Hessian (P, P) of the mean loss over all predicted tokens."""
    shapes = {name: held.shape for name, held in model.named_parameters()}
    flat = torch.cat([held.detach().flatten() for held in model.parameters()])

    def mean_loss(values: torch.Tensor) -> torch.Tensor:
        parts = values.split([math.prod(shape) for shape in shapes.values()])
        named = {name: part.view(shape) for part, (name, shape) in zip(parts, shapes.items(), strict=True)}
        losses = [summed(lambda tokens: functional_call(model, named, (tokens,)), one) for one in domain.batches]
        return torch.stack(losses).sum() / sum((one.shape[1] - 1) * len(one) for one in domain.batches)

    return torch.func.grad(mean_loss)(flat), hessian(mean_loss)(flat)


def flattened(direction: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat([part.flatten() for part in direction])


def test_gamma_is_what_the_explicit_hessians_give(bigram: Bigram, domains: list[CurvatureDomain]) -> None:
    found, gradients = measure_curvature(lambda tokens: summed(bigram, tokens), list(bigram.parameters()), domains)
    known = [explicit(bigram, domain) for domain in domains]
    for place, (slope, _) in enumerate(known):
        torch.testing.assert_close(flattened(gradients[place]), slope)
        assert found.gradient_norms_K[place] == pytest.approx(float(slope.norm()))
    response = [[float((bend @ slope).norm() / slope.norm()) for slope, _ in known] for _, bend in known]
    np.testing.assert_allclose(found.responses_KK, response, rtol=1e-9)
    gamma = np.array(response) / np.diagonal(response)[:, None]
    np.testing.assert_allclose(found.gamma_KK, gamma, rtol=1e-9)
    assert np.diagonal(found.gamma_KK).tolist() == [1, 1, 1]
    assert not np.allclose(found.gamma_KK, found.gamma_KK.T)
    cosine = float(torch.cosine_similarity(known[0][0], known[2][0], dim=0))
    assert found.gradient_cosines_KK[0, 2] == pytest.approx(cosine)
    assert found.domains == ("a", "b", "c")


def test_a_hessian_vector_product_is_a_difference_of_gradients(bigram: Bigram, domains: list[CurvatureDomain]) -> None:
    loss, parameters = (lambda tokens: summed(bigram, tokens)), list(bigram.parameters())
    _, along = compute_gradient(loss, parameters, domains[1])
    product = flattened(multiply_hessian(loss, parameters, domains[0], along))
    step, sides = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            for held, part in zip(parameters, along, strict=True):
                held.add_(part, alpha=sign * step)
        sides.append(flattened(compute_gradient(loss, parameters, domains[0])[1]))
        with torch.no_grad():
            for held, part in zip(parameters, along, strict=True):
                held.sub_(part, alpha=sign * step)
    torch.testing.assert_close(product, (sides[0] - sides[1]) / (2 * step), rtol=1e-6, atol=1e-9)


def test_a_quadratic_has_the_curvature_that_it_was_made_with() -> None:
    bends = {3: torch.diag(torch.tensor([1.0, 4.0])), 4: torch.diag(torch.tensor([2.0, 0.0]))}
    weights = torch.ones(2, dtype=torch.float64, requires_grad=True)
    idle = torch.ones(1, dtype=torch.float64, requires_grad=True)

    def loss(tokens_BT: torch.Tensor) -> torch.Tensor:
        bend = bends[tokens_BT.shape[1]].double()
        return 0.5 * weights @ bend @ weights * (tokens_BT.shape[1] - 1)

    domains = [CurvatureDomain(str(length), [torch.zeros(1, length, dtype=torch.long)]) for length in bends]
    found, gradients = measure_curvature(loss, [weights, idle], domains)
    np.testing.assert_allclose(found.losses_nats_K, [2.5, 1.0])
    np.testing.assert_allclose(found.gradient_norms_K, [math.sqrt(17), 2])
    np.testing.assert_allclose(found.responses_KK, [[math.sqrt((1 + 256) / 17), 1], [2 / math.sqrt(17), 2]])
    np.testing.assert_allclose(found.gradient_cosines_KK[0, 1], 1 / math.sqrt(17))
    assert measure_norm(gradients[1]) == 2
    moved = [{"w": torch.tensor([-2.0, -8.0])}, {}]
    cosines = measure_descent_cosines(moved, ["w", "idle"], gradients)
    np.testing.assert_allclose(cosines[0], [1, 1 / math.sqrt(17)])
    assert np.isnan(cosines[1]).all()


def test_the_second_order_error_is_what_parts_a_training_from_a_merge() -> None:
    """Slow twin: descent on the mixture, and on each domain alone, step by step."""
    draw = torch.Generator().manual_seed(1)
    roots = [torch.randn(4, 4, generator=draw, dtype=torch.float64) for _ in range(3)]
    bends, places = [root @ root.T for root in roots], torch.randn(3, 4, generator=draw, dtype=torch.float64)
    weights = torch.zeros(4, dtype=torch.float64, requires_grad=True)

    def lose(domain: int, at: torch.Tensor) -> torch.Tensor:
        return 0.5 * (at - places[domain]) @ bends[domain] @ (at - places[domain])

    def descend(ratios: list[float]) -> torch.Tensor:
        at = torch.zeros(4, dtype=torch.float64)
        for _ in range(200):
            at = at - 2e-6 * sum(r * bends[k] @ (at - places[k]) for k, r in enumerate(ratios))
        return at

    ratios = [0.5, 0.3, 0.2]
    trained = descend(ratios)
    merged = sum(r * descend([float(k == j) for j in range(3)]) for k, r in enumerate(ratios))
    domains = [CurvatureDomain(str(k), [torch.zeros(1, k + 2, dtype=torch.long)]) for k in range(3)]
    loss = lambda tokens: lose(tokens.shape[1] - 2, weights) * (tokens.shape[1] - 1)  # noqa: E731
    gradients = [compute_gradient(loss, [weights], domain)[1] for domain in domains]
    found = measure_mixture_error(loss, [weights], domains, gradients, ratios_K=np.array(ratios), reach=200 * 2e-6)
    assert found.whole == pytest.approx(float((trained - merged).norm() / trained.norm()), rel=0.02)
    assert abs(found.cross - found.own) <= found.whole <= found.cross + found.own

    alone = measure_mixture_error(loss, [weights], domains, gradients, ratios_K=np.array([0.0, 1.0, 0.0]), reach=1.0)
    assert (alone.whole, alone.cross, alone.own) == pytest.approx((0, 0, 0), abs=1e-12)
    step = {"w": -0.25 * gradients[1][0]}
    assert measure_reach(step, ["w"], gradients[1]) == pytest.approx(0.25)
    assert measure_reach({"w": gradients[1][0]}, ["w"], gradients[1]) == 0


def test_a_flat_domain_has_no_relative_curvature() -> None:
    responses_KK = np.array([[0.0, 0.0], [1.0, 2.0]])
    flat = LossCurvature(("a", "b"), np.zeros(2), np.zeros(2), np.eye(2), responses_KK)
    assert np.isnan(flat.gamma_KK[0]).all()
    assert flat.gamma_KK[1].tolist() == [0.5, 1]


def written(folder: Path, family: dict[str, Path], **vectors: dict[str, Any]) -> Path:
    found: dict[str, Any] = {}
    for name, text in TEXTS.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text[: 30 + n]}) + "\n" for n in range(6)))
        found[name] = {"model": str(family[name]), "calibration": f"{name}.jsonl", "role": "expert"}
        found[name] |= vectors.get(name, {})
        found[name] = {key: value for key, value in found[name].items() if value is not None}
    file = folder / "aftermix.yaml"
    settings = {"samples": 4, "batch_size": 2, "long_texts": "cut"}
    file.write_text(yaml.safe_dump({"base": str(family["base"]), "vectors": found, "calibrate": settings}))
    return file


def job(folder: Path, family: dict[str, Path], **vectors: dict[str, Any]) -> Config:
    return load_config(written(folder, family, **vectors))


def loaded(folder: Path) -> tuple[Any, Loss]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    return model, lambda tokens_BT: summed(lambda tokens: model(tokens).logits, tokens_BT)


def test_a_file_gives_what_transformers_own_model_gives(tmp_path: Path, family: dict[str, Path]) -> None:
    config = job(tmp_path, family)
    found, label = analyze_curvature(config, json=tmp_path / "out.json", dtype=torch.float64)
    assert label == str(family["base"])

    from aftermix.checkpoints.pool import open_pool
    from aftermix.jobs.calibrate.command import plan_calibration

    model, loss = loaded(family["base"])
    plans = plan_calibration(config, open_pool(config))
    domains = [
        CurvatureDomain(plan.vector, plan.samples.build_batches(4, device=torch.device("cpu"))) for plan in plans
    ]
    known, gradients = measure_curvature(loss, list(model.parameters()), domains)
    np.testing.assert_allclose(found.curvature.gamma_KK, known.gamma_KK, rtol=1e-5)
    np.testing.assert_allclose(found.curvature.losses_nats_K, known.losses_nats_K, rtol=1e-6)
    np.testing.assert_allclose(found.curvature.gradient_cosines_KK, known.gradient_cosines_KK, rtol=1e-5)
    expert, _ = loaded(family["b"])
    moved = flattened(tuple(b - a for a, b in zip(model.parameters(), expert.parameters(), strict=True))).detach()
    cosine = torch.cosine_similarity(moved, -flattened(gradients[2]), dim=0)
    assert found.descent_cosines_KK[1, 2] == pytest.approx(float(cosine), rel=1e-5)
    assert found.tokens == {domain.name: domain.predicted_tokens for domain in domains}

    record = json.loads((tmp_path / "out.json").read_text())
    assert record["gamma"] == found.curvature.gamma_KK.tolist()
    assert record["domains"]["c"]["model"] == str(family["c"])
    assert record["domains"]["c"]["samples"] == 4
    # Single precision, the face's own, tells the same to four digits.
    single, _ = analyze_curvature(config)
    np.testing.assert_allclose(single.curvature.gamma_KK, found.curvature.gamma_KK, rtol=1e-4)


def test_the_order_of_the_file_does_not_mix_up_the_vectors(tmp_path: Path, family: dict[str, Path]) -> None:
    config = job(tmp_path, family)
    turned = config.model_copy(update={"vectors": dict(reversed(config.vectors.items()))})
    found, again = (analyze_curvature(each)[0] for each in (config, turned))
    assert found.curvature.domains == again.curvature.domains == ("a", "b", "c")
    assert len({round(float(value), 6) for value in found.vector_cosines_KK[np.triu_indices(3, 1)]}) == 3
    np.testing.assert_allclose(again.vector_cosines_KK, found.vector_cosines_KK, atol=1e-12)
    np.testing.assert_allclose(again.descent_cosines_KK, found.descent_cosines_KK, atol=1e-12)


def test_a_gradient_of_zero_tells_nothing_of_curvature() -> None:
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    domains = [CurvatureDomain(str(length), [torch.zeros(1, length, dtype=torch.long)]) for length in (3, 4)]

    def loss(tokens_BT: torch.Tensor) -> torch.Tensor:
        part = weights[tokens_BT.shape[1] - 3]  # the second domain is at its minimum
        return part.square() * (tokens_BT.shape[1] - 1)

    found, _ = measure_curvature(loss, [weights], domains)
    assert found.responses_KK[0, 0] == 2
    assert found.responses_KK[1, 0] == 0
    assert np.isnan(found.responses_KK[:, 1]).all()
    assert found.gamma_KK[0, 0] == 1
    assert np.isnan(found.gamma_KK[[0, 1, 1], [1, 0, 1]]).all()


def test_the_command_prints_four_matrices_and_draws_them(
    tmp_path: Path, family: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    # An instruction vector stands for no data and needs no text.
    file = written(tmp_path, family, c={"role": "instruction", "calibration": None})
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg", tmp_path / "three.png"]
    for picture in pictures:
        assert run_cli("analyze", file, "--curvature", "--picture", picture) == 0
    out = capsys.readouterr().out
    for title in ("Losses at", "Relative curvature", "Cosine between gradients", "Cosine between vectors"):
        assert title in out
    assert " c " not in out
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    text = pictures[0].read_text()
    for title in ("Relative curvature", "between gradients", "between vectors", "minus gradients"):
        assert title in text
    assert pictures[2].read_bytes()[:4] == b"\x89PNG"


def test_domains_without_text_are_refused_together(tmp_path: Path, family: dict[str, Path]) -> None:
    with pytest.raises(AftermixError) as caught:
        analyze_curvature(job(tmp_path, family, a={"calibration": None}, b={"calibration": None}))
    assert [str(problem) for problem in caught.value.problems] == [
        f"vectors.{name}.calibration: missing, but curvature is that of the loss on its text. "
        "Name a file whose vectors have `calibration: PATH`, text of their domain."
        for name in "ab"
    ]
    with pytest.raises(AftermixError, match=r"vectors: none has `role: expert`\. Name the experts of the domains\."):
        analyze_curvature(job(tmp_path, family, **{name: {"role": "instruction"} for name in TEXTS}))


def test_another_tokenizer_than_the_bases_is_refused(tmp_path: Path, family: dict[str, Path], copied: Any) -> None:
    stranger = copied("b")
    settings = json.loads((stranger / "tokenizer.json").read_text())
    vocabulary = settings["model"]["vocab"]
    vocabulary["t"], vocabulary["s"] = vocabulary["s"], vocabulary["t"]
    settings["model"]["merges"] = []
    (stranger / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(AftermixError) as caught:
        analyze_curvature(job(tmp_path, family, b={"model": str(stranger)}))
    assert str(caught.value).startswith("merge.vocabulary: vector 'b' has 288 tokens in 320 rows, base has 288")
    assert "2 tokens differ, first 's'" in str(caught.value)


def test_text_of_single_tokens_is_refused(tmp_path: Path, family: dict[str, Path]) -> None:
    config = job(tmp_path, family)
    (tmp_path / "b.jsonl").write_text('{"text": "e"}\n')
    with pytest.raises(AftermixError) as caught:
        analyze_curvature(config)
    assert str(caught.value) == (
        "vectors.b.calibration: none of its samples has a token to predict. Name text of two tokens or more."
    )
