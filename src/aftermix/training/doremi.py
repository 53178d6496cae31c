"""Domain weights from a small model trained for the worst case over domains (DoReMi).

A reference model says how well each token can be predicted. A proxy model is trained on the domains in equal shares,
its loss weighted by domain; domains where it still lags behind the reference gain weight. The mean of the weights over
the steps are the ratios.

Source: Xie et al. 2023 (DoReMi), Algorithm 1. With `l` the loss of a token, `B_i` the sequences of domain `i` in a
batch and `n_i` their predicted tokens:

    lambda_i = 1/n_i sum_{x in B_i} sum_j max(l_proxy,j(x) - l_ref,j(x), 0)
    alpha'   = alpha_{t-1} exp(eta lambda)
    alpha_t  = (1 - c) alpha' / sum alpha' + c / K
    the proxy steps along the gradient of sum_i alpha_t,i 1/n_i sum_{x in B_i} sum_j l_proxy,j(x)

and the ratios are `1/T sum_t alpha_t`. We depart where the algorithm is silent: a domain without a token in a batch
keeps its last excess loss. Batches are not drawn: they come from an equal mixture that no domain leads by a sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from transformers import get_scheduler

from aftermix import progress
from aftermix.config import OptimizerConfig
from aftermix.errors import RunFailedError, TrainingError
from aftermix.seeds import derived_seed
from aftermix.terminal import quiet_transformers
from aftermix.training.data.collate import IGNORED, collate
from aftermix.training.data.mixture import SequenceMixture
from aftermix.training.optimizers.build import make_optimizer
from aftermix.training.schedules import SCHEDULES, build_schedule_options
from aftermix.training.trainer import TrainingRecipe, uses_cuda

# K domains, T steps, S sequences, L tokens

Floats = NDArray[np.float64]

STEP_SIZE, SMOOTHING = 1.0, 1e-3
"""`eta` and `c` of the paper."""


@dataclass(frozen=True, eq=False)
class DoReMi:
    """Domain weights that the proxy's training came to, step by step."""

    domains: tuple[str, ...]
    weights_TK: Floats
    """Domain weights after each step's update."""
    excess_TK: Floats
    """Mean excess loss of a token, in nats, that each update saw."""
    tokens: int
    """That the proxy was trained on."""

    @property
    def ratios(self) -> dict[str, float]:
        """Mean weight by domain."""
        return dict(zip(self.domains, map(float, self.weights_TK.mean(axis=0)), strict=True))


def update_weights(
    weights: ArrayLike, excess: ArrayLike, *, step_size: float = STEP_SIZE, smoothing: float = SMOOTHING
) -> Floats:
    """(K,) the next domain weights: one step of exponentiated gradient ascent, then smoothing towards equal weights.

    >>> update_weights([0.5, 0.5], [np.log(3), 0.0], smoothing=0.0).round(6).tolist()
    [0.75, 0.25]
    """
    weights_K, excess_K = np.asarray(weights, np.float64), np.asarray(excess, np.float64)
    # Taking the largest off changes nothing after the division, and no exponential overflows.
    raised_K = weights_K * np.exp(step_size * (excess_K - excess_K.max()))
    return np.asarray((1 - smoothing) * raised_K / raised_K.sum() + smoothing / len(weights_K))


def train_doremi(
    proxy: Any,
    reference: Any,
    sequences: SequenceMixture,
    *,
    recipe: TrainingRecipe,
    step_size: float = STEP_SIZE,
    smoothing: float = SMOOTHING,
    device: str = "auto",
    threads: int | None = None,
) -> DoReMi:
    """Train `proxy` in place on an equal mixture of the domains, weighted as above against `reference`.

    Both are causal language models of transformers over one vocabulary. Each batch of `recipe.batch_size` sequences is
    one forward pass in float32. The optimizer is the recipe's AdamW or SGD; perturbed ones (merge-aware, SAM) step as
    their base. Deterministic: same models, sequences and recipe give the same ratios. Raises :class:`TrainingError`
    for fewer than two domains, a step size or smoothing out of range and unlike vocabularies, :class:`RunFailedError`
    for a loss that is not finite.
    """
    _refuse(proxy, reference, sequences, step_size=step_size, smoothing=smoothing)

    place = "cuda" if uses_cuda(device) else "cpu"
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)

    try:
        for model in (proxy, reference):
            model.to(place, torch.float32)
        with torch.random.fork_rng([torch.cuda.current_device()] if place == "cuda" else []):
            torch.manual_seed(derived_seed(recipe.seed, "doremi"))  # of dropout, where the proxy has any
            steps = _ProxyTraining(proxy, reference.eval(), sequences, recipe, step_size, smoothing, place).run_steps()
            weights, excess = (np.stack(rows) for rows in zip(*steps, strict=True))
    finally:
        torch.set_num_threads(before)
        for model in (proxy, reference):
            model.eval().to("cpu")

    return DoReMi(tuple(sequences.ratios), weights, excess, sequences.tokens)


@dataclass(frozen=True)
class _ProxyTraining:
    """The proxy's training loop."""

    proxy: Any
    reference: Any
    sequences: SequenceMixture
    recipe: TrainingRecipe
    step_size: float
    smoothing: float
    place: str

    def run_steps(self) -> Iterator[tuple[Floats, Floats]]:
        """Domain weights and excess losses of each step."""
        domains = tuple(self.sequences.ratios)
        weights_K, excess_K = np.full(len(domains), 1 / len(domains)), np.zeros(len(domains))
        optimizer, scheduler = self._build_optimizer()
        trainable = [parameter for parameter in self.proxy.parameters() if parameter.requires_grad]
        self.proxy.train()

        for numbers in progress.bar(self._list_batches(), label="DoReMi", unit="step"):
            batch = {name: value.to(self.place) for name, value in self._collate_batch(numbers).items()}
            ours_SL, counted_SL = compute_token_losses(self.proxy, batch)
            with torch.no_grad():
                theirs_SL, _ = compute_token_losses(self.reference, batch)

            # Domain weights move before the proxy does: its loss is weighted by the new ones.
            of_S = [domains.index(self.sequences.domains[number]) for number in numbers]
            excess_K = average_by_domain(
                (ours_SL.detach() - theirs_SL).clamp(min=0), counted_SL, of_S, fallback=excess_K
            )
            weights_K = update_weights(weights_K, excess_K, step_size=self.step_size, smoothing=self.smoothing)
            loss = _weigh_losses(ours_SL, counted_SL, of_S, weights_K)
            if not (torch.isfinite(loss) and np.isfinite(excess_K).all()):
                found = f"the loss is {float(loss.detach())}"
                raise RunFailedError("DoReMi", found, "Lower the learning rate; no ratios were found.")

            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trainable, self.recipe.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            yield weights_K, excess_K

    def _list_batches(self) -> list[tuple[int, ...]]:
        numbers, size = range(len(self.sequences)), self.recipe.batch_size
        return [tuple(numbers[start : start + size]) for start in numbers[::size]]

    def _collate_batch(self, numbers: Sequence[int]) -> Mapping[str, torch.Tensor]:
        return collate([self.sequences[number] for number in numbers])

    def _build_optimizer(self) -> tuple[torch.optim.Optimizer, Any]:
        options = self.recipe.optimizer
        if options.name not in ("adamw", "sgd"):
            of_sgd = {"momentum": options.momentum} if options.base == "sgd" else {}
            options = OptimizerConfig.model_validate({"name": options.base, **of_sgd})
        optimizer = make_optimizer(self.proxy, replace(self.recipe, optimizer=options))

        steps = self.recipe.count_steps(len(self.sequences))
        shape = build_schedule_options(
            self.recipe.schedule,
            steps=steps,
            min_lr_rate=self.recipe.min_lr_rate,
            decay_share=self.recipe.decay_share,
            decay_shape=self.recipe.decay_shape,
        )

        with quiet_transformers():
            scheduler = get_scheduler(
                SCHEDULES[self.recipe.schedule],
                optimizer,
                num_warmup_steps=self.recipe.warmup_steps,
                num_training_steps=steps,
                scheduler_specific_kwargs=shape,
            )
        return optimizer, scheduler


def compute_token_losses(model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(S, L-1) negative log-likelihood of each predicted token in nats, 0 elsewhere; and where it is one."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    logits_SLV = model(**inputs, use_cache=False).logits[:, :-1].float()
    labels_SL = batch["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits_SLV.flatten(0, 1), labels_SL.flatten(), ignore_index=IGNORED, reduction="none"
    )

    return losses.view_as(labels_SL), labels_SL != IGNORED


def average_by_domain(
    values_SL: torch.Tensor, counted_SL: torch.Tensor, of_S: Sequence[int], *, fallback: Floats
) -> Floats:
    """(K,) mean over the counted tokens of each domain; `fallback` where it has none. `of_S` numbers the domains."""
    sums_S = (values_SL.double() * counted_SL).sum(dim=1).cpu().numpy()
    counts_S = counted_SL.sum(dim=1).cpu().numpy()

    sum_K = np.bincount(of_S, weights=sums_S, minlength=len(fallback))
    count_K = np.bincount(of_S, weights=counts_S, minlength=len(fallback))
    return np.where(count_K > 0, sum_K / np.maximum(count_K, 1), fallback)


def _weigh_losses(
    losses_SL: torch.Tensor, counted_SL: torch.Tensor, of_S: Sequence[int], weights_K: Floats
) -> torch.Tensor:
    """`sum_i weight_i / n_i sum of losses`: each domain's mean token loss, weighted."""
    counts_K = np.bincount(of_S, weights=counted_SL.sum(dim=1).cpu().numpy(), minlength=len(weights_K))
    share_S = torch.tensor((weights_K / np.maximum(counts_K, 1))[list(of_S)], dtype=losses_SL.dtype)
    return (losses_SL.sum(dim=1) * share_S.to(losses_SL.device)).sum()


def _refuse(proxy: Any, reference: Any, sequences: SequenceMixture, *, step_size: float, smoothing: float) -> None:
    if len(sequences.ratios) < 2:
        found = f"expected two domains or more, found {len(sequences.ratios)}"
        raise TrainingError("doremi", found, "Name the data of every domain.")
    if not (np.isfinite(step_size) and step_size > 0):
        raise TrainingError("doremi.step_size", f"expected a number above 0, found {step_size:g}", "The paper's is 1.")
    if not 0 <= smoothing <= 1:
        raise TrainingError("doremi.smoothing", f"expected 0 to 1, found {smoothing:g}", "The paper's is 0.001.")

    rows = [int(model.config.get_text_config().vocab_size) for model in (proxy, reference)]
    if rows[0] != rows[1]:
        found = f"the reference has {rows[1]} tokens, the proxy {rows[0]}"
        raise TrainingError("doremi.reference", found, "Take two models of one tokenizer.")
