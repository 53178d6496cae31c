"""The state of a process that is not ours: found as it was after each job, whatever libraries do to it meanwhile."""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def preserve_process() -> Iterator[None]:
    """Put back, at the end of the block, what a job may change of the process around it.

    That is the environment, random states, torch's threads and switches, warning filters, handlers of signals and of
    the root logger, and verbosity and bars of transformers, datasets and Optuna. PyTorch is loaded for it: a job does
    so anyway, and then begins from what torch itself has set. Jobs of several threads at once are not meant.
    """
    import torch  # noqa: F401 - its state before the job is that of a library that was just loaded

    with warnings.catch_warnings(), ExitStack() as stack:
        for keep in (_keep_environment, _keep_root_logger, _keep_signals, _keep_random, _keep_torch, _keep_libraries):
            for restore in keep():
                stack.callback(restore)
        yield


def _keep_environment() -> Iterator[Callable[[], object]]:
    before = dict(os.environ)

    def restore() -> None:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value

    yield restore


def _keep_root_logger() -> Iterator[Callable[[], object]]:
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, root.manager.disable

    def restore() -> None:
        root.handlers[:] = handlers
        root.setLevel(level)
        root.manager.disable = disabled

    yield restore


def _keep_signals() -> Iterator[Callable[[], object]]:
    """Python lets its first thread alone set them."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        handler = signal.getsignal(number)
        if handler is not None:  # else it was set by no Python code, which could not set it again
            yield partial(signal.signal, number, handler)


def _keep_random() -> Iterator[Callable[[], object]]:
    state = random.getstate()
    yield lambda: random.setstate(state)

    import numpy as np

    numbers = np.random.get_state()  # noqa: NPY002 - the global one is what is kept
    yield lambda: np.random.set_state(numbers)  # noqa: NPY002


def _keep_torch() -> Iterator[Callable[[], object]]:
    import torch

    generator = torch.get_rng_state()
    yield lambda: torch.set_rng_state(generator)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices = torch.cuda.get_rng_state_all()
        yield lambda: torch.cuda.set_rng_state_all(devices)

    for read, write in (
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    ):
        yield _keep_value(read, write)

    yield _keep_value(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda strict: torch.use_deterministic_algorithms(strict[0], warn_only=strict[1]),
    )
    for switch in ("benchmark", "deterministic"):
        yield _keep_value(
            partial(getattr, torch.backends.cudnn, switch), partial(setattr, torch.backends.cudnn, switch)
        )


def _keep_value(read: Callable[[], Any], write: Callable[[Any], object]) -> Callable[[], object]:
    """A function that writes what `read` gives now, unless it is there still."""
    value = read()
    return lambda: None if read() == value else write(value)


def _keep_libraries() -> Iterator[Callable[[], object]]:
    """Verbosity and bars of libraries that are loaded: those that the job loads have nothing to put back."""
    if sys.modules.get("transformers") is not None:
        from transformers.utils import logging as of_transformers

        library: Any = of_transformers  # its functions carry no types
        yield _keep_value(library.get_verbosity, library.set_verbosity)
        yield _keep_value(
            library.is_progress_bar_enabled,
            lambda on: library.enable_progress_bar() if on else library.disable_progress_bar(),
        )
    if sys.modules.get("datasets") is not None:
        from datasets import utils

        yield _keep_value(utils.logging.get_verbosity, utils.logging.set_verbosity)
        yield _keep_value(
            utils.are_progress_bars_disabled,
            lambda off: utils.disable_progress_bars() if off else utils.enable_progress_bars(),
        )
    if sys.modules.get("optuna") is not None:
        import optuna

        yield _keep_value(optuna.logging.get_verbosity, optuna.logging.set_verbosity)
