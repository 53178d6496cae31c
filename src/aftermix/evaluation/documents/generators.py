"""Python's, NumPy's and torch's global generators while a task's code runs: seeded as by lm-eval, then put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED


@dataclass(frozen=True)
class GeneratorStates:
    """States of the three global generators that a task's own code may draw from."""

    python: Any
    numpy: Any
    torch: torch.Tensor
    """Of the CPU: no task draws on an accelerator."""

    @staticmethod
    def capture() -> GeneratorStates:
        """The states at this moment."""
        return GeneratorStates(random.getstate(), np.random.get_state(), torch.default_generator.get_state())  # noqa: NPY002 - the global generator is meant

    def put_back(self) -> None:
        """Let the generators go on from these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.default_generator.set_state(self.torch)


@contextmanager
def own_generators(states: GeneratorStates | None = None) -> Iterator[None]:
    """Start the global generators at `states`, by default at the seeds of `lm_eval.simple_evaluate` (0, 1234, 1234).

    Whatever is drawn inside is a function of that start alone, and the caller's generators are as before on leaving.
    """
    before = GeneratorStates.capture()
    if states is not None:
        states.put_back()
    else:
        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)  # noqa: NPY002
        torch.default_generator.manual_seed(DEFAULT_OTHER_SEED)

    try:
        yield
    finally:
        before.put_back()
