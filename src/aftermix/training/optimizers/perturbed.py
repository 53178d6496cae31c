"""An optimizer around an optimizer, whose gradient is taken at moved weights: base of MergeAware, SAM and ASAM."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from aftermix.errors import TrainingError
from aftermix.training.optimizers.restore import WeightCopies

NamedParameters = Iterable[tuple[str, torch.Tensor]]


class PerturbedOptimizer(torch.optim.Optimizer):
    """Steps with `base`, after a gradient that was taken somewhere else than where the weights are.

    It *is* `base` to the outside: the same groups, state and hyper-parameters, so schedulers, clipping, gradient
    scaling, Accelerate and `torch.distributed.checkpoint` treat it as such.
    """

    def __init__(self, base: torch.optim.Optimizer) -> None:
        given: Any = base  # what a caller without types may pass
        if not isinstance(given, torch.optim.Optimizer):
            found = f"expected an optimizer of torch.optim, found {type(base).__name__}"
            raise TrainingError(type(self).__name__, found, "Pass e.g. `torch.optim.AdamW(model.parameters())`.")
        if isinstance(base, PerturbedOptimizer) or type(base).__name__ == "AcceleratedOptimizer":
            found = f"cannot wrap {type(base).__name__}, which decides itself when a step is taken"
            remedy = f"Wrap the plain optimizer, then hand {type(self).__name__} to whatever prepares it."
            raise TrainingError(type(self).__name__, found, remedy)

        super().__init__(base.param_groups, base.defaults)
        self.base = base

        self._copies = WeightCopies()
        self._is_moved = False
        self._has_gradient = False
        self._link_base()

    def _link_base(self) -> None:
        """Groups and state are the base's own objects, which loading a state replaces."""
        self.param_groups = self.base.param_groups
        self.state = self.base.state

    @abstractmethod
    def _move(self) -> None:
        """Move the weights, keeping what brings them back."""

    def _bring_back(self) -> None:
        self._copies.restore()

    def _finish_step(self) -> None:
        """Hook for a subclass: the base has stepped."""

    def iterate_trainable(self) -> Iterator[torch.Tensor]:
        """The parameters that may move: those that require gradients."""
        for group in self.param_groups:
            yield from (parameter for parameter in group["params"] if parameter.requires_grad)

    @torch.no_grad()
    def move(self) -> None:
        """Move the weights, unless they are moved already. :meth:`perturbed` is the safe way."""
        if self._is_moved:
            return

        # Before the first weight moves, so that an error half-way brings back those that did.
        self._is_moved = True
        try:
            self._move()
        except BaseException:
            self.restore()
            raise

    @torch.no_grad()
    def restore(self) -> None:
        """Bring the weights back, bit for bit; nothing where they are not moved."""
        if self._is_moved:
            self._bring_back()
            self._is_moved = False

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Weights are moved inside and restored bit for bit on the way out, also by an error.

        Several such blocks before one step (gradient accumulation) see the same move of a :class:`MergeAware`.
        """
        if self._is_moved:
            found = "the weights are moved already"
            raise TrainingError(f"{type(self).__name__}.perturbed", found, "Leave the other block first.")

        self.move()
        try:
            yield
        finally:
            self.restore()
        # Not after an error: the pass may not have left a gradient.
        self._has_gradient = True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The base's step, from where the weights really are. A `closure` is run at the moved weights.

        Raises :class:`TrainingError` when no gradient has been taken at moved weights since the last step.
        """
        if closure is not None:
            result: Any = self.base.step(lambda: self._evaluate_moved(closure))
        else:
            self.restore()
            if not self._has_gradient and not self._cannot_move_a_weight():
                found = "no perturbation since the last step, so this gradient is not the one at moved weights"
                remedy = "Run forward and backward in `with optimizer.perturbed():`, or attach it to the model."
                raise TrainingError(f"{type(self).__name__}.step", found, remedy)
            result = self.base.step(None)

        self._has_gradient = False
        self._finish_step()
        return result

    def _evaluate_moved(self, closure: Callable[[], Any]) -> Any:
        with torch.enable_grad(), self.perturbed():
            return closure()

    def _cannot_move_a_weight(self) -> bool:
        """`torch.distributed.checkpoint` makes an optimizer's state by such a step, before it loads into it."""
        rates = [float(group.get("lr", 1.0)) for group in self.param_groups]
        gradients = [p.grad for p in self.iterate_trainable() if p.grad is not None]
        return not any(rates) and bool(gradients) and not any(bool(gradient.any()) for gradient in gradients)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the base does. A gradient that is thrown away counts for no step, so the next needs a move of its own."""
        self.base.zero_grad(set_to_none=set_to_none)
        if not self._is_moved:  # between a forward pass at moved weights and its backward pass nothing is lost
            self._has_gradient = False

    def state_dict(self) -> dict[str, Any]:
        """The base's state; what this optimizer adds is in it."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state that :meth:`state_dict` gave."""
        self.restore()  # by the state in which the weights were moved
        self.base.load_state_dict(state_dict)
        self._link_base()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As the base does."""
        if "base" in self.__dict__:
            self.base.add_param_group(param_group)
        else:  # from Optimizer.__init__, which makes a list of its own
            super().add_param_group(param_group)
