"""Training in the tangent space: the model is taken to be linear in its weights around where they stand.

`f_lin(x; theta) = f(x; theta_0) + J(x; theta_0) (theta - theta_0)` for the logits f. Source: Ortiz-Jimenez et al.
(2023), section 5: experts of a linear model disturb each other less when they are added. The Jacobian is never formed:
a forward-mode product costs about another forward pass, and gradients go back through it. Meant for small models.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.modeling_outputs import CausalLMOutput

from aftermix.errors import TrainingError
from aftermix.training.distributed.processes import count_processes


@contextmanager
def linearise(model: Any) -> Iterator[None]:
    """Let `model`, a causal language model, be its own linearisation around the weights that it has on entering.

    Its trainable parameters may move; logits and loss are those of the linear model. On leaving it is the ordinary
    model again, at the weights that it has then. Departure from the paper, which evaluates the linear models
    themselves: enter it around the base to do that too. Memory is a copy of the trainable parameters, and the
    activations twice. Dropout is off, since the two passes would draw differently. Raises :class:`TrainingError` at
    the first forward pass for an architecture with an operation that has no forward-mode derivative.
    """
    start = {name: parameter.detach().clone() for name, parameter in _list_trainable(model)}
    plain = model.forward
    inner = _PlainForward(plain, model)

    def forward(*, labels: torch.Tensor | None = None, num_items_in_batch: Any = None, **inputs: Any) -> Any:
        logits = _compute_linear_logits(inner, model, start, inputs)
        if labels is None:
            return CausalLMOutput(logits=logits)

        rows = model.config.get_text_config().vocab_size
        counted = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
        loss = model.loss_function(logits=logits, labels=labels, vocab_size=rows, **counted)
        return CausalLMOutput(loss=loss, logits=logits)

    was_training = model.training
    model.forward = forward
    try:
        yield
    finally:
        del model.forward
        model.train(was_training)


def refuse_several_processes() -> None:
    """Raise :class:`TrainingError` where weights may be sharded: the tangent needs all of them at once."""
    if count_processes() > 1:
        found = f"trains in one process, found {count_processes()}"
        raise TrainingError("train.tangent", found, "Launch one process, or set it to false.")


def _list_trainable(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


class _PlainForward(torch.nn.Module):
    """The model's own forward pass, callable while `forward` is another."""

    def __init__(self, plain: Any, model: Any) -> None:
        super().__init__()
        self.plain, self.model = plain, model

    def forward(self, **inputs: Any) -> torch.Tensor:
        logits: torch.Tensor = self.plain(**inputs).logits
        return logits


def _compute_linear_logits(
    inner: _PlainForward, model: Any, start: dict[str, torch.Tensor], inputs: dict[str, Any]
) -> torch.Tensor:
    moved = {f"model.{name}": parameter - start[name] for name, parameter in _list_trainable(model)}

    def compute_logits(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = torch.func.functional_call(inner, parameters, kwargs=inputs | {"use_cache": False})
        return logits

    model.eval()
    try:
        # Fused attention has no forward-mode derivative.
        with sdpa_kernel(SDPBackend.MATH):
            terms = torch.func.jvp(
                compute_logits, ({f"model.{name}": tensor for name, tensor in start.items()},), (moved,)
            )
    except (NotImplementedError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        problem = f"{type(model).__name__} cannot be linearised ({reason})"
        raise TrainingError("train.tangent", problem, "Set it to false, or train another architecture.") from error

    total: torch.Tensor = terms[0] + terms[1]
    return total
